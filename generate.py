"""Use a trained generator: pictures from saved weights, and its export.

    python generate.py --weights samples/cifar10_generator.h5               a grid of 64 samples
    python generate.py walk --weights FILE --seeds 3,14,15                  from one sample to the next
    python generate.py --help                                               what else there is

Every sample has a seed, and seed k always stands for the same noise, so a tile of a grid can be made again alone.
"""

import argparse
import contextlib
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import command
import models
from command import InputError, RunError
from tf1 import keras, session_config, tf
from training import pictures
from training.generator import Generator, digest, load_generator, to_uint8
from training.noise import noise_of

MOST_SEEDS = 10_000
MOST_FRAMES = 2000  # of a walk: its strip has them all, 100 MB of 128x128 pixels
LARGEST = 2048  # pixels, of --size: about 2 GB of memory


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical linear interpolation from `a` (t = 0) to `b` (t = 1), vectors of one shape.

    A straight line between two normal vectors passes through lengths that G has never seen; this goes along the sphere.
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


# What can be made. Each command returns the files it wrote.


def grid(generator: Generator, arguments) -> list[Path]:
    images = generator.pictures(generator.noise(arguments.seeds), arguments.label)
    scale = pictures.scale_for(images.shape[1])
    if arguments.numbers:
        images, scale = pictures.numbered(images, arguments.seeds, scale), 1
    columns = arguments.columns and min(arguments.columns, len(images))
    picture = pictures.grid(images, columns, scale)
    return [save(picture, arguments.out, generator, arguments)]


def single(generator: Generator, arguments) -> list[Path]:
    images = generator.pictures(generator.noise(arguments.seeds), arguments.label)
    return [
        save(pictures.grid(image[np.newaxis]), arguments.out / f"seed_{seed:06d}.png", generator, arguments, [seed])
        for seed, image in zip(arguments.seeds, images, strict=True)
    ]


def walk(generator: Generator, arguments) -> list[Path]:
    """A strip with a row for each leg, both ends in it, and the same as a GIF."""
    points = generator.noise(arguments.seeds)
    if arguments.loop:
        points = np.concatenate([points, points[:1]])
    if len(points) < 2:
        raise InputError("a walk needs at least two --seeds")
    if (len(points) - 1) * arguments.frames > MOST_FRAMES:
        raise InputError(f"a walk has at most {MOST_FRAMES} frames: take fewer --frames or --seeds")
    steps = np.linspace(0, 1, arguments.frames)
    latents = [slerp(a, b, t) for a, b in itertools.pairwise(points) for t in steps]
    images = generator.pictures(np.stack(latents), arguments.label)
    scale = pictures.scale_for(images.shape[1])
    strip = save(pictures.grid(images, arguments.frames, scale), arguments.out, generator, arguments)
    # The end of each leg is the beginning of the next; only the very last picture, unless in a loop, is not shown yet.
    last_of_all = not arguments.loop
    kept = (i for i in range(len(images)) if (i + 1) % arguments.frames or (last_of_all and i + 1 == len(images)))
    frames = (pictures.grid(images[i : i + 1], scale=4 * scale) for i in kept)  # one at a time in memory
    film = arguments.out.with_suffix(".gif")
    pictures.save_gif(frames, film, milliseconds=100, last=1000 if last_of_all else 100)
    return [strip, film]


def arithmetic(generator: Generator, arguments) -> list[Path]:
    """Laid out like a sum on paper: a row for each mean, its samples before it, and the result under the means.

    Source: Radford et al. 2015, section 6.3.2 (vector arithmetic on the mean of several samples' noise).
    """
    rows = [arguments.mean, arguments.minus, arguments.plus]
    columns = max(map(len, rows)) + 1
    means = [generator.noise(seeds).mean(axis=0) for seeds in rows]
    latents = [*means, means[0] - means[1] + means[2]]
    results = generator.pictures(np.stack(latents), arguments.label)
    canvas = np.zeros((4, columns, *results.shape[1:]), np.uint8)
    canvas[:, -1] = results
    for row, seeds in zip(canvas, rows, strict=False):
        row[: len(seeds)] = generator.pictures(generator.noise(seeds), arguments.label)
    picture = pictures.grid(canvas.reshape(-1, *results.shape[1:]), columns, pictures.scale_for(results.shape[1]))
    return [save(picture, arguments.out, generator, arguments)]


