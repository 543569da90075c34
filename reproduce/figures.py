"""Every figure of the article, made again from a run, finished or not, or from what is committed under samples/.

python -m reproduce.figures --run samples/cifar10 --out figures

gan_cifar_32.png                    the run's newest samples as the article shows them
gan_cifar_32_true_contrast.png      the same in true contrast and colours
history_010000.png ...              both of the generators kept at about the author's moments, from the same noise
history_strip.png                   a row for each of these states: the progress at a glance
gan_cifar_32_NAME.png               the same of other runs (--others), by the names of their folders
gan_cifar_32_best.png               and of other weights (--best)
console.md, console.csv             the losses on the author's console beside the run's
last_console.md                     and those on the last one beside the other runs', too
losses.png                          both losses
quality.png                         the tables of `reproduce.evaluate`, over steps
speed.png                           the table of `reproduce.benchmark`: one pass against two models
gan_concept.svg, one_pass.svg, two_model.svg    the diagrams, read from the graphs that really run

A run's folder may have only the generators and, in place of losses.csv, the losses_summary.csv of `reproduce.console`.
"""

import csv
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import command
import dcgan_keras
import models
from command import InputError
from reproduce import console, diagrams
from tf1 import keras, session_config, tf
from training import checkpoints, pictures
from training import folder as files
from training.generator import digest, load_generator

TILES, COLUMNS, SCALE = 31, 7, 3  # of the article's figure
STRIP = 10  # tiles in a row of the strip
NEAR = 0.1  # of a step: how far from the author's moment a kept generator may be
SAMPLES = Path("samples")
COMMITTED = SAMPLES / "learning_rate_1e-4"
OTHERS = [SAMPLES / name for name in ("then_smoothing_0.01", "then_smoothing_0", "learning_rate_1e-3")]
ONLY_MEASURED = [SAMPLES / "learning_rate_3e-4"]  # its generators are not kept
QUALITY = "quality.csv"
BEST = SAMPLES / "cifar10_generator.h5"


# Samples.


def article_layout(images: np.ndarray) -> Image.Image:
    """31 tiles in rows of seven, a black pixel to the right of and below each, enlarged three times.

    images: (31 or more, height, width, 1 or 3) uint8. The picture in the article's figure is of this size, 693 by 495.
    """
    with_gaps = np.pad(images[:TILES], ((0, 0), (0, 1), (0, 1), (0, 0)))
    return pictures.grid(with_gaps, columns=COLUMNS, scale=SCALE, gap=0)


