"""The networks have their sources' shapes and parameters, come in other sizes, and a user's file can bring its own."""

import numpy as np
import pytest

import data
import dcgan_keras
import models
from command import InputError
from tf1 import keras, tf
from training import settings


def parameters(model):
    return model.count_params(), sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


SOURCES = {  # both networks' (all, trainable) parameters, worked out by hand from kernels and channels
    "article": ((697_227, 696_507), (396_077, 395_405)),
    "mnist": ((2_656_897, 2_656_321), (404_466, 404_466)),
    "mnist-plain": ((2_656_897, 2_656_321), (400_385, 400_385)),
    "dcgan": ((12_664_195, 12_660_355), (11_041_665, 11_038_081)),
    "faces200": ((8_339_395, 8_338_947), (655_635_009, 655_635_009)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_networks_have_their_sources_shapes_and_parameters(name, graph):
    pair = models.pair(name)
    generator, discriminator = pair.generator(), pair.discriminator()
    assert generator.input_shape == (None, 100)
    assert generator.output_shape == discriminator.input_shape == (None, *pair.shape)
    assert discriminator.output_shape == (None, 1)
    assert (parameters(generator), parameters(discriminator)) == SOURCES[name]


def test_acgan_takes_a_class_and_tells_it(graph):
    pair = models.MODELS["acgan32"]
    generator, discriminator = pair.generator(7), pair.discriminator(7)
    assert generator.input_shape == [(None, 1), (None, 100)] and generator.inputs[0].dtype == tf.int32
    assert generator.output_shape == discriminator.input_shape == (None, 32, 32, 3)
    assert discriminator.output_shape == [(None, 1), (None, 7)]


def test_the_names_in_the_help_are_those_of_the_models_and_losses():
    """The command's options are declared without TensorFlow, and so apart from the tables."""
    assert set(settings.MODELS) == models.MODELS.keys() and set(settings.LOSSES) == dcgan_keras.LOSSES.keys()
    for dataset in data.DATASETS:
        assert settings.parse(["--dataset", dataset]).model in models.MODELS


# Other sizes.


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [("article", (16, 48), 3), ("article", (64, 32), 1), ("dcgan", (96, 96), 3), ("dcgan", (64, 128), 1)]
    + [("mnist", (20, 32), 3), ("mnist-plain", (32, 32), 1), ("acgan28", (32, 24), 1)],
)
def test_pairs_come_in_other_sizes_and_in_grey(name, size, channels, graph):
    pair = models.pair(name, size, channels)
    classes = [3] * pair.with_classes
    generator, discriminator = pair.generator(*classes), pair.discriminator(*classes, activation="linear")
    assert pair.shape == (*size, channels)
    assert generator.output_shape == discriminator.input_shape == (None, *size, channels)
    assert tuple(tf.nest.flatten(discriminator.output)[0].shape.as_list()) == (None, 1)


def stages(model):
    return [each.output_shape[1:] for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]


@pytest.mark.parametrize("size", [32, 128])
def test_dcgan_has_the_papers_channels_at_each_stage(size, graph):
    pair = models.pair("dcgan", (size, size))
    assert stages(pair.generator()) == [(4 << k, 4 << k, 1024 >> k) for k in range(size.bit_length() - 3)]
    assert stages(pair.discriminator()) == stages(pair.generator())[-2::-1]  # without the stage next to the image


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [("dcgan", (60, 90), "64x96"), ("dcgan", (100, 100), "96x96"), ("dcgan", (1000, 8), "512x192")]
    + [("article", (60, 90), "64x96"), ("article", (1000, 1000), "256x256"), ("mnist", (30, 30), "28x28")],
)
def test_a_size_that_cannot_be_is_refused_with_the_nearest_that_can(name, size, nearest, graph):
    with pytest.raises(InputError, match=f"the nearest is {nearest}$"):
        models.pair(name, size)
    assert models.pair(name, tuple(map(int, nearest.split("x")))).generator()


def test_a_model_of_one_size_or_an_unknown_one_is_refused():
    with pytest.raises(InputError, match="images of 200x200x3 only, not 64x64x3"):
        models.pair("faces200", (64, 64))
    with pytest.raises(InputError, match=r"no --model dcgna: choose one of article, .*FILE\.py"):
        models.pair("dcgna")


# A pair in a file.

