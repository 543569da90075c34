"""How fast the article's step is beside other ways to train the same networks, in one run on one machine.

    python -m reproduce.benchmark --json benchmark.json

The ways are in ways.py. Each is a process of its own, and all of them take turns of a few steps, so that a machine that
gets slower or busier on the way slows all of them down. What counts are the ratios of turns next to each other.
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import command
from command import InputError, RunError
from reproduce.ways import MATRIX, RATE, VARIANTS
from reproduce.worker import ROOT, Worker, batch

BATCH_SIZES = (32, 128)
WARM_UP = 4  # steps of each variant at each batch size that are not counted

# The floor.


def multiply_adds(model) -> list[int]:
    """Multiplications (each with an addition) per example in a forward pass, for every layer that has any, in order.

    Convolutions are counted as if no tap fell on padding. Layers without matrix products, such as normalizations, count
    nothing. Raises InputError for a layer with a kernel of another kind.
    """
    counts = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            counts += multiply_adds(layer)
            continue
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            if any(len(weight.shape) > 1 for weight in layer.trainable_weights) and "Embedding" not in str(type(layer)):
                raise InputError(f"the multiply-adds of {layer.name}, a {type(layer).__name__}, are not known")
            continue
        kind = {base.__name__ for base in type(layer).__mro__}
        size = math.prod(kernel.shape)
        if "Conv2DTranspose" in kind:  # every pixel of the input meets the whole kernel
            counts.append(size * math.prod(layer.input_shape[1:3]))
        elif kind & {"Conv2D", "Dense"}:  # every pixel of the output does; a Dense layer has one per row
            counts.append(size * math.prod(layer.output_shape[1:-1] if "Dense" in kind else layer.output_shape[1:3]))
        else:
            raise InputError(f"the multiply-adds of {layer.name}, a {type(layer).__name__}, are not known")
    return counts


def multiply_adds_of_step(generator, discriminator) -> int:
    """Multiply-adds per picture of one step of `gan()`, in whose gradients a layer costs as much as forward, twice:
    for its kernel and for its input.

    G goes forward once, and gets both gradients; its first layer's input, the noise, needs none. D goes forward twice,
    over real and generated pictures; its loss needs both gradients of both, without the pictures'; G's loss needs the
    gradients of D's inputs once more, down to the picture, but not of D's kernels.
    """
    g, d = multiply_adds(generator), multiply_adds(discriminator)
    return 3 * sum(g) - g[0] + 7 * sum(d) - 2 * d[0]


def flop_of_step(batch_size: int) -> int:
    """Floating-point operations of a step on the article's networks, a multiply-add being two."""
    import models

    return 2 * batch_size * multiply_adds_of_step(models.article_generator(), models.article_discriminator())


# The race.


def start(name: str, batch_size: int, width: int = 1) -> Worker:
    """A process with this variant in it."""
    return Worker(name, "reproduce.worker", name, "--batch-size", batch_size, "--width", width)


def take_turns(workers: list[Worker], steps: int, rounds: int, seconds: float) -> dict[str, list]:
    """Seconds per step of each worker by round: `rounds` of them, or as many more as fit into `seconds`.

    Every other round goes backwards, so that no variant always follows the same one.
    """
    for worker in workers:
        worker.run(1 if worker.name == RATE else WARM_UP)
    times = {worker.name: [] for worker in workers}
    until = time.perf_counter() + seconds
    while min(map(len, times.values())) < rounds or time.perf_counter() < until:
        backwards = len(times[workers[0].name]) % 2
        for worker in workers[::-1] if backwards else workers:
            count = max(1, steps // 2) if worker.name == RATE else steps
            times[worker.name].append(worker.run(count)["seconds"] / count)
    return times


def compare(names: list[str], batch_size: int, steps: int, rounds: int, seconds: float) -> tuple[dict, dict]:
    """(seconds per step of each variant that runs here, by round; why the others do not)."""
    workers, unavailable = [], {}
    try:
        for name in [*names, RATE]:
            print(f"starting: {name}, batch {batch_size}", file=sys.stderr)
            worker = start(name, batch_size)
            reason = worker.unavailable()
            if not reason:
                workers.append(worker)
                continue
            worker.close()
            if name in ("article", RATE):
                raise RunError(f"{name} does not run: {reason}")
            unavailable[name] = reason
            print(f"left out: {VARIANTS[name][0]}: {reason}", file=sys.stderr)
        print(f"taking turns at batch {batch_size}", file=sys.stderr)
        return take_turns(workers, steps, rounds, seconds), unavailable
    finally:
        for worker in workers:
            worker.close()


def spread(values: Iterator[float]) -> dict[str, float]:
    values = list(values)
    return {"median": median(values), "min": min(values), "max": max(values)}


def of(spread: dict[str, float], digits: int = 2) -> str:
    """What `spread` gives, as a table shows it."""
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f} to {spread['max']:.{digits}f})"


