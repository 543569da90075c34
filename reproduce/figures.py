"""The article's three figures and this project's charts, made from a run or from what is committed under samples/.

    python -m reproduce.figures --run samples/cifar10 --out figures

gan_cifar_32.png                    the run's newest samples in the article's layout, contrast and 16-bit colours
gan_cifar_32_true_contrast.png      the same in true contrast and colours
history_010000.png ...              both, for the generators kept at about 10,000, 25,000, 50,000 and 90,000 steps
history_strip.png                   a row each at 10,000, 50,000 and the newest step, and of the best
gan_cifar_32_NAME.png               the same as gan_cifar_32.png of other runs (--others), by the names of their folders
gan_cifar_32_best.png               and of other weights (--best)
console.md, console.csv             the losses on the author's console next to the run's
last_console.md                     those on the last one next to the other runs', too
losses.png                          both losses
quality.png                         the tables of `reproduce.evaluate`, over steps
distances.png                       distances after 5,000 steps by loss, update and recipe (samples/distances_5000.csv)
speed.png                           the table of `reproduce.benchmark`

The article's other two figures are the diagrams docs/gan_concept.svg and docs/one_pass.svg, next to docs/two_model.svg.
A run's folder may have only the generators and, in place of losses.csv, the losses_summary.csv of `reproduce.console`.
"""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

import command
from command import InputError
from reproduce import console, ways
from training import pictures
from training.folder import numbered, read_run, step_of

TILES, COLUMNS, SCALE = 31, 7, 3  # of the article's figure
STRIP = 10  # tiles in a row of the strip
HISTORY = (10_000, 25_000, 50_000, 90_000)  # steps of the figures in between
IN_STRIP = (10_000, 50_000)  # of these, with the newest and the best
NEAR = 0.1  # of a step: how far from it a kept generator may be
SAMPLES = Path("samples")
COMMITTED = SAMPLES / "learning_rate_1e-4"
OTHERS = [SAMPLES / name for name in ("then_smoothing_0.01", "then_smoothing_0", "learning_rate_1e-3")]
ONLY_MEASURED = [SAMPLES / "learning_rate_3e-4"]  # its generators are not kept
QUALITY = "quality.csv"
BEST = SAMPLES / "cifar10_generator.h5"
DISTANCES = SAMPLES / "distances_5000.csv"
NOT_FID = "Fréchet distance in the features of a small classifier\n(not FID; lower is better; real images 0.016)"


# Samples.


def article_layout(images: np.ndarray) -> Image.Image:
    """31 tiles in rows of seven, a black pixel to the right of and below each, enlarged three times.

    images: (31 or more, height, width, 1 or 3) uint8. The image in the article's figure has this size, 693 by 495.
    """
    picture = pictures.grid(images[:TILES], COLUMNS, SCALE)
    return picture.crop((0, 0, picture.width + SCALE, picture.height + SCALE))  # black where it was not


def sixteen_bits(images: np.ndarray) -> np.ndarray:
    """uint8 RGB as 16-bit colour (RGB565) shows it, as on the author's screen: 32, 64 and 32 levels."""
    if images.shape[-1] != 3:
        return images
    bits = np.array([5, 6, 5], np.uint8)
    levels = images >> (8 - bits)
    return (levels << (8 - bits)) | (levels >> (2 * bits - 8))


