"""The pictures: CIFAR-10, MNIST, a folder of one's own, and shapes that need no download.

Every dataset is held as uint8 and scaled batch by batch. Whatever comes from outside is judged byte by byte by readers
that build nothing but numbers: no foreign code runs, memory is bounded, and what is wrong is told by an `InputError`.
"""

import hashlib
import io
import json
import math
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import h5py
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from command import InputError, sha256

DATASETS = ("cifar10", "mnist", "folder", "shapes")
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHAPES_CLASSES = ["circle", "ring", "square", "triangle", "hexagon", "star", "diamond", "cross", "heart", "crescent"]

Shape = tuple[int, int, int]  # (height, width, channels)


class Dataset(NamedTuple):
    """Pictures in uint8 and, where they are known, their classes."""

    name: str
    images: np.ndarray | h5py.Dataset  # (n, height, width, channels) uint8
    labels: np.ndarray | None  # (n,) int64, index into `classes`
    classes: list[str]


def load(
    name: str,
    shape: Shape,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike | None = None,
    split: str = "train",
) -> Dataset:
    """The dataset `name`, one of `DATASETS`, as pictures of `shape`, the model's (height, width, channels).

    `data_dir` is where the pictures lie: needed by "folder"; "cifar10" and "mnist" are downloaded by Keras without it
    and never touch the network with it. `seed` (0 or more) draws the shapes. `skip_bad` lets a folder go without the
    pictures that cannot be read. `cache_dir` holds a folder's decoded pictures, by default
    `$XDG_CACHE_HOME/dcgan_keras` or `~/.cache/dcgan_keras`. `split` is "train" or "test": the official one of "cifar10"
    and "mnist", other draws of "shapes"; a folder has no "test". Raises `InputError`, and then leaves nothing behind.
    """
    shape = tuple(shape)
    if name not in DATASETS:
        raise InputError(f"there is no dataset {printable(name)}; choose one of {', '.join(DATASETS)}")
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InputError(f"the model makes pictures of {shape}; datasets have (height, width, 1) or (height, width, 3)")
    if split not in ("train", "test"):
        raise InputError(f"there is no split {printable(split)}; choose train or test")
    if name == "shapes":
        return _shapes(shape, seed if split == "train" else [seed, 1])
    if name == "folder":
        if split == "test":
            raise InputError("a folder has no test pictures; choose another dataset")
        return _folder(data_dir, shape, skip_bad, cache_dir)
    dataset = (_cifar10 if name == "cifar10" else _mnist)(data_dir, split)
    return dataset._replace(images=_fitted(dataset.images, shape))


def scale(images: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    """uint8 pictures as float32 between `pixels` = (low, high); (-0.5, 0.5) is the article's `images / 255 - 0.5`."""
    low, high = pixels
    return images.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)


