"""Every generator and discriminator, one function each, and the table that pairs them.

All are plain, uncompiled Keras models. Shapes in comments leave out the batch.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from command import InputError
from tf1 import keras, tf
from tf1.layers import BatchNormalization, Conv2D, Conv2DTranspose, SeededDropout, SeededNormal

layers = keras.layers


@tf.custom_gradient
def _concat_diff(x):
    """TensorFlow's own gradient of this takes twice as many passes over x."""
    difference = x - tf.reduce_mean(x, axis=0)

    def gradient(dy):
        dx, dd = tf.split(dy, [x.shape[-1], 1], axis=-1)
        dd = tf.sign(difference) * (dd / x.shape[-1])
        return dx + (dd - tf.reduce_mean(dd, axis=0))

    return tf.concat([x, tf.reduce_mean(tf.abs(difference), axis=-1, keepdims=True)], axis=-1), gradient


@keras.utils.register_keras_serializable("dcgan")
class ConcatDiff(keras.layers.Layer):
    """The article's minibatch discrimination: one more channel, how unlike the rest of its batch a picture is.

    (batch, height, width, channels) -> (batch, height, width, channels + 1); the new channel is the mean over channels
    of |x - mean over the batch of x|. A generator that makes only one picture gives itself away by zeros there.
    Source: `concat_diff` of the author's program; the idea is from Salimans et al. 2016, section 3.2.
    """

    def call(self, x):
        return _concat_diff(x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + 1)


def article_generator() -> keras.Model:
    """G of the article: noise (100,) -> picture (32, 32, 3) in [-1, 1]. 697,227 parameters, 696,507 trainable."""

    def deconv(filters, strides=2, padding="same"):
        return [
            Conv2DTranspose(filters, 4, strides=strides, padding=padding),
            BatchNormalization(momentum=0.99, epsilon=1e-3),
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
            Conv2DTranspose(3, 4, padding="same"),
            layers.Activation("tanh"),
        ],
        name="generator",
    )


def article_discriminator(activation: str = "sigmoid") -> keras.Model:
    """D of the article: picture (32, 32, 3) -> score (1,) in (0, 1). 396,077 parameters, 395,405 trainable."""

    def conv(filters, batch_normalization=True):
        return [
            Conv2D(filters, 4, strides=2, padding="same"),
            *([BatchNormalization(momentum=0.99, epsilon=1e-3)] if batch_normalization else []),
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
            Conv2D(1, 2),  # 1x1x1
            layers.Activation(activation),
            layers.Reshape((1,)),
        ],
        name="discriminator",
    )


# The DCGAN of Radford et al. 2015, section 3 and figure 1: 4x4 kernels as in the torch code that the article's author
# names (soumith/dcgan.torch), normal initial weights, 1024 channels at 4x4 and half as many at each larger stage.


def stages(size: int) -> list[int]:
    """The channels at 4x4, 8x8, ... up to half of `size`: [1024, 512, 256, 128] for 64."""
    return [4096 >> stage for stage in range(2, size.bit_length() - 1)]


def dcgan_generator(size: int = 64) -> keras.Model:
    """G of Radford et al. 2015: noise (100,) -> picture (size, size, 3) in [-1, 1]. 12,664,195 parameters at 64."""

    def deconv(filters, strides=2, padding="same"):
        return [
            layers.Conv2DTranspose(filters, 4, strides=strides, padding=padding, kernel_initializer=normal()),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1)),
            layers.ReLU(),
        ]

    first, *others = stages(size)
    return keras.Sequential(
        [
            layers.InputLayer((100,)),
            layers.Reshape((1, 1, 100)),
            *deconv(first, strides=1, padding="valid"),  # 4x4x1024: a projection
            *itertools.chain.from_iterable(map(deconv, others)),  # 8x8x512, 16x16x256, 32x32x128
            layers.Conv2DTranspose(3, 4, strides=2, padding="same", kernel_initializer=normal()),
            layers.Activation("tanh"),  # 64x64x3
        ],
        name="generator",
    )


def dcgan_discriminator(activation: str = "sigmoid", size: int = 64) -> keras.Model:
    """D of Radford et al. 2015: picture (size, size, 3) -> score (1,) in (0, 1). 11,041,665 parameters at 64.

    It mirrors G and has no dense layer.
    """

    def conv(filters, batch_normalization=True):
        normalization = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1))
        return [
            layers.Conv2D(filters, 4, strides=2, padding="same", kernel_initializer=normal()),
            *([normalization] if batch_normalization else []),
            layers.LeakyReLU(0.2),
        ]

    first, *others = reversed(stages(size))
    return keras.Sequential(
        [
            layers.InputLayer((size, size, 3)),
            *conv(first, batch_normalization=False),  # 32x32x128
            *itertools.chain.from_iterable(map(conv, others)),  # 16x16x256, 8x8x512, 4x4x1024
            layers.Conv2D(1, 4, kernel_initializer=normal()),  # 1x1x1
            layers.Activation(activation),
            layers.Reshape((1,)),
        ],
        name="discriminator",
    )


