"""What a generator is fed: noise and classes that depend only on the seed and the step, so that a resumed run has the
same."""

import numpy as np

from tf1 import keras, tf

COLUMNS = 8  # of a grid
SAMPLES = 64  # in a grid
MAX_ROWS = 10  # of a grid with a row for each class


def noise_of(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise that a seed stands for: `shape` float32, standard normal. Tile k of a sample grid has seed k."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def noise_for(seed: int, step: int, batch_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise of a step, (batch_size, *shape) float32. A resumed run draws the same."""
    return np.random.default_rng([seed, step, 1]).standard_normal((batch_size, *shape), dtype=np.float32)


def feed_for(generator: keras.Model, seed: int, step: int, batch_size: int, classes: int) -> np.ndarray | list:
    """What G takes in a step: the noise, or the list of what its inputs take.

    An input of integers is AC-GAN's class, (batch_size, 1) int32 below `classes`, each as likely as another (so does
    Keras' example mnist_acgan.py). They too depend only on the seed and the step.
    """
    rng = np.random.default_rng([seed, step, 2])

    def values(placeholder):
        if placeholder.dtype.is_integer:
            return rng.integers(classes, size=(batch_size, 1), dtype=np.int32)
        return noise_for(seed, step, batch_size, tuple(placeholder.shape[1:]))

    return tf.nest.map_structure(values, generator.input)


def sample_feed(generator: keras.Model, classes: int) -> np.ndarray | list:
    """What G's samples are made of: tile k has the noise of seed k, as in generate.py.

    For AC-GAN, row r and column k have class r and the noise of seed k.
    """
    if not isinstance(generator.input, list):
        return np.stack([noise_of(seed, tuple(generator.input.shape[1:])) for seed in range(SAMPLES)])
    rows = min(classes, MAX_ROWS)
    noise = np.stack([noise_of(seed, tuple(generator.input[1].shape[1:])) for seed in range(COLUMNS)])
    return [np.repeat(np.arange(rows, dtype=np.int32), COLUMNS)[:, np.newaxis], np.tile(noise, (rows, 1))]
