"""MNIST: Keras' archive of it."""

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from command import InputError, printable
from sources import Dataset, official

# As in tf_keras.datasets, so that both share one cache.
DOWNLOAD = {
    "fname": "mnist.npz",
    "origin": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "file_hash": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
}


def load(data_dir: str | os.PathLike | None, split: str) -> Dataset:
    """60,000 pictures ("train") or 10,000 ("test") of 28x28x1 from `data_dir`/mnist.npz, downloaded if `data_dir` is
    None. Raises `InputError`."""
    if data_dir is None:
        data_dir = official.download("mnist", **DOWNLOAD)
    path = Path(data_dir, "mnist.npz")
    images, labels = arrays(official.content(path), printable(str(path)), split)
    return Dataset("mnist", images, labels, [str(digit) for digit in range(10)])


def arrays(content: bytes, name: str, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28, 1) uint8 and labels (n,) int64 from the bytes of Keras' mnist.npz: 60,000 of the training
    split, 10,000 of the test split. Raises `InputError`, which calls the file `name`."""
    count = 60_000 if split == "train" else 10_000
    try:
        if content.count(b"PK\1\2") > 1000:  # one for each member: many would fill the memory
            raise ValueError("it has too many members")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            images = _npy(archive, f"x_{split}", (count, 28, 28))
            labels = _npy(archive, f"y_{split}", (count,))
        if labels.max() > 9:
            raise ValueError("it has labels other than 0 to 9")
    except Exception as error:  # zipfile and zlib have no common exception
        reason = printable(str(error)) or type(error).__name__
        raise InputError(f"{name} is not an MNIST archive as Keras has it: {reason}; download it again") from error
    return images[..., np.newaxis], labels.astype(np.int64)


def _npy(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array `key` of an npz archive, which must be of `shape`: no more is ever decompressed."""
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others decompress without a limit
        raise ValueError(f"{key} is compressed by a method that NumPy does not use")
    with archive.open(info) as file:
        magic, size = file.read(8), int.from_bytes(file.read(2), "little")
        header = file.read(size).decode("latin-1")
        # Compared, not evaluated: NumPy has always written its header in just this way.
        expected = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        if magic != b"\x93NUMPY\1\0" or header.strip() != expected:
            raise ValueError(f"{key} is not a uint8 array of {shape}")
        values = file.read(math.prod(shape))
        if len(values) != math.prod(shape) or file.read(1):  # reading up to the end also checks the CRC
            raise ValueError(f"{key} does not have the size that it claims")
    return np.frombuffer(values, np.uint8).reshape(shape)
