"""The training loop: one step after another, samples, logs, checkpoints, and resuming where a run stopped.

What a run leaves in its folder:

    step_000500.png ...     samples from the same noise each time        progress.gif    the same as a film, at the end
    losses.csv              step, dloss, gloss, and the means of D(x) and D(G(z))
    epochs.csv              epoch, dloss, gloss                          events.out...   all of it for TensorBoard
    generator.h5, discriminator.h5      weights, for Keras' load_weights
    checkpoint_000500.h5 ...            the whole training state, the newest two
    run.json                            the settings, what the run was made with, and how far it is
"""

import contextlib
import dataclasses
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import PIL

import data
from command import RunError, Stop
from tf1 import distributed, keras, tf
from training import weights
from training.checkpoints import (
    check_disk,
    check_finite,
    go_back,
    not_finite,
    read_networks,
    restore,
    save_checkpoint,
    save_state,
    save_weights,
    write_run,
)
from training.folder import checkpoints, locked, set_aside, writing
from training.logs import Logs, Warnings, make_film
from training.noise import MOST_ROWS, feed_for, sample_feed

# What tells one run from another, beside its batch size and seed.
NAMED = ("model", "size", "dataset", "loss", "smoothing", "recipe", "updates", "learning_rate", "beta1")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run. Lengths are in steps."""

    pixels: tuple[float, float]  # what black and white are to the discriminator
    steps: int  # train up to this step
    batch_size: int  # of all replicas together
    seed: int
    sample_every: int
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = None  # or so often, whichever comes first
    keep_every: int | None = None  # also keep the generator of every so many steps
    keep_checkpoints: bool = False  # and the whole state with it
    restart: bool = False  # begin anew
    from_step: int | None = None  # go back to the state of this step
    start_from: Path | None = None  # the folder of a run whose weights a new run begins with
    model: str | None = None
    size: int | None = None
    dataset: str | None = None
    loss: str | None = None
    smoothing: float | None = None
    recipe: str | None = None
    updates: str | None = None
    learning_rate: float | None = None
    beta1: float | None = None

    def identity(self, dataset: data.Dataset) -> dict:
        """What must be the same for a run to be resumed, as checkpoints name it."""
        named = {name.replace("_", " "): getattr(self, name) for name in (*NAMED, "batch_size", "seed")}
        return {
            **named,
            "pictures": len(dataset.images),
            "checksum": data.checksum(dataset),
            "classes": list(dataset.classes),
        }

    def description(self, dataset: data.Dataset, job: distributed.Job) -> dict:
        """What run.json says."""
        versions = {"python": platform.python_version(), "tensorflow": tf.__version__, "tf_keras": version("tf-keras")}
        versions |= {"numpy": np.__version__, "h5py": h5py.__version__, "pillow": PIL.__version__}
        identity = {name.replace(" ", "_"): value for name, value in self.identity(dataset).items()}
        devices = {"devices": job.replicas, "device": job.device}
        return {**identity, **devices, "pixels": self.pixels, "versions": versions, "steps": self.steps}


def train(
    gan_feed: Callable,
    generator: keras.Model,
    discriminator: keras.Model,
    dataset: data.Dataset,
    out: Path,
    settings: Settings,
    job: distributed.Job | None = None,
) -> int:
    """Train up to step `settings.steps` in the default graph, resuming from what is in `out`. Returns an exit code.

    job: the other replicas and workers, for which it has built `gan_feed`. Raises InputError when `out` cannot be used,
    and RunError when losses or weights are NaN or infinite, when memory runs out, or when `out` can no longer be
    written.
    """
    job = job or distributed.Job()
    identity, steps, batch_size = settings.identity(dataset), settings.steps, settings.batch_size
    networks = {"generator": generator, "discriminator": discriminator}
    per_epoch = data.batches_per_epoch(dataset, batch_size)  # refuses a dataset that is too small: before any file
    first_weights = read_networks(settings.start_from, networks) if settings.start_from else {}
    with job.watched(lambda: resumes_from(job, out)), job.session() as sess, contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors(job, batch_size))
        keras.backend.set_session(sess)
        job.agree(sess, lambda: {**identity, "classes": len(dataset.classes), "steps": steps})
        if job.index == 0:
            if settings.restart and out.exists():
                set_aside(out)
            if settings.from_step is not None:
                go_back(out, settings.from_step)
            stack.enter_context(locked(out))
        sess.run(tf.global_variables_initializer())
        for name, layers in first_weights.items():
            weights.set_weights(networks[name], layers)
        keras.backend.get_session()  # Keras adds its own operations here, so that the graph can be closed
        classes = len(dataset.classes)
        rows = dataset.classes[:MOST_ROWS] if isinstance(generator.input, list) else []
        sample = sampler(generator, settings.pixels, sample_feed(generator, classes))
        tf.get_default_graph().finalize()

        start = job.begin(sess, lambda: restore(sess, out, identity))
        part = (job.index, job.workers)
        batches = data.batches(dataset, batch_size, settings.pixels, settings.seed, start, part)

        def take(step):
            images, labels = next(batches)
            noise = tf.nest.map_structure(job.part, feed_for(generator, settings.seed, step, batch_size, classes))
            values = gan_feed(sess, images, noise, labels, scores=True)
            if not all(map(math.isfinite, values)):
                job.leave(sess)  # all workers have the same losses
                raise not_finite("the losses are", step, out)
            return values

        if job.index:
            return follow(job, sess, take, start, steps)
        if start >= steps:
            with writing(out):
                make_film(out)  # where the last run was killed before it could
            print(f"{out} is at step {start} already: a larger --steps trains further, --restart starts over")
            job.leave(sess)
            return 0
        kept = (steps - start) // settings.keep_every if settings.keep_every else 0
        check_disk(out, [generator, discriminator], kept, kept if settings.keep_checkpoints else 0)
        announce(settings, dataset, job, out, start)
        description = settings.description(dataset, job)

        def save(step):
            check_finite(sess, tf.global_variables(), step, out)
            with writing(out):
                for name, model in networks.items():
                    save_weights(model, out / f"{name}.h5")
                write_run(out, {**description, "step": step})
                save_checkpoint(out, sess, step, identity)  # last: a run resumes from it, so the rest must be there

        def keep(step):
            check_finite(sess, tf.global_variables() if settings.keep_checkpoints else generator.weights, step, out)
            with writing(out):
                save_weights(generator, out / f"generator_{step:06d}.h5")
                if settings.keep_checkpoints:
                    save_state(out / f"state_{step:06d}.h5", sess, step, identity)

        warnings = Warnings(real_rows(dataset, len(rows)), settings.loss)
        with Logs(out, start, sess.graph, per_epoch, rows) as logs, Stop() as stop:
            job.signal = lambda: stop.signal
            with writing(out):
                write_run(out, {**description, "step": start})
            if start == 0:
                logs.samples(0, sample(sess))
            with progress(start, steps, batch_size) as show:
                saved = time.monotonic()
                for step in range(start + 1, steps + 1):
                    values = take(step)
                    show(step, values)
                    logs.losses(step, values)
                    warnings.scores(step, values[3])
                    if step % settings.sample_every == 0 or step == steps:
                        images = sample(sess)
                        logs.samples(step, images)
                        warnings.samples(step, images)
                    if settings.keep_every and step % settings.keep_every == 0:
                        keep(step)
                    stopped = job.stopped()  # read once: one that comes while it saves is for the next step
                    due = settings.checkpoint_every and step % settings.checkpoint_every == 0
                    if settings.checkpoint_minutes:
                        due = due or time.monotonic() - saved >= 60 * settings.checkpoint_minutes
                    if due or step == steps or stopped:
                        logs.flush()
                        save(step)
                        saved = time.monotonic()
                    if stopped:
                        break
            with writing(out):
                make_film(out)
            if stopped:
                again = "rerun the command" + (" without --restart" if settings.restart else "")
                again += " without --from-step" if settings.from_step is not None else ""
                print(f"stopped at step {step}, all saved: {again} to resume")
                job.leave(sess)
                return 128 + stopped
        print(f"{out}: {steps} steps done, step_{steps:06d}.png shows samples")
        job.leave(sess)
        return 0


@contextlib.contextmanager
def progress(start: int, steps: int, batch_size: int) -> Iterator[Callable[[int, list[np.float32]], None]]:
    """Gives `show(step, values)`, which brings Keras' progress bar to that step. What is printed next is on a new line.

    The bar counts from step 1, also in a resumed run. Its time per step, from which it estimates what is left, is that
    of this run's steps.
    """
    names = ("dloss", "gloss", "D(x)", "D(G(z))", "images/s")
    bar = keras.utils.Progbar(steps, interval=0.2 if sys.stdout.isatty() else 30, stateful_metrics=list(names))
    began, shown = time.perf_counter(), False
    bar._estimate_step_duration = lambda current, now: (time.perf_counter() - began) / max(1, current - start)

    def show(step, values):
        nonlocal shown
        shown = True
        speed = (step - start) * batch_size / (time.perf_counter() - began)
        bar.update(step, list(zip(names, [*values, speed], strict=True)))

    finished = False
    try:
        yield show
        finished = bar._seen_so_far >= steps
    finally:
        if shown and not finished:
            print(flush=True)


@contextlib.contextmanager
def memory_errors(job: distributed.Job, batch_size: int) -> Iterator[None]:
    """Turn TensorFlow's error for a device that is out of memory into one line."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise RunError(
            f"{job.device} is out of memory at batch size {batch_size}: choose a smaller --batch-size or --model"
        ) from error