def samples(weights: Path, model: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """31 samples, (31, height, width, channels) uint8, as the article shows them and as they are.

    The author's program shows 0.5 x + 0.5, so what is trained on [-0.5, 0.5] has half its contrast; and it gives RGB to
    OpenCV's window, which takes it for BGR, so red and blue are exchanged. Tile k is of seed `seed` + k, and of the
    classes in turn where the generator has classes.
    """
    from tf1 import keras, session_config, tf
    from training.generator import load_generator

    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        generator = load_generator(weights, model)
        noise = generator.noise(range(seed, seed + TILES))
        labels = np.arange(TILES) % max(1, generator.classes)
        shown, true = (generator.pictures(noise, labels, pixels) for pixels in ((-1, 1), generator.pixels))
    return sixteen_bits(shown[..., ::-1]), true


def run_name(folder: Path) -> str:
    """As the figures have it: learning rate 1e-3 for learning_rate_1e-3."""
    return folder.resolve().name.replace("_", " ")


def near(step: int, wanted: int) -> bool:
    return abs(step - wanted) <= NEAR * wanted


class Run:
    """What the figures need of a run's folder: its losses and its generators by step.

    weights: of the newest generator, if not those of the folder.
    """

    def __init__(self, folder: Path, weights: Path | None = None):
        self.folder, self.name = folder, run_name(folder)
        self.spans = console.read_spans(folder)
        run = read_run(folder) or {}
        end = run.get("step") or max(span.last for span in self.spans)  # losses are written before weights
        self.kept = [(step_of(path), path) for path in numbered(folder, "generator", "h5")]
        newest = weights or folder / "generator.h5"
        if weights or (newest.is_file() and (not self.kept or self.kept[-1][0] < end)):
            self.kept.append((end, newest))
        if not self.kept:
            raise InputError(f"{folder} has no generator.h5; name the folder of a run with --run")

    def states(self) -> list[tuple[int, Path]]:
        """The kept generators nearest to the steps of `HISTORY`, and the newest."""
        nearest = {wanted: min(self.kept, key=lambda kept: abs(kept[0] - wanted)) for wanted in HISTORY}
        return sorted({self.kept[-1], *(kept for wanted, kept in nearest.items() if near(kept[0], wanted))})


# Charts.


def charts(size: tuple[float, float], rows: int = 1, columns: int = 1):
    """A figure of `size` inches with its charts, row by row; those of a column share the x axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    found = figure.subplots(rows, columns, sharex="col", squeeze=False).ravel()
    for axes in found:
        axes.grid(alpha=0.3)
    return figure, found


def bar_chart(labels: list[str], medians: list[float], errors: np.ndarray | None, colours: list[str], digits: int):
    """A horizontal bar each with its value; errors (2, n): the whiskers' lengths down and up."""
    figure, (axes,) = charts((9, 1.2 + 0.35 * len(labels)))
    axes.grid(visible=False, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    bars = axes.barh(range(len(labels)), medians, xerr=errors, color=colours, capsize=3)
    ends = medians if errors is None else np.add(medians, errors[1])
    for bar, end, median in zip(bars, ends, medians, strict=True):
        middle = bar.get_y() + bar.get_height() / 2
        axes.text(end + max(ends) / 80, middle, f"{median:.{digits}f}", va="center", fontsize=9)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(0, 1.08 * max(ends))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    return figure


def losses_chart(spans: list[console.Span]):
    """Both losses over steps: the median of each few hundred steps, and between the 10th and 90th percentile a band."""
    blocks = [span for span in spans if span.steps <= console.BLOCK]
    steps = [(span.first + span.last) / 2 for span in blocks]
    figure, panels = charts((8, 5), rows=2)
    for index, (name, axes) in enumerate(zip(("gloss", "dloss"), panels, strict=True)):
        _, low, median, high = np.array([getattr(span, name) for span in blocks]).T
        axes.fill_between(steps, low, high, color=f"C{index}", alpha=0.2, linewidth=0, label="10% to 90%")
        axes.plot(steps, median, color=f"C{index}", linewidth=1, label=f"median of {console.BLOCK} steps")
        axes.set(ylabel=name, ylim=(0, None))
        axes.legend(loc="upper right")
    panels[0].set_title("Losses of G (gloss) and D (dloss)")
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def quality_chart(tables: dict[str, Path]):
    """Quality over steps, from tables of `reproduce.evaluate` by the name of the run; dotted, that of real images."""
    titles = {
        "frechet": "Fréchet distance\n(not FID; lower is better)",
        "precision": "precision\n(higher is better)",
        "recall": "recall\n(higher is better)",
    }
    figure, panels = charts((11, 4.2), columns=len(titles))
    figure.suptitle("Samples compared with test images in the features of a small classifier")
    read = {run: read_quality(path) for run, path in tables.items()}
    for column, axes in zip(titles, panels, strict=True):
        for run, (_, rows) in read.items():
            axes.plot([step for step, _ in rows], [row[column] for _, row in rows], "o-", ms=4, label=run)
        for real in dict.fromkeys(floor[column] for floor, _ in read.values()):
            axes.axhline(real, color="#777777", linestyle=":", label=f"real images: {real:.3g}")
        axes.set(title=titles[column], xlabel="step", xscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if column == "frechet":
            axes.set(yscale="log")  # from that of noise to that of real pictures
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.set_ylim(0, 1)
        axes.legend(fontsize=8)
    return figure


def read_quality(path: Path) -> tuple[dict[str, float], list[tuple[int, dict[str, float]]]]:
    """A table of `reproduce.evaluate`: the numbers of real images, and those of generators by step."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        numbers = [{name: float(row[name]) for name in ("frechet", "precision", "recall")} for row in rows]
        steps = [row["step"] for row in rows]
        by_step = [(int(step), found) for step, found in zip(steps, numbers, strict=True) if step]
        return numbers[steps.index("")], sorted(by_step, key=lambda row: row[0])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a table of reproduce.evaluate; make it with its --out") from error


def distances_chart(path: Path):
    """The distances in a CSV with the columns run and frechet."""
    with open(path, newline="") as file:
        rows = [(row["run"], float(row["frechet"])) for row in csv.DictReader(file)]
    figure = bar_chart(*map(list, zip(*rows, strict=True)), None, ["C0"], 2)
    figure.axes[0].set(title="CIFAR-10 after 5,000 steps, learning rate 1e-3", xlabel=NOT_FID)
    return figure


def speed_chart(path: Path):
    """Steps per second by batch size and method, from the JSON of `reproduce.benchmark`.

    Its form: {"results": {"32": {"article": {"steps_per_second": {"median": 15.1, "quartiles": [14.2, 16.0]}}, ...}}}.
    """
    labels, medians, ranges, colours = [], [], [], []
    try:
        for size, methods in json.loads(path.read_text())["results"].items():
            for name, row in methods.items():
                speed = row["steps_per_second"]
                labels.append(f"{ways.METHODS[name][0]}, batch {size}")
                medians.append(float(speed["median"]))
                ranges.append(speed["quartiles"])
                colours.append(f"C{list(ways.METHODS).index(name)}")
        low, high = np.array(ranges, float).T
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the JSON of reproduce.benchmark; make it with its --json") from error
    figure = bar_chart(labels, medians, np.array([medians - low, high - medians]), colours, 1)
    figure.axes[0].set(
        title="Training speed by method", xlabel="steps per second (higher is better)\nmedian, first to third quartile"
    )
    return figure


# The command.


def parse(arguments: list[str] | None = None):
    parser = command.Parser(
        prog="python -m reproduce.figures", description="Make the article's figure and this project's charts."
    )
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR", help="the folder of a run (default: what is committed under samples/)")
    add("--others", type=Path, nargs="+", metavar="DIR", help="the folders of more runs, to compare with")
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights to show as the run's newest generator (default: its generator.h5)",
    )
    add("--best", type=Path, metavar="FILE", help="the weights of one more generator to show")
    add(
        "--quality",
        type=Path,
        nargs="+",
        metavar="FILE.csv",
        help="tables of reproduce.evaluate (default: each run's quality.csv)",
    )
    add(
        "--benchmark",
        type=Path,
        metavar="FILE.json",
        help="results of reproduce.benchmark (default: samples/benchmark.json)",
    )
    add("--model", metavar="NAME", help="the networks of the run (default: inferred from run.json or the weights)")
    add(
        "--seed",
        type=command.at_least(0),
        default=0,
        metavar="N",
        help="seed of the first sample (default: %(default)s)",
    )
    add("--out", type=Path, default=Path("figures"), metavar="DIR", help="output folder (default: %(default)s)")
    return parser.parse_args(arguments)


def sources(arguments) -> tuple[list[Run], dict[str, Path], Path | None]:
    """The runs to show, the tables of quality by the name of the run, and the best generator.

    With --run they are the user's, without it what is committed: never mixed.
    """
    if arguments.run:
        measured = folders = [arguments.run, *(arguments.others or [])]
        best = arguments.best
    elif arguments.others:
        raise InputError("--others are compared with a run: name its folder with --run")
    else:
        folders, best = [COMMITTED, *OTHERS], arguments.best or BEST
        measured = [COMMITTED, *ONLY_MEASURED, *OTHERS]
    for path in (arguments.weights, best, arguments.benchmark, *(arguments.quality or ())):
        if path and not path.is_file():
            raise InputError(f"there is no {path}; name the folder of a run with --run")
    runs = [Run(folders[0], arguments.weights), *map(Run, folders[1:])]
    tables = arguments.quality or [folder / QUALITY for folder in measured if (folder / QUALITY).is_file()]
    measured = [run_name(path.parent if path.name == QUALITY else path.with_suffix("")) for path in tables]
    files = [*(run.name for run in runs[1:]), "true contrast", *(["best"] if best else [])]
    for names in ([run.name for run in runs], files, measured):  # in tables, of files, in the chart's legend
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"the figures would have the name {name!r} twice; rename the folder of a run or a table"
                )
    return runs, dict(zip(measured, tables, strict=True)), best


def all_charts(arguments, run: Run, tables: dict[str, Path]) -> dict:
    """The charts by the names of their files; says which are left out, and why."""
    figures = {"losses.png": losses_chart(run.spans)}
    if not arguments.run:
        figures["distances.png"] = distances_chart(DISTANCES)
    if tables:
        figures["quality.png"] = quality_chart(tables)
    else:
        table = run.folder / QUALITY
        print(f"no quality.png: there is no {table} (--quality), which reproduce.evaluate writes with --out")
    benchmark = arguments.benchmark or SAMPLES / "benchmark.json"
    if benchmark.is_file():
        figures["speed.png"] = speed_chart(benchmark)
    else:
        print(f"no speed.png: there is no {benchmark} (--benchmark), which reproduce.benchmark writes with --json")
    return figures


def write_samples(arguments, runs: list[Run], best: Path | None) -> list[str]:
    """Write the figures of samples, the history's strip last; returns the names of the files."""
    from training.generator import digest

    out, written, strip = arguments.out, [], {}

    def write(name, weights):
        shown, true = samples(weights, arguments.model, arguments.seed)
        settings = {"weights": digest(weights), "seeds": f"{arguments.seed}-{arguments.seed + TILES - 1}"}
        for file, images in ((f"{name}.png", shown), (f"{name}_true_contrast.png", true)):
            pictures.save_png(article_layout(images), out / file, settings)
            written.append(file)
        return true[:STRIP]

    for step, weights in runs[0].states():
        newest = (step, weights) == runs[0].kept[-1]
        images = write("gan_cifar_32" if newest else f"history_{step:06d}", weights)
        if newest or any(near(step, wanted) for wanted in IN_STRIP):
            strip[f"{step:,} steps"] = images
    for other in runs[1:]:
        write(f"gan_cifar_32_{other.folder.resolve().name}", other.kept[-1][1])
    if best:
        strip["best, 1e-3"] = write("gan_cifar_32_best", best)
    if len({images.shape for images in strip.values()}) == 1:
        rows = np.concatenate(list(strip.values()))
        picture = pictures.named_rows(rows, list(strip), STRIP, pictures.scale_for(rows.shape[1]))
        pictures.save_png(picture, out / "history_strip.png")
        written.append("history_strip.png")
    return written


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    if arguments.model:
        import models  # here: it loads TensorFlow

        models.check_name(arguments.model)
    runs, tables, best = sources(arguments)
    figures = all_charts(arguments, runs[0], tables)
    compared = console.compared(runs[0].spans)
    texts = {"console.md": console.markdown(compared)}
    if runs[1:]:
        texts["last_console.md"] = console.last_console({run.name: run.spans for run in runs})
    print(texts["console.md"])
    out = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}") from error
    written = write_samples(arguments, runs, best)
    console.write_table(compared, out / "console.csv")
    for name, content in {**texts, **figures}.items():
        with command.replacing(out / name) as beside:
            if name in texts:
                beside.write_text(content)
            else:
                content.savefig(beside, dpi=100, metadata={"Software": None})
    print(f"{out}: " + ", ".join([*written, "console.csv", *texts, *figures]))
    return 0


if __name__ == "__main__":
    command.run(main)
