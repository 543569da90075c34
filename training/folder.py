"""The folder of a run: what its files are called, who may write to it, and run.json."""

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from command import WINDOWS, InputError, RunError, one_line, replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None

# Why a file cannot be written: the disk, the folder, the user's limits, or a network file system that is gone.
UNWRITABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.EFBIG)
UNWRITABLE += tuple(getattr(errno, name) for name in ("EDQUOT", "ESTALE", "ENOTCONN") if hasattr(errno, name))


def step_of(path: Path) -> int | None:
    """The step in a file's name; None where it has none."""
    step = path.stem.rpartition("_")[2]
    return int(step) if step.isdecimal() else None


def numbered(folder: Path, name: str, suffix: str) -> list[Path]:
    """The files {name}_{step}.{suffix} in a folder by step. From step 1,000,000 on, their names do not sort by step."""
    paths = [path for path in folder.glob(f"{name}_*.{suffix}") if path.stem.removeprefix(f"{name}_").isdecimal()]
    return sorted(paths, key=step_of)


def read_run(folder: Path) -> dict | None:
    """What run.json in the folder of a run says; None where there is none.

    Raises InputError where it is not a JSON object.
    """
    path = Path(folder, "run.json")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(run, dict):
        raise InputError(f"{path} is not a JSON object")
    return run


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def checkpoints(self) -> list[Path]:
        """The checkpoints by step, without the suffixes of their files, as `tf.train.Saver` names them."""
        return [path.with_suffix("") for path in numbered(self.path, "checkpoint", "index")]

    def state(self, step: int | None) -> Path:
        """The training state of a step, or with None the last checkpoint. Raises InputError where there is none."""
        checkpoints = self.checkpoints()
        states = [*(path.with_suffix("") for path in numbered(self.path, "state", "index")), *checkpoints]
        if step is None and checkpoints:
            return checkpoints[-1]
        by_step = {step_of(path): path for path in states}
        if step not in by_step:
            known = f"it has {', '.join(map(str, sorted(by_step)))}" if by_step else "it has none"
            what = "checkpoint" if step is None else f"training state of step {step} (--keep-checkpoints keeps them)"
            raise InputError(f"{self} has no {what}; {known}")
        return by_step[step]

    def last_checkpoint(self) -> str:
        kept = self.checkpoints()
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"

    def check_identity(self, identity: dict) -> None:
        """Raise InputError where the run in the folder has other settings or other data."""
        run = read_run(self.path)
        if run is None:
            raise InputError(f"{self} has checkpoints but no run.json: give another --out, or --restart")
        for name, value in identity.items():
            if run.get(name) != value:
                raise InputError(
                    f"{self} was made with {name.replace('_', ' ')} {_shortened(run.get(name))}, not "
                    f"{_shortened(value)}: run it with that, or give another --out or --restart"
                )

    def check_room(self, needed: int) -> None:
        """Raise InputError where a run's files, `needed` bytes, do not fit on the disk."""
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise InputError(
                f"the run's checkpoints and weights need {needed / 2**30:.2f} GiB, and the disk of {self} has "
                f"{free / 2**30:.2f} GiB free: make room, or give another --out"
            )

    def write_run(self, run: dict) -> None:
        """Write run.json: the settings of a run, what it was made with, and how far it is."""
        with replacing(self / "run.json") as partial:
            partial.write_text(json.dumps(run, indent=1, default=str) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def locked(self, restart: bool = False) -> Iterator[None]:
        """Make the folder and keep other runs out of it. The operating system drops the lock of a killed run.

        restart: the folder as it is gets another name first. Raises InputError where the folder cannot be written, or
        another run has it.
        """
        if restart and self.path.exists():
            with self._lock():
                if not WINDOWS:  # which does not rename a folder with an open file in it
                    self._set_aside()
            if WINDOWS:
                self._set_aside()
        with self._lock():
            self._remove_partial()
            yield

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self / ".lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise InputError(f"--out {self} cannot be written: {error.strerror}") from error
        try:
            if self._taken(descriptor):
                raise InputError(f"another run is writing to {self}: give this one another --out")
            yield
        finally:
            os.close(descriptor)

    def _taken(self, lock: int) -> bool:
        """Lock the file of this descriptor; returns whether another run has it."""
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt:
                msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
            return not os.path.samestat(os.fstat(lock), os.stat(self / ".lock"))  # another has renamed the folder
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.ENOENT):
                return True
            reason = f"{self} cannot be locked ({error.strerror})"  # as on some network file systems
            print(f"warning: {reason}: start no second run in it", file=sys.stderr)
            return False

    def _set_aside(self) -> None:
        """Rename the folder to the first free name of {folder}.1, {folder}.2, ..."""
        path = self.path.resolve()
        kept = next(new for n in range(1, 10**6) if not (new := path.with_name(f"{path.name}.{n}")).exists())
        try:
            path.rename(kept)
        except OSError as error:
            raise InputError(f"{self} cannot be renamed to {kept}: {error.strerror}") from error
        print(f"what was in {self} is now in {kept}")

    def _remove_partial(self) -> None:
        """Remove what a killed process has left of files that were not whole yet."""
        for path in (*self.path.glob(".partial-*"), *self.path.glob("*_temp*"), *self.path.glob("*.tempstate*")):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        whole = {path.stem for path in self.path.glob("*.index")}
        for path in self.path.glob("*.data-*-of-*"):
            if path.stem not in whole:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what a full disk, or a folder that is gone or read-only, raises in any library into one RunError."""
        from tf1 import tf  # here: who only reads a folder does without TensorFlow

        try:
            yield
        except RunError:
            raise
        except (OSError, RuntimeError, tf.errors.OpError) as error:
            reason = _reason(error)
            if reason is None:  # another fault, such as a lack of memory
                raise
            raise RunError(f"{self} can no longer be written ({reason}); {self.last_checkpoint()}") from error


def _reason(error: Exception) -> str | None:
    """Why a file could not be written, in the system's words; None where the error is not about a file."""
    if getattr(error, "errno", None):
        return os.strerror(error.errno)
    if found := re.search(r"errno = (\d+)", str(error)):  # in what h5py raises
        return os.strerror(int(found[1]))
    return next((reason for reason in map(os.strerror, UNWRITABLE) if reason in str(error)), None)  # TensorFlow's


def _shortened(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if isinstance(value, dict):  # a file of the user's
        text = " ".join(map(str, value.values()))
    return text if len(text) <= 100 else f"{text[:99]}…"
