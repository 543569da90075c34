"""How fast the article's step is compared with other methods of training the same networks.

    python -m reproduce.benchmark --json benchmark.json

Each method (reproduce/ways.py) is a process. All take turns of a few steps, so that a change in the machine's speed
meets all of them. The result is the ratio of neighbouring turns. The benchmark waits until nothing else runs.
"""

import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

import command
from command import InputError, RunError
from reproduce import tables
from reproduce.ways import METHODS, OF_OTHER_PAIRS, RACES, RATE

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 4  # uncounted steps of each method
LEAST_MEMORY = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # glibc's for all
QUIET = 0.5  # the load average of a machine on which nothing else runs

# The upper limit.


def multiply_adds(model) -> list[int]:
    """Multiplications (each with an addition) per example in a forward pass, for each layer with a kernel, in order.

    Convolutions are counted as if no tap fell on padding. Raises InputError for a layer with a kernel of another kind.
    """
    counts = []
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        kind = {base.__name__ for base in type(layer).__mro__}
        if "Conv2DTranspose" in kind:  # every pixel of the input meets the whole kernel
            pixels = layer.input_shape[1:3]
        elif "Conv2D" in kind:  # every pixel of the output does
            pixels = layer.output_shape[1:3]
        elif "Dense" in kind:
            pixels = layer.output_shape[1:-1]
        else:
            raise InputError(f"the multiply-adds of {layer.name}, a {type(layer).__name__}, are not known")
        counts.append(math.prod(layer.kernel.shape) * math.prod(pixels))
    return counts


def flop_of_step(pair: str, batch_size: int) -> int:
    """Floating-point operations of one step of `gan()`; a multiply-add is two.

    A gradient of a layer, by its kernel or by its input, costs as much as its forward pass. G goes forward once and
    gets both gradients, except its first layer, whose input is the noise. D goes forward twice, over real and generated
    images. D's loss needs both gradients of both passes, but not by the images. G's loss needs the gradient by the
    input of each of D's layers once more.
    """
    import models

    g, d = (multiply_adds(build()) for build in (models.MODELS[pair].generator, models.MODELS[pair].discriminator))
    return 2 * batch_size * (3 * sum(g) - g[0] + 7 * sum(d) - 2 * d[0])


# The race.


