"""One training run on several devices and machines, by TensorFlow's own `tf.distribute`, in graph mode.

Several devices in one process are a `MirroredStrategy`. `TF_CONFIG` makes a process one worker of a job: a
`MultiWorkerMirroredStrategy` with a `tf.distribute.Server` in each worker. Each device is a replica: it runs the
training step on its part of the batch. This module adds what tf.distribute leaves to the program:

- Each optimizer step averages the gradients over all replicas by all-reduce; TensorFlow's optimizers would sum them.
- A layer with batch statistics sees only its replica's part of the batch. After each step the moving averages are
  replaced by their mean over replicas, so all replicas end a step with the same state.
- The same all-reduce averages the losses and carries a request to stop, so all workers stop after the same step.
- Worker 0 (the `chief`, if there is one) writes all files. At the start of a run it sends its state to the others.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, TimeoutError
from typing import NamedTuple

import numpy as np

from command import InputError, RunError, one_line
from tf1 import cores, session_config, tf

SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN
PATIENCE = 600  # seconds to wait for another worker, at the start and in a step
NOTE = 8192  # maximum bytes of a note to the other workers
LOST = tuple(  # what TensorFlow raises where another worker is gone
    getattr(tf.errors, f"{kind}Error")
    for kind in ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")
)


# TF_CONFIG


class Task(NamedTuple):
    """What `TF_CONFIG` says: the cluster, and the task of this process in it."""

    cluster: dict[str, list[str]]  # "chief" and "worker", each a list of host:port
    type: str
    index: int

    @property
    def names(self) -> dict[str, str]:
        """Each worker's name and address, in the order of their numbers in the job."""
        kinds = [kind for kind in ("chief", "worker") if kind in self.cluster]
        return {f"{kind} {i}": address for kind in kinds for i, address in enumerate(self.cluster[kind])}

    @property
    def name(self) -> str:
        return f"{self.type} {self.index}"


def task_of(text: str | None) -> Task | None:
    """The task that the text of `TF_CONFIG` gives to this process, or None without a cluster. Raises InputError."""
    try:
        config = json.loads(text or "{}")
        cluster = tf.train.ClusterSpec(config.get("cluster") or {}).as_dict()
        if not cluster:
            return None
        task = Task(cluster, config["task"]["type"], config["task"]["index"])
        ports = [address.rpartition(":")[2] for addresses in cluster.values() for address in addresses]
        if type(task.index) is not int or not all(map(str.isdecimal, ports)):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        like = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        raise InputError(f"TF_CONFIG is not JSON like {like}") from None
    if cluster.keys() - {"chief", "worker"} or len(cluster.get("chief", [])) > 1:
        raise InputError("TF_CONFIG may name workers and one chief, and no other tasks")
    if len(set(task.names.values())) < len(task.names):
        raise InputError("TF_CONFIG has one address for two tasks")
    if task.name not in task.names:
        raise InputError(f"TF_CONFIG makes this process {task.name}, but the cluster has {', '.join(task.names)}")
    return task


def in_job() -> bool:
    """Whether `TF_CONFIG` makes this process a worker. Raises InputError where it is wrong."""
    return task_of(os.environ.get("TF_CONFIG")) is not None


def answers(address: str) -> bool:
    """Whether a process listens at this address, host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError):  # a port above 65535 overflows
        return False
    return True


# Replicas


class MeanAdam(tf.train.AdamOptimizer):
    """Adam on the mean of all replicas' gradients. Sparse gradients (of an embedding) become dense: the same result."""

    def compute_gradients(self, *arguments, **options):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        gradients = super().compute_gradients(*arguments, **options)
        return [(None if g is None else tf.convert_to_tensor(g) / replicas, weight) for g, weight in gradients]


