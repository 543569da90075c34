"""CIFAR-10: the official "python version", read without running the pickles that its files are."""

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from command import InputError, printable
from sources import Dataset, official, workshop

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
FILES = {"train": [f"data_batch_{i + 1}" for i in range(5)], "test": ["test_batch"]}
DOWNLOAD = {
    "origin": f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
    "file_hash": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
}


def load(data_dir: str | os.PathLike | None, split: str) -> Dataset:
    """50,000 images ("train") or 10,000 ("test") of 32x32x3 from `data_dir`/cifar-10-batches-py. If `data_dir` is
    None, from Keras' folder or our own, to which they are downloaded. Raises `InputError`."""
    if data_dir is None:
        return official.find("cifar10", lambda place: load(place, split), _download)
    folder = Path(data_dir, FOLDER)
    if not os.path.isdir(folder):
        packed = os.path.exists(Path(data_dir, ARCHIVE))
        hint = f"unpack {ARCHIVE} there first" if packed else "--data-dir is its parent"
        raise InputError(f"there is no folder {printable(str(folder))}; {hint}")
    images = np.empty((len(FILES[split]) * 10_000, 32, 32, 3), np.uint8)
    labels = np.empty(len(images), np.int64)
    for i, name in enumerate(FILES[split]):
        part, path = slice(i * 10_000, (i + 1) * 10_000), folder / name
        images[part], labels[part] = batch(official.content(path), printable(str(path)))
    meta = folder / "batches.meta"
    names = class_names(official.content(meta), printable(str(meta))) if os.path.exists(meta) else CLASSES
    return Dataset("cifar10", images, labels, names)


def _download(own: Path) -> None:
    """Fetch the archive and unpack it; the folder appears when all its files are whole, then the archive goes."""
    shutil.rmtree(own / FOLDER, ignore_errors=True)  # it could not be read
    official.fetch(own / ARCHIVE, **DOWNLOAD)
    with workshop(own) as beside:
        with tarfile.open(own / ARCHIVE) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # no owners; early Pythons 3.10 lack it
            archive.extractall(beside)
        os.replace(beside / FOLDER, own / FOLDER)
    os.unlink(own / ARCHIVE)


def batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 32, 32, 3) uint8 and labels (10000,) int64 from the bytes of a data_batch file. Raises
    `InputError`, which calls the file `name`."""
    items = _unpickle(content, f"{name} is not a CIFAR-10 batch")
    match items.get(b"labels"), items.get(b"data"):
        case list(labels), _NumPy(
            state=(1, (10_000, 3072), _NumPy(arguments=(b"u1", 0, 1)), bool(in_columns), bytes(pixels))
        ) if len(labels) == 10_000 and len(pixels) == 10_000 * 3072:
            pass
        case _:
            raise InputError(
                f"{name} is not a CIFAR-10 batch: it does not have 10,000 labels and images of 32x32; download it again"
            )
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise InputError(f"{name} is not a CIFAR-10 batch: it has labels other than 0 to 9; download it again")
    matrix = np.frombuffer(pixels, np.uint8).reshape((10_000, 3072), order="F" if in_columns else "C")
    return matrix.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def class_names(content: bytes, name: str) -> list[str]:
    """The ten class names from the bytes of batches.meta. Raises `InputError`, which calls the file `name`."""
    names = _unpickle(content, f"{name} is not CIFAR-10's batches.meta").get(b"label_names")
    if type(names) is not list or len(names) != 10 or not all(type(each) is bytes for each in names):
        raise InputError(f"{name} is not CIFAR-10's batches.meta: it does not have ten label_names; download it again")
    return [printable(os.fsdecode(each)) for each in names]


def _unpickle(content: bytes, wrong: str) -> dict[bytes, object]:
    """The dict in a CIFAR-10 file. Raises `InputError`, whose text begins with `wrong`."""
    try:
        items = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if type(items) is not _Dict:
            raise ValueError("it does not hold a dict")
    except EOFError as error:
        raise InputError(f"{wrong}: it is truncated; download it again") from error
    except ValueError as error:
        raise InputError(f"{wrong}: {printable(str(error))}; download it again") from error
    except Exception as error:  # pickle raises what comes first
        raise InputError(f"{wrong}: it is no pickle of that kind; download it again") from error
    return items


class _NumPy:
    """What stands for each of NumPy's names in a pickle: it keeps what it is called with, and its state."""

    state = None

    def __init__(self, *arguments: object):
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Dict(dict):
    """A dict whose keys are bytes: hashing deeply nested tuples would overflow C's stack."""

    def __setitem__(self, key: object, value: object) -> None:
        if type(key) is not bytes:
            raise TypeError
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):
    """Knows NumPy's three names, as `_NumPy`, and no other: https://docs.python.org/3/library/pickle.html, "Restricting
    globals". The unpickler in C would allocate an array as long as the largest memo index in the file.
    """

    # What the files are made of: ints, bytes, constants; put and get; mark, tuples, lists, dicts; names, calls, states.
    dispatch: ClassVar = {
        code: pickle._Unpickler.dispatch[code] for code in b"\x80KMJUTN\x88\x89qrhj(t)\x85\x86\x87]eauscRb."
    }
    dispatch[ord("}")] = lambda self: self.append(_Dict())

    def find_class(self, module: str, name: str) -> type:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")):
            return _NumPy
        raise ValueError(f"it names {module[:99]}.{name[:99]}")
