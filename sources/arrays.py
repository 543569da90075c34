"""Images in a NumPy file, .npz or .npy. Nothing is unpickled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from command import InputError, one_line, printable
from sources import Dataset

IMAGES = ("x", "images", "x_train", "train_images")  # names in an .npz; otherwise its only other array
LABELS = ("y", "labels", "y_train", "train_labels")


def load(data_dir: str | os.PathLike | None, labelled: bool = False) -> Dataset:
    """The images in the file `data_dir`: (n, height, width), (n, height, width, 1) or (n, height, width, 3), uint8 or
    floats in [0, 1] or [-1, 1]. In an .npz, labels may come with them: (n,) or (n, 1), ints or texts.

    labelled: refuse a file without labels. Raises `InputError`.
    """
    if data_dir is None:
        raise InputError("--dataset arrays needs --data-dir FILE.npz or FILE.npy, a file with images")
    name = printable(str(data_dir))
    if not os.path.isfile(data_dir):
        raise InputError(f"{name} is not a file; --dataset arrays needs --data-dir FILE.npz or FILE.npy")
    with opened(
        Path(data_dir), f"{name} cannot be used", "--dataset arrays reads (n, height, width, channels)"
    ) as file:
        images, labels = (file, None) if isinstance(file, np.ndarray) else _members(file)
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
            raise ValueError(f"their shape is {images.shape}")
        images = _eight_bits(images)
        if labels is None:
            classes = []
        else:
            labels, classes = _classes(labels, len(images))
    if labelled and labels is None:
        raise InputError(f"the model needs classes, and {name} has no array called y or labels")
    return Dataset("arrays", images, labels, classes)


@contextmanager
def opened(file: Path | BinaryIO, wrong: str, advice: str) -> Iterator[np.lib.npyio.NpzFile | np.ndarray]:
    """What np.load makes of a file: an archive, or an array, which is read from a path when it is used.

    Whatever is raised until the end becomes an `InputError`: "`wrong`: reason; `advice`".
    """
    try:
        loaded = np.load(file, mmap_mode="r" if isinstance(file, Path) else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield loaded
        else:
            with loaded:
                yield loaded
    except Exception as error:  # zipfile, zlib and NumPy have no common exception
        raise InputError(f"{wrong}: {printable(one_line(error))}; {advice}") from error


def member(archive: np.lib.npyio.NpzFile | np.ndarray, key: str, limit: float = 2**40) -> np.ndarray:
    """An array of an .npz that takes no more than `limit` bytes, checked before it is unpacked. Raises `ValueError`."""
    if isinstance(archive, np.ndarray) or key not in archive.files:
        raise ValueError(f"it has no array called {key}")
    if archive.zip.getinfo(f"{key}.npy").file_size > limit:
        raise ValueError(f"{key} is too large")
    array = archive[key]
    if not isinstance(array, np.ndarray):  # bytes, where the member is no .npy
        raise ValueError(f"{key} is not an array")
    return array


def _members(archive: np.lib.npyio.NpzFile) -> tuple[np.ndarray, np.ndarray | None]:
    """The images and the labels of an .npz."""
    labels = next((key for key in LABELS if key in archive.files), None)
    others = [key for key in archive.files if key != labels]
    images = next((key for key in IMAGES if key in others), others[0] if len(others) == 1 else None)
    if images is None:
        raise ValueError(f"of its arrays ({', '.join(others[:9])}) none is called x or images")
    return member(archive, images), None if labels is None else member(archive, labels)


def _eight_bits(images: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] or [-1, 1] as uint8; uint8 as it is."""
    if images.dtype == np.uint8:
        return np.asarray(images)
    if images.dtype.kind != "f":
        raise ValueError(f"their type is {images.dtype}, neither uint8 nor floats")
    low, high = images.min(), images.max()
    if not (low >= -1 and high <= 1):  # refuses NaN as well
        raise ValueError(f"their values go from {low:g} to {high:g}: scale them to [0, 1] or [-1, 1], or save uint8")
    low = -1 if low < 0 else 0
    scaled = np.empty(images.shape, np.uint8)
    for target, image in zip(scaled, images, strict=True):  # one at a time: floats take four times the memory
        target[:] = np.rint((image.astype(np.float32) - low) * (255 / (1 - low)))
    return scaled


def _classes(labels: np.ndarray, count: int) -> tuple[np.ndarray, list[str]]:
    """(n,) int64 indices into the sorted classes, and these by name."""
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "biuUS":
        raise ValueError(f"its labels are {labels.dtype} of {labels.shape}, not one int or text for each image")
    classes, indices = np.unique(labels.reshape(count), return_inverse=True)
    return indices.astype(np.int64), [
        printable(os.fsdecode(c) if isinstance(c, bytes) else str(c)) for c in classes.tolist()
    ]
