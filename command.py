"""What every command of this project shares: arguments, errors as one line and an exit code, files that are whole."""

import argparse
import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

WINDOWS = os.name == "nt"
MAX_SIZE = 2048  # pixels of an image's side
STALLED = 10  # seconds to wait for a console that takes no text
# What `fsync` raises where the file system does not have it.
LACKING = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

# Before h5py is loaded: files are written beside and renamed here, so HDF5 need not lock them.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
for _name in ("stdin", "stdout", "stderr"):
    if getattr(sys, _name) is None:  # closed by the caller: the next file would get its descriptor, and its text
        setattr(sys, _name, open(os.devnull, "r" if _name == "stdin" else "w"))  # noqa: SIM115


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
    """Give a name next to `path` to write to; what was written there is synced and takes the name `path`.

    So a file is the old one or the new one, whole, whatever happens in between. The suffix is kept, because libraries
    choose a format by it.
    """
    beside = path.with_name(f".partial-{path.name}")
    try:
        yield beside
        with open(beside, "r+b") as file:  # Windows syncs only what is open for writing
            sync(file.fileno())
        os.replace(beside, path)
        if not WINDOWS:  # which does not open folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                sync(folder)
            finally:
                os.close(folder)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def sync(descriptor: int) -> None:
    """Bring a file or folder to the disk, where the file system can be told to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in LACKING:
            raise


# Signals and exit codes.


# What a person or a system sends to end a job: Ctrl-C, kill, a closed terminal, a batch system's warning (Slurm, Grid
# Engine and LSF let the user choose which), a limit of time, a failing power supply.
ENDING = [
    getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "XCPU", "ALRM", "PWR", "BREAK")
    if hasattr(signal, f"SIG{name}")
]


@contextlib.contextmanager
def handled(handler: Callable) -> Iterator[None]:
    """Within it, `handler` gets the signals that end a job, but for those that are ignored, as nohup does."""
    before = {number: old for number in ENDING if (old := signal.getsignal(number)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def remembered() -> Iterator[Callable[[], int]]:
    """Gives a function that returns the first signal to end that came, or 0. A second Ctrl-C ends the process."""
    came = []

    def remember(number, frame):
        if came and number == signal.SIGINT:
            os._exit(128 + number)  # harmless: a file is the old one or the new one, whole
        came.append(number)

    with handled(remember):
        yield lambda: came[0] if came else 0


class Console:
    """Stands for sys.stdout or sys.stderr, and never ends a run: what cannot be written is dropped.

    Letters that the encoding lacks are escaped. Once what is behind it is gone, such as a terminal or `head`, all goes
    nowhere. Where it takes no text, such as a full pipe, that is waited for once, and then not until it takes some.
    """

    def __init__(self, stream):
        self.stream, self.patience = stream, STALLED
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # so that no more than a line waits

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def leave(self):
        """Write what is left, or drop it, so that Python does not wait for it; returns the stream."""
        self.flush()
        if not self.patience:
            self._drop()
        return self.stream

    def _try(self, function: Callable, *arguments) -> None:
        try:
            if self._takes_text():
                function(*arguments)
        except OSError:
            self._drop()

    def _takes_text(self) -> bool:
        try:
            ready = bool(select.select([], [self.stream], [], self.patience)[1])
        except (OSError, ValueError):  # not a file of the system's; on Windows, not a socket
            return True
        self.patience = STALLED if ready else 0
        return ready

    def _drop(self) -> None:
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
        sys.stdout, sys.stderr = sys.stdout.leave(), sys.stderr.leave()
