"""The logs of a run: losses.csv, epochs.csv, sample grids and their film, the same for TensorBoard; warnings."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from command import RunError, replacing
from tf1 import tf
from training import pictures
from training.folder import numbered, writing

COLUMNS = 8  # of a grid
MOST_FRAMES, LARGEST_FRAME = 120, 640  # of the film; pixels. With 128 colours that is at most some 40 MB
TAGS = ("dloss", "gloss", "D(x)", "D(G(z))")  # in TensorBoard


class Logs:
    """losses.csv, epochs.csv, the samples, and the same for TensorBoard. Lines after step `start` are dropped.

    rows: names for the rows of the sample grids.
    """

    def __init__(self, out: Path, start: int, graph: tf.Graph, per_epoch: int, rows: list[str] | None = None):
        self.out, self.rows = out, rows
        self.epochs = Epochs(per_epoch)
        with writing(out):
            steps, epochs = [], []
            for step, *values in read_rows(out / "losses.csv", start):
                steps.append(csv_row(step, values))
                epochs += self.epochs.add(step, *values[:2])
            self.files = [
                begin_csv(out / "losses.csv", "step,dloss,gloss,real,generated", steps),
                begin_csv(out / "epochs.csv", "epoch,dloss,gloss", epochs),
            ]
            self.lines: tuple[list[str], list[str]] = ([], [])
            self.summaries = tf.summary.FileWriter(str(out), graph if start == 0 else None)
            self.summaries.add_session_log(tf.SessionLog(status=tf.SessionLog.START), start + 1)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.flush()
        except RunError:
            if kind is None:  # else the error on its way says more
                raise
        finally:
            for file in self.files:
                file.close()
            self.summaries.close()

    def losses(self, step: int, values: list[np.float32]) -> None:
        """values: dloss, gloss and the means of D(x) and D(G(z))."""
        self.lines[0].append(csv_row(step, values))
        self.lines[1].extend(self.epochs.add(step, *values[:2]))
        tagged = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in zip(TAGS, values, strict=True)]
        self.summaries.add_summary(tf.Summary(value=tagged), step)
        if len(self.lines[0]) >= 100:
            with writing(self.out):
                self.append()

    def samples(self, step: int, images: np.ndarray) -> None:
        """images: (number, height, width, channels) uint8."""
        scale = pictures.scale_for(images.shape[1])
        if self.rows:
            picture = pictures.named_rows(images, self.rows, COLUMNS, scale)
        else:
            picture = pictures.grid(images, COLUMNS, scale)
        with writing(self.out):
            pictures.save_png(picture, self.out / f"step_{step:06d}.png")
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        image = tf.Summary.Image(height=picture.height, width=picture.width, encoded_image_string=encoded.getvalue())
        self.summaries.add_summary(tf.Summary(value=[tf.Summary.Value(tag="samples", image=image)]), step)

    def append(self) -> None:
        """Write the rows so far, whole lines at once."""
        for file, lines in zip(self.files, self.lines, strict=True):
            text = "".join(lines).encode()
            lines.clear()
            if text and file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Bring everything to the disk, where a checkpoint may rely on it."""
        with writing(self.out):
            self.append()
            for file in self.files:
                os.fsync(file.fileno())
            self.summaries.flush()


def begin_csv(path: Path, columns: str, rows: list[str]) -> io.FileIO:
    """Write the file with these rows, and open it for further ones."""
    with replacing(path) as beside:
        beside.write_text("".join([f"{columns}\n", *rows]), newline="\n")
    return open(path, "ab", buffering=0)


