"""One training run on several devices and machines, by TensorFlow's own `tf.distribute`, in graph mode.

`TF_CONFIG` makes a process one worker of a job (`MultiWorkerMirroredStrategy`, a `tf.distribute.Server` each); several
GPUs in one process are a `MirroredStrategy`. Each device runs the step of `gan()` on a batch of its own: a replica.
What the replicas do together:

- Gradients are averaged by all-reduce before Adam applies them: once for D and once for G in each step.
- Batch normalization and `ConcatDiff` see their replica's batch alone. After the step the moving averages are replaced
  by their mean over replicas, so that every replica ends a step with the same state.
- With these go the losses, to be averaged, and whether a worker has been told to stop: all stop after the same step.

Worker 0 (`chief`, where there is one) writes samples, logs and checkpoints, and at the start sends its state to all.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from command import InputError, RunError, one_line
from tf1 import session_config, tf

NOTE = 8192  # bytes that each worker has for a note to the others
BLOCK = 1 << 17  # numbers of 2 bytes that are sent from worker 0 at a time
PROBE_EVERY, PROBE_TIMEOUT = 1, 5  # seconds
GONE_REFUSED, GONE_SILENT = 3, 30  # seconds of refused connections, or of silence, after which a worker is gone
LOST = tuple(  # what TensorFlow raises where a peer is gone
    getattr(tf.errors, f"{kind}Error")
    for kind in ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")
)
LATE, TOO_LATE = 5, 600  # seconds at the start after which a missing worker is named, and given up


class Task(NamedTuple):
    """What `TF_CONFIG` says: the cluster, and which of its tasks this process is."""

    cluster: dict[str, list[str]]  # "chief" and "worker", each a list of host:port
    type: str
    number: int

    @property
    def names(self) -> dict[str, str]:
        """Every worker's name and address, in the order of their indices in the job."""
        kinds = [kind for kind in ("chief", "worker") if kind in self.cluster]
        return {f"{kind} {i}": address for kind in kinds for i, address in enumerate(self.cluster[kind])}

    @property
    def name(self) -> str:
        return f"{self.type} {self.number}"


