"""A trained generator: from a file of weights to pictures."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import data
import models
import weights
from command import InputError
from tf1 import keras, tf

BATCH = 64


def noise_of(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise that a seed stands for: `shape` float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


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
    """The generator whose weights are in `path`, in the default graph: of model `name`, or of the one they fit.

    Raises `InputError` when they fit none, or several that mean different pixels by the same numbers.
    """
    layers = weights.read(path)
    differences = {}
    for candidate in [name] if name else models.MODELS:
        with tf.Graph().as_default():
            differences[candidate] = weights.mismatch(build(models.MODELS[candidate], layers), layers)
    fitting = [candidate for candidate, difference in differences.items() if difference is None]
    if not fitting:
        reasons = "; ".join(f"{candidate}: {difference}" for candidate, difference in differences.items())
        raise InputError(f"{path} does not have the weights of {'this model' if name else 'any model'}: {reasons}")
    if len({models.MODELS[candidate].pixels for candidate in fitting}) > 1:
        raise InputError(f"{path} fits several models: say which it is of with --model {' or '.join(fitting)}")
    pair = models.MODELS[fitting[0]]
    model = build(pair, layers)
    weights.set_weights(model, layers)
    return Generator(fitting[0], model, pair.pixels, batch_statistics=batch_statistics)


def build(pair: models.Pair, layers: list[weights.LayerWeights]) -> keras.Model:
    """The generator of a pair, with as many classes, if it has them, as the first matrix of the weights has rows."""
    matrices = [array for layer in layers for array in layer.arrays if array.ndim == 2]
    return pair.generator(len(matrices[0])) if pair.with_classes and matrices else pair.generator()


def digest(path: Path) -> str:
    """What a picture says of its weights: the file's name and SHA-256."""
    return f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