def samples(weights: Path, model: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """31 samples, (31, height, width, channels) uint8, as the article shows them and as they are.

    The author's program shows 0.5 x + 0.5, so what is trained on [-0.5, 0.5] has half its contrast; and it gives RGB to
    OpenCV's window, which takes it for BGR, so red and blue are exchanged. Tile k is of seed `seed` + k, and of the
    classes in turn where the generator has classes.
    """
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        generator = load_generator(weights, model)
        noise = generator.noise(range(seed, seed + TILES))
        labels = np.arange(TILES) % max(1, generator.classes)
        shown, true = (generator.pictures(noise, labels, pixels) for pixels in ((-1, 1), generator.pixels))
    return shown[..., ::-1], true


def run_name(folder: Path) -> str:
    """As the figures have it: learning rate 1e-3 for learning_rate_1e-3."""
    return folder.resolve().name.replace("_", " ")


class Run:
    """What the figures need of a run's folder: its losses and its generators by step.

    weights: of the newest generator, if not those of the folder.
    """

    def __init__(self, folder: Path, weights: Path | None = None):
        self.folder, self.name = folder, run_name(folder)
        self.spans = console.read_spans(folder)
        run = checkpoints.read_run(folder) or {}
        end = run.get("step") or max(span.last for span in self.spans)  # losses are written before weights
        self.kept = [(int(path.stem.split("_")[1]), path) for path in files.numbered(folder, "generator", "h5")]
        newest = weights or folder / "generator.h5"
        if weights or (newest.is_file() and (not self.kept or self.kept[-1][0] < end)):
            self.kept.append((end, newest))
        if not self.kept:
            raise InputError(f"{folder} has no generator.h5; name the folder of a run with --run")

    def states(self) -> list[tuple[int, Path]]:
        """The kept generators nearest to the author's moments, and the newest."""
        found = set()
        for moment in console.AUTHOR:
            if moment.step:
                near = min(self.kept, key=lambda kept: abs(kept[0] - moment.step))
                if abs(near[0] - moment.step) <= NEAR * moment.step:
                    found.add(near)
        return sorted(found | {self.kept[-1]})


# Diagrams.


def read_diagrams() -> dict[str, Figure]:
    """The three diagrams by name, of the article's networks."""
    from two_model import two_model

    pair = models.MODELS["article"]
    steps = []
    for recipe in (dcgan_keras.gan, two_model):
        with tf.Graph().as_default():
            networks = pair.generator(), pair.discriminator()
            steps.append(diagrams.read_step(recipe, *networks, losses=dcgan_keras.article_losses))
    one, two = steps
    return {
        "gan_concept": diagrams.concept(one, "The GAN concept"),
        "one_pass": diagrams.architecture(one, "The article's way: both updates in one pass"),
        "two_model": diagrams.architecture(two, "The usual way: two models"),
    }


# Charts.


def charts(size: tuple[float, float], rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches and its charts, row by row; those of a column have one x axis."""
    figure = Figure(figsize=size, layout="constrained")
    found = figure.subplots(rows, columns, sharex="col", squeeze=False).ravel()
    for axes in found:
        axes.grid(alpha=0.3)
    return figure, found


def losses_chart(spans: list[console.Span]) -> Figure:
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
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def quality_chart(tables: dict[str, Path]) -> Figure:
    """Quality over steps, from tables of `reproduce.evaluate` by the name of the run; dotted, that of real pictures."""
    titles = {
        "frechet": "Fréchet distance (less is better)",
        "precision": "precision (more is better)",
        "recall": "recall (more is better)",
    }
    figure, panels = charts((11, 3.8), columns=len(titles))
    read = {run: read_quality(path) for run, path in tables.items()}
    for column, axes in zip(titles, panels, strict=True):
        for run, (_, rows) in read.items():
            axes.plot([step for step, _ in rows], [row[column] for _, row in rows], "o-", ms=4, label=run)
        for real in dict.fromkeys(floor[column] for floor, _ in read.values()):
            axes.axhline(real, color="#777777", linestyle=":", label=f"real pictures: {real:.3g}")
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
    """A table of `reproduce.evaluate`: the numbers of real pictures, and those of generators by step."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        numbers = [{name: float(row[name]) for name in ("frechet", "precision", "recall")} for row in rows]
        floor = next(found for row, found in zip(rows, numbers, strict=True) if not row["step"])
        by_step = [(int(row["step"]), found) for row, found in zip(rows, numbers, strict=True) if row["step"]]
        return floor, sorted(by_step, key=lambda row: row[0])
    except (KeyError, ValueError, TypeError, StopIteration) as error:
        raise InputError(f"{path} is not a table of reproduce.evaluate; make it with its --out") from error


def speed_chart(path: Path) -> Figure:
    """Steps per second by batch size and variant, medians with the range, from the JSON of `reproduce.benchmark`.

    Its form: {"results": {"32": {"article": {"steps_per_second": {"median": 15.1, "min": ..., "max": ...}}, ...}}}.
    """
    try:
        results = json.loads(path.read_text())["results"]
        bars = [
            ((size, variant), *(float(of["steps_per_second"][key]) for key in ("median", "min", "max")))
            for size, variants in results.items()
            for variant, of in variants.items()
        ]
        if not bars:
            raise ValueError
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the JSON of reproduce.benchmark; make it with its --json") from error
    variants = list(dict.fromkeys(variant for (_, variant), *_ in bars))
    figure, (axes,) = charts((8, 1 + 0.4 * len(bars)))
    axes.set_xlabel("steps per second (median, least and most)")
    axes.spines[["top", "right"]].set_visible(False)
    labels = []
    for row, ((size, variant), median, least, most) in enumerate(bars):
        colour = f"C{variants.index(variant)}"
        axes.barh(row, median, xerr=[[median - least], [most - median]], color=colour, capsize=3)
        labels.append(f"{variant}, batch {size}")
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    return figure


# The command.


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="python -m reproduce.figures", description="Make every figure of the article again.")
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR", help="the folder of a run (default: what is committed under samples/)")
    add("--others", type=Path, nargs="+", metavar="DIR", help="of more runs, such as one with a larger learning rate")
    add("--weights", type=Path, metavar="FILE", help="of the newest generator (default: the run's)")
    add("--best", type=Path, metavar="FILE", help="weights of one more generator to show")
    add("--quality", type=Path, nargs="+", metavar="FILE.csv", help="of reproduce.evaluate (the runs' quality.csv)")
    add("--benchmark", type=Path, metavar="FILE.json", help="of reproduce.benchmark (samples/benchmark.json)")
    add("--model", choices=models.MODELS, help="the networks of the run (default: those that the weights fit)")
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="of the first sample's noise (%(default)s)")
    add("--out", type=Path, default=Path("figures"), metavar="DIR", help="where the figures go (%(default)s)")
    return parser.parse_args(arguments)


