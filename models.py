"""Every generator and discriminator, one function each, and the table that pairs them.

All are plain, uncompiled Keras models. Shapes in comments leave out the batch.
"""

import contextlib
import hashlib
import inspect
import itertools
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import NamedTuple

from command import InputError, one_line, printable
from losses import OTHER_LOSSES
from sources import Shape
from tf1 import keras, tf
from tf1.graph import last_operation
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
    """The article's minibatch discrimination: one more channel, how unlike the rest of its batch an image is.

    (batch, height, width, channels) -> (batch, height, width, channels + 1); the new channel is the mean over channels
    of |x - mean over the batch of x|. A generator that makes only one image gives itself away by zeros there.
    Source: `concat_diff` of the author's program; the idea is from Salimans et al. 2016, section 3.2.
    """

    def call(self, x):
        return _concat_diff(x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + 1)


@keras.utils.register_keras_serializable("dcgan")
class MinibatchDiscrimination(keras.layers.Layer):
    """How close an image's features are to those of every other image of the batch (Salimans et al. 2016, section 3.2).

    (batch, n) -> (batch, n + kernels). `ConcatDiff` compares an image with the mean of the batch, where images of other
    classes hide that a class has collapsed. Here two equal images give themselves away.
    """

    def __init__(self, kernels: int = 50, dimensions: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.kernels, self.dimensions = kernels, dimensions

    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.kernels * self.dimensions))

    def call(self, x):
        rows = tf.reshape(tf.matmul(x, self.kernel), (-1, self.kernels, self.dimensions))
        distances = tf.reduce_sum(tf.abs(rows[:, tf.newaxis] - rows), axis=-1)  # (batch, batch, kernels)
        return tf.concat([x, tf.reduce_sum(tf.exp(-distances), axis=1)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1] + self.kernels)

    def get_config(self):
        return {**super().get_config(), "kernels": self.kernels, "dimensions": self.dimensions}


# The article's networks. Their four stages reach every height and width that is a multiple of 16.


