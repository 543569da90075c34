"""Everything around the loop of a training run: where it starts, what it leaves on the disk, when it stops.

A run leaves this in its folder:

    step_000500.png ...     samples from the same noise each time        progress.gif    an animation of them
    losses.csv              step, dloss, gloss, and the means of D(x) and D(G(z))
    epochs.csv              epoch, dloss, gloss                          events.out...   the same for TensorBoard
    generator.h5, discriminator.h5      weights, for Keras' load_weights
    checkpoint_000500.* ...             the two latest checkpoints (full training state), by tf.train.Saver
    run.json                            the settings, what the run was made with, and how far it is
"""

import contextlib
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

import data
from command import InputError, RunError, remembered
from tf1 import distributed, keras, tf
from training import health, weights
from training.folder import RunFolder, read_run, step_of
from training.logs import Logs, make_animation
from training.noise import MAX_ROWS, feed_for, sample_feed
from training.settings import Settings

PACKAGES = ("tensorflow", "tf-keras", "numpy", "h5py", "pillow")


class Run:
    """A training run in the default graph, whose step is built. Nothing in it is specific to one GAN.

    with Run(generator, discriminator, dataset, settings) as run:
        for step in run.steps():
            ... train on next(run.batches) and run.noise(step) in run.sess ...
            run.record(step, losses)
    run.exit_code

    settings: complete, with all lengths in steps. job: the other devices and workers.

    Raises InputError when the run cannot begin, and then has changed nothing on the disk. Raises RunError when losses
    or weights are NaN or infinite, when memory runs out, or when the folder can no longer be written.
    """

    exit_code = 0

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        dataset: data.Dataset,
        settings: Settings,
        job: distributed.Job | None = None,
    ):
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.generator, self.dataset, self.settings = generator, dataset, settings
        self.job = job or distributed.Job()
        self.writes = self.job.index == 0  # the other workers take the same steps and write nothing
        self.folder = RunFolder(settings.out)
        self.stack = contextlib.ExitStack()
        self.identity = settings.identity() | {
            "images": len(dataset.images),
            "checksum": data.checksum(dataset),
            "classes": list(dataset.classes),
        }

    def __enter__(self) -> "Run":
        with self.stack:  # undoes all if something fails on the way
            self._begin()
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *error) -> bool | None:
        return self.stack.__exit__(*error)

    def _begin(self) -> None:
        settings, job, enter = self.settings, self.job, self.stack.enter_context
        enter(job.watched(self._resumes_from))
        self.sess = enter(job.session())
        enter(self._memory_errors())
        keras.backend.set_session(self.sess)
        job.agree(self.sess, lambda: {**self.identity, "classes": len(self.dataset.classes), "steps": settings.steps})
        self.sess.run(tf.global_variables_initializer())
        # The newest two are kept. The variables of several devices are saved once and restored to all.
        self.saver = tf.train.Saver(max_to_keep=2, save_relative_paths=True)
        self.started = self.before = None  # of what a new run takes from another one
        self.start = job.begin(self.sess, self._restore)
        keras.backend.get_session()  # Keras adds operations of its own here, so that the graph can be closed
        self.classes = len(self.dataset.classes)
        conditional = isinstance(self.generator.input, list)
        self.rows = self.dataset.classes[:MAX_ROWS] if conditional else []
        self.sample = sampler(self.generator, settings.pixels, sample_feed(self.generator, self.classes))
        tf.get_default_graph().finalize()
        part = (job.index, job.workers)
        self.batches = data.batches(
            self.dataset, settings.batch_size, settings.pixels, settings.seed, self.start, part, settings.flip
        )
        self.loop = enter(contextlib.ExitStack())  # what is open while steps are taken
        job.signal, self.stopped = enter(remembered()), 0

    def _resumes_from(self) -> str:
        if not self.writes:
            return "the last checkpoint that worker 0 has written"
        checkpoints = self.folder.checkpoints()
        return str(checkpoints[-1]) if checkpoints else "the beginning"

    def _restore(self) -> int:
        """The step that the run begins after. All checks come first; then the folder is made and locked."""
        settings, folder = self.settings, self.folder
        checkpoints = [] if settings.restart else folder.checkpoints()
        new, start = settings.start_from and not checkpoints, 0
        if new:
            start = self._start_from(RunFolder(settings.start_from))
        elif checkpoints:
            folder.check_identity(self.identity)
        folder.check_room(self._room(len(checkpoints), start))
        # Everything below changes the disk.
        self.stack.enter_context(folder.locked(settings.restart))
        return start if new else self._load_last(checkpoints)

    def _start_from(self, source: RunFolder) -> int:
        """Take the weights or the training state of another run; returns its step, 0 where only the weights are taken.

        Raises InputError where they do not fit, before any of them is taken.
        """
        settings, step = self.settings, None
        if settings.from_step or settings.keep_optimizer:
            state = source.state(settings.from_step)
            if not self._load(state):
                raise InputError(f"--start-from: {state} is damaged")
            step = step_of(state)
        else:
            found = {name: weights.read(source / f"{name}.h5") for name in self.networks}
            for name, model in self.networks.items():
                if difference := weights.mismatch(model, found[name]):
                    path = source / f"{name}.h5"
                    raise InputError(
                        f"--start-from: {path} does not have the weights of this model's {name}: {difference}"
                    )
            for name, model in self.networks.items():
                weights.set_weights(model, found[name])
        self.before = source / "losses.csv"
        self.started = {"folder": str(source), "step": step}
        return step or 0

    def _load_last(self, checkpoints: list[Path]) -> int:
        """Restore the newest checkpoint that is whole; returns its step, or 0 where there is no checkpoint."""
        for path in reversed(checkpoints):
            if self._load(path):
                *older, path = [str(each) for each in checkpoints if step_of(each) <= step_of(path)]
                for each in older[:-1]:  # a killed run may have left a third one
                    tf.train.remove_checkpoint(each)
                self.saver.recover_last_checkpoints([*older[-1:], path])
                return step_of(Path(path))
            print(f"{path} is damaged: trying the one before it", file=sys.stderr)
        if checkpoints:
            raise InputError(f"every checkpoint in {self.folder} is damaged: --restart starts over")
        return 0

    def _load(self, path: Path) -> bool:
        """Restore the full training state; returns whether it is whole. Raises InputError for another model's."""
        try:
            self.saver.restore(self.sess, str(path))
        except (tf.errors.DataLossError, tf.errors.OutOfRangeError):
            return False
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
            if isinstance(error, tf.errors.NotFoundError) and "not found in checkpoint" not in str(error):
                return False  # one of its files is missing
            raise InputError(
                f"{path} has other variables than this program's {self.settings.model}, perhaps from another version: "
                "give another --out or --restart"
            ) from error
        return True

    def _room(self, checkpoints: int, start: int) -> int:
        """Bytes that the run will still write: checkpoints (a third while it is written), weights, what is kept."""
        settings = self.settings
        checkpoint, *sizes = (
            weights.room(variables)
            for variables in (tf.global_variables(), *(network.weights for network in self.networks.values()))
        )
        kept = (settings.steps - start) // settings.keep_every if settings.keep_every else 0
        states = kept if settings.keep_checkpoints else 0
        return (3 - min(2, checkpoints) + states) * checkpoint + kept * sizes[0] + 2 * max(sizes)

    @contextlib.contextmanager
    def _memory_errors(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise RunError(
                f"{self.job.device} is out of memory at batch size {self.settings.batch_size}: choose a smaller "
                "--batch-size or --model"
            ) from error

    def steps(self) -> Iterator[int]:
        """The steps that are left, up to `settings.steps` or the first signal to stop. Everything is saved then."""
        settings, start = self.settings, self.start
        if start >= settings.steps:
            if self.writes:
                with self.folder.writing():
                    make_animation(self.folder)  # where the last run was killed before it could
                print(
                    f"{self.folder} is at step {start} already: a larger --steps trains further, --restart starts over"
                )
            self.job.leave(self.sess)
            return
        if self.writes:
            self._open()
        for step in range(start + 1, settings.steps + 1):
            yield step
            if self.stopped:
                break
        self._close(step)

    def _open(self) -> None:
        """Say what is trained, and begin the logs."""
        settings, start = self.settings, self.start
        announce(settings, self.dataset, self.job, start, bool(self.started))
        self.description = {
            **self.identity,
            "data_dir": settings.data_dir and str(settings.data_dir.absolute()),
            "pixels": settings.pixels,
            "steps": settings.steps,
            "devices": self.job.replicas,
            "device": self.job.device,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "started_from": self.started or (read_run(self.folder.path) or {}).get("started_from"),
        }
        self.warnings = health.Warnings(self.dataset, len(self.rows), settings.loss)
        with self.folder.writing():
            self.folder.write_run({**self.description, "step": start})
        graph = tf.get_default_graph()
        self.logs = self.loop.enter_context(Logs(self.folder, start, graph, settings.per_epoch, self.rows, self.before))
        if self.started:  # so that the run can be resumed without --start-from
            self.save(start)
        if start == 0:
            self.logs.samples(0, self.sample(self.sess))
        self.show = self.loop.enter_context(progress(start, settings.steps, settings.batch_size))
        self.saved = time.monotonic()

    def _close(self, step: int) -> None:
        settings = self.settings
        self.loop.close()
        if self.writes:
            with self.folder.writing():
                make_animation(self.folder)
        if self.stopped:
            self.exit_code = 128 + self.stopped
            again = "rerun the command" + (" without --restart" if settings.restart else "")
            print(f"stopped at step {step}, all saved: {again} to resume" if self.writes else f"stopped at step {step}")
        elif self.writes:
            print(f"{self.folder}: {settings.steps} steps done, step_{settings.steps:06d}.png shows samples")
        self.job.leave(self.sess)

    def noise(self, step: int) -> np.ndarray | list:
        """What G is fed in a step: this worker's part of (batch_size, *latent) float32, for AC-GAN with classes."""
        settings = self.settings
        whole = feed_for(self.generator, settings.seed, step, settings.batch_size, self.classes)
        return tf.nest.map_structure(self.job.part, whole)

    def record(self, step: int, losses: list[np.float32]) -> None:
        """Log a step; sample, keep and save when it is due. losses: dloss, gloss and the means of D(x) and D(G(z))."""
        settings = self.settings
        if not all(map(math.isfinite, losses)):
            self.job.leave(self.sess)  # all workers have the same losses
            raise self._not_finite("the losses are", step)
        self.stopped = self.job.stopped()  # read once: a signal that comes while it saves is for the next step
        if not self.writes:
            return
        self.show(step, losses)
        if self.stopped and step < settings.steps:  # saving may take seconds
            print(" - stopping: saving the run", end="", flush=True)
        self.logs.losses(step, losses)
        self.warnings.scores(step, losses[3])
        if step % settings.sample_every == 0 or step == settings.steps:
            images = self.sample(self.sess)
            self.logs.samples(step, images)
            self.warnings.samples(step, images)
        if settings.keep_every and step % settings.keep_every == 0:
            self.keep(step)
        due = settings.checkpoint_every and step % settings.checkpoint_every == 0
        if settings.checkpoint_minutes:
            due = due or time.monotonic() - self.saved >= 60 * settings.checkpoint_minutes
        if due or step == settings.steps or self.stopped:
            self.logs.flush()
            self.save(step)
            self.saved = time.monotonic()

    def save(self, step: int) -> None:
        self._check_finite(tf.global_variables(), step)
        with self.folder.writing():
            for name, model in self.networks.items():
                weights.save_weights(model, self.folder / f"{name}.h5")
            self.folder.write_run({**self.description, "step": step})
            # Last: a run resumes from it, so everything else must be there.
            self.saver.save(self.sess, str(self.folder / f"checkpoint_{step:06d}"), write_meta_graph=False)

    def keep(self, step: int) -> None:
        """Keep the generator of this step, and with --keep-checkpoints the full training state."""
        whole = self.settings.keep_checkpoints
        self._check_finite(tf.global_variables() if whole else self.generator.weights, step)
        with self.folder.writing():
            weights.save_weights(self.generator, self.folder / f"generator_{step:06d}.h5")
            if whole:
                path = str(self.folder / f"state_{step:06d}")
                self.saver.save(self.sess, path, write_meta_graph=False, write_state=False)

    def _check_finite(self, variables: list[tf.Variable], step: int) -> None:
        if name := health.first_not_finite(self.sess, variables):
            raise self._not_finite(f"the weights are no longer finite: {name} is", step)

    def _not_finite(self, what: str, step: int) -> RunError:
        advice = "A lower --learning-rate may help"
        return RunError(f"{what} NaN or infinite at step {step}; {self.folder.last_checkpoint()}. {advice}")


def sampler(generator: keras.Model, pixels: tuple[float, float], noise: np.ndarray | list) -> Callable:
    """Returns `sample(sess)`, G's images for this noise (or list of inputs) as uint8.

    As in use, not as in training: with moving averages, without dropout.
    """
    placeholders = tf.nest.map_structure(lambda i: tf.placeholder(i.dtype, i.shape), generator.input)
    generated = generator(placeholders, training=False)
    feed_dict = dict(zip(tf.nest.flatten(placeholders), tf.nest.flatten(noise), strict=True))
    return lambda sess: data.unscale(sess.run(generated, feed_dict), pixels)


def announce(settings: Settings, dataset: data.Dataset, job: distributed.Job, start: int, new: bool) -> None:
    """Print before the first step: what is trained, on which images and device, and where the output goes."""
    workers = f", worker 0 of {job.workers}" if job.workers > 1 else ""
    print(
        f"{settings.model} on {len(dataset.images):,} images of {dataset.name} ({'x'.join(map(str, settings.shape))}), "
        f"batch size {settings.batch_size}, "
        f"on {job.device}{workers}; output in {settings.out}"
    )
    if settings.start_from and new:
        print(f"starting from {settings.start_from}" + (f", step {start}" if start else ""))
    elif start:
        print(f"resuming from step {start}")
        if settings.start_from:
            print(f"--start-from is ignored: {settings.out} is resumed from its own checkpoint")
    sys.stdout.flush()


@contextlib.contextmanager
def progress(start: int, steps: int, batch_size: int) -> Iterator[Callable[[int, list[np.float32]], None]]:
    """Gives `show(step, values)`, which brings Keras' progress bar to that step. What is printed next is on a new line.

    The bar counts from step 1, also in a resumed run; the time per step is that of this session's steps without the
    first, which includes the preparation of the graph.
    """
    names = ("dloss", "gloss", "D(x)", "D(G(z))", "images/s")
    bar = keras.utils.Progbar(steps, interval=0.2 if sys.stdout.isatty() else 30, stateful_metrics=list(names))
    began, last = time.perf_counter(), None

    def duration(step):
        return (time.perf_counter() - began) / max(1, step - start - 1)

    def show(step, values):
        nonlocal began, last
        last = step
        if step == start + 1 < steps:
            began = time.perf_counter()
            return
        bar.update(step, list(zip(names, [*values, batch_size / duration(step)], strict=True)))

    bar._estimate_step_duration = lambda current, now: duration(current)
    try:
        yield show
    finally:
        if last not in (None, steps):
            print(flush=True)
