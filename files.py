"""Files: whole or not there, numbered by step, in a folder that is one run's alone, and the disk's room for them."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from command import InputError, RunError, one_line


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


# The folder of a run.


def numbered(out: Path, name: str, suffix: str) -> list[Path]:
    """The files {name}_{step}.{suffix} in `out` by step, which beyond 999,999 is not the order of their names."""
    steps = {path: path.stem.removeprefix(f"{name}_") for path in out.glob(f"{name}_*.{suffix}")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints in `out`, the oldest first."""
    return numbered(out, "checkpoint", "h5")


def last_checkpoint(out: Path) -> str:
    kept = checkpoints(out)
    return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what a full disk, or a folder that is gone or closed, raises in any library into one `RunError`."""
    from tf1 import tf  # here: readers of files do without TensorFlow

    try:
        yield
    except RunError:
        raise
    except (OSError, RuntimeError, tf.errors.OpError) as error:  # h5py reports a full disk by either of the first two
        found = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(found[1]) if found else 0)
        reason = os.strerror(number) if number else one_line(error)
        raise RunError(f"{out} can no longer be written ({reason}); {last_checkpoint(out)}") from error


def check_room(folder: Path, needed: int) -> None:
    """Raise OSError where `needed` bytes do not fit on the folder's disk."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def locked(out: Path, restart: bool) -> Iterator[None]:
    """Make the folder and keep other runs out of it. The lock is the system's, so a killed run leaves none behind."""
    try:
        if restart and out.exists():
            with locked(out, restart=False):
                kept = next(p for n in range(1, 10**6) if not (p := out.with_name(f"{out.name}.{n}")).exists())
                out.rename(kept)
            print(f"what was in {out} is in {kept} now")
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(out / ".lock")):
                raise BlockingIOError  # another run's --restart has just given this folder another name
        except (BlockingIOError, FileNotFoundError):
            raise InputError(f"another run is writing to {out}: give this one another --out") from None
        clear_partial(out)
        yield
    finally:
        os.close(descriptor)