GENERATOR = "keras.Sequential([keras.layers.InputLayer((3,)), keras.layers.Dense(12), keras.layers.Reshape((2, 2, 3))])"
DISCRIMINATOR = "keras.Sequential([keras.layers.InputLayer((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])"
FILE = f"""from models import Pair
from tf1 import keras
def generator():
    return {GENERATOR}
def discriminator():
    return {DISCRIMINATOR}
pair = Pair(generator, discriminator, shape=(2, 2, 3))
"""


@pytest.fixture
def own(tmp_path):
    """Write FILE with some of its text replaced, as a user's file, and return its path."""

    def write(*replacements, text=FILE):
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "own.py").write_text(text)
        return str(tmp_path / "own.py")

    return write


def test_a_file_brings_its_pair(own, graph):
    path = own()
    pair = models.pair(path)
    assert pair.shape == (2, 2, 3) and pair.loss == "bce"
    assert pair.generator().output_shape == pair.discriminator(activation="linear").input_shape == (None, 2, 2, 3)
    assert models.source(path)["file"] == "own.py" and len(models.source(path)["sha256"]) == 64
    assert models.source("article") is None


def test_functions_of_a_file_get_what_they_have_parameters_for(own, graph):
    path = own(
        ("generator():", "generator(classes, shape):"),
        ("discriminator():", "discriminator(classes, activation, shape):"),
        (GENERATOR, "models.acgan_generator(classes, shape)"),
        (DISCRIMINATOR, "models.acgan_discriminator(classes, shape, activation)"),
        ("shape=(2, 2, 3)", "shape=(28, 28, 1), with_classes=True"),
        ("import keras", "import keras\nimport models"),
    )
    pair = models.pair(path, (20, 24), 3)
    assert pair.generator(4).output_shape == (None, 20, 24, 3)
    assert pair.discriminator(4, activation="sigmoid").output_shape == [(None, 1), (None, 4)]


WRONG = {
    "syntax": (("pair = Pair(", "pair = = Pair("), "own.py, line 7: SyntaxError"),
    "an exception": (("pair = Pair(", "pair = Pier("), "own.py, line 7: NameError"),
    "an exit": (("pair = Pair(", "raise SystemExit(3)  # "), "own.py, line 7: SystemExit: 3"),
    "no pair": (("pair = Pair(", "pear = Pair("), "defines no `pair`"),
    "something else": (("pair = Pair(", "pair = (lambda *_, **settings: settings)("), "a `pair` that is dict"),
    "a loss": (("shape=", "loss='wgan', shape="), "loss cannot be 'wgan'"),
    "a batch": (("shape=", "batch_size='x', shape="), "batch_size cannot be 'x'"),
    "an error in a function": (("Dense(12)", "Dense(-1)"), "own.py, line 4: ValueError"),
    "no model": ((GENERATOR, "None"), "its generator returns builtins.NoneType, not a model of Keras 2"),
    "Keras 3": (("from tf1 import keras", "import keras"), "keras.src.models.sequential.Sequential, not a model of"),
    "G's images": (("Reshape((2, 2, 3))", "Reshape((4, 1, 3))"), "its generator makes images of shape (None, 4, 1, 3)"),
    "D's images": (("InputLayer((2, 2, 3))", "InputLayer((1, 4, 3))"), "its discriminator takes images of shape"),
    "D's scores": (("Dense(1)", "Dense(2)"), "its discriminator returns [[None, 2]]"),
    "D's activation": (("Dense(1)", "Dense(1, 'sigmoid')"), "ends in sigmoid, the loss expects linear"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_a_file_is_one_line_with_its_place(name, own, graph):
    replacement, words = WRONG[name]
    path = own(replacement)
    with pytest.raises(InputError) as caught:
        pair = models.pair(path)
        pair.generator()
        pair.discriminator(activation="linear")
    line = str(caught.value)
    assert words in line and line.isprintable() and path in line


def test_a_file_that_is_none_or_has_one_size_is_refused(own, tmp_path):
    with pytest.raises(InputError, match=r"none\.py cannot be read: No such file"):
        models.pair(str(tmp_path / "none.py"))
    with pytest.raises(InputError, match="images of 2x2x3 only, not 4x4x3"):
        models.pair(own(), (4, 4))


# What the networks compute.


def test_concat_diff_is_the_mean_distance_from_the_batchs_mean(sess):
    x = np.float32([[[[1, 10]]], [[[3, 20]]]])  # two images of one pixel; the batch's mean is (2, 15)
    y = sess.run(models.ConcatDiff()(tf.constant(x)))
    np.testing.assert_array_equal(y, np.float32([[[[1, 10, 3]]], [[[3, 20, 3]]]]))
    equal = np.tile(np.random.default_rng(0).random((1, 4, 4, 5), np.float32), (8, 1, 1, 1))
    np.testing.assert_allclose(sess.run(models.ConcatDiff()(tf.constant(equal)))[..., -1], 0, atol=1e-6)


def test_minibatch_discrimination_sums_how_close_the_other_images_are(sess):
    layer = models.MinibatchDiscrimination(kernels=2, dimensions=3)
    x = np.float32([[1, 2], [1, 2], [3, -4]])
    y = layer(tf.constant(x))
    sess.run(tf.global_variables_initializer())
    rows = (x @ layer.get_weights()[0]).reshape(3, 2, 3)
    distances = np.abs(rows[:, np.newaxis] - rows).sum(-1)
    np.testing.assert_allclose(sess.run(y), np.concatenate([x, np.exp(-distances).sum(1)], -1), rtol=1e-5)
    assert (sess.run(y)[:2, 2:] > sess.run(y)[2, 2:]).all()  # the two equal images


def test_a_model_can_be_saved_and_loaded_without_foreign_code(graph, tmp_path):
    model = models.mnist_discriminator()  # with ConcatDiff and SeededDropout
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    inputs = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:]), dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))


