"""A process with one way to train in it, which takes as many steps as it is told, and says how long they took.

    python -m reproduce.worker article --batch-size 32      the benchmark starts these

`Worker` is the other end.
"""

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

import command
from command import RunError
from reproduce import ways

try:
    import resource
except ImportError:  # on Windows
    resource = None

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds that a way may take to start


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (size, 32, 32, 3) in [-0.5, 0.5] and noise (size, 100), float32."""
    rng = np.random.default_rng(0)
    return rng.random((size, 32, 32, 3), np.float32) - np.float32(0.5), rng.standard_normal((size, 100), np.float32)


def answers() -> TextIO:
    """This process's stdout, for the answers alone: what libraries print goes to stderr from now on."""
    file = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return file


def work(name: str, batch_size: int, width: int) -> int:
    """Answer lines on stdin, each a number of steps, with lines of JSON: seconds and the peak memory in bytes."""
    out = answers()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    images, noise = batch(batch_size)
    try:
        builders = {ways.RATE: ways.matrix_product, "article": partial(ways.article, batch_size, width)}
        step = builders.get(name, ways.VARIANTS.get(name, ("", None))[1])()
        for _ in range(2):
            step(images, noise)
    except Exception as error:  # of any kind: another library is missing, or cannot do this
        print(json.dumps({"unavailable": command.one_line(error)[:200]}), file=out)
        return 0
    print(json.dumps({"ready": True}), file=out)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step(images, noise)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory()}), file=out)
    return 0


def peak_memory() -> int | None:
    """The most bytes that this process has taken; None on Windows, where the standard library does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):  # another system than Linux, where getrusage includes the parent process
        return resource and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


class Worker:
    """The other end of such a process, or of one of `reproduce.jobs`."""

    def __init__(self, name: str, module: str, *arguments: object, **environment: str):
        self.name = name
        others = ("TF_USE_LEGACY_KERAS", "KERAS_BACKEND", "TF_CONFIG")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env={**{k: v for k, v in os.environ.items() if k not in others}, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def unavailable(self) -> str | None:
        """Wait for its first line; None, or why the process cannot do its work here."""
        patience = threading.Timer(PATIENCE, self.process.kill)
        patience.start()
        try:
            return self.answer().get("unavailable")
        except RunError:
            if patience.is_alive():  # it ended by itself
                raise
            return f"it had not made two steps after {PATIENCE} seconds"
        finally:
            patience.cancel()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RunError(f"the process of {self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, *words: object) -> None:
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def run(self, steps: int) -> dict:
        """What `work` answers to this number of steps."""
        self.ask(steps)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def main() -> int:
    parser = command.Parser(prog="python -m reproduce.worker")
    parser.add_argument("name", choices=[*ways.VARIANTS, ways.RATE])
    parser.add_argument("--batch-size", type=command.at_least(1), default=32, metavar="N")
    parser.add_argument("--width", type=command.at_least(1), default=1, metavar="N")
    arguments = parser.parse_args()
    return work(arguments.name, arguments.batch_size, arguments.width)


if __name__ == "__main__":
    command.run(main)
