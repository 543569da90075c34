from collections import Counter

import numpy as np
import pytest

import models
from tf1 import keras, layers, tf

stock = keras.layers

TRANSPOSED = [  # (arguments, shape of a picture): first those with a shortcut
    ({"filters": 7, "kernel_size": 4, "padding": "valid"}, (1, 1, 5)),
    ({"filters": 7, "kernel_size": 4, "strides": 3, "activation": "tanh"}, (1, 1, 5)),
    ({"filters": 3, "kernel_size": 4, "padding": "same"}, (8, 8, 6)),
    ({"filters": 1, "kernel_size": 4, "padding": "same", "activation": "tanh"}, (2, 6, 5)),
    ({"filters": 4, "kernel_size": 4, "padding": "same", "use_bias": False}, (4, 2, 3)),
    ({"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"}, (3, 4, 8)),
    ({"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"}, (5, 8, 8)),
    ({"filters": 3, "kernel_size": 4, "padding": "same"}, (7, 8, 6)),
    ({"filters": 5, "kernel_size": 4, "padding": "same"}, (8, 8, 6)),
    ({"filters": 3, "kernel_size": 4, "strides": 2, "padding": "same"}, (4, 4, 5)),
    ({"filters": 3, "kernel_size": 5, "padding": "same"}, (8, 8, 6)),
    ({"filters": 3, "kernel_size": 4, "padding": "valid"}, (8, 8, 6)),
    ({"filters": 3, "kernel_size": 4, "padding": "same", "dilation_rate": 2}, (8, 8, 6)),
    ({"filters": 2, "kernel_size": 3, "padding": "same"}, (1, 1, 6)),
    ({"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same", "output_padding": 1}, (2, 2, 8)),
]
ORDINARY = [
    ({"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"}, (8, 8, 3)),
    ({"filters": 2, "kernel_size": 4, "strides": 2, "padding": "same", "use_bias": False}, (2, 6, 1)),
    ({"filters": 1, "kernel_size": 2}, (2, 2, 9)),
    ({"filters": 3, "kernel_size": (2, 3), "strides": 2, "activation": "tanh"}, (2, 3, 4)),
    ({"filters": 6, "kernel_size": 4, "strides": 2, "padding": "same"}, (4, 4, 5)),
    ({"filters": 3, "kernel_size": 3, "strides": 3, "padding": "same"}, (4, 5, 5)),
    ({"filters": 3, "kernel_size": 2, "padding": "same"}, (2, 2, 4)),
    ({"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"}, (6, 8, 8)),
    ({"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"}, (10, 16, 8)),
    ({"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"}, (8, 7, 3)),
    ({"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"}, (8, 8, 5)),
    ({"filters": 5, "kernel_size": 4, "strides": 1, "padding": "same"}, (8, 8, 3)),
    ({"filters": 5, "kernel_size": 4, "strides": 2, "padding": "valid"}, (8, 8, 3)),
    ({"filters": 5, "kernel_size": 2, "dilation_rate": 2}, (3, 3, 3)),
    ({"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"}, (6, 7, 8)),
]
NORMALIZATIONS = [
    ({"momentum": 0.9, "epsilon": 1e-3}, (4, 6, 24)),
    ({"scale": False}, (2, 2, 1)),
    ({}, (3, 6, 24)),
    ({"center": False}, (4, 4, 32)),
    ({"axis": 1}, (4, 4, 3)),
    ({}, (5,)),
]
CASES = [
    *(("Conv2DTranspose", *case) for case in TRANSPOSED),
    *(("Conv2D", *case) for case in ORDINARY),
    *(("BatchNormalization", *case) for case in NORMALIZATIONS),
]


@pytest.fixture
def eight_channels_are_many(monkeypatch):
    monkeypatch.setattr(layers, "WIDE", 64)


with_eight = pytest.mark.usefixtures("eight_channels_are_many")


class StockConcatDiff(stock.Layer):
    """The same in plain TensorFlow, with TensorFlow's own gradient."""

    def call(self, x):
        difference = tf.abs(x - tf.reduce_mean(x, axis=0))
        return tf.concat([x, tf.reduce_mean(difference, axis=-1, keepdims=True)], axis=-1)


def agree(ours, theirs, shape, sess, batch_sizes=(1, 5), training=None):
    """Both layers give the same outputs, gradients of their input and of each weight, for an input that varies."""
    x = tf.placeholder(tf.float32, (None, *shape))
    outputs = [layer(x, training=training) for layer in (ours, theirs)]
    assert outputs[0].shape.as_list() == outputs[1].shape.as_list()
    rng = np.random.default_rng(0)
    weights = [np.abs(rng.standard_normal(weight.shape)) for weight in theirs.get_weights()]  # a variance among them
    for layer in (ours, theirs):
        layer.set_weights(weights)
    slopes = tf.constant(rng.standard_normal((max(batch_sizes), *outputs[0].shape[1:])), tf.float32)
    results = [
        [
            output,
            *tf.gradients(output * slopes[: tf.shape(x)[0]], [x, *layer.trainable_weights]),
        ]
        for layer, output in zip((ours, theirs), outputs, strict=True)
    ]
    updates = [layer.get_updates_for(x) for layer in (ours, theirs)] if training else []
    for batch_size in batch_sizes:
        values, _ = sess.run([results, updates], {x: rng.standard_normal((batch_size, *shape))})
        values = [[*each, *layer.get_weights()] for each, layer in zip(values, (ours, theirs), strict=True)]
        for our, their in zip(*values, strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


def shorter(kind, case, shape):
    """Whether the shortcut is taken: by what TensorFlow is asked for when the layer is built."""
    with tf.Graph().as_default() as graph:
        getattr(layers, kind)(**case)(tf.placeholder(tf.float32, (None, *shape)))
        types = {op.type for op in graph.get_operations()}
    # a function with a gradient of its own, a matrix product, or a view of the picture
    return bool(types & {"IdentityN", "MatMul", "Reshape"})


@with_eight
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "case", "shape"), CASES)
def test_a_fast_layer_equals_its_stock_layer(kind, case, shape, training, sess):
    agree(getattr(layers, kind)(**case), getattr(stock, kind)(**case), shape, sess, training=training)