def test_dcgan_has_no_dense_layer_and_normal_initial_weights(sess):
    pair = models.pair("dcgan", (32, 32))
    for model in (pair.generator(), pair.discriminator()):
        sess.run(tf.global_variables_initializer())
        assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        kernels = np.concatenate([weight.ravel() for weight in model.get_weights() if weight.ndim == 4])
        assert kernels.mean() == pytest.approx(0, abs=1e-4) and kernels.std() == pytest.approx(0.02, rel=0.01)
        gammas = np.concatenate([sess.run(w).ravel() for w in model.trainable_weights if "gamma" in w.name])
        assert gammas.mean() == pytest.approx(1, abs=0.005) and gammas.std() == pytest.approx(0.02, rel=0.1)


def test_a_linear_score_is_the_sigmoids_logit(sess):
    linear, sigmoid = models.mnist_discriminator("linear"), models.mnist_discriminator()
    sess.run(tf.global_variables_initializer())
    sigmoid.set_weights(linear.get_weights())
    images = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 1))
    np.testing.assert_allclose(sigmoid.predict(images), 1 / (1 + np.exp(-linear.predict(images))), rtol=1e-4)
    assert (models.ends_in(linear), models.ends_in(sigmoid)) == ("linear", "sigmoid")
    assert models.ends_in(models.article_discriminator()) == "sigmoid"


# What is random inside a network.


def test_dropout_drops_its_rate_keeps_the_mean_and_is_off_in_sampling(sess):
    model = keras.Sequential([keras.layers.InputLayer((500,)), models.SeededDropout(0.3)])
    x = tf.ones((200, 500))
    trained, sampled = model(x, training=True), model(x, training=False)
    sess.run(tf.global_variables_initializer())
    y = sess.run(trained)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    assert (sess.run(sampled) == 1).all() and (model.predict(np.ones((8, 500))) == 1).all()


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


def test_acgan_makes_its_image_from_embedding_times_noise(sess):
    base = models.mnist_generator()
    generator = models.acgan_generator(classes=3, generator_model=base)
    sess.run(tf.global_variables_initializer())
    (embedding,) = [layer for layer in generator.layers if isinstance(layer, keras.layers.Embedding)]
    classes, noise = np.int32([[2], [0]]), np.random.default_rng(0).standard_normal((2, 100), dtype=np.float32)
    expected = base.predict(embedding.get_weights()[0][[2, 0]] * noise)
    np.testing.assert_allclose(generator.predict([classes, noise]), expected, atol=1e-6)


def test_acgan_without_latent_input_draws_its_noise_anew_in_every_step(sess):
    generator = models.acgan_generator(latent_input=False)
    image = generator(tf.constant([[1], [1]]), training=False)
    count = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    sess.run(tf.global_variables_initializer())
    first, again = sess.run(image), sess.run(image)
    sess.run(count)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first != sess.run(image)).any()
