"""Keras layers that are faster on a CPU, and random layers that can be repeated.

`Conv2D`, `Conv2DTranspose` and `BatchNormalization` have the weights, names and configuration of the stock layers, so
weight files are interchangeable. Where a shortcut does not apply, and wherever TensorFlow has a GPU, the stock code
runs. There are four shortcuts, for oneDNN:

- A convolution puts its output channels into the 16 lanes of a register, so an image of 3 channels wastes 13 of them.
  `to_few_channels` computes the 3 channels of 2x2 pixels at once.
- A convolution over a few pixels spends its time on borders and preparation. A matrix product does not.
- A convolution between few pixels with many channels is slow for the same reason, and its kernel's gradient slowest of
  all. `wide_convolution` makes a matrix product of its patches.
- Batch normalization is slow where the channels do not fill the lanes.

reproduce/benchmarks.md has the gain of each. Shapes in comments leave out the batch.
"""

import itertools
import math
import random
from collections.abc import Callable

from tf1 import keras, tf


def shortcuts_pay() -> bool:
    """Whether the shortcuts are used: they are made for oneDNN, so only where TensorFlow has no GPU."""
    return not tf.config.list_physical_devices("GPU")


def to_few_channels(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """`tf.nn.conv2d_transpose(x, kernel, ..., stride, "SAME")` for stride 1 or 2 and at most 4 output channels.

    x (batch, height, width, n) and kernel (4, 4, c, n) -> (batch, stride * height, stride * width, c), both even.
    One convolution makes the 4c numbers of a block of 2x2 pixels, and `depth_to_space` puts them in place. A block
    depends on 5x5 pixels of x (with stride 2, every other one is a zero that is not multiplied). Each of its four
    pixels depends on a window of 4x4 that begins 0 or 1 pixels further down and right.
    """
    flipped = tf.transpose(tf.reverse(kernel, [0, 1]), (0, 1, 3, 2))
    windows = [tf.pad(flipped, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]]) for i in (0, 1) for j in (0, 1)]
    border = [2, 1] if stride == 1 else [1, 1]
    blocks = tf.nn.conv2d(x, tf.concat(windows, -1)[::stride, ::stride], 2 // stride, [[0, 0], border, border, [0, 0]])
    return tf.nn.depth_to_space(blocks, 2)


@tf.custom_gradient
def _image_from_features(x, kernel):
    """The last layer of a generator, stride 1. Its gradients have many output channels, so they stay as they are."""

    def gradient(dy):
        return (
            tf.nn.conv2d(dy, kernel, 1, "SAME"),
            tf.nn.conv2d_backprop_filter(dy, kernel.shape, x, [1, 1, 1, 1], "SAME"),
        )

    return to_few_channels(x, kernel, stride=1), gradient


@tf.custom_gradient
def _features_from_image(x, kernel):
    """The first layer of a discriminator, stride 2. Only the gradient of the image has few channels."""

    def gradient(dy):
        return (
            to_few_channels(dy, kernel, stride=2),
            tf.nn.conv2d_backprop_filter(x, kernel.shape, dy, [1, 2, 2, 1], "SAME"),
        )

    return tf.nn.conv2d(x, kernel, 2, "SAME"), gradient


def _has_few_channels(layer: keras.layers.Conv2D, x: tf.Tensor, channels: int, stride: int) -> bool:
    """Whether `to_few_channels` applies to the layer's geometry and pays: 4 * channels must fit into 16 lanes."""
    return channels <= 4 and _is_4x4(layer, stride) and all(size and size % 2 == 0 for size in x.shape[1:3])


def _is_4x4(layer: keras.layers.Conv2D, stride: int) -> bool:
    """Whether the layer has 4x4 kernels, this stride, the padding "same", and nothing unusual."""
    geometry = layer.kernel_size, layer.strides, layer.padding
    return geometry == ((4, 4), (stride, stride), "same") and _is_plain(layer)


def _is_plain(layer: keras.layers.Conv2D) -> bool:
    return layer.data_format == "channels_last" and layer.groups == 1 and layer.dilation_rate == (1, 1)


def _windows(size: int, kernel: int, stride: int, padding: str) -> list[tuple[int, int, int]]:
    """The input of each output pixel of a convolution in one dimension: (first pixel, first tap, number of both)."""
    outputs = -(-size // stride) if padding == "same" else (size - kernel) // stride + 1
    border = max((outputs - 1) * stride + kernel - size, 0) // 2 if padding == "same" else 0
    starts = [output * stride - border for output in range(outputs)]
    return [(max(start, 0), max(-start, 0), min(start + kernel, size) - max(start, 0)) for start in starts]


def _to_few_pixels(windows: list[tuple[tuple[int, int, int], tuple[int, int, int]]]) -> Callable:
    """A convolution to a few pixels: for each, one matrix product over the taps that lie inside the image.

    windows: for each output pixel, its rows and columns from `_windows`. The result is a function of x (batch, height,
    width, channels) and the kernel (rows, columns, channels, filters) that returns (batch, pixels, filters).
    """

    @tf.custom_gradient
    def convolution(x, kernel):
        patches, taps = [], []
        for (row, top, rows), (column, left, columns) in windows:
            patch = x[:, row : row + rows, column : column + columns]
            patches.append(tf.reshape(patch, (-1, rows * columns * x.shape[-1])))
            taps.append(tf.reshape(kernel[top : top + rows, left : left + columns], (-1, kernel.shape[-1])))

        def gradient(dy):
            # TensorFlow's own gradient writes each slice into zeros of the full size, which is much slower.
            dx, dk = [], []
            for (row, column), patch, tap, d in zip(windows, patches, taps, tf.unstack(dy, axis=1), strict=True):
                shape = row[2], column[2]
                d_patch = tf.reshape(tf.matmul(d, tap, transpose_b=True), (-1, *shape, x.shape[-1]))
                d_tap = tf.reshape(tf.matmul(patch, d, transpose_a=True), (*shape, *kernel.shape[2:]))
                dx.append(tf.pad(d_patch, [[0, 0], *_around(x.shape[1:3], (row[0], column[0]), shape), [0, 0]]))
                dk.append(tf.pad(d_tap, [*_around(kernel.shape[:2], (row[1], column[1]), shape), [0, 0], [0, 0]]))
            return tf.add_n(dx), tf.add_n(dk)

        return tf.stack([tf.matmul(*pair) for pair in zip(patches, taps, strict=True)], axis=1), gradient

    return convolution


def _around(whole: tuple[int, int], start: tuple[int, int], part: tuple[int, int]) -> list[list[int]]:
    """The padding that puts `part` at `start` of an array of size `whole`."""
    return [[first, size - first - length] for size, first, length in zip(whole, start, part, strict=True)]


# Convolutions with 4x4 kernels and stride 2 between an image (2h, 2w, c) and features (h, w, n) with so many channels
# that the kernel (4, 4, c, n) has more numbers than either.
WIDE = 2**16  # c * n from which they count as such
FEW, SEVERAL = 16, 64  # h * w up to which all of it is faster as a product of patches, or the kernel's gradient is


def _patches(image):
    """(2h, 2w, c) -> (batch * h * w, 16 c), the pixels that each of the features is computed from.

    A step computes them once: TensorFlow merges equal operations, those of the pass and of the kernel's gradient.
    """
    patches = tf.image.extract_patches(image, (1, 4, 4, 1), (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
    return tf.reshape(patches, (-1, patches.shape[-1]))


def _from_patches(patches, height, width):
    """The transpose of `_patches`: every pixel of (2h, 2w, c) is the sum of the four patches that it lies in."""
    taps = tf.reshape(patches, (-1, height, width, 4, 4, patches.shape[-1] // 16))
    quarters = [  # of every block of 2x2 pixels, in an image with a border of one pixel
        tf.add_n([
            tf.pad(taps[:, :, :, 2 * i + row, 2 * j + column], [[0, 0], [i, 1 - i], [j, 1 - j], [0, 0]])
            for i in (0, 1) for j in (0, 1)
        ])
        for row in (0, 1) for column in (0, 1)
    ]  # fmt: skip
    return tf.nn.depth_to_space(tf.concat(quarters, -1), 2)[:, 1:-1, 1:-1]


def _features(image, kernel):
    if image.shape[1] * image.shape[2] > 4 * FEW:
        return tf.nn.conv2d(image, kernel, 2, "SAME")
    products = tf.matmul(_patches(image), tf.reshape(kernel, (-1, kernel.shape[-1])))
    return tf.reshape(products, (-1, image.shape[1] // 2, image.shape[2] // 2, kernel.shape[-1]))


def _image(features, kernel):
    _, height, width, channels = features.shape
    if height * width > FEW:
        shape = tf.stack([tf.shape(features)[0], 2 * height, 2 * width, kernel.shape[2]])
        return tf.nn.conv2d_transpose(features, kernel, shape, 2, "SAME")
    flat, weights = tf.reshape(features, (-1, channels)), tf.reshape(kernel, (-1, channels))
    return _from_patches(tf.matmul(flat, weights, transpose_b=True), height, width)


def _kernel(image, features, shape):
    if features.shape[1] * features.shape[2] > SEVERAL:
        return tf.nn.conv2d_backprop_filter(image, shape, features, (1, 2, 2, 1), "SAME")
    flat = tf.reshape(features, (-1, features.shape[-1]))
    return tf.reshape(tf.matmul(_patches(image), flat, transpose_a=True), shape)


@tf.custom_gradient
def wide_convolution(x, kernel):
    """`tf.nn.conv2d(x, kernel, 2, "SAME")` for a kernel (4, 4, c, n): (2h, 2w, c) -> (h, w, n)."""
    return _features(x, kernel), lambda dy: (_image(dy, kernel), _kernel(x, dy, kernel.shape))


@tf.custom_gradient
def wide_transposed_convolution(x, kernel):
    """`tf.nn.conv2d_transpose(x, kernel, ..., 2, "SAME")` for a kernel (4, 4, c, n): (h, w, n) -> (2h, 2w, c)."""
    return _image(x, kernel), lambda dy: (_features(dy, kernel), _kernel(dy, x, kernel.shape))


def _is_wide(layer: keras.layers.Conv2D, image: tuple[int, ...], features: tuple[int, ...]) -> bool:
    """Whether the layer is such a convolution between these shapes, of few enough pixels."""
    return (
        _is_4x4(layer, stride=2)
        and None not in (*image, *features)
        and image[:2] == (2 * features[0], 2 * features[1])
        and features[0] * features[1] <= SEVERAL
        and image[2] * features[2] >= WIDE
    )


@keras.utils.register_keras_serializable("dcgan")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`: the same arguments, weights and results (up to rounding)."""

    def convolution_op(self, inputs, kernel):
        """inputs (batch, height, width, channels), kernel (rows, columns, channels, filters)."""
        kernel = tf.convert_to_tensor(kernel)
        if not shortcuts_pay():
            return super().convolution_op(inputs, kernel)
        if _has_few_channels(self, inputs, inputs.shape[-1], stride=2):
            return _features_from_image(inputs, kernel)
        shape = tuple(self.compute_output_shape(inputs.shape)[1:])
        if _is_wide(self, tuple(inputs.shape[1:]), shape):
            return wide_convolution(inputs, kernel)
        if not _is_plain(self) or None in shape or shape[0] * shape[1] > 4:
            return super().convolution_op(inputs, kernel)
        if shape[:2] == (1, 1) and self.kernel_size == tuple(inputs.shape[1:3]):  # the kernel covers the image
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
        if not shortcuts_pay():
            return super().call(inputs)
        shape = tuple(self.compute_output_shape(inputs.shape)[1:])
        if _has_few_channels(self, inputs, self.filters, stride=1):
            outputs = _image_from_features(inputs, tf.convert_to_tensor(self.kernel))
        elif _is_wide(self, shape, tuple(inputs.shape[1:])):
            outputs = wide_transposed_convolution(inputs, tf.convert_to_tensor(self.kernel))
        elif (
            tuple(inputs.shape[1:3]) == (1, 1)
            and shape == (*self.kernel_size, self.filters)
            and self.data_format == "channels_last"
        ):  # from one pixel to the size of the kernel
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
        applies = len(sizes) == 2 and self.axis in ([3], 3) and channels % 16 and pixels and pixels % 4 == 0
        if not applies or not shortcuts_pay():
            return super().call(inputs, training=training)
        # oneDNN is slow on large images where lanes stay empty. Which image a pixel belongs to does not matter.
        outputs = super().call(tf.reshape(inputs, (-1, 4, 1, channels)), training=training)
        return tf.reshape(outputs, (-1, *inputs.shape[1:]))


# Random layers.


class Seeded(keras.layers.Layer):
    """A layer whose random numbers depend on its own seed, the call and the global step.

    A resumed run therefore draws the same numbers as an uninterrupted one, and two calls of one layer draw different
    numbers. Without `seed`, Python's random numbers give one, as Keras does for initial weights.
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = random.randrange(2**31) if seed is None else seed
        self.calls = 0

    def build(self, _):
        tf.train.get_or_create_global_step()  # here, because `call` may be inside a branch

    def next_seed(self) -> tf.Tensor:
        """The seed (2,) int64 for a stateless operation of TensorFlow; a new one for each call and each replica."""
        self.calls += 1
        seed = tf.constant(self.seed + self.calls, tf.int64)
        replica = tf.distribute.get_replica_context()
        if replica and replica.num_replicas_in_sync > 1:
            seed += 2**31 * tf.cast(replica.replica_id_in_sync_group, tf.int64)  # seeds of layers are below 2**31
        return tf.stack([seed, tf.train.get_or_create_global_step()])

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.utils.register_keras_serializable("dcgan")
class SeededDropout(Seeded):
    """Dropout (Srivastava et al. 2014) that can be repeated and resumed. Only in training; the shape stays."""

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
    """Standard normal numbers of the input's shape, new in every step."""

    def call(self, x):
        return tf.random.stateless_normal(tf.shape(x), self.next_seed(), dtype=x.dtype)