def article_generator(shape: Shape = (32, 32, 3), latent: int = 100) -> keras.Model:
    """G of the article: latent (`latent`,) -> image (height, width, channels) in [-1, 1].

    697,227 parameters at 32x32x3, 696,507 trainable.
    """

    def deconv(filters, kernel=4, strides=2, padding="same"):
        return [
            Conv2DTranspose(filters, kernel, strides=strides, padding=padding),
            BatchNormalization(momentum=0.99, epsilon=1e-3),
            layers.LeakyReLU(0.2),
        ]

    height, width, channels = shape
    return keras.Sequential(
        [
            layers.InputLayer((latent,)),
            layers.Reshape((1, 1, latent)),
            *deconv(192, (height // 8, width // 8), strides=1, padding="valid"),  # 4x4
            *deconv(96),  # 8x8
            *deconv(48),  # 16x16
            *deconv(24),  # 32x32
            Conv2DTranspose(channels, 4, padding="same"),
            layers.Activation("tanh"),
        ],
        name="generator",
    )


def article_features(shape: Shape = (32, 32, 3)) -> list[layers.Layer]:
    """The article's discriminator up to its last convolution: image -> features (height / 16, width / 16, 193)."""

    def conv(filters, batch_normalization=True):
        return [
            Conv2D(filters, 4, strides=2, padding="same"),
            *([BatchNormalization(momentum=0.99, epsilon=1e-3)] if batch_normalization else []),
            layers.LeakyReLU(0.2),
            ConcatDiff(),
        ]

    return [
        layers.InputLayer(shape),
        *conv(24, batch_normalization=False),  # 16x16x25
        *conv(48),  # 8x8x49
        *conv(96),  # 4x4x97
        *conv(192),  # 2x2x193
    ]


def article_discriminator(activation: str = "sigmoid", shape: Shape = (32, 32, 3)) -> keras.Model:
    """D of the article: image (height, width, channels) -> score (1,) in (0, 1).

    396,077 parameters at 32x32x3, 395,405 trainable.
    """
    return keras.Sequential(
        [
            *article_features(shape),
            Conv2D(1, (shape[0] // 16, shape[1] // 16)),  # 1x1x1
            layers.Activation(activation),
            layers.Reshape((1,)),
        ],
        name="discriminator",
    )


# The DCGAN of Radford et al. 2015, section 3 and figure 1: 4x4 kernels as in the torch code that the article's author
# names (soumith/dcgan.torch), normal initial weights, 1024 channels at 4x4 and half as many at each larger stage. Other
# sizes begin with a base of 3 to 8 pixels in place of 4.


def dcgan_stages(shape: Shape) -> tuple[tuple[int, int], list[int]]:
    """The base, (4, 4) for 64x64, and the channels from the base up to half the size, [1024, 512, 256, 128].

    Of several bases the smallest, which is doubled most often.
    """
    for doublings in (6, 5, 4, 3):
        base = shape[0] >> doublings, shape[1] >> doublings
        if (base[0] << doublings, base[1] << doublings) == tuple(shape[:2]) and 3 <= min(base) <= max(base) <= 8:
            return base, [1024 >> stage for stage in range(doublings)]
    raise InputError(f"DCGAN has no size {shape[0]}x{shape[1]}: it doubles a base of 3 to 8 pixels 3 to 6 times")


def dcgan_generator(shape: Shape = (64, 64, 3)) -> keras.Model:
    """G of Radford et al. 2015: latent (100,) -> image (height, width, channels) in [-1, 1].

    12,664,195 parameters at 64x64x3. Raises InputError for a size that it cannot have.
    """

    def deconv(filters, kernel=4, strides=2, padding="same"):
        return [
            Conv2DTranspose(filters, kernel, strides=strides, padding=padding, kernel_initializer=normal()),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1)),
            layers.ReLU(),
        ]

    base, (first, *others) = dcgan_stages(shape)
    return keras.Sequential(
        [
            layers.InputLayer((100,)),
            layers.Reshape((1, 1, 100)),
            *deconv(first, base, strides=1, padding="valid"),  # 4x4x1024: a projection
            *itertools.chain.from_iterable(map(deconv, others)),  # 8x8x512, 16x16x256, 32x32x128
            Conv2DTranspose(shape[2], 4, strides=2, padding="same", kernel_initializer=normal()),
            layers.Activation("tanh"),  # 64x64x3
        ],
        name="generator",
    )


def dcgan_discriminator(activation: str = "sigmoid", shape: Shape = (64, 64, 3)) -> keras.Model:
    """D of Radford et al. 2015: image (height, width, channels) -> score (1,) in (0, 1).

    11,041,665 parameters at 64x64x3. It mirrors G and has no dense layer.
    """

    def conv(filters, batch_normalization=True):
        normalization = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=normal(1))
        return [
            Conv2D(filters, 4, strides=2, padding="same", kernel_initializer=normal()),
            *([normalization] if batch_normalization else []),
            layers.LeakyReLU(0.2),
        ]

    base, channels = dcgan_stages(shape)
    first, *others = reversed(channels)
    return keras.Sequential(
        [
            layers.InputLayer(shape),
            *conv(first, batch_normalization=False),  # 32x32x128
            *itertools.chain.from_iterable(map(conv, others)),  # 16x16x256, 8x8x512, 4x4x1024
            Conv2D(1, base, kernel_initializer=normal()),  # 1x1x1
            layers.Activation(activation),
            layers.Reshape((1,)),
        ],
        name="discriminator",
    )


def normal(mean: float = 0) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(mean, 0.02)


# The faces of "Making DCGAN on Keras", made for 9,877 images of 200x200.


def faces200_generator() -> keras.Model:
    """G of "Making DCGAN on Keras": noise (100,) -> image (200, 200, 3) in [-1, 1]. 8,339,395 parameters, 8,338,947
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
    """D of "Making DCGAN on Keras": image (200, 200, 3) -> score (1,) in (0, 1). 655,635,009 parameters, all but
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
# mnist_acgan.py, and so are the settings that the tutorial does not give. Its discriminator looks at one image at a
# time, so its generator collapses to making one image. Here D has the article's remedy, `ConcatDiff`.


def mnist_generator(shape: Shape = (28, 28, 1)) -> keras.Model:
    """G of the tutorial: noise (100,) -> image (height, width, channels) in [-1, 1]. 2,656,897 parameters for MNIST,
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


def mnist_downsample(shape: Shape = (28, 28, 1), concat_diff: bool = True) -> list[layers.Layer]:
    """The tutorial's base of every discriminator, as layers: image -> features (height / 4, width / 4, 257).

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
        *conv(256, 1),  # 7x7x257, without ConcatDiff 7x7x256
    ]


