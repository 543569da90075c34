"""What tells that a run is not well: values that are not finite, collapse, a vanished gradient, a lack of memory."""

import contextlib
import math
import sys
from pathlib import Path

import numpy as np

from data import Dataset
from tf1 import keras, tf
from training.noise import MAX_ROWS

COLLAPSED = 0.25  # of the spread of real images; see `Warnings`
VANISHED = 0.01  # of the gradient that remains
PATIENCE = 50  # steps in a row


def first_not_finite(sess: tf.Session, variables: list[tf.Variable]) -> str | None:
    """The name of the first variable with a value that is NaN or infinite. Reads one at a time, to save memory."""
    names = (variable.op.name for variable in variables if not np.isfinite(sess.run(variable)).all())
    return next(names, None)


class Warnings:
    """Prints one line when the samples have collapsed, or when G's gradient has vanished because D is certain.

    The spread of images is the root of the mean variance of a pixel. Measured: in a collapsed MNIST run 0.03 times that
    of real images, in collapsed rows of AC-GAN 0.2 times, in healthy runs on CIFAR-10 and MNIST 0.6 to 1.1 times from
    step 500 on. rows: how many classes the sample grid has a row for; 0 for samples without classes.
    """

    def __init__(self, dataset: Dataset, rows: int, loss: str):
        self.rows, self.real, self.loss = max(1, rows), spread(real_rows(dataset, rows)), loss
        self.low_grids = self.certain_steps = 0
        self.given: set[str] = set()

    def samples(self, step: int, images: np.ndarray) -> None:
        if step < 500:  # G has not begun to learn
            return
        made = spread(images.reshape(self.rows, -1, *images.shape[1:]))
        self.low_grids = self.low_grids + 1 if made < COLLAPSED * self.real else 0
        if self.low_grids == 2:
            rows = " of a class" if self.rows > 1 else ""
            self.give(
                f"the samples{rows} have collapsed at step {step}: they differ {made / self.real:.2f} times as much as "
                "real images. A model with ConcatDiff, another --loss or a lower --learning-rate may help"
            )

    def scores(self, step: int, generated: float) -> None:
        """generated: the mean D(G(z)) of a step.

        With respect to D's logit, log(s + 1e-11) has the gradient s (1 - s) / (s + 1e-11), and log(1 - s) has -s.
        """
        left = {"article": generated / (generated + 1e-11), "minimax": generated}.get(self.loss, 1)
        self.certain_steps = self.certain_steps + 1 if left < VANISHED else 0
        if self.certain_steps == PATIENCE:
            self.give(
                f"D is certain of every image at step {step} (D(G(z)) is {generated:.1e}), so G's gradient has "
                "vanished with this loss: --loss bce keeps it, a lower --learning-rate delays it"
            )

    def give(self, text: str) -> None:
        kind = text.split()[0]
        if kind not in self.given:
            self.given.add(kind)
            print(flush=True)  # ends the progress bar's line
            print(f"warning: {text}", file=sys.stderr, flush=True)


def real_rows(dataset: Dataset, rows: int) -> np.ndarray:
    """Images to compare samples with: (1, n, *image), or those of each of the first classes (rows, n, *image)."""
    if not rows:
        chosen = np.linspace(0, len(dataset.images) - 1, min(256, len(dataset.images))).astype(int)
        return np.stack([dataset.images[k] for k in np.unique(chosen)])[np.newaxis]
    members = [np.flatnonzero(dataset.labels == row)[:64] for row in range(min(rows, MAX_ROWS))]
    number = max(2, min(map(len, members)))
    return np.stack([[dataset.images[k] for k in np.resize(each, number)] for each in members if len(each)])


def spread(images: np.ndarray) -> float:
    """(rows, number, height, width, channels) uint8 -> the root of the mean variance of a pixel within a row."""
    return float(np.sqrt(images.var(axis=1, ddof=1, dtype=np.float32).mean()))


def warn_of_memory(networks: list[keras.Model], batch_size: int) -> None:
    """Print one line where weights, Adam's moments and activations may not fit into the memory that is available."""
    weights = sum(math.prod(weight.shape) for network in networks for weight in network.weights)
    outputs = sum(
        math.prod(shape[1:]) for network in networks for layer in network.layers for shape in _output_shapes(layer)
    )
    # Bytes of float32: weights, their gradients and two moments; outputs of two batches and their gradients.
    needed = 4 * (4 * weights + 4 * batch_size * outputs)
    with contextlib.suppress(OSError, KeyError):  # another system than Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
        if needed > available and not tf.config.list_physical_devices("GPU"):
            print(
                f"warning: training may need {needed / 2**30:.1f} GiB of memory and {available / 2**30:.1f} GiB are "
                f"available; a smaller --batch-size than {batch_size} needs less",
                file=sys.stderr,
            )


def _output_shapes(layer: keras.layers.Layer) -> list[tuple]:
    return layer.output_shape if isinstance(layer.output_shape, list) else [layer.output_shape]
