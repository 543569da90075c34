"""Use a trained generator: images from saved weights, and its export.

    python generate.py --weights samples/cifar10_generator.h5               a grid of 64 samples
    python generate.py walk --weights FILE --seeds 3,14,15                  from one sample to the next
    python generate.py --help                                               all commands

Every sample has a seed, and a seed always stands for the same latent vector: each tile of a grid can be made again.
"""

import argparse
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import command
from command import InputError
from training import pictures

if TYPE_CHECKING:  # TensorFlow takes seconds to load; `main` does it once the arguments are read
    from training.generator import Generator

MAX_SEEDS = 10_000
MAX_FRAMES = 2000  # of a walk: its strip has them all, 100 MB of 128x128 pixels
FRAME = 256  # pixels: a walk's frames are enlarged up to this height


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical linear interpolation from `a` (t = 0) to `b` (t = 1), arrays of one shape.

    A straight line between two normal vectors passes through lengths that G has never seen; this follows the sphere.
    Source: White 2016, "Sampling Generative Networks", section 2.1, after Shoemake 1985. Parallel vectors have no
    sphere between them and are interpolated linearly.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cosine = np.sum(a * b) / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(float).tiny)
    omega = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(omega) < 1e-6:
        mixed = (1 - t) * a + t * b
    else:
        mixed = (np.sin((1 - t) * omega) * a + np.sin(t * omega) * b) / np.sin(omega)
    return mixed.astype(np.float32)


# The commands. Each returns the files it wrote.


def grid(generator: "Generator", arguments) -> list[Path]:
    images = generator.pictures(generator.noise(arguments.seeds), arguments.label)
    scale = pictures.scale_for(images.shape[1])
    if arguments.numbers:
        images, scale = pictures.numbered(images, arguments.seeds, scale), 1
    columns = arguments.columns and min(arguments.columns, len(images))
    return [save(pictures.grid(images, columns, scale), arguments.out, generator, arguments)]


def single(generator: "Generator", arguments) -> list[Path]:
    images = generator.pictures(generator.noise(arguments.seeds), arguments.label)
    return [
        save(pictures.grid(image[np.newaxis]), arguments.out / f"seed_{seed:06d}.png", generator, arguments, [seed])
        for seed, image in zip(arguments.seeds, images, strict=True)
    ]


