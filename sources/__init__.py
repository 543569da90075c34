"""Where images come from, one module each, with a function `load` that gives a `Dataset`."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command import InputError

Shape = tuple[int, int, int]  # (height, width, channels)


class Dataset(NamedTuple):
    """Images in uint8 and, where they are known, their classes."""

    name: str
    images: np.ndarray  # (n, height, width, channels) uint8
    labels: np.ndarray | None  # (n,) int64, index into `classes`
    classes: list[str]
    identity: str | None = None  # of drawn images: what they are drawn from, compared in place of their bytes


def cache_home() -> Path:
    """The folder for what is computed or downloaded once: `$XDG_CACHE_HOME/dcgan_keras` or
    `~/.cache/dcgan_keras`. Raises `InputError` where the user has no home directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dcgan_keras")
    except RuntimeError as error:
        raise InputError("there is no home directory; let XDG_CACHE_HOME name a folder for the cache") from error


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, which is made if it is missing. Files are written there and renamed when they
    are whole. It is removed at the end, as are those of killed processes: nothing was written there for an hour."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(".partial-*"):
        with suppress(FileNotFoundError):  # another process has removed it
            if time.time() - max(path.stat().st_mtime for path in (left, *left.rglob("*"))) > 3600:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder, ignore_cleanup_errors=True) as beside:
        yield Path(beside)
