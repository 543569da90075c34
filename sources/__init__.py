"""Where pictures come from, one module each, with a function `load` that gives a `Dataset`."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

Shape = tuple[int, int, int]  # (height, width, channels)


class Dataset(NamedTuple):
    """Pictures in uint8 and, where they are known, their classes."""

    name: str
    images: np.ndarray  # (n, height, width, channels) uint8
    labels: np.ndarray | None  # (n,) int64, index into `classes`
    classes: list[str]


def cache_home() -> Path:
    """The folder of everything that is computed once: `$XDG_CACHE_HOME/dcgan_keras` or `~/.cache/dcgan_keras`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dcgan_keras")
