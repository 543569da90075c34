"""A trained generator: from a file of weights to images."""

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

import data
import models
from command import InputError, RunError, printable
from tf1 import keras, tf
from training import weights
from training.folder import read_run
from training.noise import noise_of

BATCH = 64
layers = keras.layers


class Generator:
    """A trained G: latent vectors in, uint8 images out.

    model: a Keras model of latent -> image, or of (class, latent) -> image. pixels: the values of black and white.
    names: of its classes, if it has classes. batch_statistics: normalize by the batch's own mean and variance as in
    training, not by the moving averages. Runs in Keras' session at the time it is made.
    """

    def __init__(
        self,
        name: str,
        model: keras.Model,
        pixels: tuple[float, float],
        names: Sequence[str] = (),
        batch_statistics: bool = False,
    ):
        self.name, self.model, self.pixels, self.names = name, model, pixels, list(names)
        self.inputs = [tf.placeholder(tensor.dtype, tensor.shape) for tensor in model.inputs]
        self.latent = tuple(self.inputs[-1].shape.as_list()[1:])
        self.output = model(self.inputs if len(self.inputs) > 1 else self.inputs[0], training=batch_statistics)
        self.sess = keras.backend.get_session()

    @property
    def classes(self) -> int:
        """How many classes it knows; 0 for one that takes noise only."""
        return len(self.names)

    def noise(self, seeds: Sequence[int]) -> np.ndarray:
        """(number, *latent) float32."""
        return np.stack([noise_of(seed, self.latent) for seed in seeds])

    def pictures(
        self,
        latents: np.ndarray,
        label: int | Sequence[int] = 0,
        pixels: tuple[float, float] | None = None,
        batch: int = BATCH,
    ) -> np.ndarray:
        """(number, *latent) -> (number, height, width, channels) uint8.

        label: the class, one for all or one each. pixels: what to show as black and white, if not the model's own.
        Raises InputError when an image is NaN or infinite.
        """
        labels = np.broadcast_to(np.asarray(label, np.int32).reshape(-1, 1), (len(latents), 1))
        images = []
        for i in range(0, len(latents), batch):
            values = [labels[i : i + batch], latents[i : i + batch]][-len(self.inputs) :]
            made = self.sess.run(self.output, dict(zip(self.inputs, values, strict=True)))
            images.append(to_uint8(made, pixels or self.pixels))
        return np.concatenate(images)

    def larger(self, seed: int, size: tuple[int, int]) -> np.ndarray:
        """An image of `size` (height, width), (1, *size, channels) uint8, from a grid of noise in place of a vector.

        Raises InputError where G is not fully convolutional or no noise makes that size.
        """
        first, *rest = convolutions = self._convolutions()
        grid = [self._noise_size(convolutions, pixels) for pixels in size]
        output = overlapping(first, tf.constant(noise_of(seed, (1, *grid, *self.latent))))
        for layer in rest:
            output = layer(output)  # Keras' learning phase is 0: no dropout, moving averages
        return to_uint8(self.sess.run(output), self.pixels)

    def _convolutions(self) -> list[layers.Layer]:
        """The layers after the one that makes a 1x1 image of the noise; they do the same at every place of an image."""
        reshape, first, *rest = [*self.model.layers, None, None][: max(2, len(self.model.layers))]
        if not (
            isinstance(reshape, layers.Reshape)
            and isinstance(first, layers.Conv2DTranspose)
            and reshape.target_shape == (1, 1, *self.latent)
            and first.activation is keras.activations.linear
            and isinstance(self.model, keras.Sequential)
        ):
            what = "does not begin with a transposed convolution of the latent vector"
            raise InputError(f"{self.name} {what}: `larger` needs a fully convolutional generator")
        for layer in rest:
            if not isinstance(layer, CONVOLUTIONAL):
                raise InputError(f"{self.name} has {layer.name}: `larger` needs a fully convolutional generator")
        return [first, *rest]

    def _noise_size(self, convolutions: list[layers.Layer], size: int) -> int:
        """How much noise makes `size` pixels, along one side."""

        def pixels(noise):
            shape = (None, noise, noise, *self.latent)
            for layer in convolutions:
                shape = tuple(layer.compute_output_shape(shape))
            return shape[1]

        minimum, step = pixels(1), pixels(2) - pixels(1)
        if size < minimum or (size - minimum) % step:
            makes = f"makes {minimum} pixels and any multiple of {step} more"
            raise InputError(f"{self.name} {makes}, but not {size}: give another --size")
        return 1 + (size - minimum) // step

    def export(self, folder: Path) -> None:
        """Write a TF SavedModel whose signature "serving_default" is noise (n, *latent) float32 -> images uint8.

        A class-conditional generator takes a label (n, 1) int32 too. Raises RunError where it cannot be written.
        """
        low, high = self.pixels
        scaled = tf.round((self.output - low) / (high - low) * 255)  # as `data.unscale`
        inputs = dict(zip(["label", "noise"][-len(self.inputs) :], self.inputs, strict=True))
        outputs = {"images": tf.cast(tf.clip_by_value(scaled, 0, 255), tf.uint8)}
        try:
            tf.saved_model.simple_save(self.sess, str(folder), inputs, outputs)
        except tf.errors.OpError as error:  # a full disk is an OSError in Python, but this in TensorFlow
            raise RunError(f"{folder} could not be written: {error.message}") from error
        except UnicodeEncodeError:
            raise InputError(f"{folder} cannot be written: TensorFlow takes names in UTF-8 only") from None