class Worker:
    """One method in a process of its own. `first` is the process's first answer."""

    def __init__(self, name: str, pair: str, batch_size: int):
        self.name, self.pair, self.batch_size = name, pair, batch_size
        self.start()

    def start(self) -> None:
        others = ("TF_USE_LEGACY_KERAS", "KERAS_BACKEND", "TF_CONFIG")
        environment = {name: value for name, value in os.environ.items() if name not in others}
        if RACES[self.pair].one_at_a_time:
            environment |= LEAST_MEMORY
        options = ["--pair", self.pair, "--batch-size", str(self.batch_size)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reproduce.ways", self.name, *options],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.first = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RunError(f"the process of {self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def run(self, steps: int) -> float:
        """Seconds per step, or per floating-point operation of `RATE`."""
        print(steps, file=self.process.stdin, flush=True)
        return self.answer() / steps / (self.first["flop"] or 1)

    def run_anew(self, steps: int) -> float:
        """Seconds as of `run`, in a process that lives only for these steps and those before its first answer."""
        self.start()
        if "unavailable" in self.first:
            raise RunError(f"{self.name} does not run any more: {self.first['unavailable']}")
        seconds = self.run(steps)
        self.close()
        return seconds

    def close(self) -> None:
        self.process.communicate()  # closes stdin, which ends it


def take_turns(
    workers: list[Worker], one_at_a_time: bool, steps: int, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """What `Worker.run` returns, of each worker by round: `rounds` of them, or as many more as fit into `seconds`.

    Every other round is in reverse order, so that no method always follows the same one.
    """
    for worker in [] if one_at_a_time else workers:
        worker.run(WARM_UP)
    times = {worker.name: [] for worker in workers}
    until = time.perf_counter() + seconds
    while len(times[RATE]) < rounds or time.perf_counter() < until:
        for worker in workers[::-1] if len(times[RATE]) % 2 else workers:
            times[worker.name].append(worker.run_anew(steps) if one_at_a_time else worker.run(steps))
    return times


def race(names: list[str], pair: str, batch_size: int, steps: int, rounds: int, seconds: float) -> dict:
    """One batch size's part of the report: results, floor, and why other methods did not run."""
    workers, unavailable = [], {}
    one_at_a_time = RACES[pair].one_at_a_time
    try:
        for name in [*names, RATE]:
            print(f"starting: {name}, batch {batch_size}", file=sys.stderr)
            worker = Worker(name, pair, batch_size)
            workers.append(worker)
            reason, device = worker.first.get("unavailable"), workers[0].first.get("device")
            if not reason and worker.first["device"] != device:
                reason = f"it runs on the {worker.first['device']}, the article's step on the {device}"
            if reason:
                workers.pop().close()
                if name in ("article", RATE):
                    raise RunError(f"{name} does not run: {reason}")
                unavailable[name] = reason
                print(f"left out: {METHODS[name][0]}: {reason}", file=sys.stderr)
            elif one_at_a_time:
                worker.close()
        print(f"taking turns at batch {batch_size}", file=sys.stderr)
        times = take_turns(workers, one_at_a_time, steps, rounds, seconds)
    finally:
        for worker in workers:
            worker.close()
    results, floor = summary(times, flop_of_step(pair, batch_size))
    return {"device": device, "results": results, "floor": floor, "unavailable": unavailable}


def spread(values: np.ndarray) -> dict:
    """Median and quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": [low, high]}


def summary(times: dict[str, list[float]], flop: int) -> tuple[dict, dict]:
    """(results by method, the floor) from seconds per step, of `RATE` per floating-point operation, by round.

    A ratio is how many times as fast the article's step is in the same round. flop: of the article's step.
    """
    times = {name: np.array(each) for name, each in times.items()}
    rate, article = times.pop(RATE), times["article"]
    results = {
        name: {"steps_per_second": spread(1 / each), "ratio": spread(each / article), "rounds": len(each)}
        for name, each in times.items()
    }
    floor = {
        "flop_per_step": flop,
        "flop_per_second": spread(1 / rate),
        "steps_per_second": spread(1 / (flop * rate)),
        "share": spread(flop * rate / article),
    }
    return results, floor


# The command.


def load() -> float | None:
    """The load average of the last minute; None on Windows, which has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def wait_until_quiet(poll: float = 15) -> None:
    """Wait while other programs run, and say so."""
    if (now := load() or 0) > QUIET:
        waiting = f"waiting until nothing else runs: the load average is {now:.1f} and has to fall to {QUIET}"
        print(waiting, "(--quick does not wait, but its numbers mean nothing)", file=sys.stderr)
        while load() > QUIET:
            time.sleep(poll)


def machine() -> dict:
    """What the run was made on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags")).split()
        processor += " with AVX-512" if "avx512f" in flags else " without AVX-512"
    except (OSError, StopIteration):  # another system than Linux
        pass
    versions = {}
    for package in ("tensorflow", "tf-keras", "keras", "torch", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_before": load(),
        "python": platform.python_version(),
        "versions": versions,
    }


def table(report: dict) -> str:
    """The report as a Markdown table: medians, with the quartiles in brackets."""
    sizes = list(report["results"])
    speed_digits = 1 if report["pair"] == "article" else 2  # other pairs make about one step per second, or fewer

    def shown(spread, digits=2):
        low, high = spread["quartiles"]
        return tables.quantiles(low, spread["median"], high, digits)

    rows = [[""]]
    for size in sizes:
        rows[0] += [f"batch {size}: steps/s", "the article's step is faster by"]
    for name in dict.fromkeys(name for size in sizes for name in report["results"][size]):
        rows.append([METHODS[name][0]])
        for size in sizes:
            row = report["results"][size].get(name)
            rows[-1] += [shown(row["steps_per_second"], speed_digits) if row else ""]
            rows[-1] += [shown(row["ratio"]) if row and name != "article" else ""]
    rows.append(["upper limit"])
    for size in sizes:
        floor = report["floor"][size]
        rows[-1] += [
            shown(floor["steps_per_second"], speed_digits),
            f"the article's step reaches {floor['share']['median']:.0%}",
        ]
    about = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    load = f", load {about['load_before']:.1f} before" if about["load_before"] is not None else ""
    where = f"{report['pair']} on the {report['device']}: {about['processor']}, {about['cores']} cores{load}"
    return f"{tables.markdown(rows)}\n{where}; {versions}."


def parse(arguments: list[str] | None = None):
    parser = command.Parser(
        prog="python -m reproduce.benchmark",
        description="Compare the speed of several methods of training the same GAN.",
    )
    add = parser.add_argument
    add("--pair", choices=RACES, default="article", help="networks to train (default: %(default)s)")
    add("--methods", metavar="NAMES", help=f"only these, separated by commas: {', '.join(METHODS)}")
    add(
        "--seconds",
        type=command.at_least(1),
        default=130,
        metavar="N",
        help="seconds to run at each batch size (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="write all results to this file")
    add(
        "--quick",
        action="store_true",
        help="run two turns at batch 2 without waiting; only shows that the benchmark works",
    )
    arguments = parser.parse_args(arguments)
    possible = list(METHODS) if arguments.pair == "article" else OF_OTHER_PAIRS
    names = arguments.methods.split(",") if arguments.methods else possible
    if unknown := [name for name in names if name not in possible]:
        raise InputError(f"--pair {arguments.pair} has no method {unknown[0]!r}; choose from {', '.join(possible)}")
    arguments.methods = list(dict.fromkeys(["article", *names]))  # all others are compared with it
    if arguments.json and not arguments.json.parent.is_dir():
        raise InputError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    return arguments


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    if not arguments.quick:
        wait_until_quiet()
    report = {"machine": machine(), "pair": arguments.pair, "quick": arguments.quick}
    for size, steps in {2: 1}.items() if arguments.quick else RACES[arguments.pair].turns.items():
        turns = (2, 0) if arguments.quick else (6, arguments.seconds)
        part = race(arguments.methods, arguments.pair, size, steps, *turns)
        report["device"] = part.pop("device")
        for name, value in part.items():
            report.setdefault(name, {})[str(size)] = value
    print(table(report))
    if arguments.json:
        with command.replacing(arguments.json) as beside:
            beside.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