def mnist_discriminator(
    activation: str = "sigmoid", concat_diff: bool = True, shape: Shape = (28, 28, 1)
) -> keras.Model:
    """D of the tutorial: image (height, width, channels) -> score (1,) in (0, 1).

    404,466 parameters for MNIST with `concat_diff`; 400,385 without, as the tutorial has it.
    """
    return keras.Sequential(
        [*mnist_downsample(shape, concat_diff), layers.Flatten(), layers.Dense(1, activation=activation)],
        name="discriminator",
    )


# AC-GAN (Odena et al. 2016) as the tutorial has it: a class goes into G, and D also tells the class of an image.


def acgan_generator(
    classes: int = 10,
    shape: Shape = (28, 28, 1),
    latent_input: bool = True,
    generator_model: keras.Model | None = None,
) -> keras.Model:
    """G of the tutorial's AC-GAN: [class (1,) int32, noise (100,)] -> image (height, width, channels) in [-1, 1].

    The class's embedding times the noise goes through `generator_model`, noise (100,) -> image, perhaps a trained
    one; by default a new `mnist_generator(shape)`. Without `latent_input` G takes only the class and draws the noise
    itself, anew in every step.
    """
    generator_model = generator_model or mnist_generator(shape)
    latent = generator_model.input_shape[1]
    label = keras.Input((1,), dtype="int32")
    embedding = layers.Embedding(classes, latent, embeddings_initializer="glorot_normal")(label)
    embedding = layers.Flatten()(embedding)  # (100,)
    noise = keras.Input((latent,)) if latent_input else SeededNormal()(embedding)
    image = generator_model(layers.Multiply()([embedding, noise]))
    return keras.Model([label, noise] if latent_input else [label], image, name="generator")


def acgan32_generator(classes: int = 10, shape: Shape = (32, 32, 3)) -> keras.Model:
    """G of an AC-GAN on the article's networks: [class (1,) int32, noise (100,)] -> image in [-1, 1].

    As in Odena et al. 2016, section 3, G takes the class next to the noise, here as an embedding (100,). Where they are
    multiplied, as in the tutorial, the class uses up the noise, and every class becomes nearly one face.
    """
    label, noise = keras.Input((1,), dtype="int32"), keras.Input((100,))
    embedding = layers.Flatten()(layers.Embedding(classes, 100)(label))
    image = article_generator(shape, latent=200)(layers.Concatenate()([noise, embedding]))
    return keras.Model([label, noise], image, name="generator")


def acgan_discriminator(classes: int = 10, shape: Shape = (28, 28, 1), activation: str = "sigmoid") -> keras.Model:
    """D of AC-GAN: image (height, width, channels) -> [score (1,) in (0, 1), logits of the classes (classes,)].

    Source: Odena et al. 2016, section 3, on the tutorial's base with `ConcatDiff`.
    """
    base = keras.Sequential([*mnist_downsample(shape), layers.Flatten()], "downsample")
    return score_and_classes(base, classes, activation)


def acgan32_discriminator(classes: int = 10, shape: Shape = (32, 32, 3), activation: str = "sigmoid") -> keras.Model:
    """D of an AC-GAN on the article's networks: image -> [score (1,) in (0, 1), logits of the classes (classes,)]."""
    base = keras.Sequential([*article_features(shape), layers.Flatten()], "features")
    return score_and_classes(base, classes, activation, MinibatchDiscrimination())


