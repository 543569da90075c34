"""One training run on several devices and machines, by TensorFlow's own `tf.distribute`, in graph mode.

Several devices in one process are a `MirroredStrategy`; `TF_CONFIG` makes a process one worker of a job
(`MultiWorkerMirroredStrategy`, each worker with a `tf.distribute.Server`). Each device runs the step of `gan()` on its
part of the batch: a replica. What tf.distribute leaves to the program is here:

- Gradients are averaged, not summed, by all-reduce before Adam applies them: once for D and once for G in each step.
- Batch normalization and `ConcatDiff` see the part of their replica alone. After the step the moving averages are
  replaced by their mean over replicas, so that every replica ends a step with the same state.
- With these go the losses, to be averaged, and whether a worker has been told to stop: all stop after the same step.
- Worker 0 (`chief`, where there is one) writes samples, logs and checkpoints, and at the start sends its state to all.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator

import numpy as np

import command
from command import InputError, RunError, one_line
from tf1 import cores, session_config, tf
from tf1.cluster import Task, Watch, task_of

SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN
NOTE = 8192  # bytes that each worker has for a note to the others
LOST = tuple(  # what TensorFlow raises when another worker is gone
    getattr(tf.errors, f"{kind}Error")
    for kind in ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")
)


class MeanAdam(tf.train.AdamOptimizer):
    """Adam on the mean of all replicas' gradients, of which TensorFlow's optimizers take the sum.

    Sparse gradients (AC-GAN's embedding) are made dense, on which Adam does the same.
    """

    def compute_gradients(self, *arguments, **options):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        gradients = super().compute_gradients(*arguments, **options)
        return [(None if g is None else tf.convert_to_tensor(g) / replicas, weight) for g, weight in gradients]


def copies(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """The variable, or one for each replica of this process."""
    return getattr(variable, "values", (variable,))  # a DistributedVariable has them


class Job:
    """One process that trains by itself, on one device or several.

    strategy: None for one device. local: the devices of this process. gpus: how many of them are GPUs, all or none.
    batch_size: of all devices together; threads are set up for it.
    """

    index, workers = 0, 1  # of this worker, and how many there are

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        local: int = 1,
        gpus: int = 0,
        batch_size: int | None = None,
    ):
        self.strategy, self.local, self.gpus, self.batch_size = strategy, local, gpus, batch_size
        self.signal = lambda: 0  # the signal by which this process has been told to stop
        self.signals = 0.0  # the mean of all replicas' at the last step
        if batch_size and batch_size % self.replicas:
            raise InputError(
                f"--batch-size {batch_size} is for all devices together and cannot be divided among {self.replicas}"
            )

    @property
    def replicas(self) -> int:
        """The devices of all workers together."""
        return self.workers * self.local

    @property
    def device(self) -> str:
        """The device or devices of this process in words, such as "GPU 0 (NVIDIA A100)"."""
        if not self.gpus:
            return f"CPU ({cores()} cores)" + (f" as {self.local} devices" if self.local > 1 else "")
        details = [
            tf.config.experimental.get_device_details(gpu).get("device_name", "unknown")
            for gpu in tf.config.list_physical_devices("GPU")[: self.gpus]
        ]
        return ", ".join(f"GPU {i} ({name})" for i, name in enumerate(details))

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Where the networks and their step are built."""
        if self.strategy:
            with self.strategy.scope(), tf.variable_creator_scope(_updated_by_replicas):
                yield
        else:
            yield

    def config(self) -> tf.ConfigProto:
        config = session_config(self.batch_size and self.batch_size // self.replicas)
        if self.gpus:  # the others are left to other programs
            config.gpu_options.visible_device_list = ",".join(map(str, range(self.gpus)))
        else:
            config.device_count["CPU"] = self.local
        return self.strategy.update_config_proto(config) if self.strategy else config

    def session(self) -> tf.Session:
        return tf.Session(config=self.config())

    def build(self, recipe: Callable, *arguments, **options) -> Callable:
        """`recipe` is `gan()` or has its arguments; its `batch_size` is of all replicas together. What comes back has
        the arguments of `gan_feed`, and takes the parts of the batch for all replicas of this process as one."""
        if not self.strategy:
            return recipe(*arguments, **options)
        feeds = self.run(lambda: recipe(*arguments, **options, adam=MeanAdam))
        generator, discriminator = arguments[:2]
        averages = [*generator.non_trainable_weights, *discriminator.non_trainable_weights]

        def to_mean():
            """(placeholder, its mean) of losses, scores and the signal. Averages the moving averages as well."""
            values = tf.placeholder(tf.float32, (5,))
            sizes = [5, *(v.shape.num_elements() for v in averages)]
            flat = tf.concat([values, *(tf.reshape(v, (-1,)) for v in averages)], 0)
            means = tf.split(self.reduced(MEAN, flat), sizes)
            updates = [v.assign(tf.reshape(mean, v.shape)) for v, mean in zip(averages, means[1:], strict=True)]
            with tf.control_dependencies(updates):
                return values, tf.identity(means[0])

        placeholders, means = zip(*self.run(to_mean), strict=True)

        def feed(sess, images, noise, labels=None, **options):
            together, rows = Together(sess), len(images) // len(feeds)
            for i, gan_feed in enumerate(feeds):
                mine = slice(i * rows, (i + 1) * rows)
                parts = tf.nest.map_structure(lambda values, mine=mine: values[mine], [images, noise])
                gan_feed(together, *parts, None if labels is None else labels[mine], **options)
            results = [values for _, values in together.run_all()]
            padded = [[*values, *[0] * (4 - len(values)), self.signal()] for values in results]
            # The losses are numbers of this process by now, so this is a run of its own. Every replica gets the same.
            mean = sess.run(means, dict(zip(placeholders, padded, strict=True)))[0]
            self.signals = mean[4]
            return list(mean[: len(results[0])])

        return feed

    def run(self, replica: Callable) -> tuple:
        """Build what `replica()` builds once for each replica of this process; returns what each has returned."""
        built = self.strategy.run(lambda: _Opaque(replica()))
        return tuple(each.value for each in self.strategy.experimental_local_results(built))

    def reduced(self, op: tf.distribute.ReduceOp, value: tf.Tensor) -> tf.Tensor:
        """All-reduce, called in each replica (`all_reduce` of its context would look for gradients, and fails)."""

        def merge(strategy, per_replica):
            return strategy.extended.reduce_to(op, per_replica, destinations=per_replica)

        return tf.distribute.get_replica_context().merge_call(merge, args=(value,))

    def part(self, batch: np.ndarray) -> np.ndarray:
        """The rows of this worker, of what is made for the whole job."""
        rows = len(batch) // self.workers
        return batch[self.index * rows : (self.index + 1) * rows]

    def agree(self, sess: tf.Session, settings: Callable[[], dict]) -> None:
        """Raises InputError, in every worker, where not all have the same settings."""

    def begin(self, sess: tf.Session, restore: Callable[[], int]) -> int:
        """The step that worker 0 restores. All others get its state, and raise what it raises."""
        return restore()

    def stopped(self) -> int:
        """The signal after which all stop with this step, or 0."""
        if not self.strategy:
            return self.signal()
        return (self.signal() or signal.SIGTERM) if self.signals else 0

    def leave(self, sess: tf.Session) -> None:
        """Leave at the same time as all others."""

    @contextlib.contextmanager
    def watched(self, resumes_from: Callable[[], str]) -> Iterator[None]:
        """Within it, a worker that is gone ends this process too, with a line that ends in `resumes_from()`."""
        yield


class _Opaque:
    """What `strategy.run` hands on as it is; it would take a list apart."""

    def __init__(self, value):
        self.value = value


def _updated_by_replicas(create: Callable, **options) -> tf.Variable:
    """Make a moving average a variable that each replica updates by itself.

    Keras would have it averaged where it is read, and so by an all-reduce in which every worker takes part; but samples
    and checkpoints are worker 0's alone.
    """
    if options.get("synchronization") == tf.VariableSynchronization.ON_READ:
        options["synchronization"] = tf.VariableSynchronization.AUTO
        options["aggregation"] = tf.VariableAggregation.NONE
    return create(**options)


class Together:
    """Stands for the session while each replica says what it would run, and then runs all of it at once."""

    def __init__(self, sess: tf.Session):
        self.sess = sess
        self.fetches, self.feeds = [], {}

    def run(self, fetches, feed_dict=None):
        if feed_dict is None:  # whose turn it is
            return self.sess.run(fetches)
        self.fetches.append(fetches)
        self.feeds.update(feed_dict)
        return [None, None]

    def run_all(self) -> list:
        return self.sess.run(self.fetches, self.feeds)


class Worker(Job):
    """One worker of a job of several processes."""

    def __init__(self, task: Task, gpus: int, batch_size: int | None = None):
        self.names = list(task.names)
        self.index = self.names.index(task.name)
        self.workers = len(self.names)
        cluster = tf.train.ClusterSpec(task.cluster)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type=task.type, task_id=task.number, num_accelerators={"GPU": gpus}, rpc_layer="grpc"
        )
        strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        super().__init__(strategy, max(gpus, 1), gpus, batch_size)
        try:
            self.server = tf.distribute.Server(cluster, task.type, task.number, config=self.config())
        except tf.errors.OpError as error:
            line = f"TF_CONFIG gives {task.name} the address {task.names[task.name]}; is its port in use here?"
            raise InputError(f"{line} ({one_line(error)})") from None
        self.watch = Watch({name: address for name, address in task.names.items() if name != task.name})
        self.watch.wait()
        self.watch.start()
        # The first collective of every worker, however different their graphs.
        self.rows = tf.placeholder(tf.float32, (self.workers, NOTE))
        self.everyones = self.strategy.reduce(SUM, self.rows, axis=None)

    def session(self) -> tf.Session:
        return tf.Session(self.server.target, config=self.config())

    def build(self, recipe: Callable, *arguments, **options) -> Callable:
        feed = super().build(recipe, *arguments, **options)
        self.updates = []  # each gives all copies of a variable worker 0's value, to which the others add 0
        for variable in tf.global_variables():
            first = copies(variable)[0]
            total = self.strategy.reduce(SUM, tf.zeros_like(first) if self.index else tf.identity(first), axis=None)
            self.updates.append(tf.group(*(copy.assign(total) for copy in copies(variable))))
        return feed

    def notes(self, sess: tf.Session, note: dict, **options) -> list[dict]:
        """What each worker says, by index. As float32, which every device can all-reduce and which holds bytes."""
        text = json.dumps(note).encode()
        if len(text) > NOTE:
            raise RunError(f"a note of {len(text)} bytes to the other workers is longer than {NOTE}")
        rows = np.zeros((self.workers, NOTE), np.float32)
        rows[self.index, : len(text)] = np.frombuffer(text, np.uint8)
        everyones = sess.run(self.everyones, {self.rows: rows}, **options).astype(np.uint8)
        return [json.loads(bytes(row).rstrip(b"\0")) for row in everyones]

    def agree(self, sess: tf.Session, settings: Callable[[], dict]) -> None:
        everyones = self.notes(sess, settings())
        for name, theirs in zip(self.names, everyones, strict=True):
            for key, value in everyones[0].items():
                if theirs.get(key) != value:
                    self.leave(sess)
                    raise InputError(
                        f"{name} has {key} {theirs.get(key)}, but {self.names[0]} has {value}: "
                        "give all workers the same command and data"
                    )

    def begin(self, sess: tf.Session, restore: Callable[[], int]) -> int:
        """So the folder of worker 0 need not be shared."""
        note = {}
        if self.index == 0:
            try:
                note = {"start": restore()}
            except InputError as error:
                note = {"error": str(error)}
        note = self.notes(sess, note)[0]
        if "error" in note:
            self.leave(sess)
            raise InputError(note["error"])
        if note["start"]:
            for update in self.updates:
                sess.run(update)
        return note["start"]

    def leave(self, sess: tf.Session) -> None:
        """Whoever has met all others twice may leave. After the first time nobody minds the end of another any more,
        and in the second nobody waits long for those who have left."""
        self.notes(sess, {})
        self.watch.stopping.set()
        with contextlib.suppress(tf.errors.OpError):
            self.notes(sess, {}, options=tf.RunOptions(timeout_in_ms=30_000))

    @contextlib.contextmanager
    def watched(self, resumes_from: Callable[[], str]) -> Iterator[None]:
        self.watch.resumes_from = resumes_from
        try:
            yield
        except LOST as error:
            # Most often the end of a worker, which the watch is about to report.
            self.watch.join(60)
            raise RunError(f"the workers can no longer work together: {one_line(error)[:500]}") from error


def in_job() -> bool:
    """Whether `TF_CONFIG` makes this process a worker. Raises InputError where it is wrong."""
    return task_of(os.environ.get("TF_CONFIG")) is not None


def number_or_all(text: str) -> int | None:
    """An argparse type: a number of devices, or None for "all"."""
    return None if text == "all" else command.at_least(1)(text)


def join(devices: int | None = 1, batch_size: int | None = None) -> Job:
    """What this process is: alone on one device or several, or by `TF_CONFIG` one worker of a job.

    devices: of this process, None for all. They are GPUs; without GPUs, the CPU is divided into this number of devices
    (but not for a worker, whose CPU is one). batch_size: of all devices of all workers together, if threads are set up
    for it. Raises InputError where the devices are not there, do not divide the batch, or `TF_CONFIG` is wrong,
    and RunError where other workers do not come.
    """
    task = task_of(os.environ.get("TF_CONFIG"))
    found = len(tf.config.list_physical_devices("GPU"))
    devices = devices or max(found, 1)
    if (found or task) and devices > max(found, 1):
        raise InputError(f"--devices {devices}: TensorFlow finds {found} GPUs here")
    gpus = devices if found else 0
    if task:
        return Worker(task, gpus, batch_size)
    if devices == 1:
        return Job(gpus=gpus, batch_size=batch_size)
    kind = "gpu" if gpus else "cpu"
    strategy = tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(devices)])
    return Job(strategy, devices, gpus, batch_size)
