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
MAX_SIZE = 2048  # pixels of an image's side


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


def size(text: str) -> tuple[int, int]:
    """An argparse type: the height and width of an image in pixels, as in "96" or "64x128" (height x width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 9 and 0 < int(side) <= MAX_SIZE for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at most {MAX_SIZE} pixels, e.g. 96 or 64x128")
    return int(sides[0]), int(sides[-1])


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


# What a person or a system sends to end a job: Ctrl-C, kill, a closed terminal, Slurm's --signal, a limit of CPU time.
ENDING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
    if hasattr(signal, name)
]


@contextlib.contextmanager
def handled(handler: Callable) -> Iterator[None]:
    """Within it, `handler` gets the signals that end a job, but for those that are ignored, as nohup does."""
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: old for number, old in before.items() if old != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Stop:
    """Within it, a signal to end is remembered in `signal`. A second Ctrl-C ends the process at once."""

    def __enter__(self):
        self.signal = 0
        self.handled = handled(self.remember)
        self.handled.__enter__()
        return self

    def remember(self, number, frame):
        if self.signal and number == signal.SIGINT:
            os._exit(128 + number)  # harmless: a file is the old one or the new one, whole
        self.signal = self.signal or number

    def __exit__(self, *error):
        return self.handled.__exit__(*error)


class Console:
    """Stands for sys.stdout or sys.stderr. Once what is behind it is gone, such as a terminal or `head`, all that is
    written goes nowhere. Letters that its encoding lacks are escaped."""

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 (None where the descriptor is closed)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self._try(self.stream.write, text) or len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, function, *arguments):
        try:
            return function(*arguments)
        except OSError:  # closed, or full and not to be waited for
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and leave with its exit code. A signal to end, and an error to act on, become one line."""
    sys.stdout, sys.stderr = Console(sys.stdout), Console(sys.stderr)
    try:
        with handled(_interrupt):
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
        sys.stdout.flush()
        sys.stdout, sys.stderr = sys.stdout.stream, sys.stderr.stream
