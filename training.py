"""The training loop: one step after another, samples, logs, checkpoints, and resuming where a run stopped.

What a run leaves in its folder:

    step_000500.png ...     samples from the same noise each time        progress.gif    the same as a film, at the end
    losses.csv, epochs.csv  step or epoch, dloss, gloss                  events.out...   the same for TensorBoard
    generator.h5, discriminator.h5      weights, for Keras' load_weights
    checkpoint_000500.h5 ...            the whole training state, the newest two
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import data
import distributed
from checkpoints import not_a_number, restore, save_checkpoint, save_weights
from command import Stop
from files import checkpoints, locked, writing
from logs import COLUMNS, Logs, make_film, save_epochs
from tf1 import keras, tf

SAMPLES = 64  # pictures in a grid


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run. `names` are those that must be the same for a run to be resumed."""

    pixels: tuple[float, float]  # what black and white are to the discriminator
    steps: int  # train up to this step
    batch_size: int  # of all replicas together
    seed: int
    sample_every: int  # steps
    checkpoint_every: int
    keep_every: int | None = None
    restart: bool = False
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
        names = ("model", "size", "dataset", "loss", "smoothing", "recipe", "updates", "learning_rate", "beta1")
        named = {name.replace("_", " "): getattr(self, name) for name in (*names, "batch_size", "seed")}
        return {**named, "pictures": len(dataset.images)}


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
    and RunError when the losses are no longer numbers or `out` can no longer be written.
    """
    job = job or distributed.Job()
    identity, steps, batch_size = settings.identity(dataset), settings.steps, settings.batch_size
    per_epoch = data.batches_per_epoch(dataset, batch_size)  # refuses a dataset that is too small: before any file
    with job.watched(lambda: resumes_from(job, out)), job.session() as sess, contextlib.ExitStack() as stack:
        keras.backend.set_session(sess)
        job.agree(sess, lambda: {**identity, "steps": steps, "pictures' checksum": data.checksum(dataset)})
        if job.index == 0:
            stack.enter_context(locked(out, settings.restart))
        sess.run(tf.global_variables_initializer())
        keras.backend.get_session()  # Keras adds its own operations here, so that the graph can be closed
        classes = len(dataset.classes)
        sample = sampler(generator, settings.pixels, sample_feed(generator, settings.seed, classes))
        tf.get_default_graph().finalize()

        start = job.begin(sess, lambda: restore(sess, out, identity))
        part = (job.index, job.workers)
        batches = data.batches(dataset, batch_size, settings.pixels, settings.seed, start, part)

        def take(step):
            images, labels = next(batches)
            noise = tf.nest.map_structure(job.part, feed_for(generator, settings.seed, step, batch_size, classes))
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
                save_checkpoint(out, sess, step, identity)  # last: a run goes on after it, so the rest must be there

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
                if step % settings.sample_every == 0 or step == steps:
                    logs.samples(step, sample(sess))
                if settings.keep_every and step % settings.keep_every == 0:
                    with writing(out):
                        save_weights(generator, out / f"generator_{step:06d}.h5")
                stopped = job.stopped()  # read once: one that comes while it saves is for the next step
                if step % settings.checkpoint_every == 0 or step == steps or stopped:
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


# What the networks are fed.


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


def sampler(generator: keras.Model, pixels: tuple[float, float], noise: np.ndarray | list) -> Callable:
    """Returns `sample(sess)`, G's pictures for this noise (or list of what its inputs take) as uint8.

    As in use, not as in training: moving averages, no dropout.
    """
    placeholders = tf.nest.map_structure(lambda i: tf.placeholder(i.dtype, i.shape), generator.input)
    generated = generator(placeholders, training=False)
    feed_dict = dict(zip(tf.nest.flatten(placeholders), tf.nest.flatten(noise), strict=True))
    return lambda sess: data.unscale(sess.run(generated, feed_dict), pixels)