def unscale(images: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    """The inverse of `scale`: floats between `pixels` = (low, high) as uint8, rounded; what lies outside is clipped."""
    low, high = pixels
    return np.rint((np.asarray(images, np.float32) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def batches_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """How many full batches an epoch has. Raises `InputError` when there are fewer pictures than one batch."""
    if len(dataset.images) < batch_size:
        raise InputError(
            f"{dataset.name} has {len(dataset.images)} pictures, fewer than a batch of {batch_size}; "
            "add pictures or choose a smaller --batch-size"
        )
    return len(dataset.images) // batch_size


def batches(
    dataset: Dataset,
    batch_size: int,
    pixels: tuple[float, float],
    seed: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Endless batches of (images, labels): (batch_size, height, width, channels) float32 as `scale` makes them, and
    (batch_size,) int64 or None.

    Every epoch has an order of its own, drawn from `seed` and the epoch's number alone, so that a run resumed after
    `start` batches sees exactly the batches that it would have seen. As in the article's program, the remainder of an
    epoch that fills no batch is dropped. Raises `InputError` when there are fewer pictures than one batch.

    part: (i, n) gives the i-th of n equal parts of every batch, of batch_size / n rows, and reads no other.
    """
    per_epoch = batches_per_epoch(dataset, batch_size)  # here, not in the generator, so that it raises at once
    index, rows = part[0], batch_size // part[1]

    def endless() -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        epoch, first = divmod(start, per_epoch)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(len(dataset.images))
            for i in range(first, per_epoch):
                chosen = order[i * batch_size + index * rows :][:rows]
                images = np.stack([dataset.images[k] for k in chosen])  # one by one: in HDF5, each is a chunk
                yield scale(images, pixels), None if dataset.labels is None else dataset.labels[chosen]
            epoch, first = epoch + 1, 0

    return endless()


def printable(text: str) -> str:
    """`text`, perhaps a file name in any encoding, made safe to print on one line of any terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# --- CIFAR-10 and MNIST ----------------------------------------------------------------------------------------------


def cache_home() -> Path:
    """The folder of everything that is computed once: `$XDG_CACHE_HOME/dcgan_keras` or `~/.cache/dcgan_keras`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dcgan_keras")


def _cifar10(data_dir: str | os.PathLike | None, split: str) -> Dataset:
    if data_dir is None:
        data_dir = _download("cifar10")
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
        images[part], labels[part] = cifar10_batch(_content(path), printable(str(path)))
    meta = folder / "batches.meta"
    classes = cifar10_classes(_content(meta), printable(str(meta))) if meta.exists() else CIFAR10_CLASSES
    return Dataset("cifar10", images, labels, classes)


def _mnist(data_dir: str | os.PathLike | None, split: str) -> Dataset:
    if data_dir is None:
        data_dir = _download("mnist")
    path = Path(data_dir, "mnist.npz")
    images, labels = mnist_arrays(_content(path), printable(str(path)), split)
    return Dataset("mnist", images, labels, [str(digit) for digit in range(10)])


# As in tf_keras.datasets, so that both share one cache. Checked against its hash, an archive is unpacked only if it is
# the official one.
DOWNLOADS = {
    "cifar10": {
        "fname": "cifar-10-batches-py",
        "origin": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "file_hash": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "untar": True,
    },
    "mnist": {
        "fname": "mnist.npz",
        "origin": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "file_hash": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    },
}


def _download(name: str) -> Path:
    """The folder that has the official files, by Keras' own download, cache and checksum. They are read as any others
    are: Keras' `load_data` would unpickle whatever lies in its cache."""
    try:
        from tf_keras.utils import get_file  # here: TensorFlow takes seconds, and only a download needs it

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its progress bar divides by the size of an empty file
            return Path(get_file(**DOWNLOADS[name])).parent
    except Exception as error:  # no network, a wrong checksum, an archive cut short: anything may come out of there
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise InputError(
            f"{name} could not be downloaded ({reason}); name a folder that has it with --data-dir, "
            "or use --dataset shapes, which needs no download"
        ) from error


def _content(path: Path, limit: int = 2**26) -> bytes:
    """The bytes of a file of at most `limit` bytes, twice what any official file has."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, a device may never end
            raise InputError(f"{printable(str(path))} is not a file")
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{printable(str(path))} cannot be read: {error.strerror}; check --data-dir") from error
    if len(content) > limit:
        raise InputError(f"{printable(str(path))} is larger than any official file; get it anew")
    return content


def cifar10_batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (10000, 32, 32, 3) uint8 and labels (10000,) int64 from the bytes of a data_batch file of the official
    "python version". Raises `InputError`, which calls the file `name`."""
    try:
        batch = _python2_pickle(content)
        data, labels = batch.get(b"data"), batch.get(b"labels")
        if not isinstance(labels, list) or len(labels) != 10_000:
            raise ValueError("it has no 10,000 labels")
        if not all(type(label) is int and 0 <= label < 10 for label in labels):
            raise ValueError("it has labels other than 0 to 9")
        if not isinstance(data, _Matrix) or data.shape != (10_000, 3072):
            raise ValueError("its data are no 10,000 pictures of 32x32")
    except ValueError as error:
        raise InputError(f"{name} is no CIFAR-10 batch: {error}; get it anew") from error
    matrix = np.frombuffer(data.content, np.uint8).reshape(data.shape, order="F" if data.fortran_order else "C")
    return matrix.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def cifar10_classes(content: bytes, name: str) -> list[str]:
    """The ten class names from the bytes of batches.meta. Raises `InputError`, which calls the file `name`."""
    try:
        names = _python2_pickle(content).get(b"label_names")
        if not isinstance(names, list) or len(names) != 10 or not all(isinstance(each, bytes) for each in names):
            raise ValueError("it has no ten label_names")
    except ValueError as error:
        raise InputError(f"{name} is no CIFAR-10 batches.meta: {error}; get it anew") from error
    return [printable(os.fsdecode(each)) for each in names]


class _Matrix:
    """What stands for a NumPy matrix of bytes in a pickle, while it is read."""

    shape, fortran_order, content = (0, 0), False, b""


def _python2_pickle(content: bytes) -> dict[bytes, object]:
    """The dict in a CIFAR-10 file: keys are bytes, values are bytes, ints, lists of them, or a `_Matrix`.

    The files are Python 2 pickles, programs for a small stack machine. `pickle` would run any program; this machine
    knows only the instructions that such a file is made of, and its three names of NumPy, which it answers with
    stand-ins (NumPy 2 has moved the originals). Every instruction costs at most a few hundred bytes beyond a copy of
    its argument, and their number is bounded. Raises `ValueError`. Instructions: CPython's Lib/pickletools.py.
    """
    stack, marks, memo, at = [], [], {}, 0

    def take(count: int) -> bytes:
        nonlocal at
        if not 0 <= count <= len(content) - at:
            raise ValueError("it is cut short")
        at += count
        return content[at - count : at]

    def number(size: int, signed: bool = False) -> int:
        return int.from_bytes(take(size), "little", signed=signed)

    def line() -> str:
        text = take(content.find(b"\n", at, at + 99) - at)
        take(1)
        return text.decode("ascii")

    def pop_to_mark() -> list:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def pop(count: int) -> list:
        if len(stack) < count:
            raise IndexError
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    def fill(container: object, items: list) -> None:
        if isinstance(container, list):
            container.extend(items)
        elif not isinstance(container, dict) or len(items) % 2 or not all(isinstance(key, bytes) for key in items[::2]):
            raise TypeError
        else:
            container.update(zip(items[::2], items[1::2], strict=True))

    try:
        for _ in range(1_000_000):  # an official file has some 70,000
            match take(1):
                case b"K":
                    stack.append(number(1))
                case b"M":
                    stack.append(number(2))
                case b"J":
                    stack.append(number(4, signed=True))
                case b"U":
                    stack.append(take(number(1)))
                case b"T":
                    stack.append(take(number(4, signed=True)))
                case b"q":
                    memo[number(1)] = stack[-1]
                case b"r":
                    memo[number(4)] = stack[-1]
                case b"h":
                    stack.append(memo[number(1)])
                case b"j":
                    stack.append(memo[number(4)])
                case b"(":
                    marks.append(len(stack))
                case b"e" | b"u":
                    items = pop_to_mark()
                    fill(stack[-1], items)
                case b"a":
                    items = pop(1)
                    fill(stack[-1], items)
                case b"s":
                    items = pop(2)
                    fill(stack[-1], items)
                case b"t":
                    stack.append(tuple(pop_to_mark()))
                case b"\x85" | b"\x86" | b"\x87" as tuple_of:
                    stack.append(tuple(pop(tuple_of[0] - 0x84)))
                case b"}":
                    stack.append({})
                case b"]":
                    stack.append([])
                case b")":
                    stack.append(())
                case b"N":
                    stack.append(None)
                case b"\x88" | b"\x89" as boolean:
                    stack.append(boolean == b"\x88")
                case b"c":  # a name; as str, which no other instruction makes
                    stack.append(f"{line()}.{line()}")
                case b"R":
                    match pop(2):
                        case ["numpy.core.multiarray._reconstruct", ("numpy.ndarray", (0,), b"b")]:
                            stack.append(_Matrix())
                        case ["numpy.dtype", (b"u1", 0, 1)]:
                            stack.append("uint8")
                        case [str() as function, _]:
                            raise ValueError(f"it tries to run {printable(function)}")
                        case _:
                            raise TypeError
                case b"b":
                    match [stack[-2], *pop(1)]:
                        case ["uint8", (3, b"|", None, None, None, -1, -1, 0)]:
                            pass
                        case [_Matrix() as matrix, (1, (int(rows), int(columns)), "uint8", bool(order), bytes(values))]:
                            if min(rows, columns) < 0 or rows * columns != len(values):
                                raise ValueError("its matrix has another size than it says")
                            matrix.shape, matrix.fortran_order, matrix.content = (rows, columns), order, values
                        case _:
                            raise TypeError
                case b".":
                    if not isinstance(stack[-1], dict):
                        raise ValueError("it holds no dict")
                    return stack[-1]
                case b"\x80":
                    if number(1) != 2:
                        raise ValueError("it is a pickle of another protocol than 2")
                case instruction:
                    raise ValueError(f"byte {at - 1} is {instruction!r}, which no such file has there")
    except (LookupError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"it makes no sense at byte {at}") from error
    raise ValueError("it has more instructions than any such file")


def mnist_arrays(content: bytes, name: str, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28, 1) uint8 and labels (n,) int64 from the bytes of Keras' mnist.npz: 60,000 of the training
    split, 10,000 of the test split. Raises `InputError`, which calls the file `name`."""
    count = 60_000 if split == "train" else 10_000
    try:
        if content.count(b"PK\1\2") > 1000:  # one for each member: more would only fill the memory
            raise ValueError("it has too many members")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            images = _npy(archive, f"x_{split}", (count, 28, 28))
            labels = _npy(archive, f"y_{split}", (count,))
        if labels.max() > 9:
            raise ValueError("it has labels other than 0 to 9")
    except Exception as error:  # zipfile and zlib have no complete list of what they raise
        reason = printable(str(error)) or type(error).__name__
        raise InputError(f"{name} is no MNIST archive as Keras has it: {reason}; get it anew") from error
    return images[..., np.newaxis], labels.astype(np.int64)


def _npy(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array `key` of an npz archive, which must be of `shape`: only so much is ever unpacked."""
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack without a limit
        raise ValueError(f"{key} is packed in a way that NumPy does not use")
    with archive.open(info) as file:
        magic, size = file.read(8), int.from_bytes(file.read(2), "little")
        header = file.read(size).decode("latin-1")
        # No evaluation of foreign text: NumPy has always written its header in just this way.
        expected = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        if magic != b"\x93NUMPY\1\0" or header.strip() != expected:
            raise ValueError(f"{key} is no uint8 array of {shape}")
        values = file.read(math.prod(shape))
        if len(values) != math.prod(shape) or file.read(1):  # reading up to the end also checks the CRC
            raise ValueError(f"{key} has another size than it says")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _fitted(images: np.ndarray, shape: Shape) -> np.ndarray:
    """Pictures (n, height, width, channels) uint8, cropped, resized and made grey or RGB in memory, as (n, *shape)."""
    if images.shape[1:] == shape:
        return images
    if len(images) * math.prod(shape) > 1e9:
        raise InputError(
            f"{len(images)} pictures of {shape} do not fit into 1 GB; save them as files and use --dataset folder"
        )
    fitted = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images):
        fitted[i] = _fit(Image.fromarray(image.squeeze()), shape)
    return fitted


# --- A folder of pictures --------------------------------------------------------------------------------------------

MAX_PIXELS = 2**26  # of one picture: 67 million, up to 0.5 GB while it is decoded
CACHE_HEAD = 512  # bytes in front of a cache's HDF5 content: `CACHE_MAGIC` and the SHA-256 of everything behind
CACHE_MAGIC = b"dcgan_keras pictures 1\n"  # the number changes whenever `picture` makes other pixels

# A stub that Pillow cannot read without a plugin, or a reader that hands the file to another program (Ghostscript).
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def picture(source: str | os.PathLike | BinaryIO, shape: Shape) -> np.ndarray:
    """A picture file as uint8 of `shape` (height, width, channels): its first frame, turned as its EXIF data say, on
    white where it is transparent, the middle cropped to the model's proportions, grey or RGB.

    Raises `InputError` whose text is the reason alone, for whatever cannot be read or has over `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow doubts is either read or refused
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{image.width}x{image.height} pixels are too many")
                image.draft(None, (2 * max(shape[:2]),) * 2)  # lets JPEG skip detail that would be lost anyway
                ImageOps.exif_transpose(image, in_place=True)
                return _fit(_eight_bits(image), shape)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError("it is no picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"it has more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's many readers have no complete list of what they raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(printable(reason)) from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_PICTURES)


@cache
def _extensions() -> tuple[str, ...]:
    return tuple(ending for ending, name in Image.registered_extensions().items() if name in _formats())


def _eight_bits(image: Image.Image) -> Image.Image:
    """`image` with 8 bits per channel; Pillow itself would clip 16-bit greys instead of scaling them."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.array(image, np.float32)
    values *= 255 if image.mode == "F" else 255 / 65535
    if not (values.min() >= 0 and values.max() <= 255):  # so that NaN is refused as well
        raise InputError("its pixels are neither 8 nor 16 bits nor from 0 to 1")
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


def _fit(image: Image.Image, shape: Shape) -> np.ndarray:
    """The middle of an 8-bit picture, resized to `shape`, as uint8."""
    height, width, channels = shape
    target = "L" if channels == 1 else "RGB"
    mode = "RGBA" if image.has_transparency_data else target
    if image.mode != mode:  # a copy, which may be a large one
        image = image.convert(mode)
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(target)
    return np.asarray(image).reshape(shape)


def _folder(
    data_dir: str | os.PathLike | None, shape: Shape, skip_bad: bool, cache_dir: str | os.PathLike | None
) -> Dataset:
    """All pictures under `data_dir`, read through a cache on disk; subfolders of the first level are the classes."""
    if data_dir is None:
        raise InputError("--dataset folder needs --data-dir, the folder with the pictures")
    root = os.path.abspath(data_dir)
    files = _files_under(root)
    if not files:
        raise InputError(f"{printable(root)} has no pictures; name another folder with --data-dir")
    cache_dir = cache_dir or cache_home()
    key = hashlib.sha256(repr((CACHE_MAGIC, os.path.realpath(root), shape, files)).encode())
    path = Path(cache_dir, f"{key.hexdigest()[:32]}.h5")
    try:
        if not _is_intact(path):
            _write_cache(path, root, files, shape, skip_bad)
        cached = h5py.File(path, "r")  # stays open for as long as its dataset is in use
    except (OSError, RuntimeError) as error:  # h5py tells of a full disk by the one or the other
        reason = printable(str(getattr(error, "strerror", None) or error))
        raise InputError(
            f"the cache in {printable(str(cache_dir))} cannot be used ({reason}); "
            "let XDG_CACHE_HOME name another folder"
        ) from error
    bad = {int(index): reason for index, reason in json.loads(cached["bad"].asstr()[()]).items()}
    _refuse(root, files, bad, skip_bad)
    for index, reason in bad.items():
        print(f"skipped {printable(os.path.join(root, files[index].name))}: {reason}", file=sys.stderr)
    folders = [os.path.split(file.name) for i, file in enumerate(files) if i not in bad]
    if not all(folder for folder, _ in folders):  # a picture outside the subfolders has no class, so there are none
        return Dataset("folder", cached["images"], None, [])
    names = [folder.split(os.sep)[0] for folder, _ in folders]
    classes, labels = np.unique(names, return_inverse=True)
    return Dataset("folder", cached["images"], labels.astype(np.int64), [printable(str(name)) for name in classes])


class _File(NamedTuple):
    name: str  # relative to the folder
    size: int  # bytes; -1 where a link leads nowhere
    mtime_ns: int


def _files_under(root: str) -> list[_File]:
    """Every picture file under `root` by its extension, sorted by name. Hidden ones are left out, links are followed,
    and a folder that several links lead to counts once, so that loops end."""

    def fail(error: OSError) -> None:
        raise error

    files, seen = [], set()
    try:
        for folder, subfolders, names in os.walk(root, followlinks=True, onerror=fail):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in names:
                if name.startswith(".") or not name.lower().endswith(_extensions()):
                    continue
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError:  # a link that leads nowhere, or a file that has just vanished
                    files.append(_File(os.path.relpath(path, root), -1, -1))
                else:
                    if stat.S_ISREG(status.st_mode):
                        files.append(_File(os.path.relpath(path, root), status.st_size, status.st_mtime_ns))
    except OSError as error:
        name = printable(os.fsdecode(error.filename or root))
        raise InputError(f"{name} cannot be read: {error.strerror}; check --data-dir") from error
    return sorted(files)


def _refuse(root: str, files: list[_File], bad: dict[int, str], skip_bad: bool) -> None:
    """Raise `InputError` if there are `bad` pictures, {index: reason}, that may not be skipped or leave none over."""
    if not bad or (skip_bad and len(bad) < len(files)):
        return
    index, reason = next(iter(bad.items()))
    others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    advice = "none is left" if skip_bad else "remove what cannot be read, or leave it out with --skip-bad"
    raise InputError(f"{printable(os.path.join(root, files[index].name))}{others} cannot be read: {reason}; {advice}")


def _write_cache(path: Path, root: str, files: list[_File], shape: Shape, skip_bad: bool) -> None:
    """Decode `files` one by one into the HDF5 file `path`: "images" (n, *shape) and "bad", {index: reason} as JSON.

    It is written beside, synced and renamed, so that `path` is whole or does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.partial"):  # by a run that was killed: a living one writes all the time
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    needed, free = len(files) * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"it needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left")
    handle, partial = tempfile.mkstemp(".partial", dir=path.parent)
    os.close(handle)
    try:
        bad = {}
        with h5py.File(partial, "w", userblock_size=CACHE_HEAD) as cached:
            images = cached.create_dataset(
                "images", (len(files), *shape), np.uint8, chunks=(1, *shape), maxshape=(len(files), *shape)
            )
            for index, file in enumerate(files):
                try:
                    images[index - len(bad)] = picture(os.path.join(root, file.name), shape)
                except InputError as error:
                    bad[index] = str(error)
            images.resize(len(files) - len(bad), axis=0)
            cached["bad"] = json.dumps(bad)
        if _files_under(root) != files:
            raise InputError(f"{printable(root)} changed while it was read; run again when nothing writes there")
        _refuse(root, files, bad, skip_bad)
        with open(partial, "r+b") as file:
            file.seek(CACHE_HEAD)
            digest = sha256(file).digest()
            file.seek(0)
            file.write(CACHE_MAGIC + digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _is_intact(path: Path) -> bool:
    """Whether the cache `path` exists and is whole, down to the last bit; only then HDF5 gets to see it."""
    try:
        with open(path, "rb") as file:
            head = file.read(CACHE_HEAD)
            return head.startswith(CACHE_MAGIC + sha256(file).digest())
    except FileNotFoundError:
        return False


# --- Shapes ----------------------------------------------------------------------------------------------------------


def _shapes(shape: Shape, seed: int | list[int]) -> Dataset:
    """10,000 pictures of ten kinds of shapes, fewer if they were larger than 128 MiB together, drawn from `seed`."""
    count = min(10_000, 2**27 // math.prod(shape))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(SHAPES_CLASSES)
    images = np.empty((count, *shape), np.uint8)
    for kind in range(len(SHAPES_CLASSES)):
        of_kind = np.flatnonzero(labels == kind)
        for chosen in np.array_split(of_kind, -(-len(of_kind) * math.prod(shape[:2]) // 2**18) or 1):
            images[chosen] = _draw(kind, len(chosen), shape, rng)
    return Dataset("shapes", images, labels, SHAPES_CLASSES)


def _draw(kind: int, count: int, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """`count` pictures of the class `kind`, (count, *shape) uint8."""
    height, width, channels = shape

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    # Positions in the picture: -1 to 1 along the shorter side.
    pixel = 2 / min(height, width)
    y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) * pixel)[:, np.newaxis]
    x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) * pixel)[np.newaxis, :]

    # The shape's outline as a signed distance: 0 on the edge, negative inside; a pixel on the edge is partly covered.
    size, turn = draw(0.35, 0.72), draw(-0.6, 0.6)
    right, down = x - draw(-1, 1) * (0.95 - size), y - draw(-1, 1) * (0.95 - size)
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    distance = _distance(SHAPES_CLASSES[kind], right * cos + down * sin, down * cos - right * sin) * size
    cover = np.clip(0.5 - distance / np.float32(pixel), 0, 1)[..., np.newaxis]
    shadow = 1 - 0.3 * np.exp(-6 * np.maximum(distance, 0))[..., np.newaxis]

    # A graded background, and a shape of a contrasting hue, a little lighter towards its top.
    hue, angle = draw(0, 1), draw(0, 2 * math.pi)
    grade = np.clip(0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)[..., np.newaxis]
    dark, light = (
        _rgb(hue, draw(0.4, 1), draw(0.05, 0.45)),
        _rgb(hue + draw(-0.12, 0.12), draw(0, 0.5), draw(0.85, 1)),
    )
    ground = (dark + (light - dark) * grade) * shadow
    colour = _rgb(hue + draw(0.3, 0.7), draw(0.55, 1), draw(0.9, 1)) * (0.9 - 0.2 * (down / size))[..., np.newaxis]
    rgb = np.clip(ground + (colour - ground) * cover, 0, 1)
    if channels == 1:
        rgb = rgb.max(axis=-1, keepdims=True)  # not luma: a blue shape would sink into a yellow ground
    return np.rint(rgb * 255).astype(np.uint8)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV, (n, 1, 1) each and hue in turns, to RGB (n, 1, 1, 3)."""
    k = (np.array([5, 3, 1], np.float32) + 6 * hue[..., np.newaxis]) % 6
    return value[..., np.newaxis] * (1 - saturation[..., np.newaxis] * np.clip(np.minimum(k, 4 - k), 0, 1))


def _distance(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance of the points (x, y), y downwards, from the edge of the shape `name` of about unit radius."""
    radius = np.hypot(x, y)

    def star(points: int, inner: float, squeeze: float = 1) -> np.ndarray:
        """A star whose inner corners lie at the radius `inner`; at cos(pi / points), a regular polygon."""
        half = math.pi / points
        angle = np.abs((np.arctan2(x / squeeze, -y) + half) % (2 * half) - half)
        reach = np.hypot(x / squeeze, y)
        edge_x, edge_y = inner * math.cos(half) - 1, inner * math.sin(half)
        normal = math.hypot(edge_x, edge_y)
        return ((reach * np.cos(angle) - 1) * edge_y - reach * np.sin(angle) * edge_x) / normal * squeeze

    def box(half_width: float, half_height: float) -> np.ndarray:
        return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)

    match name:
        case "circle":
            return radius - 0.9
        case "ring":
            return np.abs(radius - 0.72) - 0.22
        case "square":
            return box(0.78, 0.78)
        case "triangle":
            return star(3, 0.5)
        case "hexagon":
            return star(6, math.cos(math.pi / 6))
        case "star":
            return star(5, 0.45)
        case "diamond":
            return star(4, math.cos(math.pi / 4), 0.6)
        case "cross":
            return np.minimum(box(0.92, 0.3), box(0.3, 0.92))
        case "heart":  # a square that stands on its tip, and a disc over each of its upper sides
            side, up = np.abs(x) * 0.62, 0.56 - y * 0.62
            square = np.maximum(np.abs(up + side - 0.5), np.abs(up - side - 0.5)) - 0.5
            disc = np.hypot(side - 0.25, up - 0.75) - math.sqrt(2) / 4
            return np.minimum(square / math.sqrt(2), disc) / 0.62
        case "crescent":
            return np.maximum(radius - 0.95, 0.78 - np.hypot(x - 0.42, y))
    raise ValueError(name)
