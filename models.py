"""Every generator and discriminator, one function each, and the table that pairs them.

All are plain, uncompiled Keras models. Shapes in comments leave out the batch.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from layers import BatchNormalization, ConcatDiff, Conv2D, Conv2DTranspose
from tf1 import keras, tf

layers = keras.layers


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


# The DCGAN of Radford et al. 2015, as the torch code that the article's author names has it (soumith/dcgan.torch):
# kernels 4x4, normal initial weights, 128 to 1024 channels.


def dcgan64_generator() -> keras.Model:
    """G of Radford et al. 2015, section 3: noise (100,) -> picture (64, 64, 3) in [-1, 1]. 12,663,296 parameters."""

    def deconv(filters, strides=2, padding="same"):
        return [
            layers.Conv2DTranspose(filters, 4, strides=strides, padding=padding, kernel_initializer=normal()),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1)),
            layers.ReLU(),
        ]

    return keras.Sequential(
        [
            layers.InputLayer((100,)),
            layers.Reshape((1, 1, 100)),
            *deconv(1024, strides=1, padding="valid"),  # 4x4: a projection
            *deconv(512),  # 8x8
            *deconv(256),  # 16x16
            *deconv(128),  # 32x32
            layers.Conv2DTranspose(3, 4, strides=2, padding="same", kernel_initializer=normal()),
            layers.Activation("tanh"),  # 64x64x3
        ],
        name="generator",
    )


def dcgan64_discriminator(activation: str = "sigmoid") -> keras.Model:
    """D of Radford et al. 2015, section 3: picture (64, 64, 3) -> score (1,) in (0, 1). 11,040,384 parameters.

    It mirrors G and has no dense layer.
    """

    def conv(filters, batch_normalization=True):
        normalization = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1))
        return [
            layers.Conv2D(filters, 4, strides=2, padding="same", kernel_initializer=normal()),
            *([normalization] if batch_normalization else []),
            layers.LeakyReLU(0.2),
        ]

    return keras.Sequential(
        [
            layers.InputLayer((64, 64, 3)),
            *conv(128, batch_normalization=False),  # 32x32
            *conv(256),  # 16x16
            *conv(512),  # 8x8
            *conv(1024),  # 4x4
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


# The MNIST GAN of a 2018 tutorial on "various types of GANs in Keras". Its networks are those of Keras' example
# mnist_acgan.py, and so are the settings that it does not give.


class Seeded(layers.Layer):
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


def mnist_downsample(shape: tuple[int, int, int] = (28, 28, 1)) -> list[layers.Layer]:
    """The tutorial's base of every discriminator, as layers: picture -> features (height / 4 * width / 4 * 256,)."""

    def conv(filters, strides):
        return [layers.Conv2D(filters, 3, strides=strides, padding="same"), layers.LeakyReLU(0.2), SeededDropout(0.3)]

    return [
        layers.InputLayer(shape),
        *conv(32, 2),  # 14x14
        *conv(64, 1),
        *conv(128, 2),  # 7x7
        *conv(256, 1),
        layers.Flatten(),  # 12544
    ]


def mnist_discriminator(activation: str = "sigmoid") -> keras.Model:
    """D of the tutorial: picture (28, 28, 1) -> score (1,) in (0, 1). 400,385 parameters."""
    return keras.Sequential([*mnist_downsample(), layers.Dense(1, activation=activation)], name="discriminator")


# AC-GAN (Odena et al. 2016) as the tutorial has it: a class goes into G, and D also tells the class of a picture.


@keras.utils.register_keras_serializable("dcgan")
class SeededNormal(Seeded):
    """Standard normal numbers of its input's shape, drawn anew in every step."""

    def call(self, x):
        return tf.random.stateless_normal(tf.shape(x), self.next_seed(), dtype=x.dtype)


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
    """D of AC-GAN: picture (height, width, channels) -> [score (1,) in (0, 1), probabilities (classes,)].

    Source: Odena et al. 2016, section 3, on the tutorial's base.
    """
    base = keras.Sequential(mnist_downsample(shape), name="downsample")
    picture = keras.Input(shape)
    features = base(picture)
    score = layers.Dense(1, activation=activation, name="score")(features)
    probabilities = layers.Dense(classes, activation="softmax", name="classes")(features)
    return keras.Model(picture, [score, probabilities], name="discriminator")


class Pair(NamedTuple):
    """A generator and a discriminator that fit each other, and the settings their source trains them with."""

    generator: Callable[..., keras.Model]  # takes the number of classes if `with_classes`
    discriminator: Callable[..., keras.Model]  # likewise; `activation` is its output's, "linear" for least squares
    pixels: tuple[float, float]  # black and white, as the discriminator sees real pictures
    learning_rate: float
    beta1: float
    shape: tuple[int, int, int] = (32, 32, 3)  # of the pictures: (height, width, channels)
    with_classes: bool = False


ARTICLE = Pair(article_generator, article_discriminator, pixels=(-0.5, 0.5), learning_rate=1e-4, beta1=0.2)
OTHERS = {"pixels": (-1, 1), "learning_rate": 2e-4, "beta1": 0.5}  # the same in all other sources

MODELS = {
    "article": ARTICLE,
    "mnist": Pair(mnist_generator, mnist_discriminator, shape=(28, 28, 1), **OTHERS),
    "acgan28": Pair(acgan_generator, acgan_discriminator, shape=(28, 28, 1), with_classes=True, **OTHERS),
    "acgan32": Pair(
        partial(acgan_generator, shape=(32, 32, 3)),
        partial(acgan_discriminator, shape=(32, 32, 3)),
        shape=(32, 32, 3),
        with_classes=True,
        **OTHERS,
    ),
    "dcgan64": Pair(dcgan64_generator, dcgan64_discriminator, shape=(64, 64, 3), **OTHERS),
    "faces200": Pair(faces200_generator, faces200_discriminator, shape=(200, 200, 3), **OTHERS),
}

DEFAULT_MODEL = {"cifar10": "article", "folder": "article", "shapes": "article", "mnist": "mnist"}