def copies(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """The variable of each replica of this process."""
    return getattr(variable, "values", (variable,))  # a DistributedVariable has `values`


def _updated_by_replicas(create: Callable, **options) -> tf.Variable:
    """A variable creator: each replica updates its own copy of a moving average.

    Keras would average it where it is read. All workers would have to take part, but only worker 0 samples and saves.
    """
    if options.get("synchronization") == tf.VariableSynchronization.ON_READ:
        options["synchronization"] = tf.VariableSynchronization.AUTO
        options["aggregation"] = tf.VariableAggregation.NONE
    return create(**options)


class Together:
    """Takes the place of the session while each replica says what it would run. `run_all` runs all of it at once."""

    def __init__(self, sess: tf.Session):
        self.sess = sess
        self.fetches, self.feeds = [], {}

    def run(self, fetches, feed_dict=None):
        if feed_dict is None:  # reads the step, to know which network's turn it is
            return self.sess.run(fetches)
        self.fetches.append(fetches)
        self.feeds.update(feed_dict)
        return [None, None]

    def run_all(self) -> list:
        return self.sess.run(self.fetches, self.feeds)


class Job:
    """One process that trains by itself, on one device or several.

    strategy: None for one device. local: number of devices of this process. gpus: how many of them are GPUs, all or
    none. batch_size: total over all devices; size: height and width of the images; the threads are set up for both.
    Raises InputError where the batch does not divide.
    """

    index, workers = 0, 1  # number of this worker, and of all workers

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        local: int = 1,
        gpus: int = 0,
        batch_size: int | None = None,
        size: Sequence[int] = (32, 32),
    ):
        self.strategy, self.local, self.gpus = strategy, local, gpus
        self.batch_size, self.size = batch_size, size
        self.signal = lambda: 0  # the signal that told this process to stop
        self.signals = 0.0  # the mean over all replicas at the last step
        if batch_size and batch_size % self.replicas:
            raise InputError(
                f"--batch-size {batch_size} is for all devices together and cannot be divided among {self.replicas}"
            )

    @property
    def replicas(self) -> int:
        """The number of devices of all workers together."""
        return self.workers * self.local

    @property
    def device(self) -> str:
        """The devices of this process in words, such as "GPU 0 (NVIDIA A100)"."""
        if not self.gpus:
            return f"CPU ({cores()} cores)" + (f" as {self.local} devices" if self.local > 1 else "")
        gpus = tf.config.list_physical_devices("GPU")[: self.gpus]
        details = map(tf.config.experimental.get_device_details, gpus)
        return ", ".join(f"GPU {i} ({each.get('device_name', 'unknown')})" for i, each in enumerate(details))

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Build the networks and their step inside it."""
        with contextlib.ExitStack() as stack:
            if self.strategy:
                stack.enter_context(self.strategy.scope())
                stack.enter_context(tf.variable_creator_scope(_updated_by_replicas))
            yield

    def config(self) -> tf.ConfigProto:
        config = session_config(self.batch_size and self.batch_size // self.replicas, self.size)
        if self.gpus:  # leave the other GPUs to other programs
            config.gpu_options.visible_device_list = ",".join(map(str, range(self.gpus)))
        else:
            config.device_count["CPU"] = self.local
        return self.strategy.update_config_proto(config) if self.strategy else config

    def session(self) -> tf.Session:
        return tf.Session(config=self.config())

    def run(self, replica: Callable) -> tuple:
        """Call `replica()` once for each replica of this process to build its part of the graph; returns the results,
        which must not be lists, tuples or dicts."""
        return self.strategy.experimental_local_results(self.strategy.run(replica))

    def build(self, recipe: Callable, *arguments, **options) -> Callable:
        """Build the step `recipe(*arguments, **options)` for each replica. The first two arguments are the networks.

        recipe: `dcgan_keras.gan`, or a function with its arguments. An option `batch_size` is the total over all
        replicas: `keras.Input` divides it. The result has the arguments of what `recipe` returns. It takes the batch of
        this process, divides it among its replicas, and returns the means over all replicas of the job.
        """
        if not self.strategy:
            return recipe(*arguments, **options)
        feeds = self.run(lambda: recipe(*arguments, **options, adam=MeanAdam))
        averages = [weight for network in arguments[:2] for weight in network.non_trainable_weights]

        def to_mean():
            """(placeholder, its mean) of losses, scores and the signal. Averages the moving averages as well."""
            values = tf.placeholder(tf.float32, (5,))
            sizes = [5, *(v.shape.num_elements() for v in averages)]
            flat = tf.concat([values, *(tf.reshape(v, (-1,)) for v in averages)], 0)
            means = tf.split(self.reduced(MEAN, flat), sizes)
            updates = [v.assign(tf.reshape(mean, v.shape)) for v, mean in zip(averages, means[1:], strict=True)]
            with tf.control_dependencies(updates):
                return values, tf.identity(means[0])

        placeholders, means = map(self.strategy.experimental_local_results, self.strategy.run(to_mean))

        def feed(sess, images, noise, labels=None, **options):
            together, rows = Together(sess), len(images) // len(feeds)
            for i, gan_feed in enumerate(feeds):
                mine = slice(i * rows, (i + 1) * rows)
                parts = tf.nest.map_structure(lambda values, mine=mine: values[mine], [images, noise])
                gan_feed(together, *parts, None if labels is None else labels[mine], **options)
            results = [values for _, values in together.run_all()]
            padded = [[*values, *[0] * (4 - len(values)), self.signal()] for values in results]
            # The losses are numbers of this process by now, so the means take a second run. All replicas get the same.
            mean = sess.run(means, dict(zip(placeholders, padded, strict=True)))[0]
            self.signals = mean[4]
            return list(mean[: len(results[0])])

        return feed

    def reduced(self, op: tf.distribute.ReduceOp, value: tf.Tensor) -> tf.Tensor:
        """All-reduce, called in each replica. (`all_reduce` of the replica context needs a gradient and fails here.)"""

        def merge(strategy, per_replica):
            return strategy.extended.reduce_to(op, per_replica, destinations=per_replica)

        return tf.distribute.get_replica_context().merge_call(merge, args=(value,))

    def part(self, batch: np.ndarray) -> np.ndarray:
        """The rows of this worker in a batch for the whole job."""
        rows = len(batch) // self.workers
        return batch[self.index * rows : (self.index + 1) * rows]

    def agree(self, sess: tf.Session, settings: Callable[[], dict]) -> None:
        """Raises InputError, in every worker, where not all have the same settings."""

    def begin(self, sess: tf.Session, restore: Callable[[], int]) -> int:
        """Worker 0 calls `restore`. Afterwards all workers have its variables and get what it returned or raised."""
        return restore()

    def stopped(self) -> int:
        """The signal after which all workers stop with this step, or 0."""
        if not self.strategy:
            return self.signal()
        return (self.signal() or signal.SIGTERM) if self.signals else 0

    def leave(self, sess: tf.Session) -> None:
        """Leave at the same time as all others."""

    @contextlib.contextmanager
    def watched(self, resumes_from: Callable[[], str]) -> Iterator[None]:
        """Inside it, the loss of another worker is a RunError that names `resumes_from()`."""
        yield


class Worker(Job):
    """One worker of a job of several processes. Raises RunError where the others do not come."""

    def __init__(self, task: Task, gpus: int, batch_size: int | None = None, size: Sequence[int] = (32, 32)):
        self.names, self.name = task.names, task.name
        self.index, self.workers = list(self.names).index(task.name), len(self.names)
        cluster = tf.train.ClusterSpec(task.cluster)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type=task.type, task_id=task.index, num_accelerators={"GPU": gpus}, rpc_layer="grpc"
        )
        strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        super().__init__(strategy, max(gpus, 1), gpus, batch_size, size)
        try:
            self.server = tf.distribute.Server(cluster, task.type, task.index, config=self.config())
        except tf.errors.OpError as error:
            line = f"TF_CONFIG gives {task.name} the address {self.names[task.name]}; is its port in use here?"
            raise InputError(f"{line} ({one_line(error)})") from None
        latest = time.monotonic() + PATIENCE
        while gone := self.gone():
            if time.monotonic() > latest:
                raise RunError(f"{gone} did not start within {PATIENCE} seconds")
            time.sleep(0.2)
        # The first collective of every worker, however different their graphs are.
        self.rows = tf.placeholder(tf.float32, (self.workers, NOTE))
        self.everyones = self.strategy.reduce(SUM, self.rows, axis=None)
        with self.session() as sess, self.watched(lambda: "its last checkpoint"):
            self._meet(sess)

    def config(self) -> tf.ConfigProto:
        config = super().config()
        config.operation_timeout_in_ms = PATIENCE * 1000
        return config

    def session(self) -> tf.Session:
        return tf.Session(self.server.target, config=self.config())

    def gone(self) -> str:
        """The other workers that do not answer, by name and address."""
        others = {name: address for name, address in self.names.items() if name != self.name}
        return " and ".join(f"{name} ({address})" for name, address in others.items() if not answers(address))

    def build(self, recipe: Callable, *arguments, **options) -> Callable:
        feed = super().build(recipe, *arguments, **options)
        self.updates = []  # each gives all copies of a variable worker 0's value, to which the others add 0
        for variable in tf.global_variables():
            first = copies(variable)[0]
            total = self.strategy.reduce(SUM, tf.zeros_like(first) if self.index else tf.identity(first), axis=None)
            self.updates.append(tf.group(*(copy.assign(total) for copy in copies(variable))))
        return feed

    def notes(self, sess: tf.Session, note: dict, **options) -> list[dict]:
        """What each worker says, by index: float32, which every device can all-reduce, and which holds bytes."""
        text = json.dumps(note).encode()
        if len(text) > NOTE:
            raise RunError(f"a note of {len(text)} bytes to the other workers is longer than {NOTE}")
        rows = np.zeros((self.workers, NOTE), np.float32)
        rows[self.index, : len(text)] = np.frombuffer(text, np.uint8)
        everyones = sess.run(self.everyones, {self.rows: rows}, **options).astype(np.uint8)
        return [json.loads(bytes(row).rstrip(b"\0")) for row in everyones]

    def _meet(self, sess: tf.Session) -> None:
        """The first note. From then on TensorFlow notices that a worker ends; before, it would wait without end."""
        met = Future()

        def note():
            try:
                met.set_result(self.notes(sess, {}))
            except tf.errors.OpError as error:
                met.set_exception(error)

        threading.Thread(target=note, daemon=True).start()
        while True:
            with contextlib.suppress(TimeoutError):
                met.result(timeout=1)
                return
            if gone := self.gone():
                raise tf.errors.UnavailableError(None, None, f"{gone} does not answer")

    def agree(self, sess: tf.Session, settings: Callable[[], dict]) -> None:
        everyones = self.notes(sess, settings())
        for name, theirs in zip(self.names, everyones, strict=True):
            for key, value in everyones[0].items():
                if theirs.get(key) != value:
                    self.leave(sess)
                    raise InputError(
                        f"{name} has {key} {theirs.get(key)}, but {next(iter(self.names))} has {value}: "
                        "give all workers the same command and data"
                    )

    def begin(self, sess: tf.Session, restore: Callable[[], int]) -> int:
        note = {}
        if self.index == 0:
            try:
                note = {"start": restore()}
            except InputError as error:
                note = {"error": one_line(error)[:600]}
        note = self.notes(sess, note)[0]
        if "error" in note:
            self.leave(sess)
            raise InputError(note["error"])
        for update in self.updates:
            sess.run(update)
        return note["start"]

    def leave(self, sess: tf.Session) -> None:
        """Two notes: who has the second one knows that all others have the first, and may end. The second may fail."""
        self.notes(sess, {})
        with contextlib.suppress(tf.errors.OpError):
            self.notes(sess, {}, options=tf.RunOptions(timeout_in_ms=30_000))

    @contextlib.contextmanager
    def watched(self, resumes_from: Callable[[], str]) -> Iterator[None]:
        try:
            yield
        except LOST as error:
            gone, silent = self.gone(), f"another worker ended or is silent ({one_line(error)[:200]})"
            what = f"{gone} ended" if gone else silent
            raise RunError(f"{what}: start the job again from {resumes_from()}") from error


def join(devices: int | None = 1, batch_size: int | None = None, size: Sequence[int] = (32, 32)) -> Job:
    """Make this process a run on one device or several, or by `TF_CONFIG` one worker of a job.

    devices: number for this process, None for all. They are GPUs. Without GPUs, the CPU is divided into this number of
    devices, but the CPU of a worker is one device. batch_size: total over all devices of all workers, if it is known;
    size: height and width of the images.
    Raises InputError where the devices are not there, do not divide the batch, or `TF_CONFIG` is wrong, and RunError
    where another worker does not come.
    """
    task = task_of(os.environ.get("TF_CONFIG"))
    found = len(tf.config.list_physical_devices("GPU"))
    devices = devices or max(found, 1)
    if (found or task) and devices > max(found, 1):
        raise InputError(f"--devices {devices}: TensorFlow finds {found} GPUs here")
    gpus = devices if found else 0
    if task:
        return Worker(task, gpus, batch_size, size)
    if devices == 1:
        return Job(gpus=gpus, batch_size=batch_size, size=size)
    kind = "gpu" if gpus else "cpu"
    strategy = tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(devices)])
    return Job(strategy, devices, gpus, batch_size, size)
