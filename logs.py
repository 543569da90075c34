"""The logs of a run: losses.csv, epochs.csv, sample grids and their film, and the same for TensorBoard."""

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import pictures
from command import RunError
from files import numbered, replacing, writing
from tf1 import tf

COLUMNS = 8  # of a grid


class Logs:
    """losses.csv, the samples, and the same for TensorBoard; from `start` on, later lines of a lost run are dropped."""

    def __init__(self, out: Path, start: int, graph: tf.Graph):
        self.out = out
        self.rows: list[str] = []
        with writing(out):
            with replacing(out / "losses.csv") as beside:
                beside.write_text("step,dloss,gloss\n" + "".join(map(csv_row, read_losses(out / "losses.csv", start))))
            self.file = open(out / "losses.csv", "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
            self.summaries = tf.summary.FileWriter(str(out), graph if start == 0 else None)
            self.summaries.add_session_log(tf.SessionLog(status=tf.SessionLog.START), start + 1)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.flush()
        except RunError:
            if kind is None:  # else what is on its way already says more
                raise
        finally:
            self.file.close()
            self.summaries.close()

    def losses(self, step: int, dloss: np.float32, gloss: np.float32) -> None:
        self.rows.append(csv_row((step, dloss, gloss)))
        values = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in (("dloss", dloss), ("gloss", gloss))]
        self.summaries.add_summary(tf.Summary(value=values), step)
        if len(self.rows) >= 100:
            with writing(self.out):
                self.append()

    def samples(self, step: int, images: np.ndarray) -> None:
        """images: (number, height, width, channels) uint8."""
        picture = pictures.grid(images, columns=COLUMNS, scale=pictures.scale_for(images.shape[1]))
        with writing(self.out):
            pictures.save_png(picture, self.out / f"step_{step:06d}.png")
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        image = tf.Summary.Image(height=picture.height, width=picture.width, encoded_image_string=encoded.getvalue())
        self.summaries.add_summary(tf.Summary(value=[tf.Summary.Value(tag="samples", image=image)]), step)

    def append(self) -> None:
        """Write the rows so far to losses.csv, whole lines at once."""
        text, self.rows = "".join(self.rows).encode(), []
        if self.file.write(text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Bring everything to the disk, where a checkpoint may rely on it."""
        with writing(self.out):
            self.append()
            os.fsync(self.file.fileno())
            self.summaries.flush()


def csv_row(row: tuple[int, float, float]) -> str:
    step, dloss, gloss = row
    return f"{step},{dloss:.9g},{gloss:.9g}\n"  # nine digits tell any two float32 apart


def read_losses(path: Path, last: int | None = None) -> Iterator[tuple[int, float, float]]:
    """The rows (step, dloss, gloss) of a losses.csv, up to step `last`. A line that was cut or damaged ends it."""
    if not path.exists():
        return
    with open(path, errors="replace") as file:
        next(file, None)  # the names of the columns
        for line in file:
            try:
                step, dloss, gloss = line.split(",")
                row = int(step), float(dloss), float(gloss)
            except ValueError:
                return
            if not line.endswith("\n") or (last is not None and row[0] > last):
                return
            yield row


def save_epochs(out: Path, per_epoch: int) -> None:
    """Write epochs.csv, the mean losses of every whole epoch, from losses.csv."""
    losses = np.array([row[1:] for row in read_losses(out / "losses.csv")])
    epochs = len(losses) // per_epoch
    means = losses[: epochs * per_epoch].reshape(epochs, per_epoch, 2).mean(axis=1)
    with replacing(out / "epochs.csv") as beside:
        rows = (csv_row((epoch, *mean)) for epoch, mean in enumerate(means, 1))
        beside.write_text("epoch,dloss,gloss\n" + "".join(rows))


def make_film(out: Path) -> None:
    """Make progress.gif of the samples in `out`, unless it is newer than all of them."""
    frames, film = numbered(out, "step", "png"), out / "progress.gif"
    changed = [frame.stat().st_mtime_ns for frame in frames]
    if frames and (not film.exists() or film.stat().st_mtime_ns < max(changed)):
        pictures.save_gif(frames, film)