@pytest.mark.parametrize("channels", [1, 24])
def test_concat_diff_equals_plain_tensorflow_in_both_directions(channels, sess):
    agree(models.ConcatDiff(), StockConcatDiff(), (4, 6, channels), sess, batch_sizes=(1, 2, 32))


@with_eight
def test_the_shortcuts_are_taken_where_they_should_be():
    assert [shorter("Conv2DTranspose", *case) for case in TRANSPOSED] == [True] * 7 + [False] * 8
    assert [shorter("Conv2D", *case) for case in ORDINARY] == [True] * 9 + [False] * 6
    assert [shorter("BatchNormalization", *case) for case in NORMALIZATIONS] == [True] * 2 + [False] * 4


@with_eight
@pytest.mark.parametrize(("kind", "case", "shape"), [CASES[i] for i in (0, 2, 5, 15, 17, 22, 30)])
def test_where_tensorflow_has_a_gpu_the_stock_layer_runs(kind, case, shape, monkeypatch):
    def operations(layer):
        with tf.Graph().as_default() as graph:
            layer(**case, name="layer")(tf.placeholder(tf.float32, (None, *shape)))
            return [op.type for op in graph.get_operations()]

    fast = operations(getattr(layers, kind))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["/physical_device:GPU:0"])
    on_a_gpu = operations(getattr(layers, kind))
    assert on_a_gpu == operations(getattr(stock, kind)) != fast


@pytest.mark.parametrize("size", [None, 4])
def test_an_input_of_unknown_size_is_left_to_the_stock_layer(size, sess):
    for layer in (layers.Conv2D(2, 4, strides=2, padding="same"), layers.Conv2DTranspose(3, 4, padding="same")):
        x = tf.placeholder(tf.float32, (None, size, None, 3))
        reference = getattr(stock, type(layer).__name__).from_config(layer.get_config())
        outputs = layer(x), reference(x)
        kernel = np.random.default_rng(0).standard_normal(layer.kernel.shape)
        for each in (layer, reference):
            each.set_weights([kernel, np.zeros(each.bias.shape)])
        ours, theirs = sess.run(outputs, {x: np.random.default_rng(1).standard_normal((2, 4, 4, 3))})
        np.testing.assert_array_equal(ours, theirs)


def test_the_articles_networks_take_the_shortcuts(graph):
    discriminator = models.article_discriminator()
    picture = keras.Input((32, 32, 3))
    score = discriminator(picture)
    models.article_generator()
    forward = Counter(op.type for op in graph.get_operations())
    # Every network was built once, and D called once more.
    assert forward["Conv2DBackpropInput"] == 3  # G's second to fourth layer
    assert forward["MatMul"] == 1 + 2 * (4 + 1)  # G's first, D's last two, with one for each pixel
    assert forward["DepthToSpace"] == 1  # G's last
    tf.gradients(score, picture)
    backward = Counter(op.type for op in graph.get_operations()) - forward
    assert backward["Conv2DBackpropInput"] == 2  # D's second and third layer
    assert backward["DepthToSpace"] == 1  # the gradient of the picture
    assert backward["Split"] + backward["SplitV"] == backward["Sign"] == 4  # concat_diff's own


def test_dcgans_networks_take_the_shortcuts(graph):
    discriminator = models.dcgan_discriminator()
    score = discriminator(keras.Input((64, 64, 3)))
    tf.gradients(score, discriminator.trainable_weights)
    patches = [op for op in graph.get_operations() if op.type == "ExtractImagePatches"]
    assert len(patches) == 4  # of the fourth layer, built and called, and for the kernels of the third and fourth


@pytest.mark.parametrize(("kind", "case", "shape"), CASES)
def test_configurations_are_the_stock_layers(kind, case, shape, graph):
    layer = getattr(layers, kind)(**case)
    config = layer.get_config()
    assert config == getattr(stock, kind)(**case, name=layer.name).get_config()
    assert type(layer).from_config(config).get_config() == config


def with_stock_layers(model):
    """The same network of stock layers alone, with the same names."""

    def clone(layer):
        kind = type(layer).__name__
        if isinstance(layer, models.ConcatDiff):
            return StockConcatDiff(name=layer.name)
        return getattr(stock, kind).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_weights_files_are_interchangeable_with_stock_layers(name, graph, tmp_path):
    ours = getattr(models, f"article_{name}")()
    theirs = with_stock_layers(ours)
    assert [type(layer).__module__ for layer in theirs.layers].count("tf1.layers") == 0
    assert [layer.name for layer in theirs.layers] == [layer.name for layer in ours.layers]
    inputs = np.random.default_rng(0).standard_normal((4, *ours.input_shape[1:]), dtype=np.float32)
    for source, target, path in ((ours, theirs, tmp_path / "ours.h5"), (theirs, ours, tmp_path / "theirs.h5")):
        source.set_weights([weight * np.float32(1.1) for weight in source.get_weights()])
        source.save_weights(path)
        target.load_weights(path)
        for our, their in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(our, their)
        np.testing.assert_allclose(target.predict(inputs), source.predict(inputs), rtol=1e-4, atol=1e-5)