def classes(generator: Generator, arguments) -> list[Path]:
    """A row for each class with its name, a column for each seed."""
    number = generator.classes
    if not number:
        raise InputError(f"{generator.name} has no classes: `classes` is for class-conditional models")
    latents = generator.noise(arguments.seeds)
    labels = np.repeat(np.arange(number), len(latents))
    images = generator.pictures(np.tile(latents, (number, *[1] * (latents.ndim - 1))), labels)
    picture = pictures.named_rows(images, generator.names, len(latents), pictures.scale_for(images.shape[1]))
    return [save(picture, arguments.out, generator, arguments)]


def larger(generator: Generator, arguments) -> list[Path]:
    """A picture of any size that a fully convolutional generator reaches, from a grid of noise in place of a vector."""
    convolutions = fully_convolutional(generator)
    height, width = arguments.size
    shape = (noise_size(generator, convolutions, height), noise_size(generator, convolutions, width))
    noise = noise_of(arguments.seed, (*shape, *generator.latent))[np.newaxis]
    output = overlapping(convolutions[0], tf.constant(noise))
    for layer in convolutions[1:]:
        output = layer(output, training=False) if takes_training(layer) else layer(output)
    image = to_uint8(keras.backend.get_session().run(output), generator.pixels)
    return [save(pictures.grid(image), arguments.out, generator, arguments, [arguments.seed])]


CONVOLUTIONAL = (
    *(keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.UpSampling2D, keras.layers.BatchNormalization),
    *(keras.layers.Activation, keras.layers.LeakyReLU, keras.layers.ReLU, keras.layers.Dropout),
)


def fully_convolutional(generator: Generator) -> list[keras.layers.Layer]:
    """The layers after the one that makes a 1x1 picture of the noise; they do the same at every place of a picture."""
    layers = generator.model.layers
    if not isinstance(generator.model, keras.Sequential) or len(generator.latent) != 1:
        raise InputError(
            f"{generator.name} is not one sequence of layers: --size needs a fully convolutional generator"
        )
    first, rest = layers[0], layers[1:]
    if not (isinstance(first, keras.layers.Reshape) and first.target_shape == (1, 1, *generator.latent)):
        raise InputError(f"{generator.name} begins with {first.name}: --size needs a fully convolutional generator")
    linear = keras.activations.linear
    if not (rest and isinstance(rest[0], keras.layers.Conv2DTranspose) and rest[0].activation is linear):
        raise InputError(f"{generator.name} does not begin with a transposed convolution: --size needs one")
    for layer in rest:
        if not isinstance(layer, CONVOLUTIONAL):
            raise InputError(f"{generator.name} has {layer.name}: --size needs a fully convolutional generator")
    return rest


def noise_size(generator: Generator, convolutions: list[keras.layers.Layer], size: int) -> int:
    """How much noise makes `size` pixels, along one side. Raises `InputError` where nothing does."""

    def pixels(noise):
        shape = (None, noise, noise, *generator.latent)
        for layer in convolutions:
            shape = tuple(layer.compute_output_shape(shape))
        return shape[1]

    least, step = pixels(1), pixels(2) - pixels(1)
    if size < least or (size - least) % step:
        raise InputError(
            f"{generator.name} makes {least} pixels and any multiple of {step} more, but not {size}: --size"
        )
    return 1 + (size - least) // step


def overlapping(layer: keras.layers.Conv2DTranspose, noise: tf.Tensor) -> tf.Tensor:
    """The first layer on a grid of noise, with the variance that it has on a single vector.

    Every place is the sum of as many kernels as overlap there, 4x4 of them in the article's G; what follows was trained
    on one. A sum of n independent parts has n times the variance, so it is divided by the root of n.
    """
    kernel = tf.ones((*layer.kernel_size, 1, 1))
    shape = (1, *layer.compute_output_shape(noise.shape.as_list())[1:3], 1)
    parts = tf.nn.conv2d_transpose(tf.ones_like(noise[..., :1]), kernel, shape, layer.strides, layer.padding.upper())
    bias = layer.bias if layer.use_bias else 0.0
    return (layer(noise) - bias) / tf.sqrt(tf.maximum(parts, 1)) + bias


def takes_training(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Dropout))


