"""MNIST and datasets in its formats: Keras' mnist.npz, or the idx files of MNIST, Fashion-MNIST, KMNIST and EMNIST."""

import gzip
import io
import math
import os
import re
from pathlib import Path

import numpy as np

from command import InputError, printable
from sources import Dataset, official
from sources.arrays import member, opened

DOWNLOAD = {
    "origin": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "file_hash": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
}


def load(data_dir: str | os.PathLike | None, split: str) -> Dataset:
    """60,000 images ("train") or 10,000 ("test") of 28x28x1 from `data_dir`/mnist.npz, or those of the idx files in
    `data_dir`, `data_dir`/raw or, as torchvision has them, `data_dir`/MNIST/raw. If `data_dir` is None, from Keras'
    folder or our own, to which they are downloaded. Raises `InputError`."""
    if data_dir is None:
        return official.find("mnist", lambda place: load(place, split), _download)
    path = Path(data_dir, "mnist.npz")
    if os.path.exists(path):
        images, labels = _npz(path, split)
    elif images_file := _idx_file(Path(data_dir), split):
        images, labels = _idx_pair(images_file)
    else:
        prefix = "train" if split == "train" else "t10k"
        raise InputError(
            f"{printable(str(data_dir))} has neither mnist.npz nor {prefix}-images-idx3-ubyte, with or without .gz; "
            "check --data-dir"
        )
    return Dataset("mnist", images[..., np.newaxis], labels.astype(np.int64), [str(digit) for digit in range(10)])


def _download(own: Path) -> None:
    official.fetch(own / "mnist.npz", **DOWNLOAD)


def _npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels (n,) uint8 from Keras' mnist.npz."""
    name, count = printable(str(path)), 60_000 if split == "train" else 10_000
    file = io.BytesIO(official.content(path))
    with opened(file, f"{name} is not an MNIST archive as Keras has it", "download it again") as archive:
        images, labels = (member(archive, f"{key}_{split}", 10**8) for key in "xy")
        for key, array, shape in (("x", images, (count, 28, 28)), ("y", labels, (count,))):
            if array.dtype != np.uint8 or array.shape != shape:
                raise ValueError(f"{key}_{split} is not a uint8 array of {shape}")
        if labels.max() > 9:
            raise ValueError("it has labels other than 0 to 9")
    return images, labels


def _idx_file(data_dir: Path, split: str) -> Path | None:
    """The idx file with the images of a split."""
    prefix = "train" if split == "train" else "(t10k|test)"
    pattern = re.compile(rf"((emnist-)?(digits|mnist)-)?{prefix}-images[-.]idx3-ubyte(\.gz)?")
    for folder in (data_dir, data_dir / "raw", data_dir / "MNIST" / "raw"):
        for path in sorted(folder.glob("*idx3-ubyte*")):
            if pattern.fullmatch(path.name) and path.is_file():  # Kaggle's archive has folders of these names as well
                return path
    return None


def _idx_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, height, width) and labels (n,), uint8, from the idx file `path` and its neighbour with the labels."""
    base = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    unpacked, packed = path.with_name(base), path.with_name(f"{base}.gz")
    images, labels = _idx(path, 3), _idx(unpacked if unpacked.is_file() or not packed.is_file() else packed, 1)
    if len(images) != len(labels) or labels.max(initial=0) > 9 or not images.size:
        reason = f"{len(images)} images, {len(labels)} labels up to {labels.max(initial=0)}"
        raise InputError(f"{printable(str(path))} and its labels do not fit ({reason}); classes are 0 to 9")
    if path.name.startswith("emnist"):  # EMNIST's images are stored column by column
        images = images.transpose(0, 2, 1)
    return images, labels


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file, as http://yann.lecun.com/exdb/mnist describes it: two zeros, 8 for unsigned
    bytes, the number of dimensions, each of them as a big-endian int32, the values. It may be packed by gzip."""
    file = io.BytesIO(official.content(path, 2**30))
    try:
        if file.getvalue()[:2] == b"\x1f\x8b":  # not by its name: browsers unpack files and leave the .gz
            file = gzip.GzipFile(fileobj=file)
        start, shape = file.read(4), np.frombuffer(file.read(4 * dimensions), ">u4").tolist()
        if start != bytes((0, 0, 8, dimensions)) or len(shape) != dimensions or math.prod(shape) > 2**30:
            raise ValueError("it has another header")
        return np.frombuffer(file.read(math.prod(shape) + 1), np.uint8).reshape(shape)
    except Exception as error:  # gzip, zlib and NumPy have no common exception
        raise InputError(f"{printable(str(path))} is not an idx file: {printable(str(error))}") from error