def task_of(text: str | None) -> Task | None:
    """The task that `TF_CONFIG` makes of this process; None where it names no cluster. Raises InputError."""
    if not text:
        return None

    def wrong(what: str) -> InputError:
        return InputError(f"TF_CONFIG {what}")

    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(f"is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise wrong('is not a JSON object like {"cluster": {"worker": ["host:port"]}, "task": {...}}')
    cluster = config.get("cluster")
    if not cluster:
        return None
    if not isinstance(cluster, dict):
        raise wrong('has a "cluster" that is not an object')
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker"):
            raise wrong(f"has tasks of type {kind!r}; this training has only chief and worker, which reduce among them")
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise wrong(f"has a {kind!r} that is not a list of addresses host:port")
    cluster = {kind: addresses for kind, addresses in cluster.items() if addresses}
    addresses = [address for each in cluster.values() for address in each]
    if twice := [address for address in addresses if addresses.count(address) > 1]:
        raise wrong(f"gives {twice[0]} to two tasks")
    if len(cluster.get("chief", [])) > 1:
        raise wrong("has more than one chief")
    task = config.get("task")
    kind, number = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if not isinstance(kind, str) or type(number) is not int:
        raise wrong('has no "task" like {"type": "worker", "index": 0}')
    if kind not in cluster or not 0 <= number < len(cluster[kind]):
        raise wrong(f"makes this {kind} {number}, but the cluster has {', '.join(Task(cluster, '', 0).names)}")
    return Task(cluster, kind, number)


def _is_address(address: object) -> bool:
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return bool(host and colon) and port.isdecimal() and 0 < int(port) < 65536


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
    """One process on one device, which is all there is to it; what several change is in `Replicated`."""

    index = 0  # of this worker among all
    workers = 1
    local = 1  # replicas in this process

    def __init__(self, batch_size: int | None = None):
        self.batch_size = batch_size  # of each replica, where threads are set up for it
        self.signal = lambda: 0  # the signal by which this process has been told to stop

    @property
    def replicas(self) -> int:
        """Of the whole job."""
        return self.workers * self.local

    def scope(self) -> contextlib.AbstractContextManager:
        """Where the networks and their step are built."""
        return contextlib.nullcontext()

    def session(self) -> tf.Session:
        return tf.Session(config=session_config(self.batch_size))

    def build(self, recipe: Callable, *arguments, **options) -> Callable:
        """`recipe` is `gan()` or has its arguments. What comes back has those of `gan_feed`, and takes the batches of
        all replicas of this process as one."""
        return recipe(*arguments, **options)

    def part(self, batch: np.ndarray) -> np.ndarray:
        """The rows of this worker, of what is made for the whole job."""
        rows = len(batch) // self.workers
        return batch[self.index * rows : (self.index + 1) * rows]

    def agree(self, sess: tf.Session, settings: Callable[[], dict]) -> None:
        """Raises InputError, in every worker, where not all have the same settings."""

    def from_first(self, sess: tf.Session, note: dict) -> dict:
        """What worker 0 says: a small dict, as JSON has it."""
        return note

    def share(self, sess: tf.Session) -> None:
        """Give worker 0's variables to all others."""

    def stopped(self) -> int:
        """The signal after which all stop with this step, or 0."""
        return self.signal()

    def leave(self, sess: tf.Session) -> None:
        """Leave at the same time as all others."""

    @contextlib.contextmanager
    def watched(self, goes_on_from: Callable[[], str]) -> Iterator[None]:
        """Within it, a worker that is gone ends this process too, with a line that ends in `goes_on_from()`."""
        yield


class Replicated(Job):
    """Several replicas, in one process or in more."""

    def __init__(self, strategy: tf.distribute.Strategy, local: int, batch_size: int | None = None, cpus: int = 1):
        super().__init__(batch_size)
        self.strategy = strategy
        self.local = local
        self.cpus = cpus
        self.signals = 0.0  # the mean of all replicas' at the last step

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with self.strategy.scope(), tf.variable_creator_scope(_updated_by_replicas):
            yield

    def config(self) -> tf.ConfigProto:
        config = session_config(self.batch_size)
        config.device_count["CPU"] = self.cpus
        return self.strategy.update_config_proto(config)

    def session(self) -> tf.Session:
        return tf.Session(config=self.config())

    def build(self, recipe: Callable, *arguments, **options) -> Callable:
        if options.get("batch_size"):  # Keras takes it for that of all replicas together, and divides it
            options["batch_size"] *= self.replicas
        feeds = self.run(lambda: recipe(*arguments, **options, adam=MeanAdam))
        generator, discriminator = arguments[:2]
        averages = [*generator.non_trainable_weights, *discriminator.non_trainable_weights]

        def to_mean():
            """(placeholder, its mean): dloss, gloss and the signal; replaces the moving averages by their means."""
            values = tf.placeholder(tf.float32, (3,))
            sizes = [3, *(v.shape.num_elements() for v in averages)]
            flat = tf.concat([values, *(tf.reshape(v, (-1,)) for v in averages)], 0)
            means = tf.split(self.reduced(tf.distribute.ReduceOp.MEAN, flat), sizes)
            updates = [v.assign(tf.reshape(mean, v.shape)) for v, mean in zip(averages, means[1:], strict=True)]
            with tf.control_dependencies(updates):
                return values, tf.identity(means[0])

        placeholders, means = zip(*self.run(to_mean), strict=True)

        def feed(sess, images, noise, labels=None):
            together, rows = Together(sess), len(images) // len(feeds)
            for i, gan_feed in enumerate(feeds):
                mine = slice(i * rows, (i + 1) * rows)
                parts = tf.nest.map_structure(lambda values, mine=mine: values[mine], [images, noise])
                gan_feed(together, *parts, None if labels is None else labels[mine])
            values = [[*losses, self.signal()] for _, losses in together.run_all()]
            # The losses are numbers of this process by now, so this is a run of its own. Every replica gets the same.
            results = sess.run(means, dict(zip(placeholders, values, strict=True)))
            dloss, gloss, self.signals = results[0]
            return [dloss, gloss]

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

    def stopped(self) -> int:
        return (self.signal() or signal.SIGTERM) if self.signals else 0


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


class Worker(Replicated):
    """One worker of a job of several processes."""

    def __init__(self, task: Task, gpus: int, batch_size: int | None = None):
        self.task = task
        self.names = list(task.names)
        self.index = self.names.index(task.name)
        self.workers = len(self.names)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(task.cluster),
            task_type=task.type,
            task_id=task.number,
            num_accelerators={"GPU": gpus},
            rpc_layer="grpc",
        )
        strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        super().__init__(strategy, max(gpus, 1), batch_size)
        self.server = self.serve(task)
        self.watch = Watch({name: address for name, address in task.names.items() if name != task.name})
        self.watch.wait()
        self.watch.start()
        # The first collective of every worker, however different their graphs.
        self.blocks = self.run(self.sum_of_blocks)

    def serve(self, task: Task) -> tf.distribute.Server:
        address = task.names[task.name]
        port = int(address.rpartition(":")[2])
        try:
            with socket.socket() as probe:  # the server would say less
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))
            cluster = tf.train.ClusterSpec(task.cluster)
            return tf.distribute.Server(cluster, task.type, task.number, config=self.config())
        except (OSError, tf.errors.OpError) as error:
            reason = error.strerror if isinstance(error, OSError) else one_line(error)
            raise InputError(f"TF_CONFIG gives {task.name} the port {port}, which it cannot have: {reason}") from None

    def session(self) -> tf.Session:
        return tf.Session(self.server.target, config=self.config())

    def sum_of_blocks(self) -> tuple[tf.Tensor, tf.Tensor]:
        block = tf.placeholder(tf.float32, (BLOCK,))
        return block, self.reduced(tf.distribute.ReduceOp.SUM, block)

    def sum(self, sess: tf.Session, block: np.ndarray, **options) -> np.ndarray:
        """The sum of all workers' blocks, (BLOCK,) uint16. It is taken of floats, which every device can all-reduce and
        which hold such numbers exactly."""
        zeros = np.zeros_like(block)
        feeds = {placeholder: zeros if i else block for i, (placeholder, _) in enumerate(self.blocks)}
        return sess.run([total for _, total in self.blocks], feeds, **options)[0].astype(np.uint16)

    def notes(self, sess: tf.Session, note: dict) -> list[dict]:
        """What each worker says, by index."""
        text = json.dumps(note).encode()
        if len(text) > NOTE:
            raise RunError(f"a note of {len(text)} bytes to the other workers is longer than {NOTE}")
        everyone = []
        per_block = BLOCK * 2 // NOTE
        for first in range(0, self.workers, per_block):
            block = np.zeros(BLOCK, np.uint16)
            if first <= self.index < first + per_block:
                mine = block.view(np.uint8)[(self.index - first) * NOTE :][:NOTE]
                mine[: len(text)] = np.frombuffer(text, np.uint8)
            everyone += [bytes(n).rstrip(b"\0") for n in self.sum(sess, block).view(np.uint8).reshape(-1, NOTE)]
        return [json.loads(each) for each in everyone[: self.workers]]

    def agree(self, sess: tf.Session, settings: Callable[[], dict]) -> None:
        everyone = self.notes(sess, settings())
        for name, theirs in zip(self.names, everyone, strict=True):
            for key in {**everyone[0], **theirs}:
                if theirs.get(key) != everyone[0].get(key):
                    self.leave(sess)
                    raise InputError(
                        f"{name} has {key} {theirs.get(key)}, but {self.names[0]} has {everyone[0].get(key)}: "
                        "give all workers the same command and data"
                    )

    def from_first(self, sess: tf.Session, note: dict) -> dict:
        return self.notes(sess, {} if self.index else note)[0]

    def share(self, sess: tf.Session) -> None:
        """As numbers that all others add 0 to, so that not a bit changes."""
        for variable in tf.global_variables():
            value = sess.run(copies(variable)[0])
            whole = np.zeros(-(-value.nbytes // (2 * BLOCK)) * BLOCK, np.uint16)
            if not self.index:
                whole.view(np.uint8)[: value.nbytes] = np.frombuffer(value.tobytes(), np.uint8)
            received = np.concatenate([self.sum(sess, block) for block in whole.reshape(-1, BLOCK)])
            content = received.view(np.uint8)[: value.nbytes].tobytes()
            for copy in copies(variable):
                copy.load(np.frombuffer(content, value.dtype).reshape(value.shape), sess)

    def leave(self, sess: tf.Session) -> None:
        """Who has met all others twice may leave: at the first, all have come that far; then nobody minds the other's
        end any more; and at the second, nobody misses who has left."""
        meeting = np.zeros(BLOCK, np.uint16)
        self.sum(sess, meeting)
        self.watch.stop()
        with contextlib.suppress(tf.errors.OpError):
            self.sum(sess, meeting, options=tf.RunOptions(timeout_in_ms=1000 * GONE_SILENT))

    @contextlib.contextmanager
    def watched(self, goes_on_from: Callable[[], str]) -> Iterator[None]:
        self.watch.goes_on_from = goes_on_from
        try:
            yield
        except LOST as error:
            # Most often the end of a peer, which the watch is about to tell of.
            self.watch.join(GONE_SILENT + 2 * PROBE_TIMEOUT)
            raise RunError(f"the workers can no longer work together: {one_line(error)[:500]}") from error


class Watch(threading.Thread):
    """Asks all other workers every second whether they are there, by the call with which TensorFlow does.

    TensorFlow itself notices the end of a worker only where it is just sending or receiving, and its own check of peers
    is for eager mode. When one is gone, `watch` says so in one line and ends this process, wherever it is waiting.
    """

    def __init__(self, addresses: dict[str, str]):
        super().__init__(daemon=True)
        import grpc  # here: a single process does without

        self.grpc = grpc
        self.addresses = addresses
        # A proxy is for the world outside; and one who comes late shall not be found much later.
        options = [("grpc.enable_http_proxy", 0)]
        options += [(f"grpc.{which}_reconnect_backoff_ms", 1000) for which in ("initial", "min", "max")]
        self.calls = {
            name: grpc.insecure_channel(address, options).unary_unary("/tensorflow.WorkerService/GetStatus")
            for name, address in addresses.items()
        }
        self.answers: dict[str, bytes] = {}  # the first ones, by which a process can be told from its successor
        self.stopping = threading.Event()
        self.goes_on_from = lambda: "its last checkpoint"

    def ask(self) -> dict[str, object]:
        """Who has not answered, and why: a gRPC status, or None where it is another process that answers."""
        asked = {name: call.future(b"", timeout=PROBE_TIMEOUT) for name, call in self.calls.items()}
        missing = {}
        for name, future in asked.items():
            if (error := future.exception()) is not None:
                missing[name] = error.code()
            elif self.answers.setdefault(name, future.result()) != future.result():
                missing[name] = None
        return missing

    def named(self, names) -> str:
        return ", ".join(f"{name} ({self.addresses[name]})" for name in names)

    def wait(self) -> None:
        """Until all others are there."""
        began, told = time.monotonic(), False
        while missing := self.ask():
            waited = time.monotonic() - began
            if waited > TOO_LATE:
                raise RunError(f"{self.named(missing)} did not come in {TOO_LATE} seconds")
            if waited > LATE and not told:
                told = True
                print(f"waiting for {self.named(missing)}, {TOO_LATE} seconds at most", flush=True)
            time.sleep(0.2)

    def run(self) -> None:
        since, refused = {}, {}
        while not self.stopping.wait(PROBE_EVERY):
            missing, now = self.ask(), time.monotonic()
            for name in self.addresses:
                if name not in missing:
                    since.pop(name, None)
                    refused.pop(name, None)
                    continue
                since.setdefault(name, now)
                if missing[name] in (self.grpc.StatusCode.UNAVAILABLE, None):
                    refused[name] = refused.get(name, 0) + 1
            gone = [n for n in since if refused.get(n, 0) >= GONE_REFUSED or now - since[n] > GONE_SILENT]
            if gone and not self.stopping.is_set():
                self.leave(min(gone, key=since.get))

    def leave(self, name: str) -> None:
        line = f"error: {self.named([name])} is gone: start the job again, it goes on from {self.goes_on_from()}\n"
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            os.write(2, line.encode(errors="backslashreplace"))
        os._exit(1)  # harmless: a file is the old one or the new one, whole

    def stop(self) -> None:
        self.stopping.set()


def in_job() -> bool:
    """Whether `TF_CONFIG` makes this process a worker. Raises InputError where it is wrong."""
    return task_of(os.environ.get("TF_CONFIG")) is not None


def join(devices: int | None = None, batch_size: int | None = None) -> Job:
    """What this process is: alone, several replicas, or by `TF_CONFIG` one worker of a job.

    devices: at most so many GPUs; where there is none, so many devices that the CPU is divided into (but not for a
    worker, whose CPU is one). batch_size: of each replica, where threads shall be set up for it. Raises InputError
    where the devices are not there or `TF_CONFIG` is wrong, RunError where other workers do not come.
    """
    task = task_of(os.environ.get("TF_CONFIG"))
    gpus = len(tf.config.list_physical_devices("GPU"))
    if devices and (gpus or task) and devices > max(gpus, 1):
        raise InputError(f"--devices {devices}: TensorFlow finds {gpus} GPUs here")
    gpus = min(gpus, devices or gpus)
    if task:
        return Worker(task, gpus, batch_size)
    kind, number = ("gpu", gpus) if gpus else ("cpu", devices or 1)
    if number == 1:
        return Job(batch_size)
    strategy = tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(number)])
    return Replicated(strategy, number, batch_size, cpus=1 if gpus else number)
