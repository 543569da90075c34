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

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from command import InputError, printable
from sources import Dataset, Shape, cache_home

MAX_PIXELS = 2**26  # of one picture: 67 million, up to 0.5 GB while it is decoded
VERSION = 2  # of the cache; changes whenever `picture` makes other pixels
QUIET = 1  # seconds of decoding without a progress bar

# Formats that Pillow cannot read without a plugin, or that it hands to another program (Ghostscript).
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def picture(source: str | os.PathLike | BinaryIO, shape: Shape) -> np.ndarray:
    """A picture file as uint8 of `shape` (height, width, channels): its first frame, rotated as its EXIF data say, on
    white where it is transparent, cropped to the middle in the model's proportions, grey or RGB.

    Raises `InputError`, whose text is the reason alone, for what cannot be read or has over `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful file is either read or refused
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
        raise InputError("it is not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"it has more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's readers have no common exception
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
    if not (values.min() >= 0 and values.max() <= 255):  # refuses NaN as well
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
    data_dir: str | os.PathLike | None,
    shape: Shape,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike | None = None,
    check_cache: bool = False,
    labelled: bool = False,
) -> Dataset:
    """All pictures under `data_dir`, decoded into a cache on disk; subfolders of the first level are the classes.

    A picture outside the subfolders has no class: then there are no labels, which is reported, or refused where the
    model needs them (`labelled`). Raises `InputError`.
    """
    if data_dir is None:
        raise InputError("--dataset folder needs --data-dir, the folder with the pictures")
    root = os.path.abspath(data_dir)
    files = _files_under(root)
    if not files:
        raise InputError(f"{printable(root)} has no pictures; name another folder with --data-dir")
    if labelled and (stray := _strays(root, [file.name for file in files])):
        raise InputError(f"the model needs classes, and {stray}; put every picture into a subfolder named as its class")
    cache_dir = cache_dir or cache_home()
    key = hashlib.sha256(repr((VERSION, os.path.realpath(root), shape, files)).encode())
    path = Path(cache_dir, f"{key.hexdigest()[:32]}.pictures")
    try:
        bad = _bad_of_whole(path, math.prod(shape), check_cache)
        if bad is None:
            bad = _decode(path, root, files, shape, skip_bad)
        _refuse(root, files, bad, skip_bad)
        images = np.asarray(np.memmap(path, np.uint8, "r", shape=(len(files) - len(bad), *shape)))
    except OSError as error:
        raise InputError(
            f"the cache in {printable(str(cache_dir))} cannot be used ({printable(error.strerror or str(error))}); "
            "let XDG_CACHE_HOME name another folder"
        ) from error
    for index, reason in bad.items():
        print(f"skipped {printable(os.path.join(root, files[index].name))}: {reason}", file=sys.stderr)
    names = [file.name for i, file in enumerate(files) if i not in bad]
    if stray := _strays(root, names):
        if any(os.sep in name for name in names):
            print(f"the pictures have no class labels, because {stray}", file=sys.stderr)
        return Dataset("folder", images, None, [])
    classes, labels = np.unique([name.split(os.sep)[0] for name in names], return_inverse=True)
    return Dataset("folder", images, labels.astype(np.int64), [printable(str(name)) for name in classes])


def _strays(root: str, names: list[str]) -> str:
    """A clause about the pictures that are in no subfolder, or "" if there are none."""
    strays = [name for name in names if os.sep not in name]
    if not strays:
        return ""
    others = f" and {len(strays) - 1} more are" if len(strays) > 1 else " is"
    return f"{printable(os.path.join(root, strays[0]))}{others} in no subfolder"


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
    """Raise `InputError` if there are `bad` pictures, {index: reason}, and they may not be skipped or are all."""
    if not bad or (skip_bad and len(bad) < len(files)):
        return
    index, reason = next(iter(bad.items()))
    others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    advice = "none is left" if skip_bad else "remove what cannot be read, or leave it out with --skip-bad"
    raise InputError(f"{printable(os.path.join(root, files[index].name))}{others} cannot be read: {reason}; {advice}")


# A cache holds the bytes of its pictures, then a note in JSON, then the note's SHA-256 and length. Pictures are read
# where they are, by no format's reader: at worst, a damaged cache shows wrong pixels.


class _Decoded:
    """How far a cache is: {index: reason} of the files that cannot be read, and what is known of all others."""

    def __init__(self, bad: dict[int, str] | None = None, pictures: int = 0):
        self.bad = bad or {}
        # One value, so that an interrupt finds both as they were or both new: the number and SHA-256 of the pictures.
        self.hashed = pictures, hashlib.sha256()

    @property
    def files(self) -> int:
        return self.hashed[0] + len(self.bad)

    def write_note(self, file: BinaryIO, row: int) -> None:
        """End a cache behind its pictures of `row` bytes, sync and close it."""
        pictures, digest = self.hashed
        file.seek(pictures * row)
        file.truncate()
        modified = int(time.time()) // 2 * 2  # in even seconds, which every file system can store
        note = json.dumps({"bad": self.bad, "sha256": digest.hexdigest(), "modified": modified}).encode()
        file.write(note + hashlib.sha256(note).digest() + len(note).to_bytes(8, "little"))
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.utime(file.name, (modified, modified))


def _read_note(file: BinaryIO, row: int, check: bool) -> _Decoded | None:
    """What a cache with pictures of `row` bytes holds, or None if it is damaged. Its length and time of modification
    are compared; the checksum of its pictures too if `check`, or if the time differs."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 40))
    tail = file.read()
    end = length - 40 - int.from_bytes(tail[32:], "little")
    if len(tail) < 40 or end < 0 or end % row:
        return None
    file.seek(end)
    content = file.read(length - 40 - end)
    if hashlib.sha256(content).digest() != tail[:32]:
        return None
    note = json.loads(content)
    decoded = _Decoded({int(index): reason for index, reason in note["bad"].items()}, end // row)
    if check or os.fstat(file.fileno()).st_mtime != note["modified"]:
        file.seek(0)
        digest = hashlib.sha256()
        for start in range(0, end, 1 << 20):
            digest.update(file.read(min(1 << 20, end - start)))
        if digest.hexdigest() != note["sha256"]:
            return None
        decoded.hashed = end // row, digest
        with suppress(PermissionError):
            os.utime(file.name, (note["modified"], note["modified"]))  # or it would be checked every time
    return decoded


def _bad_of_whole(path: Path, row: int, check: bool) -> dict[int, str] | None:
    """{index: reason} of the pictures that are not in the cache `path`; None if it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            decoded = _read_note(file, row, check)
    except FileNotFoundError:
        return None
    return decoded and decoded.bad


def _decode(path: Path, root: str, files: list[_File], shape: Shape, skip_bad: bool) -> dict[int, str]:
    """Decode `files` into the cache `path` and return {index: reason} of those that cannot be read.

    It is written under another name, so that `path` is whole or does not exist. What an interrupted process has
    decoded is kept as `*.interrupted`, and the next one, which takes it by renaming, continues from there.
    """
    row, interrupted = math.prod(shape), path.with_suffix(".interrupted")
    path.parent.mkdir(parents=True, exist_ok=True)
    for pattern, hours in (("*.partial", 1), ("*.interrupted", 240)):  # a process that is alive writes all the time
        for left in path.parent.glob(pattern):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > 3600 * hours:
                    left.unlink()
    handle, partial = tempfile.mkstemp(".partial", dir=path.parent)
    os.close(handle)
    try:
        with suppress(FileNotFoundError):
            os.replace(interrupted, partial)
        with open(partial, "r+b") as file:
            decoded = _read_note(file, row, check=True) or _Decoded()
            file.truncate(decoded.hashed[0] * row)
            file.seek(0, os.SEEK_END)
            needed, free = (len(files) - decoded.files) * row, shutil.disk_usage(path.parent).free
            if needed > free:
                raise OSError(f"it needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left")
            try:
                _append(decoded, file, root, files, shape)
                changed = _files_under(root) != files
            except KeyboardInterrupt:
                decoded.write_note(file, row)
                os.replace(partial, interrupted)
                done = f"{decoded.files} of {len(files)} pictures are decoded"
                print(f"\n{done}: rerun the command to resume", file=sys.stderr)
                raise
            if changed:
                raise InputError(f"{printable(root)} changed while it was read; rerun when nothing writes there")
            _refuse(root, files, decoded.bad, skip_bad)
            decoded.write_note(file, row)
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)
    return decoded.bad


def _append(decoded: _Decoded, file: BinaryIO, root: str, files: list[_File], shape: Shape) -> None:
    """Decode what is missing of `files` to the end of a cache, with a progress bar if it takes longer than `QUIET`."""
    began, start, bar = time.monotonic(), decoded.files, None
    for index in range(start, len(files)):
        try:
            pixels = picture(os.path.join(root, files[index].name), shape).tobytes()
        except InputError as error:
            decoded.bad[index] = str(error)
        else:
            file.write(pixels)
            pictures, digest = decoded.hashed
            digest = digest.copy()
            digest.update(pixels)
            decoded.hashed = pictures + 1, digest
        if not bar and time.monotonic() - began > QUIET:
            from tf1 import keras  # here: TensorFlow takes seconds to import, and a small folder does not need it

            print(f"decoding {len(files)} pictures, once" + (f"; {start} are done already" if start else ""))
            bar = keras.utils.Progbar(len(files) - start, interval=0.2 if sys.stdout.isatty() else 30)
        if bar:
            bar.update(index + 1 - start)
