import numpy as np
import pytest

import data
import dcgan_keras
import models
from command import InputError
from tf1 import keras, tf


def parameters(model):
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return model.count_params(), count


def test_article_networks_have_the_articles_shapes_and_parameters(graph):
    generator, discriminator = models.article_generator(), models.article_discriminator()
    assert generator.input_shape == (None, 100)
    assert generator.output_shape == discriminator.input_shape == (None, 32, 32, 3)
    assert discriminator.output_shape == (None, 1)
    assert parameters(generator) == (697_227, 696_507)
    assert parameters(discriminator) == (396_077, 395_405)


def test_article_layers_have_the_articles_sizes(graph):
    shapes = [weight.shape for weight in models.article_discriminator().get_weights() if weight.ndim == 4]
    assert shapes == [(4, 4, 3, 24), (4, 4, 25, 48), (4, 4, 49, 96), (4, 4, 97, 192), (2, 2, 193, 1)]
    shapes = [weight.shape for weight in models.article_generator().get_weights() if weight.ndim == 4]
    assert shapes == [(4, 4, 192, 100), (4, 4, 96, 192), (4, 4, 48, 96), (4, 4, 24, 48), (4, 4, 3, 24)]


def test_concat_diff_is_the_mean_distance_from_the_batchs_mean(sess):
    x = np.float32([[[[1, 10]]], [[[3, 20]]]])  # two pictures of one pixel; the batch's mean is (2, 15)
    y = sess.run(models.ConcatDiff()(tf.constant(x)))
    np.testing.assert_array_equal(y, np.float32([[[[1, 10, 3]]], [[[3, 20, 3]]]]))


def test_concat_diff_of_equal_pictures_is_zero(sess):
    x = np.tile(np.random.default_rng(0).random((1, 4, 4, 5), np.float32), (8, 1, 1, 1))
    y = sess.run(models.ConcatDiff()(tf.constant(x)))
    np.testing.assert_allclose(y[..., -1], 0, atol=1e-6)


NETWORKS = ["article_generator", "article_discriminator", "mnist_generator", "mnist_discriminator"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_can_be_saved_and_loaded_without_foreign_code(name, graph, tmp_path):
    model = getattr(models, name)()
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert not [layer for layer in loaded.layers if isinstance(layer, keras.layers.Lambda)]
    inputs = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:]), dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))


# The other networks of the sources.

SIZES = {  # G's input and both networks' (all, trainable) parameters, worked out by hand from kernels and channels
    "mnist": (100, (2_656_897, 2_656_321), (404_466, 404_466)),
    "mnist-plain": (100, (2_656_897, 2_656_321), (400_385, 400_385)),
    "dcgan64": (100, (12_664_195, 12_660_355), (11_041_665, 11_038_081)),
    "faces200": (100, (8_339_395, 8_338_947), (655_635_009, 655_635_009)),
}


@pytest.mark.parametrize("name", SIZES)
def test_networks_have_their_sources_shapes_and_parameters(name, graph):
    pair = models.MODELS[name]
    generator, discriminator = pair.generator(), pair.discriminator()
    latent, of_generator, of_discriminator = SIZES[name]
    assert generator.input_shape == (None, latent)
    assert generator.output_shape == discriminator.input_shape == (None, *pair.shape)
    assert discriminator.output_shape == (None, 1)
    assert parameters(generator) == of_generator
    assert parameters(discriminator) == of_discriminator


@pytest.mark.parametrize(("name", "classes"), [("acgan28", 10), ("acgan32", 7)])
def test_acgan_takes_a_class_and_tells_it(name, classes, graph):
    pair = models.MODELS[name]
    generator, discriminator = pair.generator(classes), pair.discriminator(classes)
    assert generator.input_shape == [(None, 1), (None, 100)]
    assert generator.inputs[0].dtype == tf.int32
    assert generator.output_shape == discriminator.input_shape == (None, *pair.shape)
    assert discriminator.output_shape == [(None, 1), (None, classes)]