def walk(generator: "Generator", arguments) -> list[Path]:
    """A strip with a row for each leg, including both ends, and the same as a GIF."""
    points = generator.noise(arguments.seeds)
    if arguments.loop:
        points = np.concatenate([points, points[:1]])
    if len(points) < 2:
        raise InputError("a walk needs at least two --seeds")
    if (len(points) - 1) * arguments.frames > MAX_FRAMES:
        raise InputError(f"a walk has at most {MAX_FRAMES} frames: give fewer --frames or --seeds")
    steps = np.linspace(0, 1, arguments.frames)
    latents = [slerp(a, b, t) for a, b in itertools.pairwise(points) for t in steps]
    images = generator.pictures(np.stack(latents), arguments.label)
    height = images.shape[1]
    strip = pictures.grid(images, arguments.frames, pictures.scale_for(height))
    written = [save(strip, arguments.out, generator, arguments)]
    # Each leg begins where the one before ended, so its last image is left out, except for the last leg of all.
    kept = [
        i for i in range(len(images)) if (i + 1) % arguments.frames or (i + 1 == len(images) and not arguments.loop)
    ]
    frames = (pictures.grid(images[i : i + 1], scale=max(1, FRAME // height)) for i in kept)
    animation = arguments.out.with_suffix(".gif")
    pictures.save_gif(frames, animation, milliseconds=100, last=100 if arguments.loop else 1000)
    return [*written, animation]


def arithmetic(generator: "Generator", arguments) -> list[Path]:
    """Laid out like a sum on paper: a row for each mean, preceded by its samples, and the result below the means.

    Source: Radford et al. 2015, section 6.3.2 (arithmetic on means of latent vectors).
    """
    rows = [arguments.mean, arguments.minus, arguments.plus]
    columns = max(map(len, rows)) + 1
    means = [generator.noise(seeds).mean(axis=0) for seeds in rows]
    results = generator.pictures(np.stack([*means, means[0] - means[1] + means[2]]), arguments.label)
    canvas = np.zeros((4, columns, *results.shape[1:]), np.uint8)
    canvas[:, -1] = results
    for row, seeds in zip(canvas, rows, strict=False):
        row[: len(seeds)] = generator.pictures(generator.noise(seeds), arguments.label)
    tiles = canvas.reshape(-1, *results.shape[1:])
    picture = pictures.grid(tiles, columns, pictures.scale_for(results.shape[1]))
    return [save(picture, arguments.out, generator, arguments)]


def classes(generator: "Generator", arguments) -> list[Path]:
    """A row for each class with its name, a column for each seed."""
    number = generator.classes
    if not number:
        raise InputError(f"{generator.name} has no classes: `classes` is for class-conditional models")
    latents = generator.noise(arguments.seeds)
    labels = np.repeat(np.arange(number), len(latents))
    images = generator.pictures(np.tile(latents, (number, *[1] * (latents.ndim - 1))), labels)
    picture = pictures.named_rows(images, generator.names, len(latents), pictures.scale_for(images.shape[1]))
    return [save(picture, arguments.out, generator, arguments)]


def larger(generator: "Generator", arguments) -> list[Path]:
    """An image of any size that a fully convolutional generator reaches."""
    picture = pictures.grid(generator.larger(arguments.seed, arguments.size))
    return [save(picture, arguments.out, generator, arguments, [arguments.seed])]


def export(generator: "Generator", arguments) -> list[Path]:
    """A TensorFlow SavedModel, written beside and renamed when it is whole."""
    path = arguments.out
    if path.exists():
        raise InputError(f"{path} exists already: give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        generator.export(partial)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [path]


def save(picture: Image.Image, path: Path, generator: "Generator", arguments, seeds: list[int] | None = None) -> Path:
    """Save an image with the settings that make it again."""
    settings = {name: value for name, value in vars(arguments).items() if name in SETTINGS and value is not None}
    if not generator.classes:
        settings.pop("label", None)
    settings |= {"model": generator.name, "weights": arguments.digest}
    if seeds:
        settings["seeds"] = seeds
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_png(picture, path, settings)
    return path


SETTINGS = ("command", "seeds", "seed", "label", "frames", "loop", "mean", "minus", "plus", "size")


# The command line.


def seeds(text: str) -> list[int]:
    """An argparse type: seeds and ranges of them, as in "0-63" or "3,7,12"."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds, such as 0-63 or 3,7,12")
        last = last or first
        if max(len(first), len(last)) > 18 or int(last) < int(first):
            raise argparse.ArgumentTypeError(f"{part!r} is not a range of seeds")
        if int(last) - int(first) + len(numbers) >= MAX_SEEDS:
            raise argparse.ArgumentTypeError(f"these are more than {MAX_SEEDS} seeds")
        numbers += range(int(first), int(last) + 1)
    return numbers


def parse(given: Sequence[str] | None = None):
    given = list(sys.argv[1:] if given is None else given)
    parser = command.Parser(
        prog="generate.py",
        usage="generate.py [COMMAND] --weights FILE [options]",
        description="Make images with a trained generator, or export it. Without a COMMAND: grid.",
        epilog="generate.py COMMAND --help lists the options of a command. All of them need --weights FILE.",
    )
    commands = parser.add_subparsers(prog="generate.py", dest="command", metavar="COMMAND", required=True)

    def add_command(function, what, out, help_out="output file (default: %(default)s)"):
        sub = commands.add_parser(function.__name__, help=what, description=what[0].upper() + what[1:] + ".")
        sub.set_defaults(function=function, label=None)  # unless it has --class
        sub.add_argument("--weights", type=Path, required=True, metavar="FILE", help="a generator's weights, .h5")
        models = "a model's name, or a FILE.py with its networks (default: read from run.json, else inferred from the "
        sub.add_argument("--model", metavar="MODEL", help=models + "weights)")
        sub.add_argument("--out", type=Path, default=Path("samples/generated", out), help=help_out)
        return sub.add_argument

    def add_seeds(add, default):
        text = f"seeds of the samples, e.g. 0-63 or 3,7,12 (default: {default})"
        add("--seeds", type=seeds, default=seeds(default), metavar="LIST", help=text)

    def add_class(add):
        text = "class to generate, for models with classes (default: 0)"
        add("--class", dest="label", type=command.at_least(0), default=0, metavar="K", help=text)

    add = add_command(grid, "a grid of samples", "grid.png")
    add_seeds(add, "0-63")
    add_class(add)
    add("--columns", type=command.at_least(1), metavar="N", help="number of columns (default: an about square grid)")
    add("--numbers", action="store_true", help="write each sample's seed below it")

    add = add_command(single, "one file per sample", "single", "output folder (default: %(default)s)")
    add_seeds(add, "0-63")
    add_class(add)

    what = "interpolation: a row from each sample to the next (PNG), and an animation of it (GIF)"
    add = add_command(walk, what, "walk.png")
    add_seeds(add, "0-3")
    add_class(add)
    frames = "frames from one sample to the next (default: %(default)s)"
    add("--frames", type=command.at_least(2), default=12, metavar="N", help=frames)
    add("--loop", action="store_true", help="return to the first sample")

    what = "arithmetic on latent vectors, e.g. mean(3, 7) - mean(1, 2) + mean(4): the result is at the bottom right"
    add = add_command(arithmetic, what, "arithmetic.png")
    for name, what in {"mean": "mean to start from", "minus": "mean to subtract", "plus": "mean to add"}.items():
        text = f"seeds of the {what}, e.g. 3,7; `grid --numbers` shows them"
        add(f"--{name}", type=seeds, required=True, metavar="LIST", help=text)
    add_class(add)

    add = add_command(classes, "a row of samples for each class, with its name", "classes.png")
    add_seeds(add, "0-9")

    add = add_command(larger, "a larger image, from a fully convolutional model", "larger.png")
    add("--size", type=command.size, required=True, metavar="HxW", help="height and width in pixels, e.g. 96 or 64x96")
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="seed of the image (default: %(default)s)")

    text = "output folder (default: %(default)s)"
    add_command(export, "a TensorFlow SavedModel: latent vectors -> images (uint8)", "saved_model", text)

    named = given and (given[0] in commands.choices or given[0] in ("-h", "--help") or not given[0].startswith("-"))
    return parser.parse_args(given if named else ["grid", *given])


def main(given: Sequence[str] | None = None) -> None:
    arguments = parse(given)
    if arguments.out.suffix.lower() != ".png" and arguments.function not in (single, export):
        raise InputError(f"--out {arguments.out} is an image: give it a name that ends in .png")
    from tf1 import keras, session_config, tf
    from training.generator import digest, load_generator

    with tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        generator = load_generator(arguments.weights, arguments.model)
        arguments.digest = digest(arguments.weights)
        if arguments.label and arguments.label >= generator.classes:
            raise InputError(
                f"{generator.name} has {generator.classes} classes, counted from 0: no --class {arguments.label}"
            )
        try:
            written = arguments.function(generator, arguments)
        except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise InputError(f"--out {arguments.out} cannot be written: {error.strerror}") from error
    print(*written[:3], *(["..."] if len(written) > 3 else []))


if __name__ == "__main__":
    command.run(main)