def sources(arguments) -> tuple[list[Run], dict[str, Path], Path | None]:
    """The runs to show, the tables of quality by the name of the run, and the best generator.

    With --run they are the user's, without it what is committed: never mixed.
    """
    if arguments.run:
        folders, best = [arguments.run, *(arguments.others or [])], arguments.best
        measured = folders
    elif arguments.others:
        raise InputError("--others are shown beside a run: name its folder with --run")
    else:
        folders, best = [COMMITTED, *OTHERS], arguments.best or BEST
        measured = [COMMITTED, *ONLY_MEASURED, *OTHERS]
    for path in (arguments.weights, best, arguments.benchmark, *(arguments.quality or ())):
        if path and not path.is_file():
            raise InputError(f"there is no {path}; name the folder of a run with --run")
    runs = [Run(folders[0], arguments.weights), *map(Run, folders[1:])]
    different([*(run.name for run in runs), "best", "true contrast"])  # of files, too
    tables = arguments.quality or [folder / QUALITY for folder in measured if (folder / QUALITY).is_file()]
    names = [run_name(path.parent if path.name == QUALITY else path.with_suffix("")) for path in tables]
    different(names)
    return runs, dict(zip(names, tables, strict=True)), best


def different(names: list[str]) -> None:
    """Raises InputError where one would replace another."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two of them would be called {name!r}; rename a folder or a table")


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    runs, tables, best = sources(arguments)
    out, run = arguments.out, runs[0]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}") from error
    written = []

    def article_figures(name, weights):
        shown, true = samples(weights, arguments.model, arguments.seed)
        settings = {"weights": digest(weights), "seeds": f"{arguments.seed}-{arguments.seed + TILES - 1}"}
        for file, images in ((f"{name}.png", shown), (f"{name}_true_contrast.png", true)):
            pictures.save_png(article_layout(images), out / file, settings)
            written.append(file)
        return true[:STRIP]

    strip = {}
    for step, weights in run.states():
        newest = (step, weights) == run.kept[-1]
        strip[f"{step:,} steps"] = article_figures("gan_cifar_32" if newest else f"history_{step:06d}", weights)
    for other in runs[1:]:
        step, weights = other.kept[-1]
        strip[f"{other.name}, {step:,}"] = article_figures(f"gan_cifar_32_{other.folder.resolve().name}", weights)
    if best:
        strip["the best"] = article_figures("gan_cifar_32_best", best)
    if len({images.shape for images in strip.values()}) == 1:
        rows = np.concatenate(list(strip.values()))
        picture = pictures.named_rows(rows, list(strip), STRIP, pictures.scale_for(rows.shape[1]))
        pictures.save_png(picture, out / "history_strip.png")
        written.append("history_strip.png")

    compared = console.compared(run.spans)
    console.write_table(compared, out / "console.csv")
    texts = {"console.md": console.markdown(compared)}
    if runs[1:]:
        texts["last_console.md"] = console.last_console({each.name: each.spans for each in runs})
    for name, text in texts.items():
        with command.replacing(out / name) as beside:
            beside.write_text(text)
    print(texts["console.md"])
    written += ["console.csv", *texts]

    figures = {f"{name}.svg": figure for name, figure in read_diagrams().items()}
    figures["losses.png"] = losses_chart(run.spans)
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
    for name, figure in figures.items():
        diagrams.save(figure, out / name)
    print(f"{out}: " + ", ".join([*written, *figures]))
    return 0


if __name__ == "__main__":
    command.run(main)