def score_and_classes(
    base: keras.Model, classes: int, activation: str, before_score: layers.Layer | None = None
) -> keras.Model:
    """D with two outputs, the score and the classes' logits, from the features of `base`."""
    image = keras.Input(base.input_shape[1:])
    features = base(image)
    scored = before_score(features) if before_score else features
    score = layers.Dense(1, activation=activation, name="score")(scored)
    logits = layers.Dense(classes, name="classes")(features)
    return keras.Model(image, [score, logits], name="discriminator")


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

    generator: Callable[..., keras.Model]  # takes the number of classes if `with_classes`, and `shape` if it can
    discriminator: Callable[..., keras.Model]  # likewise; `activation` is the score's: "sigmoid" or "linear"
    pixels: tuple[float, float] = (-1, 1)  # black and white, as the discriminator sees real images
    loss: str = "bce"  # "article" or a name in losses.OTHER_LOSSES
    smoothing: float = 0  # the target of real images is 1 - smoothing
    batch_size: int = 100
    learning_rate: float = 2e-4
    beta1: float = 0.5
    shape: Shape = (32, 32, 3)  # of the images: (height, width, channels)
    sizes: Collection[tuple[int, int]] = ()  # other (height, width) that both functions take in `shape`
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
    sizes=list(itertools.product(range(16, 257, 16), repeat=2)),
)
# Radford et al. 2015, section 4: batches of 128, Adam with 2e-4 and 0.5, as all later sources have it too.
DCGAN = Pair(
    dcgan_generator,
    dcgan_discriminator,
    batch_size=128,
    shape=(64, 64, 3),
    sizes=[(h << n, w << n) for n in range(3, 7) for h in range(3, 9) for w in range(3, 9)],
)
MNIST = Pair(
    mnist_generator,
    mnist_discriminator,
    shape=(28, 28, 1),
    sizes=list(itertools.product(range(20, 129, 4), repeat=2)),
)
ACGAN = MNIST._replace(generator=acgan_generator, discriminator=acgan_discriminator, with_classes=True)

MODELS = {
    "article": ARTICLE,
    "mnist": MNIST,
    "mnist-plain": MNIST._replace(discriminator=partial(mnist_discriminator, concat_diff=False)),
    "acgan28": ACGAN,
    "acgan32": ARTICLE._replace(
        generator=acgan32_generator,
        discriminator=acgan32_discriminator,
        learning_rate=1e-3,
        with_classes=True,
    ),
    "dcgan": DCGAN,
    "dcgan64": DCGAN,  # another name
    "faces200": Pair(faces200_generator, faces200_discriminator, smoothing=0.1, batch_size=256, shape=(200, 200, 3)),
}


def pair(name: str, size: tuple[int, int] | None = None, channels: int | None = None) -> Pair:
    """The pair `name` of `MODELS`, or that of a Python file, where `name` ends in ".py"; the file is executed.

    size: (height, width) of the images, channels: 1 or 3; by default the pair's own. The pair's functions then build
    networks of its `shape`. Raises InputError where there is no such pair or it cannot have this shape.
    """
    check_name(name)
    return reshaped(name, own_pair(name) if is_file(name) else MODELS[name], size, channels)


def check_name(name: str) -> None:
    """Raise InputError where `name` is neither in `MODELS` nor a Python file's."""
    if not is_file(name) and name not in MODELS:
        raise InputError(f"there is no --model {printable(name)}: choose one of {', '.join(MODELS)}, or a FILE.py")


def is_file(name: str) -> bool:
    return str(name).endswith(".py")


def reshaped(name: str, pair: Pair, size: tuple[int, int] | None = None, channels: int | None = None) -> Pair:
    """`pair`, called `name`, for images of another size or number of channels. Raises InputError as `pair()` does."""
    shape = (*(size or pair.shape[:2]), channels or pair.shape[2])
    if shape == tuple(pair.shape):
        return pair
    if not all(_takes(build, "shape") for build in (pair.generator, pair.discriminator)):
        raise InputError(f"--model {printable(name)} makes images of {_by(pair.shape)} only, not {_by(shape)}")
    if not is_file(name) and shape[:2] not in pair.sizes:
        height, width = shape[:2]

        def distance(other):
            return abs(other[0] - height) + abs(other[1] - width), abs(other[0] * width - other[1] * height)

        nearest = min(pair.sizes, key=distance)
        raise InputError(f"--model {name} has no size {_by(shape[:2])}; the nearest is {_by(nearest)}")
    generator, discriminator = (partial(build, shape=shape) for build in (pair.generator, pair.discriminator))
    return pair._replace(generator=generator, discriminator=discriminator, shape=shape)


def _takes(function: Callable, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _by(numbers: Iterable) -> str:
    return "x".join(map(str, numbers))


# A pair in a file of the user's.


def source(name: str) -> dict[str, str] | None:
    """What run.json says of a pair in a file: {"file": its name, "sha256": its SHA-256}. None for one of `MODELS`."""
    if not is_file(name):
        return None
    return {"file": printable(Path(name).name), "sha256": hashlib.sha256(_read(name)).hexdigest()}


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"--model {path} cannot be read: {error.strerror}") from error


