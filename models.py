"""Every generator and discriminator, one function each, and the table that pairs them.

All are plain, uncompiled Keras models. Shapes in comments leave out the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

from tf1 import keras, tf

layers = keras.layers


@keras.utils.register_keras_serializable("dcgan")
class ConcatDiff(layers.Layer):
    """The article's minibatch discrimination: one more channel, how unlike the rest of its batch a picture is.

    (batch, height, width, channels) -> (batch, height, width, channels + 1); the new channel is the mean over channels
    of |x - mean over the batch of x|. A generator that makes only one picture gives itself away by zeros there.
    Source: `concat_diff` of the author's program; the idea is from Salimans et al. 2016, section 3.2.
    """

    def call(self, x):
        diff = tf.abs(x - tf.reduce_mean(x, axis=0))
        return tf.concat([x, tf.reduce_mean(diff, axis=-1, keepdims=True)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + 1)


def article_generator() -> keras.Model:
    """G of the article: noise (100,) -> picture (32, 32, 3) in [-1, 1]. 697,227 parameters, 696,507 trainable."""

    def deconv(filters, strides=2, padding="same"):
        return [
            layers.Conv2DTranspose(filters, 4, strides=strides, padding=padding),
            layers.BatchNormalization(momentum=0.99, epsilon=1e-3),
            layers.LeakyReLU(0.2),
        ]

    return keras.Sequential(
        [
            layers.InputLayer((100,)),
            layers.Reshape((1, 1, 100)),
            *deconv(192, strides=1, padding="valid"),  # 4x4
            *deconv(96),  # 8x8
            *deconv(48),  # 16x16
            *deconv(24),  # 32x32
            layers.Conv2DTranspose(3, 4, padding="same"),
            layers.Activation("tanh"),
        ],
        name="generator",
    )


def article_discriminator() -> keras.Model:
    """D of the article: picture (32, 32, 3) -> score (1,) in (0, 1). 396,077 parameters, 395,405 trainable."""

    def conv(filters, batch_normalization=True):
        return [
            layers.Conv2D(filters, 4, strides=2, padding="same"),
            *([layers.BatchNormalization(momentum=0.99, epsilon=1e-3)] if batch_normalization else []),
            layers.LeakyReLU(0.2),
            ConcatDiff(),
        ]

    return keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            *conv(24, batch_normalization=False),  # 16x16x25
            *conv(48),  # 8x8x49
            *conv(96),  # 4x4x97
            *conv(192),  # 2x2x193
            layers.Conv2D(1, 2),  # 1x1x1
            layers.Activation("sigmoid"),
            layers.Reshape((1,)),
        ],
        name="discriminator",
    )


class Pair(NamedTuple):
    """A generator and a discriminator that fit each other, and the settings their source trains them with."""

    generator: Callable[[], keras.Model]
    discriminator: Callable[[], keras.Model]
    pixels: tuple[float, float]  # black and white, as the discriminator sees real pictures
    learning_rate: float
    beta1: float


MODELS = {
    "article": Pair(article_generator, article_discriminator, pixels=(-0.5, 0.5), learning_rate=1e-4, beta1=0.2),
}

DEFAULT_MODEL = {"cifar10": "article", "folder": "article", "shapes": "article", "mnist": "article"}