def announce(settings: Settings, dataset: data.Dataset, job: distributed.Job, out: Path, start: int) -> None:
    """One line before the first step: what is trained, on which pictures and device, and where the output goes."""
    workers = f", worker 0 of {job.workers}" if job.workers > 1 else ""
    print(
        f"{settings.model} on {len(dataset.images):,} pictures of {dataset.name}, batch size {settings.batch_size}, "
        f"on {job.device}{workers}; output in {out}"
    )
    if start:
        print(f"resuming from step {start}")
        if settings.start_from:
            print(f"--start-from is for new runs: the weights are those of {out}")
    sys.stdout.flush()


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


def resumes_from(job: distributed.Job, out: Path) -> str:
    if job.index:
        return "the last checkpoint that worker 0 has written"
    return str(checkpoints(out)[-1]) if checkpoints(out) else "the beginning"


def real_rows(dataset: data.Dataset, rows: int) -> np.ndarray:
    """Pictures to compare the samples with: (1, n, *picture), or of each of the first classes (rows, n, *picture)."""
    if not rows:
        chosen = np.linspace(0, len(dataset.images) - 1, min(256, len(dataset.images))).astype(int)
        return np.stack([dataset.images[k] for k in np.unique(chosen)])[np.newaxis]
    members = [np.flatnonzero(dataset.labels == row)[:64] for row in range(rows)]
    number = max(2, min(map(len, members)))
    return np.stack([[dataset.images[k] for k in np.resize(each, number)] for each in members if len(each)])


def sampler(generator: keras.Model, pixels: tuple[float, float], noise: np.ndarray | list) -> Callable:
    """Returns `sample(sess)`, G's pictures for this noise (or list of what its inputs take) as uint8.

    As in use, not as in training: moving averages, no dropout.
    """
    placeholders = tf.nest.map_structure(lambda i: tf.placeholder(i.dtype, i.shape), generator.input)
    generated = generator(placeholders, training=False)
    feed_dict = dict(zip(tf.nest.flatten(placeholders), tf.nest.flatten(noise), strict=True))
    return lambda sess: data.unscale(sess.run(generated, feed_dict), pixels)