def summary(times: dict[str, list[float]], flop: int) -> tuple[dict, dict]:
    """(results by variant, the floor) from seconds per step. A ratio says how many times as fast the article's step is,
    in each round."""
    results = {
        name: {
            "steps_per_second": spread(1 / t for t in each),
            "ratio": spread(t / base for t, base in zip(each, times["article"], strict=True)),
            "rounds": len(each),
        }
        for name, each in times.items()
        if name != RATE
    }
    rates = [2 * MATRIX**3 / t for t in times[RATE]]  # flop/s
    floor = {
        "flop_per_step": flop,
        "flop_per_second": spread(rates),
        "steps_per_second": spread(rate / flop for rate in rates),
        "share": spread(flop / rate / t for rate, t in zip(rates, times["article"], strict=True)),
    }
    return results, floor


class Fetches:
    """Stands in for a session, to see what a step asks of it and feeds."""

    def run(self, fetches, feed_dict):
        self.fetches, self.feed_dict = fetches, feed_dict
        return [None, [0, 0]]


def outside_device(batch_size: int, steps: int) -> dict[str, float]:
    """Milliseconds per step of the training loop, and of them what is not the device's: making the batch and the noise,
    and a `sess.run` that takes the same feeds and does nothing with them."""
    import data
    import models
    from dcgan_keras import gan
    from tf1 import keras, session_config, tf
    from training.noise import noise_for

    with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
        keras.backend.set_session(session)
        gan_feed = gan(models.article_generator(), models.article_discriminator(), batch_size=batch_size)
        session.run(tf.global_variables_initializer())
        batches = data.batches(data.load("faces", (32, 32, 3)), batch_size, (-0.5, 0.5), seed=0)
        feed = Fetches()
        gan_feed(feed, *batch(batch_size))
        placeholders = {value.ndim: placeholder for placeholder, value in feed.feed_dict.items()}
        nothing = [tf.shape(placeholder) for placeholder in placeholders.values()]
        spent = {"data": [], "feed": [], "step": []}
        for step in range(steps + WARM_UP):
            began = time.perf_counter()
            images, _ = next(batches)
            noise = noise_for(0, step, batch_size, (100,))
            made = time.perf_counter()
            gan_feed(session, images, noise, scores=True)
            stepped = time.perf_counter()
            session.run(nothing, {placeholders[value.ndim]: value for value in (noise, images)})
            fed = time.perf_counter()
            if step >= WARM_UP:
                for name, seconds in (("data", made - began), ("feed", fed - stepped), ("step", stepped - began)):
                    spent[name].append(1000 * seconds)
    result = {f"{name}_ms": median(each) for name, each in spent.items()}
    result["share"] = median((d + f) / s for d, f, s in zip(spent["data"], spent["feed"], spent["step"], strict=True))
    return result


def growth(points: list[tuple[int, int]], steps: int) -> list[dict]:
    """Time and peak memory of the article's step for each (batch size, width), in a fresh process each."""
    rows = []
    for batch_size, width in points:
        with start("article", batch_size, width) as worker:
            if reason := worker.unavailable():
                raise RunError(f"the article's step does not run: {reason}")
            worker.run(2)
            answers = [worker.run(1) for _ in range(steps)]
        seconds = median(answer["seconds"] for answer in answers)
        rows.append(
            {
                "batch_size": batch_size,
                "width": width,
                "ms_per_step": 1000 * seconds,
                "images_per_second": batch_size / seconds,
                "peak_bytes": answers[-1]["peak_bytes"],
            }
        )
    return rows


def first_step() -> float:
    """Seconds from the start of the training command, on shapes, to the end of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "dcgan_keras.py"), "--dataset", "faces", "--steps", "2", "--out", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        seen = b""
        while b"gloss" not in seen:  # the progress bar shows the first step's losses
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                raise RunError(f"the training command ended with exit code {process.wait()} before its first step")
            seen += part
        seconds = time.perf_counter() - began
        process.communicate()
    return seconds


def machine() -> dict:
    """What the run was made on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another system than Linux
        pass
    from importlib import metadata

    versions = {}
    for package in ("tensorflow", "tf-keras", "keras", "torch", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions,
    }


