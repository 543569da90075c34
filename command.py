"""What every command of this project shares: arguments, errors as one line and an exit code, files that are whole."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

WINDOWS = os.name == "nt"


class InputError(ValueError):
    """The user's input cannot be used. The text is one line: what is wrong and what to do (exit code 2)."""


class RunError(RuntimeError):
    """A command has to stop for another reason than its input. The text is one line (exit code 1)."""


class Parser(argparse.ArgumentParser):
    """argparse, with one line for a wrong argument instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def at_least(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `minimum`, nor above `maximum`."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{number} is below {minimum}")
        if maximum is not None and number > maximum:
            raise argparse.ArgumentTypeError(f"{number} is above {maximum}")
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


def printable(text: str) -> str:
    """`text`, for example a file name in any encoding, made safe to print on one line of any terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# Files.


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; what was written there is synced and takes the name `path`.

    So a file is the old one or the new one, whole, whatever happens in between. The suffix is kept, because libraries
    choose a format by it.
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


def _sync(path: Path) -> None:
    if WINDOWS and path.is_dir():  # Windows does not open folders
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # Windows syncs only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Signals and exit codes.


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


class Stop:
    """Within it, SIGINT and SIGTERM are remembered in `signal`; a second one ends the process at once."""

    def __enter__(self):
        self.signal = 0
        self.before = {number: signal.signal(number, self.remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def remember(self, number, frame):
        if self.signal:
            os._exit(128 + number)  # harmless: a file is the old one or the new one, whole
        self.signal = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