def own_pair(path: str) -> Pair:
    """Execute a Python file and return its `pair`, whose functions check what they build.

    Raises InputError, one line with the file's line number, for whatever goes wrong in the file.
    """
    names = {"__name__": Path(path).stem, "__file__": str(path)}
    content = _read(path)
    with _errors_in(path):
        exec(compile(content, str(path), "exec", dont_inherit=True), names)
    pair = names.get("pair")
    if not isinstance(pair, Pair):
        what = "defines no `pair`" if pair is None else f"has a `pair` that is {type(pair).__name__}"
        raise InputError(f"{path} {what}: it needs pair = Pair(generator, discriminator, ...), from models import Pair")
    for name, valid in VALID.items():
        try:
            right = valid(getattr(pair, name))
        except (TypeError, ValueError):
            right = False
        if not right:
            raise InputError(f"{path}: the pair's {name} cannot be {printable(repr(getattr(pair, name)))}")
    generator, discriminator = (
        _checked(path, pair, pair.generator, True),
        _checked(path, pair, pair.discriminator, False),
    )
    return pair._replace(generator=generator, discriminator=discriminator, shape=tuple(pair.shape))


VALID = {
    "generator": callable,
    "discriminator": callable,
    "pixels": lambda pixels: len(pixels) == 2 and pixels[0] < pixels[1],
    "loss": lambda loss: loss in ("article", *OTHER_LOSSES),
    "smoothing": lambda smoothing: 0 <= smoothing <= 0.5,
    "batch_size": lambda size: isinstance(size, int) and size >= 1,
    "learning_rate": lambda rate: 0 < rate <= 1,
    "beta1": lambda beta: 0 <= beta < 1,
    "shape": lambda shape: len(shape) == 3 and all(type(n) is int and n > 0 for n in shape) and shape[2] in (1, 3),
}


@contextlib.contextmanager
def _errors_in(path: str) -> Iterator[None]:
    """Turn what goes wrong in the user's file into one line with its line number."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        syntax = isinstance(error, SyntaxError) and error.filename == str(path)
        where = f", line {error.lineno if syntax else lines[-1]}" if syntax or lines else ""
        what = printable(error.msg if syntax else one_line(error))
        raise InputError(f"{path}{where}: {type(error).__name__}: {what[:300]}") from error


def _checked(path: str, pair: Pair, build: Callable, is_generator: bool) -> Callable[..., keras.Model]:
    """`build`, called with those of `activation` and `shape` that it takes; what it returns is checked."""

    @wraps(build)
    def checked(*classes: int, activation: str | None = None, shape: Shape = pair.shape) -> keras.Model:
        given = {"activation": activation, "shape": shape}
        with _errors_in(path):
            model = build(*classes, **{name: value for name, value in given.items() if value and _takes(build, name)})
        role = "generator" if is_generator else "discriminator"
        if not isinstance(model, keras.Model):
            right = "a model of Keras 2; take keras from tf1: from tf1 import keras"
            raise InputError(f"{path}: its {role} returns {type(model).__module__}.{type(model).__name__}, not {right}")
        images, verb = (model.output_shape, "makes") if is_generator else (model.input_shape, "takes")
        if images != (None, *shape):
            found = f"{images}, not the pair's shape {(None, *shape)}: give Pair(..., shape=(height, width, channels))"
            raise InputError(f"{path}: its {role} {verb} images of shape {found}")
        if is_generator:
            inputs, wanted = len(model.inputs), 1 + pair.with_classes
            if inputs != wanted:
                raise InputError(f"{path}: its generator has {inputs} inputs, not {wanted}: [class,] noise")
            return model
        scores = [tensor.shape.as_list() for tensor in model.outputs]
        wanted = [[None, 1], *([None, number] for number in classes)]
        if scores != wanted:
            raise InputError(f"{path}: its discriminator returns {scores}, not {wanted}")
        if activation and ends_in(model) not in (activation, None):
            how = "give it a parameter `activation`, or the pair a `loss` that goes with it"
            raise InputError(
                f"{path}: its discriminator ends in {ends_in(model)}, the loss expects {activation}: {how}"
            )
        return model

    return checked


def ends_in(discriminator: keras.Model) -> str | None:
    """ "sigmoid" or "linear", the activation behind D's score; None where it is neither."""
    linear = ("BiasAdd", "MatMul", "Conv2D")
    kind = last_operation(discriminator.outputs[0]).type
    return {"Sigmoid": "sigmoid", **dict.fromkeys(linear, "linear")}.get(kind)
