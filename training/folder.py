"""Files: whole or not there, numbered by step, in a folder that belongs to one run, and room for them on the disk."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from command import WINDOWS, InputError, RunError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None


def clear_partial(folder: Path) -> None:
    """Remove what a killed process left of `replacing` in a folder that no other process writes to."""
    for beside in folder.glob(".partial-*"):
        beside.unlink(missing_ok=True)


def sha256(file: BinaryIO) -> "hashlib._Hash":
    """The SHA-256 of a file from the current position to its end."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest


# The folder of a run.


def numbered(out: Path, name: str, suffix: str) -> list[Path]:
    """The files {name}_{step}.{suffix} in `out` by step; from 1,000,000 on, the names do not sort by step."""
    paths = [path for path in out.glob(f"{name}_*.{suffix}") if path.stem.removeprefix(f"{name}_").isdecimal()]
    return sorted(paths, key=step_of)


def step_of(path: Path) -> int | None:
    """The step in a file's name, None where it has none."""
    step = path.stem.rpartition("_")[2]
    return int(step) if step.isdecimal() else None


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints in `out`, the oldest first."""
    return numbered(out, "checkpoint", "h5")


def last_checkpoint(out: Path) -> str:
    kept = checkpoints(out)
    return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what a full disk, or a folder that is gone or read-only, raises in any library into one `RunError`."""
    from tf1 import tf  # here: readers of files do without TensorFlow

    try:
        yield
    except RunError:
        raise
    except (OSError, RuntimeError, tf.errors.OpError) as error:  # h5py reports a full disk by either of the first two
        if isinstance(error, tf.errors.ResourceExhaustedError) and error.op is not None:
            raise  # memory, not the disk
        found = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(found[1]) if found else 0)
        reason = os.strerror(number) if number else one_line(error)
        raise RunError(f"{out} can no longer be written ({reason}); {last_checkpoint(out)}") from error


def check_room(folder: Path, needed: int) -> None:
    """Raise OSError where `needed` bytes do not fit on the folder's disk."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it. The operating system drops the lock of a killed run.

    Raises InputError where the folder cannot be written or another run has it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    try:
        try:
            _lock(descriptor)
            if not os.path.samestat(os.fstat(descriptor), os.stat(out / ".lock")):
                raise BlockingIOError  # another run's --restart has just renamed this folder
        except (BlockingIOError, FileNotFoundError):
            raise InputError(f"another run is writing to {out}: give this one another --out") from None
        clear_partial(out)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Raises BlockingIOError where another process has the lock. A system with neither module goes without locks."""
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error


def check_name(out: Path) -> None:
    """Raise InputError where the folder's path does not end in its name, and so cannot be another one's."""
    if out.name in ("", ".."):
        raise InputError(f"--out {out} would have to be renamed: name the folder from outside of it")


def set_aside(out: Path, successor: Path | None = None) -> Path:
    """Rename the folder of a run to the first free name of {out}.1, {out}.2, ..., which is returned.

    successor: a folder that takes the name `out` instead. Raises InputError where the folder cannot be renamed.
    """
    check_name(out)
    kept = next(path for n in range(1, 10**6) if not (path := out.with_name(f"{out.name}.{n}")).exists())

    def rename():
        try:
            out.rename(kept)
            if successor:
                successor.rename(out)
        except OSError as error:
            raise InputError(f"{out} cannot be renamed to {kept}: {error.strerror}") from error

    with locked(out):
        if not WINDOWS:  # which does not rename a folder with an open file, such as the lock
            rename()
    if WINDOWS:
        rename()
    print(f"what was in {out} is in {kept} now")
    return kept


def copy(path: Path, folder: Path) -> None:
    """The file in another folder, as a hard link where the file system has them: files of a run are replaced, not
    changed."""
    try:
        os.link(path, folder / path.name)
    except OSError:
        shutil.copy2(path, folder / path.name)