class Epochs:
    """The mean losses of every whole epoch, from sums, so that an epoch costs the same however long the run is."""

    def __init__(self, per_epoch: int):
        self.per_epoch, self.sums = per_epoch, [0.0, 0.0]

    def add(self, step: int, dloss: float, gloss: float) -> list[str]:
        """The row of the epoch that ends with this step, if one does."""
        for i, loss in enumerate((dloss, gloss)):
            self.sums[i] += float(np.float32(loss))  # the same for a loss that was read from losses.csv
        if step % self.per_epoch:
            return []
        means, self.sums = [total / self.per_epoch for total in self.sums], [0.0, 0.0]
        return [csv_row(step // self.per_epoch, means)]


def csv_row(number: int, values: list[float | None]) -> str:
    """Nine digits tell any two float32 apart."""
    return ",".join([str(number), *("" if value is None else f"{value:.9g}" for value in values)]) + "\n"


def read_rows(path: Path, last: int | None = None) -> Iterator[tuple[int, float, float, float | None, float | None]]:
    """The rows (step, dloss, gloss, mean D(x), mean D(G(z))) of a losses.csv, up to step `last`.

    Files of an earlier version do not have the last two, which are None then. A line that was cut or damaged ends it.
    """
    if not path.exists():
        return
    with open(path, errors="replace") as file:
        next(file, None)  # the names of the columns
        for line in file:
            try:
                step, *fields = line.split(",")
                losses, scores = list(map(float, fields[:2])), [float(f) if f.strip() else None for f in fields[2:]]
                row = int(step), *losses, *(scores or [None, None])
            except ValueError:
                return
            if len(row) != 5 or not line.endswith("\n") or (last is not None and row[0] > last):
                return
            yield row


def read_losses(path: Path, last: int | None = None) -> Iterator[tuple[int, float, float]]:
    """The rows (step, dloss, gloss) of a losses.csv, or of an epochs.csv by epoch, up to step `last`."""
    return (row[:3] for row in read_rows(path, last))


def make_film(out: Path) -> None:
    """Make progress.gif of the samples in `out`, unless it is newer than all of them.

    Of more than MOST_FRAMES samples it has that many, the first and the last among them; larger ones are reduced.
    """
    samples, film = numbered(out, "step", "png"), out / "progress.gif"
    if not samples or (film.exists() and film.stat().st_mtime_ns >= max(s.stat().st_mtime_ns for s in samples)):
        return
    chosen = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, MOST_FRAMES).round().astype(int))]
    with Image.open(samples[-1]) as picture:
        size = picture.size
    factor = max(1, max(size) / LARGEST_FRAME)
    pictures.save_gif((_frame(path, size, factor) for path in chosen), film)
    bounds = [f"{len(chosen)} of {len(samples)} samples"] if len(chosen) < len(samples) else []
    bounds += [f"{1 / factor:.0%} of their size"] if factor > 1 else []
    if bounds:
        print(f"{film} has {', '.join(bounds)}")


def _frame(path: Path, size: tuple[int, int], factor: float) -> Image.Image:
    """A sample grid for the film. All frames have one size, which a dataset's new class names may have changed."""
    with Image.open(path) as picture:
        frame = picture.copy()
    if frame.size != size:
        canvas = Image.new(frame.mode, size)
        canvas.paste(frame, (size[0] - frame.width, 0))
        frame = canvas
    return frame.resize([round(side / factor) for side in size], Image.Resampling.BOX) if factor > 1 else frame


# Warnings. Each is printed once.

COLLAPSED = 0.25  # of the spread of real pictures; see `Warnings`
VANISHED = 0.01  # of the gradient that remains
PATIENCE = 50  # steps in a row


class Warnings:
    """One line on stderr when the samples have collapsed, or when G's gradient has vanished because D is sure.

    The spread of pictures is the root of the mean variance of a pixel. Measured: of a collapsed MNIST run 0.03 of that
    of real pictures, of AC-GAN's collapsed rows 0.2, of healthy runs on CIFAR-10, MNIST and shapes 0.6 to 1.1 from step
    500 on. real: (rows, number, height, width, channels), pictures of each class, or one row of all.
    """

    def __init__(self, real: np.ndarray, loss: str | None):
        self.rows, self.real, self.loss = len(real), spread(real), loss
        self.low_grids = self.sure_steps = 0
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
                "real pictures. A model with ConcatDiff, another --loss or a lower --learning-rate may help"
            )

    def scores(self, step: int, generated: float) -> None:
        """generated: the mean D(G(z)) of a step.

        By D's logit, log(s + 1e-11) has the gradient s (1 - s) / (s + 1e-11), and log(1 - s) has -s.
        """
        left = {"article": generated / (generated + 1e-11), "minimax": generated}.get(self.loss, 1)
        self.sure_steps = self.sure_steps + 1 if left < VANISHED else 0
        if self.sure_steps == PATIENCE:
            self.give(
                f"D is sure of every picture at step {step} (D(G(z)) is {generated:.1e}), so G's gradient has vanished "
                "with this loss: --loss bce keeps it, a lower --learning-rate delays it"
            )

    def give(self, text: str) -> None:
        kind = text.split()[0]
        if kind not in self.given:
            self.given.add(kind)
            print(flush=True)  # ends the progress bar's line
            print(f"warning: {text}", file=sys.stderr, flush=True)


def spread(images: np.ndarray) -> float:
    """(rows, number, height, width, channels) uint8 -> the root of the mean variance of a pixel within a row."""
    return float(np.sqrt(images.var(axis=1, ddof=1, dtype=np.float32).mean()))
