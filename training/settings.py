"""The settings of a run: each option of `dcgan_keras.py`, declared once. Nothing here loads TensorFlow."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import command
from data import DATASETS

MODELS = ("article", "mnist", "mnist-plain", "acgan28", "acgan32", "dcgan", "dcgan64", "faces200")
LOSSES = ("article", "minimax", "bce", "lsgan")
DEFAULT_MODEL = {"mnist": "mnist"}  # of the other data sets: article
FROM_PAIR = ("loss", "learning_rate", "beta1", "batch_size")  # a model's own, where the user gives none
# What tells one run from another. A run is resumed only with the same.
IDENTITY = (
    *("model", "source", "shape", "dataset", "flip", "loss", "smoothing", "recipe", "updates"),
    *("learning_rate", "beta1", "batch_size", "seed"),
)


class Interval(NamedTuple):
    """A length as given on the command line: `500` steps, `25epochs` or, for checkpoints, `10min`."""

    number: int
    unit: str = ""  # "", "epochs" or "min"

    def steps(self, per_epoch: int) -> int | None:
        """The length in steps; None for minutes."""
        return None if self.unit == "min" else self.number * (per_epoch if self.unit else 1)


def interval(text: str, units: tuple[str, ...] = ("epochs", "epoch")) -> Interval:
    """An argparse type."""
    unit = next((each for each in units if text.endswith(each)), "")
    try:
        return Interval(command.at_least(1)(text.removesuffix(unit)), "epochs" if unit == "epoch" else unit)
    except argparse.ArgumentTypeError as error:
        minutes = " or minutes, e.g. 10min" if "min" in units else ""
        raise argparse.ArgumentTypeError(f"{error}; give steps, epochs, e.g. 25epochs{minutes}") from None


def number_or_all(text: str) -> int | None:
    """An argparse type: a number of devices, or None for "all"."""
    return None if text == "all" else command.at_least(1)(text)


class Settings(argparse.Namespace):
    """The options of a run by name, as `parse` reads them. `complete` adds what the model and the data set decide."""

    def complete(self, pair, smoothing: float, source: dict[str, str] | None) -> None:
        """Fill in a pair's own settings where the user gave none.

        smoothing: the default of the chosen loss. source: name and SHA-256 of the pair's file, if it is a user's.
        """
        self.shape, self.pixels, self.source = list(pair.shape), pair.pixels, source
        self.model = source["file"] if source else self.model  # the same from wherever it is run
        if self.smoothing is None:
            self.smoothing = pair.smoothing if self.loss == pair.loss else smoothing
        for name in FROM_PAIR:
            if getattr(self, name) is None:
                setattr(self, name, getattr(pair, name))

    def count_steps(self, per_epoch: int) -> None:
        """Turn all lengths into steps."""
        self.per_epoch = per_epoch
        self.steps = self.epochs * per_epoch if self.epochs else self.steps
        for name in ("sample_every", "keep_every"):
            given = getattr(self, name)
            setattr(self, name, given and given.steps(per_epoch))
        every = self.checkpoint_every  # by default, 500 steps or 10 minutes, whichever comes first
        self.checkpoint_minutes = 10 if every is None else every.number if every.unit == "min" else None
        self.checkpoint_every = 500 if every is None else every.steps(per_epoch)

    def identity(self) -> dict:
        return {name: getattr(self, name) for name in IDENTITY}


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line. Exits with code 2 and one line if it is wrong."""
    parser = command.Parser(
        prog="dcgan_keras.py", description="Train a DCGAN, updating both networks in one pass per step."
    )
    every = {"type": interval, "metavar": "N"}

    data = parser.add_argument_group("data").add_argument
    data("--dataset", choices=DATASETS, default="cifar10", help="data set (default: %(default)s)")
    data(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder or file of the data (default: cifar10 and mnist are downloaded)",
    )
    data("--flip", action="store_true", help="mirror a random half of the images; for small collections")
    data("--skip-bad", action="store_true", help="list and leave out images that cannot be read (--dataset folder)")
    data("--check-cache", action="store_true", help="decode the images again (--dataset folder)")

    model = parser.add_argument_group("networks").add_argument
    names = ", ".join(MODELS)
    model(
        "--model",
        metavar="NAME",
        help=f"{names}, or FILE.py with your own pair of networks (default: mnist for --dataset mnist, else article)",
    )
    model(
        "--size", type=command.size, metavar="HxW", help="image size, e.g. 96 or 64x128, for models with several sizes"
    )
    model("--grey", action="store_true", help="train on grey images (one channel)")
    model("--summary", action="store_true", help="print both networks and the settings, and exit")

    training = parser.add_argument_group("training (defaults: the model's)").add_argument
    training("--loss", choices=LOSSES, help="loss function of D and G")
    training("--smoothing", type=command.from_to(0, 0.5), metavar="S", help="label smoothing: real targets are 1 - S")
    training("--learning-rate", type=command.from_to(1e-12, 1), metavar="RATE", help="Adam's learning rate")
    training("--beta1", type=command.from_to(0, 0.999999), metavar="BETA", help="Adam's beta1")
    training("--batch-size", type=command.at_least(1), metavar="N", help="total batch size across devices")
    training(
        "--updates",
        choices=("simultaneous", "alternating"),
        default="simultaneous",
        help="update D and G together, or alternately (default: %(default)s)",
    )
    training(
        "--recipe",
        choices=("one-pass", "two-model"),
        default="one-pass",
        help="the article's step, or the slow recipe that it replaces (default: %(default)s)",
    )
    training(
        "--seed", type=command.at_least(0, 2**32 - 1), default=0, metavar="N", help="random seed (default: %(default)s)"
    )
    training(
        "--devices",
        type=number_or_all,
        default=1,
        metavar="N",
        help="number of GPUs, or all; without GPUs, the CPU is divided into N devices (default: %(default)s)",
    )

    run = parser.add_argument_group("run")
    length = run.add_mutually_exclusive_group().add_argument
    length(
        "--steps",
        type=command.at_least(1),
        default=10000,
        metavar="N",
        help="train up to this step (default: %(default)s)",
    )
    length("--epochs", type=command.at_least(1), metavar="N", help="train up to the end of this epoch")
    add = run.add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: samples/<data set>)")
    add(
        "--sample-every",
        default="500",
        **every,
        help="save a sample grid every N steps, or epochs, e.g. 25epochs (default: %(default)s)",
    )
    add(
        "--checkpoint-every",
        type=partial(interval, units=("epochs", "epoch", "min")),
        metavar="N",
        help="save a checkpoint every N steps, epochs or minutes, e.g. 10min (default: the earlier of 500, 10min)",
    )
    add("--keep-every", **every, help="also keep the generator's weights every N steps, or epochs")
    add("--keep-checkpoints", action="store_true", help="with --keep-every, keep the full training state too")
    add("--start-from", type=Path, metavar="DIR", help="start a new run with the weights of the run in DIR")
    add(
        "--keep-optimizer",
        action="store_true",
        help="with --start-from, continue from the last checkpoint, optimizer included",
    )
    add(
        "--from-step",
        type=command.at_least(1),
        metavar="N",
        help="with --start-from, continue from the state kept at step N",
    )
    add("--restart", action="store_true", help="start over; the old folder is renamed to DIR.1")

    settings = parser.parse_args(arguments, Settings())
    settings.model = settings.model or DEFAULT_MODEL.get(settings.dataset, "article")
    settings.out = settings.out or Path("samples") / settings.dataset
    if settings.model not in MODELS and not settings.model.endswith(".py"):
        parser.error(f"there is no model {settings.model}; choose {names}, or a file that ends in .py")
    if settings.recipe == "two-model" and settings.updates == "alternating":
        parser.error("--updates alternating is for --recipe one-pass; the two-model recipe has its own order")
    if settings.recipe == "two-model" and settings.devices != 1:
        parser.error("--recipe two-model is for one device; --devices is for --recipe one-pass")
    if settings.keep_checkpoints and not settings.keep_every:
        parser.error("--keep-checkpoints needs --keep-every, which says how often")
    for option, path in (("--out", settings.out), ("--start-from", settings.start_from)):
        try:
            str(path).encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8
            parser.error(f"{option} {command.printable(str(path))} is not UTF-8, as TensorFlow needs it")
    if (settings.from_step or settings.keep_optimizer) and not settings.start_from:
        option = "--from-step" if settings.from_step else "--keep-optimizer"
        parser.error(f"{option} needs --start-from, which names the run to go on from")
    return settings
