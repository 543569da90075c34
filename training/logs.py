"""The logs of a run: losses.csv, epochs.csv, sample grids and their animation, and the same for TensorBoard."""

import errno
import io
import itertools
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from command import RunError, replacing, sync
from tf1 import tf
from training import pictures
from training.folder import RunFolder, numbered
from training.noise import COLUMNS

MAX_FRAMES, MAX_SIDE = 120, 640  # of the animation; pixels
TAGS = ("dloss", "gloss", "D(x)", "D(G(z))")  # in TensorBoard
LOSSES, EPOCHS = "step,dloss,gloss,real,generated", "epoch,dloss,gloss"


class Logs:
    """losses.csv, epochs.csv, the samples, and the same for TensorBoard. Rows after step `start` are dropped.

    rows: names for the rows of the sample grids. before: the losses.csv that a new run takes over up to `start`.
    """

    def __init__(
        self,
        folder: RunFolder,
        start: int,
        graph: tf.Graph,
        per_epoch: int,
        rows: list[str] | None = None,
        before: Path | None = None,
    ):
        self.folder, self.rows = folder, rows
        self.epochs = Epochs(per_epoch)
        with folder.writing():
            source = before or folder / "losses.csv"
            found = [row for row in read_rows(source) if row[0] <= start]
            if start and (columns_of(source) != LOSSES or [row[0] for row in found] != list(range(1, start + 1))):
                self.keep_damaged(source, start)
            losses, epochs = [], []
            for step, *values in found:
                losses.append(csv_row(step, values))
                epochs += self.epochs.add(step, *values[:2])
            self.files = [begin_csv(folder / "losses.csv", LOSSES, losses)]
            self.files.append(begin_csv(folder / "epochs.csv", EPOCHS, epochs))
            self.lines: tuple[list[str], list[str]] = ([], [])
            self.summaries = tf.summary.FileWriter(str(folder), graph if start == 0 else None)
            self.summaries.add_session_log(tf.SessionLog(status=tf.SessionLog.START), start + 1)

    def keep_damaged(self, source: Path, start: int) -> None:
        """Say that `source` is not as a run leaves it, and keep the run's own file under another name."""
        path, kept = self.folder / "losses.csv", ""
        if path.exists():
            names = (path.with_name(f"losses_damaged{n or ''}.csv") for n in itertools.count())
            copy = next(name for name in names if not name.exists())
            with replacing(copy) as partial:
                partial.write_bytes(path.read_bytes())
            kept = f"it is kept as {copy.name}, and "
        reason = f"{source} is damaged, or does not have every step up to {start}"
        print(f"warning: {reason}: {kept}the rows that can be read are used", file=sys.stderr)

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
            with self.folder.writing():
                self.append()

    def samples(self, step: int, images: np.ndarray) -> None:
        """images: (number, height, width, channels) uint8."""
        scale = pictures.scale_for(images.shape[1])
        if self.rows:
            picture = pictures.named_rows(images, self.rows, COLUMNS, scale)
        else:
            picture = pictures.grid(images, COLUMNS, scale)
        with self.folder.writing():
            pictures.save_png(picture, self.folder / f"step_{step:06d}.png")
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
        with self.folder.writing():
            self.append()
            for file in self.files:
                sync(file.fileno())
            self.summaries.flush()


def begin_csv(path: Path, columns: str, rows: list[str]) -> io.FileIO:
    """Write the file with these rows, and open it for further ones."""
    with replacing(path) as partial:
        partial.write_text("".join([f"{columns}\n", *rows]), newline="\n")
    return open(path, "ab", buffering=0)


class Epochs:
    """The mean losses of every whole epoch, from running sums."""

    def __init__(self, per_epoch: int):
        self.per_epoch, self.epoch, self.steps, self.sums = per_epoch, 0, 0, [0.0, 0.0]

    def add(self, step: int, dloss: float, gloss: float) -> list[str]:
        """The row of the epoch that ends with this step, if one does, and if none of its steps is missing."""
        epoch = -(-step // self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.steps, self.sums = epoch, 0, [0.0, 0.0]
        self.steps += 1
        for i, loss in enumerate((dloss, gloss)):
            self.sums[i] += float(np.float32(loss))  # the same for a loss that was read from losses.csv
        return [csv_row(epoch, [total / self.per_epoch for total in self.sums])] if self.steps == self.per_epoch else []


def csv_row(number: int, values: list[float]) -> str:
    """Nine digits tell any two float32 apart."""
    return ",".join([str(number), *(f"{value:.9g}" for value in values)]) + "\n"


def columns_of(path: Path) -> str | None:
    """The first line of a file, which names the columns; None where there is no file."""
    if not path.exists():
        return None
    with open(path, errors="replace") as file:
        return file.readline().rstrip("\n")


def read_rows(path: Path) -> Iterator[tuple[float, ...]]:
    """The rows (step, dloss, gloss, mean D(x), mean D(G(z))) of a losses.csv, or (epoch, dloss, gloss) of epochs.csv.

    Lines that are cut or damaged are left out, and so are steps out of order.
    """
    if not path.exists():
        return
    columns, last = len((EPOCHS if columns_of(path) == EPOCHS else LOSSES).split(",")), 0
    with open(path, errors="replace") as file:
        for line in file:
            try:
                row = int(line.split(",")[0]), *map(float, line.split(",")[1:])
            except ValueError:
                continue
            if len(row) == columns and line.endswith("\n") and row[0] > last and all(map(math.isfinite, row)):
                last = row[0]
                yield row


def read_losses(path: Path) -> Iterator[tuple[int, float, float]]:
    """The rows (step, dloss, gloss) of a losses.csv, or of an epochs.csv by epoch."""
    return (row[:3] for row in read_rows(path))


def make_animation(folder: RunFolder) -> None:
    """Make progress.gif of the sample grids, unless it is newer than all of them.

    It has at most MAX_FRAMES of them, the first and the last included; grids over MAX_SIDE pixels are reduced.
    """
    samples, path = numbered(folder.path, "step", "png"), folder / "progress.gif"
    if not samples or (path.exists() and path.stat().st_mtime_ns >= max(s.stat().st_mtime_ns for s in samples)):
        return
    chosen = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, MAX_FRAMES).round().astype(int))]
    with Image.open(samples[-1]) as picture:
        size = picture.size
    factor = max(1, max(size) / MAX_SIDE)
    pictures.save_gif((_frame(sample, size, factor) for sample in chosen), path)
    if len(chosen) < len(samples) or factor > 1:
        part = f"{len(chosen)} of" if len(chosen) < len(samples) else "all"
        smaller = f", reduced to {1 / factor:.0%} of their size" if factor > 1 else ""
        print(f"{path} shows {part} {len(samples)} sample grids{smaller}")


def _frame(path: Path, size: tuple[int, int], factor: float) -> Image.Image:
    """A sample grid for the animation. All frames have one size, which new class names may have changed."""
    with Image.open(path) as picture:
        frame = picture.copy()
    if frame.size != size:
        canvas = Image.new(frame.mode, size)
        canvas.paste(frame, (size[0] - frame.width, 0))
        frame = canvas
    return frame.resize([round(side / factor) for side in size], Image.Resampling.BOX) if factor > 1 else frame