# The command.


def table(report: dict) -> str:
    """The report as Markdown tables."""

    sizes = list(report["results"])
    lines = ["| | " + " | ".join(f"batch {n}: steps/s | speed of the article's step over it" for n in sizes) + " |"]
    lines.append("| --- |" + " --- | --- |" * len(sizes))
    for name in report["results"][sizes[0]]:
        rows = [report["results"][size].get(name) for size in sizes]
        cells = [
            f"{of(row['steps_per_second'], 1)} | {'' if name == 'article' else of(row['ratio'])}" if row else "- | -"
            for row in rows
        ]
        lines.append(f"| {VARIANTS[name][0]} | " + " | ".join(cells) + " |")
    floors = [report["floor"][size] for size in sizes]
    cells = [f"{of(floor['steps_per_second'], 1)} | {of(floor['share'])} of it reached" for floor in floors]
    lines.append("| the floor | " + " | ".join(cells) + " |")
    lines.append("")
    for floor in floors:
        rate = of({k: v / 1e9 for k, v in floor["flop_per_second"].items()}, 0)
        lines.append(f"Floor: {floor['flop_per_step'] / 1e9:.2f} GFLOP per step at {rate} GFLOP/s of matrix products.")
    for size in sizes:
        outside = report["outside_device"][size]
        lines.append(
            f"Batch {size}: {100 * outside['share']:.1f}% of a step of training is not the device's "
            f"(data {outside['data_ms']:.2f} ms, feeding {outside['feed_ms']:.2f} ms of {outside['step_ms']:.1f} ms)."
        )
    lines.append(f"From the command's start to the end of its first step: {report['first_step_seconds']:.1f} s.")
    lines += ["", "| batch | width | ms per step | images/s | peak memory, MB |", "| --- | --- | --- | --- | --- |"]
    for row in report["growth"]:
        peak = f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "-"
        numbers = f"{row['ms_per_step']:.0f} | {row['images_per_second']:.0f} | {peak}"
        lines.append(f"| {row['batch_size']} | {row['width']} | {numbers} |")
    versions = ", ".join(f"{k} {v}" for k, v in report["machine"]["versions"].items() if v)
    lines += ["", f"{report['machine']['processor']}, {report['machine']['cores']} cores; {versions}."]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="python -m reproduce.benchmark", description="Compare ways to train the same GAN.")
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="also write everything there")
    add("--variants", metavar="NAMES", help=f"only these, with commas between: {', '.join(VARIANTS)}")
    add("--seconds", type=command.at_least(1), default=130, help="of turns at each batch size (default: %(default)s)")
    add("--quick", action="store_true", help="two turns each at a small size: shows that it runs, measures nothing")
    arguments = parser.parse_args(arguments)
    names = arguments.variants.split(",") if arguments.variants else list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise InputError(f"there is no variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}")
    arguments.variants = list(dict.fromkeys(["article", *names]))  # it is what all are compared with
    check_json(arguments.json)
    return arguments


def check_json(path: Path | None) -> None:
    """Raises InputError where no file can be written there."""
    if path and not path.parent.is_dir():
        raise InputError(f"--json {path}: there is no folder {path.parent}")


def measure(arguments) -> dict:
    """Everything, as JSON has it."""
    sizes = (2,) if arguments.quick else BATCH_SIZES
    report = {"machine": machine(), "quick": arguments.quick, "unavailable": {}, "results": {}, "floor": {}}
    for size in sizes:
        steps = 1 if arguments.quick else 8 if size < 100 else 3
        turns = (2, 0) if arguments.quick else (6, arguments.seconds)
        times, report["unavailable"][str(size)] = compare(arguments.variants, size, steps, *turns)
        report["results"][str(size)], report["floor"][str(size)] = summary(times, flop_of_step(size))
    print("what is not the device's, growth, the first step", file=sys.stderr)
    steps = 2 if arguments.quick else 30
    report["outside_device"] = {str(size): outside_device(size, steps) for size in sizes}
    batches = (2,) if arguments.quick else (16, 32, 64, 128, 256, 512)
    widths = () if arguments.quick else (2, 4)
    report["growth"] = growth([*((n, 1) for n in batches), *((32, w) for w in widths)], 2 if arguments.quick else 5)
    report["first_step_seconds"] = first_step()
    return report


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    report = measure(arguments)
    print(table(report))
    if arguments.json:
        write(report, arguments.json)
    return 0


def write(report: dict, path: Path) -> None:
    with command.replacing(path) as beside:
        beside.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
