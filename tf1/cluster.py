"""The other workers of a job: who they are by `TF_CONFIG`, and whether they are alive.

In graph mode TensorFlow notices the end of a worker only where it is just sending or receiving; its own check of the
others is for eager mode.
"""

import contextlib
import json
import os
import sys
import threading
import time
from typing import NamedTuple

from command import InputError, RunError

PROBE_EVERY, PROBE_TIMEOUT = 1, 5  # seconds
MISSED = 5  # answers in a row after which a worker is gone: 5 seconds where its port is closed, 30 where it is silent
LATE, TOO_LATE = 5, 600  # seconds at the start after which a missing worker is named, and given up
LIKE = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


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
    try:
        config = json.loads(text or "{}")
        cluster = {kind: list(addresses) for kind, addresses in (config.get("cluster") or {}).items() if addresses}
        if not cluster:
            return None
        task = Task(cluster, config["task"]["type"], config["task"]["index"])
        everyone = [address for addresses in cluster.values() for address in addresses]
        parts = [address.rpartition(":") for address in everyone]
        if not all(host and 0 < int(port) < 65536 for host, _, port in parts) or type(task.number) is not int:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"TF_CONFIG is not JSON like {LIKE}") from None
    if others := cluster.keys() - {"chief", "worker"}:
        raise InputError(f"TF_CONFIG has tasks of type {min(others)!r}; this training has only chief and worker")
    if len(set(everyone)) < len(everyone) or len(cluster.get("chief", [])) > 1:
        raise InputError("TF_CONFIG has more than one chief, or one address for two tasks")
    if task.name not in task.names:
        raise InputError(f"TF_CONFIG makes this {task.name}, but the cluster has {', '.join(task.names)}")
    return task


class Watch(threading.Thread):
    """Asks all other workers every second whether they are there, by the call with which TensorFlow does.

    When one is gone, it says so in one line and ends this process, wherever that is waiting.
    """

    def __init__(self, addresses: dict[str, str]):
        super().__init__(daemon=True)
        import grpc  # here: a single process does without

        self.gone = grpc.RpcError
        self.addresses = addresses
        # A proxy is for the world outside; and a worker that comes late should not be found much later.
        options = [("grpc.enable_http_proxy", 0)]
        options += [(f"grpc.{which}_reconnect_backoff_ms", 1000) for which in ("initial", "min", "max")]
        self.calls = {
            name: grpc.insecure_channel(address, options).unary_unary("/tensorflow.WorkerService/GetStatus")
            for name, address in addresses.items()
        }
        self.answers: dict[str, bytes] = {}  # the first ones, by which a process can be told from its successor
        self.stopping = threading.Event()
        self.resumes_from = lambda: "its last checkpoint"

    def there(self, name: str) -> bool:
        """Whether this worker answers, and is the process that it was."""
        try:
            answer = self.calls[name](b"", timeout=PROBE_TIMEOUT)
        except self.gone:
            return False
        return self.answers.setdefault(name, answer) == answer

    def wait(self) -> None:
        """Until all others are there."""
        began, named = time.monotonic(), False
        for name, address in self.addresses.items():
            while not self.there(name):
                waited = time.monotonic() - began
                if waited > TOO_LATE:
                    raise RunError(f"{name} ({address}) did not come in {TOO_LATE} seconds")
                if waited > LATE and not named:
                    named = True
                    print(f"waiting for {name} ({address}), {TOO_LATE} seconds at most", flush=True)
                time.sleep(0.2)

    def run(self) -> None:
        missed = dict.fromkeys(self.addresses, 0)
        while not self.stopping.wait(PROBE_EVERY):
            for name in missed:
                missed[name] = 0 if self.there(name) else missed[name] + 1
                if missed[name] == MISSED and not self.stopping.is_set():
                    self.leave(name)

    def leave(self, name: str) -> None:
        line = f"error: {name} ({self.addresses[name]}) is gone: start the job again, it resumes from "
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            os.write(2, f"{line}{self.resumes_from()}\n".encode(errors="backslashreplace"))
        os._exit(1)  # harmless: a file is the old one or the new one, whole
