"""What every command of this project shares: errors are one line and an exit code, files are whole or not there."""

import argparse
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn


class InputError(ValueError):
    """Something the user gave does not do. The text is one line: what is wrong and what to do (exit code 2)."""


class RunError(RuntimeError):
    """A run cannot go on, through no fault of its input. The text is one line (exit code 1)."""


class Parser(argparse.ArgumentParser):
    """argparse, with one line for a wrong argument instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists what there is)\n")


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `minimum`."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{number} is below {minimum}")
        return number

    return whole_number


def from_to(minimum: float, maximum: float) -> Callable[[str], float]:
    """An argparse type: a number from `minimum` to `maximum`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not minimum <= value <= maximum:  # nor NaN
            raise argparse.ArgumentTypeError(f"{text} is not between {minimum:g} and {maximum:g}")
        return value

    return number


def one_line(error: BaseException) -> str:
    """An exception's text in one printable line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode(errors="backslashreplace").decode()


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and leave with its exit code; errors that a user can act on, SIGINT and SIGTERM become one line."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        sys.exit(main())
    except KeyboardInterrupt as interrupt:
        (number,) = interrupt.args or (signal.SIGINT,)
        print("interrupted", file=sys.stderr)
        sys.exit(128 + number)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except (RunError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; what was written there is synced and takes the name `path`.

    So a file is the old one or the new one, whole, whatever happens in between. The suffix stays, for those who look at
    it.
    """
    beside = path.with_name(f".partial-{path.name}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def clear_partial(folder: Path) -> None:
    """Remove what a killed process left of `replacing` in a folder that no other process writes to."""
    for beside in folder.glob(".partial-*"):
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(file: BinaryIO) -> "hashlib._Hash":
    """The SHA-256 of a file from where it stands to its end."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest
