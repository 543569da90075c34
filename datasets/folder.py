"""A folder of one's own pictures: found, decoded once into a cache, and read from there batch by batch."""

import hashlib
import json
import math
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import h5py
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from command import InputError, sha256
from datasets import Dataset, Shape, cache_home, printable

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
                return fit(_eight_bits(image), shape)
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


def fit(image: Image.Image, shape: Shape) -> np.ndarray:
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


def load(
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
