"""CIFAR-10: the official "python version", read without running the pickles that its files are."""

import io
import os
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np

from command import InputError, printable
from sources import Dataset, official

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

# As in tf_keras.datasets, so that both share one cache. The archive is unpacked only if its hash is the official one.
DOWNLOAD = {
    "fname": "cifar-10-batches-py",
    "origin": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "file_hash": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "untar": True,
}


def load(data_dir: str | os.PathLike | None, split: str) -> Dataset:
    """50,000 pictures ("train") or 10,000 ("test") of 32x32x3 from `data_dir`/cifar-10-batches-py, downloaded if
    `data_dir` is None. Raises `InputError`."""
    if data_dir is None:
        data_dir = official.download("cifar10", **DOWNLOAD)
    folder = Path(data_dir, "cifar-10-batches-py")
    if not os.path.isdir(folder):
        archive = Path(data_dir, "cifar-10-python.tar.gz")
        hint = "unpack cifar-10-python.tar.gz there first" if archive.exists() else "--data-dir is the folder around it"
        raise InputError(f"there is no folder {printable(str(folder))}; {hint}")
    files = [f"data_batch_{i + 1}" for i in range(5)] if split == "train" else ["test_batch"]
    images = np.empty((len(files) * 10_000, 32, 32, 3), np.uint8)
    labels = np.empty(len(images), np.int64)
    for i, file in enumerate(files):
        part = slice(i * 10_000, (i + 1) * 10_000)
        path = folder / file
        images[part], labels[part] = batch(official.content(path), printable(str(path)))
    meta = folder / "batches.meta"
    names = class_names(official.content(meta), printable(str(meta))) if meta.exists() else CLASSES
    return Dataset("cifar10", images, labels, names)


def batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 32, 32, 3) uint8 and labels (10000,) int64 from the bytes of a data_batch file. Raises
    `InputError`, which calls the file `name`."""
    try:
        items = unpickle(content)
        data, labels = items.get(b"data"), items.get(b"labels")
        if type(labels) is not list or len(labels) != 10_000:
            raise ValueError("it does not have 10,000 labels")
        if not all(type(label) is int and 0 <= label < 10 for label in labels):
            raise ValueError("it has labels other than 0 to 9")
        if type(data) is not Matrix or data.shape != (10_000, 3072):
            raise ValueError("it does not have 10,000 pictures of 32x32")
    except ValueError as error:
        raise InputError(f"{name} is not a CIFAR-10 batch: {error}; download it again") from error
    matrix = np.frombuffer(data.content, np.uint8).reshape(data.shape, order=data.order)
    return matrix.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def class_names(content: bytes, name: str) -> list[str]:
    """The ten class names from the bytes of batches.meta. Raises `InputError`, which calls the file `name`."""
    try:
        names = unpickle(content).get(b"label_names")
        if type(names) is not list or len(names) != 10 or not all(type(each) is bytes for each in names):
            raise ValueError("it does not have ten label_names")
    except ValueError as error:
        raise InputError(f"{name} is not CIFAR-10's batches.meta: {error}; download it again") from error
    return [printable(os.fsdecode(each)) for each in names]


def unpickle(content: bytes) -> dict[bytes, object]:
    """The dict in a CIFAR-10 file: keys are bytes, values are bytes, ints, lists of them, or a `Matrix`.

    A pickle is a program that may call anything. Here it can call nothing: see `Unpickler`. Raises `ValueError`.
    """
    source = Source(content)
    try:
        items = Unpickler(source, encoding="bytes").load()
    except EOFError as error:
        raise ValueError("it is truncated") from error
    except (LookupError, TypeError, AttributeError, UnicodeError, pickle.UnpicklingError) as error:
        raise ValueError(f"byte {source.tell() - 1} is not what such a file has there") from error
    if type(items) is not Dict:
        raise ValueError("it does not hold a dict")
    return items


class Matrix:
    """What stands for a NumPy matrix of uint8 in a pickle."""

    shape, order, content = None, "C", b""  # until its state is read


class Dict(dict):
    """A dict whose keys are bytes: hashing a deep nest of tuples would overflow C's stack."""

    def __setitem__(self, key: object, value: object) -> None:
        if type(key) is not bytes:
            raise TypeError
        super().__setitem__(key, value)


class Source(io.BytesIO):
    """A file that ends with an error and can be read only so often, which bounds an unpickler's time and memory."""

    reads = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > 1_000_000:  # an official file takes some 70,000
            raise ValueError("it has more instructions than any such file")
        content = super().read(size)
        if len(content) < size:
            raise EOFError
        return content

    def readline(self) -> bytes:  # of a name
        return super().readline(99)


class Unpickler(pickle._Unpickler):
    """Reads what Python 2's pickle wrote of ints, strings, lists, dicts and uint8 matrices, and nothing else.

    It knows only the instructions that CIFAR-10's files are made of. None of them takes more memory than their own
    bytes and a few hundred more. NumPy's three names (NumPy 2 has moved the originals) are plain strings here, so that
    nothing on the stack can be called or has attributes to be set. This is the unpickler in Python, whose memo is a
    dict: the one in C has an array as long as the largest index in the file. Instructions: CPython's
    Lib/pickletools.py.
    """

    NAMES = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")

    def find_class(self, module: str, name: str) -> str:
        if f"{module}.{name}" not in self.NAMES:
            raise ValueError(f"it names {printable(f'{module}.{name}')}")
        return f"{module}.{name}"

    def load_empty_dictionary(self) -> None:
        self.append(Dict())

    def load_reduce(self) -> None:
        match self.stack.pop(-2), self.stack.pop():
            case "numpy.core.multiarray._reconstruct", ("numpy.ndarray", (0,), b"b"):
                self.append(Matrix())
            case "numpy.dtype", (b"u1", 0, 1):
                self.append("uint8")
            case _:
                raise TypeError

    def load_build(self) -> None:
        match self.stack.pop(-1), self.stack[-1]:
            case (3, b"|", None, None, None, -1, -1, 0), "uint8":
                pass
            case (1, (int(rows), int(columns)), "uint8", bool(fortran), bytes(content)), Matrix() as matrix:
                if min(rows, columns) < 0 or rows * columns != len(content):
                    raise ValueError("its matrix does not have the size that it claims")
                matrix.shape, matrix.order, matrix.content = (rows, columns), "F" if fortran else "C", content
            case _:
                raise TypeError

    # Protocol; ints, strings, constants; put and get; mark, tuples, lists, dicts; names; stop.
    dispatch: ClassVar = {
        **{code: pickle._Unpickler.dispatch[code] for code in b"\x80KMJUTN\x88\x89qrhj(t)\x85\x86\x87]eausc."},
        ord("}"): load_empty_dictionary,
        ord("R"): load_reduce,
        ord("b"): load_build,
    }
