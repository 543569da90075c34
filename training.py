"""The loop around the step: progress, samples, logs, checkpoints, and going on where a run stopped.

What a run leaves in its folder:

    step_000500.png ...     samples from the same noise each time        progress.gif    the same as a film, at the end
    losses.csv, epochs.csv  step or epoch, dloss, gloss                  events.out...   the same for TensorBoard
    generator.h5, discriminator.h5      weights, for Keras' load_weights
    checkpoint_000500.h5 ...            the whole training state, the newest two
"""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

import data
import distributed
import pictures
from command import InputError, RunError, clear_partial, one_line, replacing, sha256
from tf1 import keras, tf

SAMPLES = 64  # pictures in a grid
COLUMNS = 8
HEADER = 512  # bytes in front of a checkpoint's HDF5 part, for its checksum


def noise_for(seed: int, step: int, batch_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise of a step, (batch_size, *shape) float32. It depends on seed and step alone, so a resumed run has it."""
    return np.random.default_rng([seed, step, 1]).standard_normal((batch_size, *shape), dtype=np.float32)


def feed_for(generator: keras.Model, seed: int, step: int, batch_size: int, classes: int) -> np.ndarray | list:
    """What G takes in a step: the noise, or the list of what its inputs take.

    An input of integers is AC-GAN's class, (batch_size, 1) int32 below `classes`, each as likely as another (so does
    Keras' example mnist_acgan.py). They too depend on seed and step alone.
    """
    rng = np.random.default_rng([seed, step, 2])

    def values(placeholder):
        if placeholder.dtype.is_integer:
            return rng.integers(classes, size=(batch_size, 1), dtype=np.int32)
        return noise_for(seed, step, batch_size, tuple(placeholder.shape[1:]))

    return tf.nest.map_structure(values, generator.input)


def sample_feed(generator: keras.Model, seed: int, classes: int) -> np.ndarray | list:
    """What G's samples are made of: noise, for AC-GAN the same row of noise for each of the first ten classes."""
    if not isinstance(generator.input, list):
        return feed_for(generator, seed, 0, SAMPLES, classes)
    rows = min(classes, 10)
    _, *noise = feed_for(generator, seed, 0, COLUMNS, classes)
    return [np.repeat(np.arange(rows, dtype=np.int32), COLUMNS)[:, np.newaxis], *(np.tile(n, (rows, 1)) for n in noise)]


def train(
    gan_feed: Callable,
    generator: keras.Model,
    discriminator: keras.Model,
    dataset: data.Dataset,
    out: Path,
    *,
    pixels: tuple[float, float],
    steps: int,
    batch_size: int,
    seed: int,
    sample_every: int,
    checkpoint_every: int,
    keep_every: int | None = None,
    restart: bool = False,
    settings: dict | None = None,
    job: distributed.Job | None = None,
) -> int:
    """Train up to step `steps` in the default graph, going on from what is in `out`. Returns an exit code.

    pixels: what black and white are to the discriminator. batch_size: of all replicas together. settings: what else
    must be the same for a run to go on. job: the other replicas and workers, for which it has built `gan_feed`.
    Raises InputError when `out` cannot be used, and RunError when the losses are no longer numbers or `out`
    can no longer be written.
    """
    job = job or distributed.Job()
    settings = {**(settings or {}), "batch size": batch_size, "seed": seed, "pictures": len(dataset.images)}
    per_epoch = data.batches_per_epoch(dataset, batch_size)  # refuses a dataset that is too small: before any file
    with job.watched(lambda: going_on_from(job, out)), job.session() as sess, contextlib.ExitStack() as stack:
        keras.backend.set_session(sess)
        job.agree(sess, lambda: {**settings, "steps": steps, "pictures' checksum": checksum(dataset)})
        if job.index == 0:
            stack.enter_context(locked(out, restart))
        sess.run(tf.global_variables_initializer())
        keras.backend.get_session()  # Keras adds its own operations here, so that the graph can be closed
        classes = len(dataset.classes)
        sample = sampler(generator, pixels, sample_feed(generator, seed, classes))
        tf.get_default_graph().finalize()

        start = job.begin(sess, lambda: restore(sess, out, settings))
        batches = data.batches(dataset, batch_size, pixels, seed, start, part=(job.index, job.workers))

        def take(step):
            images, labels = next(batches)
            noise = tf.nest.map_structure(job.part, feed_for(generator, seed, step, batch_size, classes))
            dloss, gloss = gan_feed(sess, images, noise, labels)
            if not (math.isfinite(dloss) and math.isfinite(gloss)):
                job.leave(sess)  # all have the same losses
                raise not_a_number(step, out)
            return dloss, gloss

        if job.index:
            return follow(job, sess, take, start, steps)
        if start >= steps:
            with writing(out):
                make_film(out)  # where the last run was killed before it could
            print(f"{out} is at step {start} already: --steps goes on from there, --restart begins anew")
            job.leave(sess)
            return 0
        if start:
            print(f"going on from step {start}")

        def save(step):
            with writing(out):
                for name, model in (("generator", generator), ("discriminator", discriminator)):
                    save_weights(model, out / f"{name}.h5")
                save_checkpoint(out, sess, step, settings)  # last: a run goes on after it, so the rest must be there

        with Logs(out, start, sess.graph) as logs, Stop() as stop:
            job.signal = lambda: stop.signal
            if start == 0:
                logs.samples(0, sample(sess))
            bar = keras.utils.Progbar(
                steps - start,
                interval=0.2 if sys.stdout.isatty() else 30,
                stateful_metrics=["dloss", "gloss", "images/s"],
            )
            began = time.perf_counter()
            for step in range(start + 1, steps + 1):
                dloss, gloss = take(step)
                speed = (step - start) * batch_size / (time.perf_counter() - began)
                bar.update(step - start, [("dloss", dloss), ("gloss", gloss), ("images/s", speed)])
                logs.losses(step, dloss, gloss)
                if step % per_epoch == 0:
                    logs.flush()
                    with writing(out):
                        save_epochs(out, per_epoch)
                if step % sample_every == 0 or step == steps:
                    logs.samples(step, sample(sess))
                if keep_every and step % keep_every == 0:
                    with writing(out):
                        save_weights(generator, out / f"generator_{step:06d}.h5")
                stopped = job.stopped()  # read once: one that comes while it saves is for the next step
                if step % checkpoint_every == 0 or step == steps or stopped:
                    logs.flush()
                    save(step)
                if stopped:
                    print(f"\nstopped at step {step}, all saved: the same command goes on from there")
                    job.leave(sess)
                    return 128 + stopped
        with writing(out):
            make_film(out)
        print(f"{out}: {steps} steps done, step_{steps:06d}.png shows samples")
        job.leave(sess)
        return 0


# Several workers.


def checksum(dataset: data.Dataset) -> int:
    """Of 16 pictures from all over the dataset: tells whether two workers have the same."""
    chosen = np.linspace(0, len(dataset.images) - 1, 16).astype(int)
    return zlib.crc32(np.stack([dataset.images[k] for k in chosen]).tobytes())


def follow(job: distributed.Job, sess: tf.Session, take: Callable, start: int, steps: int) -> int:
    """The loop of every worker but worker 0: the same steps, and nothing is written. Returns an exit code."""
    with Stop() as stop:
        job.signal = lambda: stop.signal
        for step in range(start + 1, steps + 1):
            take(step)
            if stopped := job.stopped():
                print(f"stopped at step {step}")
                job.leave(sess)
                return 128 + stopped
        job.leave(sess)
        return 0


def going_on_from(job: distributed.Job, out: Path) -> str:
    if job.index:
        return "the last checkpoint that worker 0 has written"
    return str(checkpoints(out)[-1]) if checkpoints(out) else "the beginning"


def sampler(generator: keras.Model, pixels: tuple[float, float], noise: np.ndarray | list) -> Callable:
    """Returns `sample(sess)`, G's pictures for this noise (or list of what its inputs take) as uint8.

    As in use, not as in training: moving averages, no dropout.
    """
    placeholders = tf.nest.map_structure(lambda i: tf.placeholder(i.dtype, i.shape), generator.input)
    generated = generator(placeholders, training=False)
    feed_dict = dict(zip(tf.nest.flatten(placeholders), tf.nest.flatten(noise), strict=True))
    return lambda sess: data.unscale(sess.run(generated, feed_dict), pixels)


def make_film(out: Path) -> None:
    """Make progress.gif of the samples in `out`, unless it is newer than all of them."""
    frames, film = numbered(out, "step", "png"), out / "progress.gif"
    changed = [frame.stat().st_mtime_ns for frame in frames]
    if frames and (not film.exists() or film.stat().st_mtime_ns < max(changed)):
        pictures.save_gif(frames, film)


def not_a_number(step: int, out: Path) -> RunError:
    return RunError(f"the losses are no longer numbers at step {step}; {last_checkpoint(out)}")


def last_checkpoint(out: Path) -> str:
    kept = checkpoints(out)
    return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"


# The folder of a run.


def numbered(out: Path, name: str, suffix: str) -> list[Path]:
    """The files {name}_{step}.{suffix} in `out` by step, which beyond 999,999 is not the order of their names."""
    steps = {path: path.stem.removeprefix(f"{name}_") for path in out.glob(f"{name}_*.{suffix}")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what a full disk, or a folder that is gone or closed, raises in any library into one `RunError`."""
    try:
        yield
    except RunError:
        raise
    except (OSError, RuntimeError, tf.errors.OpError) as error:  # h5py tells of a full disk by either of the first two
        found = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(found[1]) if found else 0)
        reason = os.strerror(number) if number else one_line(error)
        raise RunError(f"{out} can no longer be written ({reason}); {last_checkpoint(out)}") from error


@contextlib.contextmanager
def locked(out: Path, restart: bool) -> Iterator[None]:
    """Make the folder and keep other runs out of it. The lock is the system's, so a killed run leaves none behind."""
    try:
        if restart and out.exists():
            with locked(out, restart=False):
                kept = next(p for n in range(1, 10**6) if not (p := out.with_name(f"{out.name}.{n}")).exists())
                out.rename(kept)
            print(f"what was in {out} is in {kept} now")
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(out / ".lock")):
                raise BlockingIOError  # another run's --restart has just given this folder another name
        except (BlockingIOError, FileNotFoundError):
            raise InputError(f"another run is writing to {out}: give this one another --out") from None
        clear_partial(out)
        yield
    finally:
        os.close(descriptor)


class Stop:
    """Within it, SIGINT and SIGTERM are remembered in `signal`; a second one ends the process at once."""

    def __enter__(self):
        self.signal = 0
        self.before = {number: signal.signal(number, self.remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def remember(self, number, frame):
        if self.signal:
            os._exit(128 + number)  # harmless: a file is the old one or the new one, whole
        self.signal = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


# Logs.


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


# Checkpoints.


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints in `out`, the oldest first."""
    return numbered(out, "checkpoint", "h5")


def check_room(folder: Path, variables: list[tf.Variable]) -> None:
    """Raise OSError where these do not fit on the disk. HDF5 would find out too, and print it for every object."""
    needed = sum(variable.shape.num_elements() * variable.dtype.size + 4096 for variable in variables)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_weights(model: keras.Model, path: Path) -> None:
    check_room(path.parent, model.weights)
    with replacing(path) as beside:
        model.save_weights(beside, save_format="h5")


def save_checkpoint(out: Path, sess: tf.Session, step: int, settings: dict) -> None:
    """Write all variables of the graph (weights, moving averages, Adam's slots and powers), one at a time."""
    check_room(out, tf.global_variables())
    with replacing(out / f"checkpoint_{step:06d}.h5") as beside:
        with h5py.File(beside, "w", userblock_size=HEADER) as file:
            file.attrs["step"] = step
            file.attrs["settings"] = json.dumps(settings)
            for variable in tf.global_variables():
                value = sess.run(variable)
                if not np.isfinite(value).all():
                    raise not_a_number(step + 1, out)
                file[dataset_name(variable)] = value
                del value  # or two of the largest would be in memory at a time
        with open(beside, "r+b") as file:
            file.seek(HEADER)
            checksum = sha256(file).hexdigest()
            file.seek(0)
            file.write(checksum.encode())
    # Two are kept. One of a later step is damaged, or this run would have begun there.
    kept = [path for path in checkpoints(out) if int(path.stem.split("_")[1]) <= step][-2:]
    for path in checkpoints(out):
        if path not in kept:
            path.unlink()


def restore(sess: tf.Session, out: Path, settings: dict) -> int:
    """Load the newest checkpoint in `out` that is whole and return its step, or 0 where there is none.

    Raises InputError when the checkpoint is one of another run (`settings`) or program, or when all are damaged.
    """
    for path in reversed(checkpoints(out)):
        with open(path, "rb") as file:
            checksum = file.read(HEADER).rstrip(b"\0")
            whole = checksum == sha256(file).hexdigest().encode()
        if not whole:  # HDF5 gets to see nothing else: on damaged files it may crash
            print(f"{path} is damaged (its checksum is wrong): trying the one before it", file=sys.stderr)
            continue
        with h5py.File(path, "r") as file:
            saved = json.loads(file.attrs["settings"])
            for name in settings:
                if saved.get(name) != settings[name]:
                    raise InputError(
                        f"{path} was made with {name} {saved.get(name)}, not {settings[name]}: "
                        "run it with that, or give another --out or --restart"
                    )
            variables = {dataset_name(variable): variable for variable in tf.global_variables()}
            if {name: file[name].shape for name in file} != {name: tuple(v.shape) for name, v in variables.items()}:
                raise InputError(
                    f"{path} has other variables than this program's {settings.get('model')}, perhaps from another "
                    "version: give another --out or --restart"
                )
            for name, variable in variables.items():
                for copy in distributed.copies(variable):
                    copy.load(file[name][()], sess)
            return int(file.attrs["step"])
    if checkpoints(out):
        raise InputError(f"every checkpoint in {out} is damaged: --restart begins anew")
    return 0


def dataset_name(variable: tf.Variable) -> str:
    return variable.op.name.replace("/", ".")  # HDF5 takes a slash for a group; Adam's names lie below the weights'