def test_every_dataset_goes_with_a_model():
    assert models.DEFAULT_MODEL.keys() == set(data.DATASETS)
    assert set(models.DEFAULT_MODEL.values()) <= models.MODELS.keys()
    assert models.DEFAULT_MODEL["mnist"] == "mnist"


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_dcgan_comes_in_sizes_with_the_papers_channels(size, graph):
    pair = models.pair("dcgan", size)
    generator, discriminator = pair.generator(), pair.discriminator()
    assert pair.shape == (size, size, 3)
    assert generator.output_shape == discriminator.input_shape == (None, size, size, 3)
    assert discriminator.output_shape == (None, 1)
    of_generator, of_discriminator = (
        [layer.output_shape[1:] for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        for model in (generator, discriminator)
    )
    assert of_generator == [(4 << k, 4 << k, 1024 >> k) for k in range(int(np.log2(size)) - 2)]
    assert of_discriminator == of_generator[-2::-1]  # without the stage next to the picture


@pytest.mark.parametrize(("name", "size"), [("dcgan", 48), ("article", 64), ("dcgan64", 128), ("mnist", 32)])
def test_a_size_that_a_model_does_not_have_is_refused_with_those_that_it_has(name, size):
    with pytest.raises(InputError, match="no size") as refused:
        models.pair(name, size)
    own = models.MODELS[name]
    assert all(str(each) in str(refused.value) for each in own.sizes or own.shape[:1])


def test_models_have_the_settings_of_their_sources():
    settings = {
        name: (p.loss, p.smoothing, p.batch_size, p.learning_rate, p.beta1) for name, p in models.MODELS.items()
    }
    assert settings["article"] == ("article", 0.1, 32, 1e-4, 0.2)  # the article
    assert settings["dcgan"] == settings["dcgan64"] == ("bce", 0, 128, 2e-4, 0.5)  # Radford et al. 2015, section 4
    assert settings["faces200"] == ("bce", 0.1, 256, 2e-4, 0.5)  # "Making DCGAN on Keras"
    assert settings["mnist"] == settings["mnist-plain"] == ("bce", 0, 100, 2e-4, 0.5)  # Keras' mnist_acgan.py
    assert {p.loss for p in models.MODELS.values()} <= dcgan_keras.LOSSES.keys()


def test_dcgan64_has_no_dense_layer_and_normal_initial_weights(sess):
    for model in (models.dcgan_generator(), models.dcgan_discriminator()):
        sess.run(tf.global_variables_initializer())
        assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        kernels = np.concatenate([weight.ravel() for weight in model.get_weights() if weight.ndim == 4])
        assert kernels.mean() == pytest.approx(0, abs=1e-4) and kernels.std() == pytest.approx(0.02, rel=0.01)
        gammas = np.concatenate([sess.run(w).ravel() for w in model.trainable_weights if "gamma" in w.name])
        assert gammas.mean() == pytest.approx(1, abs=0.005) and gammas.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", ["dcgan64", "mnist"])
def test_linear_output_leaves_out_the_sigmoid_alone(name, sess):
    linear, sigmoid = models.MODELS[name].discriminator(activation="linear"), models.MODELS[name].discriminator()
    sess.run(tf.global_variables_initializer())
    sigmoid.set_weights(linear.get_weights())
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, *models.MODELS[name].shape))
    np.testing.assert_allclose(sigmoid.predict(pictures), 1 / (1 + np.exp(-linear.predict(pictures))), rtol=1e-4)


def test_tanh_is_applied_once(sess):
    generator = models.mnist_generator()
    activations = [layer.activation for layer in generator.layers if hasattr(layer, "activation")]
    assert activations.count(keras.activations.tanh) == 1


# What is random inside a network.


def test_dropout_drops_its_rate_and_keeps_the_mean(sess):
    y = models.SeededDropout(0.3)(tf.ones((200, 500)), training=True)
    sess.run(tf.global_variables_initializer())
    y = sess.run(y)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)


def test_dropout_differs_between_passes_and_steps_and_repeats(sess):
    layer = models.SeededDropout(0.3)
    passes = [layer(tf.ones((20, 20)), training=True) for _ in range(2)]
    count = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    sess.run(tf.global_variables_initializer())
    first, again = sess.run(passes), sess.run(passes)
    sess.run(count)
    second = sess.run(passes)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first[0] != second[0]).any() and (first[1] != second[1]).any()


def test_dropout_is_off_in_sampling_and_in_keras_predict(sess):
    layers = keras.layers
    model = keras.Sequential([layers.InputLayer((50,)), models.SeededDropout(0.3)])
    assert (model.predict(np.ones((8, 50))) == 1).all()
    x = tf.ones((8, 50))
    assert (sess.run(model(x, training=False)) == 1).all()
    with_dropout = model(x, training=True)
    sess.run(tf.global_variables_initializer())
    assert (sess.run(with_dropout) == 0).any()


def test_acgan_makes_its_picture_from_embedding_times_noise(sess):
    base = models.mnist_generator()
    generator = models.acgan_generator(classes=3, generator_model=base)
    sess.run(tf.global_variables_initializer())
    (embedding,) = [layer for layer in generator.layers if isinstance(layer, keras.layers.Embedding)]
    classes, noise = np.int32([[2], [0]]), np.random.default_rng(0).standard_normal((2, 100), dtype=np.float32)
    expected = base.predict(embedding.get_weights()[0][[2, 0]] * noise)
    np.testing.assert_allclose(generator.predict([classes, noise]), expected, atol=1e-6)


def test_acgan_without_latent_input_draws_its_noise_anew_in_every_step(sess):
    generator = models.acgan_generator(latent_input=False)
    assert generator.input_shape in ((None, 1), [(None, 1)])
    picture = generator(tf.constant([[1], [1]]), training=False)
    count = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    sess.run(tf.global_variables_initializer())
    first, again = sess.run(picture), sess.run(picture)
    sess.run(count)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first != sess.run(picture)).any()
