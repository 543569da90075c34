import numpy as np
import pytest

import models
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


@pytest.mark.parametrize("name", ["article_generator", "article_discriminator"])
def test_a_model_can_be_saved_and_loaded_without_foreign_code(name, graph, tmp_path):
    model = getattr(models, name)()
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert not [layer for layer in loaded.layers if isinstance(layer, keras.layers.Lambda)]
    inputs = np.random.default_rng(0).standard_normal((4, *model.input_shape[1:]), dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))
