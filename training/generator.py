"""A trained generator: from a file of weights to pictures."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import data
import models
from command import InputError
from tf1 import keras, tf
from training import weights
from training.folder import read_run
from training.noise import noise_of

BATCH = 64


class Generator:
    """A trained G: latent vectors in, uint8 pictures out.

    model: a Keras model of latent -> picture, or of (class, latent) -> picture. pixels: the values of black and white.
    names: of the classes, if they are known. batch_statistics: normalize by the batch's own mean and variance as in
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
        self.name, self.model, self.pixels = name, model, pixels
        self.inputs = [tf.placeholder(tensor.dtype, tensor.shape) for tensor in model.inputs]
        self.latent = tuple(self.inputs[-1].shape.as_list()[1:])
        self.output = model(self.inputs if len(self.inputs) > 1 else self.inputs[0], training=batch_statistics)
        self.shape = tuple(self.output.shape.as_list()[1:])
        self.names = list(names) if len(names) == self.classes else [str(k) for k in range(self.classes)]
        self.sess = keras.backend.get_session()

    @property
    def classes(self) -> int:
        """How many classes it knows; 0 for one that takes noise alone."""
        embeddings = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Embedding)]
        return embeddings[0].input_dim if len(self.inputs) == 2 and embeddings else 0

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
        """(number, *latent) -> (number, *shape) uint8.

        label: the class, one for all or one each. pixels: what to show as black and white, if not the model's own.
        Raises `InputError` when a picture is NaN or infinite.
        """
        labels = np.broadcast_to(np.asarray(label, np.int32).reshape(-1, 1), (len(latents), 1))
        images = []
        for i in range(0, len(latents), batch):
            values = [labels[i : i + batch], latents[i : i + batch]][-len(self.inputs) :]
            made = self.sess.run(self.output, dict(zip(self.inputs, values, strict=True)))
            images.append(to_uint8(made, pixels or self.pixels))
        return np.concatenate(images)


def to_uint8(images: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    if not np.isfinite(images).all():
        raise InputError("these weights make pictures with NaN or infinite pixels")
    return data.unscale(images, pixels)


def load_generator(path: Path, name: str | None = None, batch_statistics: bool = False) -> Generator:
    """The generator whose weights are in `path`, in the default graph.

    Its model is `name`; without it, what run.json beside the file says; without that, the one that the weights fit.
    Raises `InputError` when they fit none, or several that mean different pixels by the same numbers.
    """
    run = read_run(path.parent) or {}
    name = name or (run["model"] if run.get("model") in models.MODELS else None)
    layers = weights.read(path)
    classes = class_count(layers)
    candidates = [(each, size) for each in ([name] if name else models.MODELS) for size in sizes(each)]
    differences = {
        candidate: weights.mismatch(untrained(*candidate, classes, models.MODELS[candidate[0]]), layers)
        for candidate in candidates
    }
    fitting = [candidate for candidate in candidates if differences[candidate] is None]
    if not fitting:
        reasons = "; ".join(f"{each} of size {size}: {what}" for (each, size), what in differences.items())
        raise InputError(f"{path} does not have the weights of {'this model' if name else 'any model'}: {reasons}")
    if len({models.MODELS[each].pixels for each, _ in fitting}) > 1:
        raise InputError(f"{path} fits several models: choose with --model {' or '.join(each for each, _ in fitting)}")
    name, size = fitting[0]
    pair = models.pair(name, size)
    model = build(pair, classes)
    weights.set_weights(model, layers)
    return Generator(name, model, pair.pixels, run.get("classes") or (), batch_statistics)


def sizes(name: str) -> tuple[int, ...]:
    """The heights of the pictures that a model of the table can have."""
    pair = models.MODELS[name]
    return pair.sizes or pair.shape[:1]


def class_count(layers: list[weights.LayerWeights]) -> int:
    """How many classes a generator has, if it has them: as many as the first matrix of the weights has rows."""
    return next((len(array) for layer in layers for array in layer.arrays if array.ndim == 2), 0)


def build(pair: models.Pair, classes: int) -> keras.Model:
    return pair.generator(classes) if pair.with_classes and classes else pair.generator()


@functools.cache
def untrained(name: str, size: int, classes: int, pair: models.Pair) -> keras.Model:
    """A generator to compare shapes with, in a graph of its own. Kept, as many files may be read in turn.

    pair: what the table has by that name, so that another table is another generator.
    """
    with tf.Graph().as_default():
        return build(models.pair(name, size), classes)


def digest(path: Path) -> str:
    """What a picture says of its weights: the file's name and SHA-256."""
    return f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