def export(generator: Generator, arguments) -> list[Path]:
    """A TF SavedModel whose signature "serving_default" is noise (n, *latent) float32 -> images uint8.

    A class-conditional generator takes a label (n, 1) int32 too.
    """
    low, high = generator.pixels
    scaled = tf.round((generator.output - low) / (high - low) * 255)  # as `data.unscale`
    inputs = dict(zip(["label", "noise"][-len(generator.inputs) :], generator.inputs, strict=True))
    outputs = {"images": tf.cast(tf.clip_by_value(scaled, 0, 255), tf.uint8)}
    with new_folder(arguments.out) as partial:
        try:
            tf.saved_model.simple_save(keras.backend.get_session(), str(partial), inputs, outputs)
        except tf.errors.OpError as error:  # a full disk is an OSError in Python, but this in TensorFlow
            raise RunError(f"--out {arguments.out} could not be written: {error.message}") from error
    return [arguments.out]


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder's name beside `path` to write to, which takes the name `path` when all went well."""
    if path.exists():
        raise InputError(f"{path} exists already: give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save(picture: Image.Image, path: Path, generator: Generator, arguments, seeds: list[int] | None = None) -> Path:
    """Save a picture with the settings that make it again."""
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
        if int(last) - int(first) + len(numbers) >= MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"these are more than {MOST_SEEDS} seeds")
        numbers += range(int(first), int(last) + 1)
    return numbers


def size(text: str) -> tuple[int, int]:
    """An argparse type: "96" or "64x96" as (height, width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 9 and 0 < int(side) <= LARGEST for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at most {LARGEST}, such as 96 or 64x96")
    return int(sides[0]), int(sides[-1])


def parse(given: Sequence[str] | None = None):
    given = list(sys.argv[1:] if given is None else given)
    parser = command.Parser(
        prog="generate.py",
        description="Pictures from a trained generator, and its export. Without a command: grid.",
        epilog="`generate.py COMMAND --help` lists the options of a command.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add_command(function, what, out, help_out="where to write it (%(default)s)"):
        sub = commands.add_parser(function.__name__, help=what, description=what[0].upper() + what[1:] + ".")
        sub.set_defaults(function=function, label=0)
        sub.add_argument("--weights", type=Path, required=True, metavar="FILE", help="a generator's weights (.h5)")
        sub.add_argument("--model", choices=models.MODELS, help="default: the run's, or that which the weights fit")
        sub.add_argument("--out", type=Path, default=Path("samples/generated", out), help=help_out)
        return sub.add_argument

    def add_seeds(add, default):
        add("--seeds", type=seeds, default=seeds(default), metavar="LIST", help=f"as 0-63 or 3,7,12 ({default})")

    def add_class(add):
        add("--class", dest="label", type=command.at_least(0), default=0, metavar="K", help="of models that have (0)")

    add = add_command(grid, "a grid of samples", "grid.png")
    add_seeds(add, "0-63")
    add_class(add)
    add("--columns", type=command.at_least(1), metavar="N", help="default: about square")
    add("--numbers", action="store_true", help="write each sample's seed below it")

    add = add_command(single, "samples, each in a file of its own", "single", "the folder (%(default)s)")
    add_seeds(add, "0-63")
    add_class(add)

    add = add_command(walk, "a walk from sample to sample, as a strip and as a GIF beside it", "walk.png")
    add_seeds(add, "0-3")
    add_class(add)
    add("--frames", type=command.at_least(2), default=12, metavar="N", help="from sample to sample (%(default)s)")
    add("--loop", action="store_true", help="come back to the first")

    add = add_command(arithmetic, "mean of some samples - mean of others + mean of others", "arithmetic.png")
    for name in ("mean", "minus", "plus"):
        text = "seeds, picked off `grid --numbers`, as 3,7,12"
        add(f"--{name}", type=seeds, required=True, metavar="LIST", help=text)
    add_class(add)

    add = add_command(classes, "a row of samples for each class, with its name", "classes.png")
    add_seeds(add, "0-9")

    add = add_command(larger, "a larger picture, from a fully convolutional model", "larger.png")
    add("--size", type=size, required=True, metavar="HxW", help="pixels, as 96 or 64x96")
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="default: %(default)s")

    add_command(export, "a TensorFlow SavedModel: noise -> images (uint8)", "saved_model", "the folder (%(default)s)")

    named = given and (given[0] in commands.choices or given[0] in ("-h", "--help") or not given[0].startswith("-"))
    return parser.parse_args(given if named else ["grid", *given])


def main(given: Sequence[str] | None = None) -> None:
    arguments = parse(given)
    if arguments.out.suffix.lower() != ".png" and arguments.function not in (single, export):
        raise InputError(f"--out {arguments.out} is a picture: give it a name that ends in .png")
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