CONVOLUTIONAL = (
    *(layers.Conv2D, layers.Conv2DTranspose, layers.UpSampling2D, layers.BatchNormalization),
    *(layers.Activation, layers.LeakyReLU, layers.ReLU, layers.Dropout),
)


def overlapping(layer: layers.Conv2DTranspose, noise: tf.Tensor) -> tf.Tensor:
    """The first layer on a grid of noise, with the variance that it has on a single vector.

    Every place is the sum of as many kernels as overlap there, 4x4 of them in the article's G; what follows was trained
    on one. A sum of n independent parts has n times the variance, so it is divided by the root of n.
    """
    kernel = tf.ones((*layer.kernel_size, 1, 1))
    shape = (1, *layer.compute_output_shape(noise.shape.as_list())[1:3], 1)
    parts = tf.nn.conv2d_transpose(tf.ones_like(noise[..., :1]), kernel, shape, layer.strides, layer.padding.upper())
    bias = layer.bias if layer.use_bias else 0.0
    return (layer(noise) - bias) / tf.sqrt(tf.maximum(parts, 1)) + bias


def to_uint8(images: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    if not np.isfinite(images).all():
        raise InputError("these weights make images with NaN or infinite pixels")
    return data.unscale(images, pixels)


# Which model a file of weights belongs to.


def load_generator(path: Path, name: str | None = None, batch_statistics: bool = False) -> Generator:
    """The generator whose weights are in `path`, in the default graph.

    name: its model, one of models.MODELS or a FILE.py; by default that of run.json next to the weights, else the one
    that the weights fit. The size of its images is that of run.json, else what the weights tell, else the model's own.
    Raises InputError when they fit none, or several that mean different pixels by the same numbers.
    """
    run = read_settings(path.parent)
    if source := run.get("source"):
        if not name:
            file = printable(source["file"])
            raise InputError(
                f"{path} needs the networks of {file}: give that file's path with --model (its code will run)"
            )
        if models.is_file(name) and models.source(name)["sha256"] != source["sha256"]:
            print(f"warning: {name} is not the file that {path} was trained with", file=sys.stderr)
    elif not name and run.get("model") in models.MODELS:
        name = run["model"]
    found, differences = weights.read(path), {}
    told = [run["shape"]] if "shape" in run and name and (source or run.get("model") == name) else []
    for shapes in [told] if told else [[None], shapes_told(found)]:  # the models' own come before what weights tell
        fitting = []
        for candidate, pair, classes in candidates([name] if name else models.MODELS, shapes, run, found):
            with tf.Graph().as_default():  # of its own: what does not fit leaves nothing behind
                difference = weights.mismatch(pair.generator(*classes), found)
            if difference is None:
                fitting.append((candidate, pair, classes))
            differences[f"{candidate} of {'x'.join(map(str, pair.shape))}"] = difference
        if fitting:
            break
    else:
        if not name:
            advice = "give --model NAME to see what differs, or --model FILE.py for networks of your own"
            raise InputError(f"{path} does not have the weights of a generator of this project: {advice}")
        reasons = "; ".join(f"{each}: {difference}" for each, difference in differences.items())
        reasons = reasons or f"run.json says {'x'.join(map(str, told[0]))}, which is no size of {name}"
        raise InputError(f"{path} does not have the weights of this model: {reasons}")
    if len({pair.pixels for _, pair, _ in fitting}) > 1:
        raise InputError(f"{path} fits several models: choose with --model {' or '.join(each for each, *_ in fitting)}")
    name, pair, classes = fitting[0]
    model = pair.generator(*classes)
    weights.set_weights(model, found)
    names = [str(k) for k in range(*classes)] if classes else []
    if classes and len(run.get("classes", [])) == len(names):
        names = run["classes"]
    return Generator(name, model, pair.pixels, names, batch_statistics)


def _texts(values: Iterable) -> bool:
    return all(isinstance(value, str) for value in values)


SETTINGS = {  # of run.json, and whether a value is one that a run writes
    "model": lambda model: isinstance(model, str),
    "shape": lambda shape: isinstance(shape, list) and [type(n) is int and n > 0 for n in shape] == [True] * 3,
    "classes": lambda classes: isinstance(classes, list) and _texts(classes),
    "source": lambda source: (
        isinstance(source, dict) and source.keys() == {"file", "sha256"} and _texts(source.values())
    ),
}


def read_settings(folder: Path) -> dict:
    """What run.json in a folder says: model, shape, classes, source; what is not there is left out.

    A file that is not as a run writes it is ignored, with one line.
    """
    try:
        run = read_run(folder) or {}
        run = {name: run[name] for name in SETTINGS if run.get(name) is not None}
        for name, value in run.items():
            if not SETTINGS[name](value):
                raise InputError(
                    f"{folder / 'run.json'} is not the run.json of a run: its {name} cannot be {value!r:.100}"
                )
    except InputError as error:
        print(f"warning: {printable(str(error))}; it is ignored", file=sys.stderr)
        return {}
    return run


def candidates(
    names: Iterable[str], shapes: Iterable[Sequence[int] | None], run: dict, found: list[weights.LayerWeights]
) -> Iterator[tuple[str, models.Pair, tuple[int, ...]]]:
    """(name, pair, (number of classes) or ()) of all models that can be of these shapes; None is a model's own."""
    rows = next((len(array) for layer in found for array in layer.arrays if array.ndim == 2), 0)  # of the embedding
    for name in names:
        own = models.pair(name)
        for shape in shapes:
            if shape and name in models.MODELS and tuple(shape[:2]) not in [own.shape[:2], *own.sizes]:
                continue
            pair = models.reshaped(name, own, tuple(shape[:2]), shape[2]) if shape else own
            numbers = dict.fromkeys([len(run.get("classes", [])), rows])
            yield from ((name, pair, (number,)) for number in numbers if number and pair.with_classes)
            if not pair.with_classes:
                yield name, pair, ()


def shapes_told(found: list[weights.LayerWeights]) -> set[models.Shape]:
    """The shapes of images that weights of the sizable models can make, from the first kernel or matrix and the last.

    `article` and `dcgan` begin with a kernel of the size of their base and then double it; `mnist` begins with a matrix
    whose columns are (height / 4 - 4) * (width / 4 - 4) * 384, here taken for square.
    """
    arrays = [array.shape for layer in found for array in layer.arrays]
    kernels = [shape for shape in arrays if len(shape) == 4]
    if not kernels or kernels[-1][2] not in (1, 3):
        return set()
    (height, width), channels = kernels[0][:2], kernels[-1][2]
    told = {(height << doublings, width << doublings, channels) for doublings in (3, len(kernels) - 1)}
    sides = {4 * (math.isqrt(shape[1] // 384) + 4) for shape in arrays if len(shape) == 2}
    return told | {(side, side, channels) for side in sides}


def digest(path: Path) -> str:
    """What a PNG says of the weights that made it: the file's name and SHA-256."""
    return f"{printable(path.name)} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
