"""Layers that compute what stock Keras layers do, faster on a CPU; the article's own layer; layers that are random.

`Conv2D` and `Conv2DTranspose` have the weights, names and configuration of the stock layers, so weight files are
interchangeable; where a shortcut does not apply, the stock code runs. The three reasons, on oneDNN with AVX-512:

- A convolution fills the 16 lanes of a register with its output channels, so a picture of 3 channels wastes 13 of them.
  `to_few_channels` computes the 3 channels of 2x2 pixels at once.
- A convolution over one or a few pixels is all border and preparation; a matrix product is not.
- Batch normalization has a slow way for channels that do not fill the lanes.

What each gave is in reproduce/benchmarks.md. Shapes in comments leave out the batch.
"""

import itertools
import math
import random
from collections.abc import Callable

from tf1 import keras, tf


def to_few_channels(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """`tf.nn.conv2d_transpose(x, kernel, ..., stride, "SAME")` for stride 1 or 2 and at most 4 output channels.

    x (batch, height, width, n) and kernel (4, 4, c, n) -> (batch, stride * height, stride * width, c), both even.
    One convolution makes the 4c numbers of a block of 2x2 pixels, and `depth_to_space` puts them in place. A block
    depends on 5x5 pixels of x, between which stride 2 puts zeros that need not be multiplied; each of its four pixels
    depends on a window of 4x4 that begins one further down or right.
    """
    flipped = tf.transpose(tf.reverse(kernel, [0, 1]), (0, 1, 3, 2))
    windows = [tf.pad(flipped, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]]) for i in (0, 1) for j in (0, 1)]
    border = [2, 1] if stride == 1 else [1, 1]
    blocks = tf.nn.conv2d(x, tf.concat(windows, -1)[::stride, ::stride], 2 // stride, [[0, 0], border, border, [0, 0]])
    return tf.nn.depth_to_space(blocks, 2)


@tf.custom_gradient
def _picture_from_features(x, kernel):
    """The last layer of a generator, stride 1. In its gradients the many channels are the output's: nothing to gain."""

    def gradient(dy):
        return (
            tf.nn.conv2d(dy, kernel, 1, "SAME"),
            tf.nn.conv2d_backprop_filter(dy, kernel.shape, x, [1, 1, 1, 1], "SAME"),
        )

    return to_few_channels(x, kernel, stride=1), gradient


@tf.custom_gradient
def _features_from_picture(x, kernel):
    """The first layer of a discriminator, stride 2. Only the gradient of the picture has few channels."""

    def gradient(dy):
        return (
            to_few_channels(dy, kernel, stride=2),
            tf.nn.conv2d_backprop_filter(x, kernel.shape, dy, [1, 2, 2, 1], "SAME"),
        )

    return tf.nn.conv2d(x, kernel, 2, "SAME"), gradient


def _has_few_channels(layer: keras.layers.Conv2D, x: tf.Tensor, channels: int, stride: int) -> bool:
    """Whether `to_few_channels` knows the geometry of the layer and pays: 4 * channels have to fit in 16 lanes."""
    return (
        channels <= 4
        and layer.kernel_size == (4, 4)
        and layer.strides == (stride, stride)
        and layer.padding == "same"
        and layer.data_format == "channels_last"
        and layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and all(size and size % 2 == 0 for size in x.shape[1:3])
    )


def _windows(size: int, kernel: int, stride: int, padding: str) -> list[tuple[int, int, int]]:
    """What each output of a convolution sees in one dimension: (first pixel, first tap, how many of both)."""
    outputs = -(-size // stride) if padding == "same" else (size - kernel) // stride + 1
    border = max((outputs - 1) * stride + kernel - size, 0) // 2 if padding == "same" else 0
    starts = [output * stride - border for output in range(outputs)]
    return [(max(start, 0), max(-start, 0), min(start + kernel, size) - max(start, 0)) for start in starts]


def _to_few_pixels(windows: list[tuple[tuple[int, int, int], tuple[int, int, int]]]) -> Callable:
    """A convolution to a few pixels as a matrix product for each of them, over the taps that fall on the picture.

    windows: the rows and the columns of each pixel, as `_windows` has them. The function takes x (batch, height, width,
    channels) and the kernel (rows, columns, channels, filters), and returns (batch, pixels, filters).
    """

    @tf.custom_gradient
    def convolution(x, kernel):
        pictures, taps = [], []
        for (row, top, rows), (column, left, columns) in windows:
            picture = x[:, row : row + rows, column : column + columns]
            pictures.append(tf.reshape(picture, (-1, rows * columns * x.shape[-1])))
            taps.append(tf.reshape(kernel[top : top + rows, left : left + columns], (-1, kernel.shape[-1])))

        def gradient(dy):
            # TensorFlow's own would write each slice's gradient into zeros of the full size: much slower
            dx, dk = [], []
            for (row, column), picture, tap, d in zip(windows, pictures, taps, tf.unstack(dy, axis=1), strict=True):
                shape = row[2], column[2]
                d_picture = tf.reshape(tf.matmul(d, tap, transpose_b=True), (-1, *shape, x.shape[-1]))
                d_tap = tf.reshape(tf.matmul(picture, d, transpose_a=True), (*shape, *kernel.shape[2:]))
                dx.append(tf.pad(d_picture, [[0, 0], *_around(x.shape[1:3], (row[0], column[0]), shape), [0, 0]]))
                dk.append(tf.pad(d_tap, [*_around(kernel.shape[:2], (row[1], column[1]), shape), [0, 0], [0, 0]]))
            return tf.add_n(dx), tf.add_n(dk)

        return tf.stack([tf.matmul(*pair) for pair in zip(pictures, taps, strict=True)], axis=1), gradient

    return convolution


def _around(whole: tuple[int, int], start: tuple[int, int], part: tuple[int, int]) -> list[list[int]]:
    """How much `part` lacks on each side to be the whole, which it begins in at `start`."""
    return [[first, size - first - length] for size, first, length in zip(whole, start, part, strict=True)]


@keras.utils.register_keras_serializable("dcgan")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`: the same arguments, weights and results (up to rounding)."""

    def convolution_op(self, inputs, kernel):
        """inputs (batch, height, width, channels), kernel (rows, columns, channels, filters)."""
        kernel = tf.convert_to_tensor(kernel)
        if _has_few_channels(self, inputs, inputs.shape[-1], stride=2):
            return _features_from_picture(inputs, kernel)
        shape = tuple(self.compute_output_shape(inputs.shape)[1:])
        plain = self.data_format == "channels_last" and self.groups == 1 and self.dilation_rate == (1, 1)
        if not plain or None in shape or shape[0] * shape[1] > 4:
            return super().convolution_op(inputs, kernel)
        if shape[:2] == (1, 1) and self.kernel_size == tuple(inputs.shape[1:3]):  # all of the picture meets all taps
            weights = tf.reshape(kernel, (-1, self.filters))
            return tf.reshape(tf.matmul(tf.reshape(inputs, (-1, weights.shape[0])), weights), (-1, *shape))
        rows, columns = (
            _windows(size, length, stride, self.padding)
            for size, length, stride in zip(inputs.shape[1:3], self.kernel_size, self.strides, strict=True)
        )
        outputs = _to_few_pixels(list(itertools.product(rows, columns)))(inputs, kernel)
        return tf.reshape(outputs, (-1, *shape))


@keras.utils.register_keras_serializable("dcgan")
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose`: the same arguments, weights and results (up to rounding)."""

    def call(self, inputs):
        """inputs (batch, height, width, channels); the kernel is (rows, columns, filters, channels)."""
        shape = tuple(self.compute_output_shape(inputs.shape)[1:])
        if _has_few_channels(self, inputs, self.filters, stride=1):
            outputs = _picture_from_features(inputs, tf.convert_to_tensor(self.kernel))
        elif (
            tuple(inputs.shape[1:3]) == (1, 1)
            and shape == (*self.kernel_size, self.filters)
            and self.data_format == "channels_last"
        ):  # one pixel, which the kernel spreads over all of the output
            weights = tf.reshape(self.kernel, (-1, inputs.shape[-1]))
            outputs = tf.matmul(tf.reshape(inputs, (-1, weights.shape[1])), weights, transpose_b=True)
            outputs = tf.reshape(outputs, (-1, *shape))
        else:
            return super().call(inputs)
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


@keras.utils.register_keras_serializable("dcgan")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`: the same arguments, weights and results (up to rounding)."""

    def call(self, inputs, training=None):
        """inputs (batch, height, width, channels)."""
        *sizes, channels = inputs.shape[1:]
        pixels = 0 if None in sizes else math.prod(sizes)
        if len(sizes) != 2 or self.axis not in ([3], 3) or channels % 16 == 0 or not pixels or pixels % 4:
            return super().call(inputs, training=training)
        # Where lanes stay empty, oneDNN is slow on large pictures. Which one a pixel belongs to does not matter.
        outputs = super().call(tf.reshape(inputs, (-1, 4, 1, channels)), training=training)
        return tf.reshape(outputs, (-1, *inputs.shape[1:]))


# What is random inside a network.


class Seeded(keras.layers.Layer):
    """A layer that is random by a number of its own and the global step.

    So a resumed run draws what it would have drawn, and no two calls (D's passes over real and generated pictures) draw
    the same. The number is from Python's random numbers, where Keras takes the seeds of initial weights from.
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = random.randrange(2**31) if seed is None else seed
        self.calls = 0

    def build(self, _):
        tf.train.get_or_create_global_step()  # here, because `call` may be inside a branch

    def next_seed(self) -> tf.Tensor:
        """What the stateless operations of TensorFlow take, (2,) int64; another one for each call and each replica."""
        self.calls += 1
        seed = tf.constant(self.seed + self.calls, tf.int64)
        replica = tf.distribute.get_replica_context()
        if replica and replica.num_replicas_in_sync > 1:
            seed += 2**31 * tf.cast(replica.replica_id_in_sync_group, tf.int64)  # where no seed of another begins
        return tf.stack([seed, tf.train.get_or_create_global_step()])

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.utils.register_keras_serializable("dcgan")
class SeededDropout(Seeded):
    """Dropout (Srivastava et al. 2014) that can be repeated and resumed. Same shape out; on in training only."""

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, training=None):
        def dropped():
            kept = tf.random.stateless_uniform(tf.shape(x), self.next_seed()) >= self.rate
            return tf.where(kept, x / (1 - self.rate), tf.zeros_like(x))

        return keras.backend.in_train_phase(dropped, x, training=training)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.utils.register_keras_serializable("dcgan")
class SeededNormal(Seeded):
    """Standard normal numbers of its input's shape, drawn anew in every step."""

    def call(self, x):
        return tf.random.stateless_normal(tf.shape(x), self.next_seed(), dtype=x.dtype)
