"""Every figure of the article, made again from a run, finished or not, or from what is committed under samples/.

python -m reproduce.figures --run samples/cifar10 --out figures

gan_cifar_32.png                    samples as the article shows them; in true contrast and colours:
gan_cifar_32_true_contrast.png
gan_concept.svg, one_pass.svg, two_model.svg    the diagrams, read from the graphs that really run
losses.png                          both losses
quality.png                         the table of `reproduce.evaluate`, over steps
speed.png                           the table of `reproduce.benchmark`: one pass against two models
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
import pictures
import training
from command import InputError
from reproduce import diagrams, evaluate
from tf1 import keras, session_config, tf

TILES, COLUMNS, SCALE = 31, 7, 3  # of the article's figure
SAMPLES = Path("samples")  # what is committed


def article_layout(images: np.ndarray) -> Image.Image:
    """31 tiles in rows of seven, a black pixel to the right of and below each, enlarged three times.

    images: (31 or more, height, width, 3) uint8. The picture in the article's figure measures just so, 693 by 495.
    """
    with_gaps = np.pad(images[:TILES], ((0, 0), (0, 1), (0, 1), (0, 0)))
    return pictures.grid(with_gaps, columns=COLUMNS, scale=SCALE, gap=0)


def samples(weights: Path, model: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """31 samples, (31, height, width, 3) uint8, as the article shows them and as they are.

    The author's program shows 0.5 x + 0.5, so what is trained on [-0.5, 0.5] has half its contrast; and it hands RGB to
    OpenCV's window, which takes it for BGR, so red and blue change places.
    """
    pair = models.MODELS[model]
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        generator = pair.generator()
        shown, true = (
            evaluate.sampler(sess, generator, pixels, TILES, seed, batch_statistics=False)(weights)
            for pixels in ((-1, 1), pair.pixels)
        )
    return shown[..., ::-1], true


def read_diagrams(model: str) -> dict[str, Figure]:
    """The three diagrams by name, of the networks of `model`."""
    from two_model import two_model

    pair = models.MODELS[model]
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


def chart(ylabel: str, xlabel: str = "step") -> tuple[Figure, object]:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def losses_chart(path: Path) -> Figure:
    """Both losses of a losses.csv: each step's, pale, and their running mean."""
    rows = np.array(list(training.read_losses(path)))
    if not len(rows):
        raise InputError(f"{path} has no losses; name the folder of a run with --run")
    steps, window = rows[:, 0], max(1, len(rows) // 100)
    figure, axes = chart("loss")
    for column, name, colour in ((1, "D_loss", "#c65911"), (2, "G_loss", "#2468a8")):
        axes.plot(steps, rows[:, column], color=colour, alpha=0.15, linewidth=0.4, rasterized=True)
        mean = np.convolve(rows[:, column], np.full(window, 1 / window), "valid")
        axes.plot(steps[window - 1 :], mean, color=colour, label=f"{name}, mean of {window} steps")
    axes.set_ylim(0, np.quantile(rows[:, 1:], 0.999))
    axes.legend(loc="upper left")
    return figure


def quality_chart(path: Path) -> Figure:
    """Quality over steps from the table of `reproduce.evaluate`; dotted, the same of real pictures."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        floor = next(row for row in rows if not row["step"])
        rows = sorted((row for row in rows if row["step"]), key=lambda row: int(row["step"]))
        steps = [int(row["step"]) for row in rows]
        columns = {name: [float(row[name]) for row in [floor, *rows]] for name in ("frechet", "precision", "recall")}
    except (KeyError, ValueError, TypeError, StopIteration) as error:
        raise InputError(f"{path} is no table of reproduce.evaluate; make it with its --out") from error
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    titles = ("Fréchet distance (less is better)", "precision and recall (more is better)")
    for axes, names, title in zip(figure.subplots(1, 2), (("frechet",), ("precision", "recall")), titles, strict=True):
        for name, colour in zip(names, ("#2468a8", "#c65911"), strict=False):
            axes.plot(steps, columns[name][1:], "o-", color=colour, label=name)
            axes.axhline(columns[name][0], color=colour, linestyle=":", label=f"{name} of real pictures")
        axes.set(title=title, xlabel="step", xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


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
        raise InputError(f"{path} is no JSON of reproduce.benchmark; make it with its --json") from error
    variants = list(dict.fromkeys(variant for (_, variant), *_ in bars))
    figure, axes = chart("", xlabel="steps per second (median, least and most)")
    figure.set_size_inches(8, 1 + 0.4 * len(bars))
    labels = []
    for row, ((size, variant), median, least, most) in enumerate(bars):
        colour = f"C{variants.index(variant)}"
        axes.barh(row, median, xerr=[[median - least], [most - median]], color=colour, capsize=3)
        labels.append(f"{variant}, batch {size}")
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    return figure


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="python -m reproduce.figures", description="Make every figure of the article again.")
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR", help="the folder of a run (default: what is committed under samples/)")
    add("--weights", type=Path, metavar="FILE", help="of the generator (default: the newest of the run)")
    add("--quality", type=Path, metavar="FILE.csv", help="of reproduce.evaluate (samples/cifar10_quality.csv)")
    add("--benchmark", type=Path, metavar="FILE.json", help="of reproduce.benchmark (samples/benchmark.json)")
    add("--model", choices=models.MODELS, default="article", help="the networks of the run (%(default)s)")
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="of the samples' noise (%(default)s)")
    add("--out", type=Path, default=Path("figures"), metavar="DIR", help="where the figures go (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    run, out = arguments.run, arguments.out
    weights = arguments.weights or (run / "generator.h5" if run else SAMPLES / "cifar10_generator.h5")
    losses = run / "losses.csv" if run else SAMPLES / "cifar10_losses.csv"
    for path in (weights, losses, arguments.quality, arguments.benchmark):
        if path and not path.is_file():
            raise InputError(f"there is no {path}; name the folder of a run with --run")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}") from error

    shown, true = samples(weights, arguments.model, arguments.seed)
    pictures.save_png(article_layout(shown), out / "gan_cifar_32.png")
    pictures.save_png(article_layout(true), out / "gan_cifar_32_true_contrast.png")
    figures = {f"{name}.svg": figure for name, figure in read_diagrams(arguments.model).items()}
    figures["losses.png"] = losses_chart(losses)
    for draw, path, option, made_by in (
        (quality_chart, arguments.quality or SAMPLES / "cifar10_quality.csv", "--quality", "reproduce.evaluate"),
        (speed_chart, arguments.benchmark or SAMPLES / "benchmark.json", "--benchmark", "reproduce.benchmark"),
    ):
        name = draw.__name__.removesuffix("_chart")
        if path.is_file():
            figures[f"{name}.png"] = draw(path)
        else:
            print(f"no {name}.png: there is no {path} ({option}), which {made_by} writes")
    for name, figure in figures.items():
        diagrams.save(figure, out / name)
    print(f"{out}: " + ", ".join(["gan_cifar_32.png", "gan_cifar_32_true_contrast.png", *figures]))
    return 0


if __name__ == "__main__":
    command.run(main)