def normal(mean: float = 0) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(mean, 0.02)


# The faces of "Making DCGAN on Keras", made for 9,877 pictures of 200x200.


def faces200_generator() -> keras.Model:
    """G of "Making DCGAN on Keras": noise (100,) -> picture (200, 200, 3) in [-1, 1]. 8,339,395 parameters, 8,338,947
    trainable."""

    def deconv(filters):
        return [
            layers.Conv2DTranspose(filters, 5, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.BatchNormalization(),
        ]

    return keras.Sequential(
        [
            layers.InputLayer((100,)),
            layers.Dense(25 * 25 * 128),
            layers.Reshape((25, 25, 128)),
            layers.LeakyReLU(0.2),
            layers.BatchNormalization(),
            *deconv(64),  # 50x50
            *deconv(32),  # 100x100
            layers.Conv2DTranspose(3, 5, strides=2, padding="same", activation="tanh"),  # 200x200x3
        ],
        name="generator",
    )


def faces200_discriminator(activation: str = "sigmoid") -> keras.Model:
    """D of "Making DCGAN on Keras": picture (200, 200, 3) -> score (1,) in (0, 1). 655,635,009 parameters, all but
    266,817 of them in the dense layer."""

    def conv(filters):
        return [layers.Conv2D(filters, 5, strides=2, padding="same"), layers.LeakyReLU(0.2)]

    return keras.Sequential(
        [
            layers.InputLayer((200, 200, 3)),
            *conv(32),  # 100x100
            *conv(64),  # 50x50
            *conv(128),  # 25x25
            layers.Flatten(),  # 80000
            layers.Dense(8192),
            layers.LeakyReLU(0.2),
            layers.Dense(1, activation=activation),
        ],
        name="discriminator",
    )


# The MNIST GAN of a 2018 tutorial, "various types of GANs in Keras". Its networks are those of Keras' example
# mnist_acgan.py, and so are the settings that the tutorial does not give. Its discriminator looks at one picture at a
# time, so its generator collapses to making one picture. Here D has the article's remedy, `ConcatDiff`.


def mnist_generator(shape: tuple[int, int, int] = (28, 28, 1)) -> keras.Model:
    """G of the tutorial: noise (100,) -> picture (height, width, channels) in [-1, 1]. 2,656,897 parameters for MNIST,
    2,656,321 trainable.

    The tutorial applies tanh twice, once is meant. Height and width are multiples of 4, from 20 on.
    """

    def deconv(filters, strides=2, padding="same", activation="relu"):
        return layers.Conv2DTranspose(
            filters, 5, strides=strides, padding=padding, activation=activation, kernel_initializer="glorot_normal"
        )

    height, width, channels = shape
    start = (height // 4 - 4, width // 4 - 4, 384)  # the valid convolution adds 4
    return keras.Sequential(
        [
            layers.InputLayer((100,)),
            layers.Dense(start[0] * start[1] * start[2], activation="relu"),
            layers.Reshape(start),  # 3x3
            deconv(192, strides=1, padding="valid"),  # 7x7
            layers.BatchNormalization(),
            deconv(96),  # 14x14
            layers.BatchNormalization(),
            deconv(channels, activation="tanh"),  # 28x28x1
        ],
        name="generator",
    )


def mnist_downsample(shape: tuple[int, int, int] = (28, 28, 1), concat_diff: bool = True) -> list[layers.Layer]:
    """The tutorial's base of every discriminator, as layers: picture -> features (n,).

    concat_diff: with the article's `ConcatDiff` after each LeakyReLU, which the tutorial does not have.
    """

    def conv(filters, strides):
        return [
            layers.Conv2D(filters, 3, strides=strides, padding="same"),
            layers.LeakyReLU(0.2),
            *([ConcatDiff()] if concat_diff else []),
            SeededDropout(0.3),
        ]

    return [
        layers.InputLayer(shape),
        *conv(32, 2),  # 14x14x33
        *conv(64, 1),  # 14x14x65
        *conv(128, 2),  # 7x7x129
        *conv(256, 1),  # 7x7x257
        layers.Flatten(),  # 12593, without ConcatDiff 12544
    ]


def mnist_discriminator(activation: str = "sigmoid", concat_diff: bool = True) -> keras.Model:
    """D of the tutorial: picture (28, 28, 1) -> score (1,) in (0, 1).

    404,466 parameters with `concat_diff`; 400,385 without, as the tutorial has it.
    """
    return keras.Sequential(
        [*mnist_downsample(concat_diff=concat_diff), layers.Dense(1, activation=activation)], name="discriminator"
    )


# AC-GAN (Odena et al. 2016) as the tutorial has it: a class goes into G, and D also tells the class of a picture.


def acgan_generator(
    classes: int = 10,
    shape: tuple[int, int, int] = (28, 28, 1),
    latent_input: bool = True,
    generator_model: keras.Model | None = None,
) -> keras.Model:
    """G of the tutorial's AC-GAN: [class (1,) int32, noise (100,)] -> picture (height, width, channels) in [-1, 1].

    The class's embedding times the noise goes through `generator_model`, noise (100,) -> picture, perhaps a trained
    one; by default a new `mnist_generator(shape)`. Without `latent_input` G takes the class alone and draws the noise
    itself, anew in every step.
    """
    generator_model = generator_model or mnist_generator(shape)
    latent = generator_model.input_shape[1]
    label = keras.Input((1,), dtype="int32")
    embedding = layers.Embedding(classes, latent, embeddings_initializer="glorot_normal")(label)
    embedding = layers.Flatten()(embedding)  # (100,)
    noise = keras.Input((latent,)) if latent_input else SeededNormal()(embedding)
    picture = generator_model(layers.Multiply()([embedding, noise]))
    return keras.Model([label, noise] if latent_input else [label], picture, name="generator")


def acgan_discriminator(
    classes: int = 10, shape: tuple[int, int, int] = (28, 28, 1), activation: str = "sigmoid"
) -> keras.Model:
    """D of AC-GAN: picture (height, width, channels) -> [score (1,) in (0, 1), logits of the classes (classes,)].

    Source: Odena et al. 2016, section 3, on the tutorial's base with `ConcatDiff`.
    """
    base = keras.Sequential(mnist_downsample(shape), name="downsample")
    picture = keras.Input(shape)
    features = base(picture)
    score = layers.Dense(1, activation=activation, name="score")(features)
    logits = layers.Dense(classes, name="classes")(features)
    return keras.Model(picture, [score, logits], name="discriminator")


def check(generator: keras.Model, discriminator: keras.Model) -> None:
    """Raise InputError where two models cannot be trained as a pair."""
    for name, model in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(model, keras.Model):
            raise InputError(
                f"the {name} is a {type(model).__module__}.{type(model).__name__}, not a model of Keras 2: build it "
                "with `from tf1 import keras`"
            )
        if not model.trainable_weights:
            raise InputError(f"the {name} has nothing to train: is its `trainable` False?")
    if generator.output_shape[1:] != discriminator.input_shape[1:]:
        raise InputError(
            f"the generator makes images of shape {generator.output_shape[1:]}, "
            f"but the discriminator takes {discriminator.input_shape[1:]}"
        )


class Pair(NamedTuple):
    """A generator and a discriminator that fit each other, and the settings that their source trains them with."""

    generator: Callable[..., keras.Model]  # takes the number of classes if `with_classes`, and `size` if it has `sizes`
    discriminator: Callable[..., keras.Model]  # likewise; `activation` is that of the score
    pixels: tuple[float, float] = (-1, 1)  # black and white, as the discriminator sees real pictures
    loss: str = "bce"  # a name in dcgan_keras.LOSSES
    smoothing: float = 0  # the target of real pictures is 1 - smoothing
    batch_size: int = 100
    learning_rate: float = 2e-4
    beta1: float = 0.5
    shape: tuple[int, int, int] = (32, 32, 3)  # of the pictures: (height, width, channels)
    sizes: tuple[int, ...] = ()  # heights to choose from, where there is a choice
    with_classes: bool = False


ARTICLE = Pair(
    article_generator,
    article_discriminator,
    pixels=(-0.5, 0.5),
    loss="article",
    smoothing=0.1,
    batch_size=32,
    learning_rate=1e-4,
    beta1=0.2,
)
# Radford et al. 2015, section 4: batches of 128, Adam with 2e-4 and 0.5, as all later sources have it too.
DCGAN = Pair(dcgan_generator, dcgan_discriminator, batch_size=128, shape=(64, 64, 3), sizes=(32, 64, 128, 256))

MODELS = {
    "article": ARTICLE,
    "mnist": Pair(mnist_generator, mnist_discriminator, shape=(28, 28, 1)),
    "mnist-plain": Pair(mnist_generator, partial(mnist_discriminator, concat_diff=False), shape=(28, 28, 1)),
    "acgan28": Pair(acgan_generator, acgan_discriminator, shape=(28, 28, 1), with_classes=True),
    "acgan32": Pair(
        partial(acgan_generator, shape=(32, 32, 3)), partial(acgan_discriminator, shape=(32, 32, 3)), with_classes=True
    ),
    "dcgan": DCGAN,
    "dcgan64": DCGAN._replace(sizes=()),  # another name for its default
    "faces200": Pair(faces200_generator, faces200_discriminator, smoothing=0.1, batch_size=256, shape=(200, 200, 3)),
}


def pair(name: str, size: int | None = None) -> Pair:
    """The pair `name` of `MODELS`, for pictures of `size` x `size` pixels if it is given.

    Raises InputError where the model has no such size; the text lists those that it has.
    """
    found = MODELS[name]
    if size in (None, found.shape[0]):
        return found
    if size not in found.sizes:
        sizes = ", ".join(map(str, found.sizes)) or found.shape[0]
        raise InputError(f"--model {name} has no size {size}; it has {sizes}")
    generator, discriminator = (partial(build, size=size) for build in (found.generator, found.discriminator))
    return found._replace(generator=generator, discriminator=discriminator, shape=(size, size, 3))
