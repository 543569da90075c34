"""A folder of the user's images: found, decoded once into a cache, and read from there batch by batch."""

import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from command import InputError, printable
from sources import Dataset, Shape, cache_home, workshop
from sources.image_file import TooShallow, decode, extensions

VERSION = 3  # of the cache; changes whenever `decode` makes other pixels
QUIET = 1  # seconds of decoding before its progress is shown

# What systems leave in folders, and hidden files.
_LEFT_BEHIND = re.compile(
    r"\..*|@(eadir|recycle|recently-snapshot|tmp|syno.*|transcode)|[#~](recycle|snapshot)|\$(recycle\.bin|extend)"
    r"|(?-i:RECYCLE[RD])|system volume information|found\.\d+|lost(\.dir|\+found)|network trash folder|temporary items"
    r"|thevolumesettingsfolder|icon\r|__(macosx|pycache__)|(eh)?thumbs(_vista)?(\.db)?|desktop\.ini",
    re.IGNORECASE | re.DOTALL,
)


class _File(NamedTuple):
    name: str  # relative to the folder
    size: int  # bytes; -1 where a link leads nowhere
    mtime_ns: int


class _Cache(NamedTuple):
    """What is decoded: row i of `images` is `files[i]`."""

    images: np.ndarray
    files: list[_File]
    unreadable: dict[_File, str]  # with the reason
    depth: int  # bits of the values in 16-bit files


def load(
    data_dir: str | os.PathLike | None,
    shape: Shape,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike | None = None,
    check_cache: bool = False,
    labelled: bool = False,
    out: str | os.PathLike | None = None,
) -> Dataset:
    """All images under `data_dir`, decoded into a cache on disk; subfolders of the first level are the classes.

    An image outside the subfolders has no class: then there are no labels, which is reported, or refused where the
    model needs them (`labelled`). What lies in `out` or in the folder of another run is left out. check_cache: decode
    the folder anew. Raises `InputError`.
    """
    if data_dir is None:
        raise InputError("--dataset folder needs --data-dir, the folder with the images")
    root = os.path.abspath(data_dir)
    files, others = _files_under(root, out)
    if not files:
        others = f", but {others}" if others else ""
        raise InputError(f"{printable(root)} has no images{others}; name another folder with --data-dir")
    if labelled and (stray := _strays(root, files)):
        raise InputError(f"the model needs classes, and {stray}; put every image into a subfolder named as its class")
    cache_dir = Path(cache_dir or cache_home())
    key = hashlib.sha256(os.fsencode(f"{os.path.realpath(root)} {shape}")).hexdigest()[:32]
    try:
        cache = _cached(cache_dir / key, root, files, shape, out, check_cache)
    except OSError as error:
        raise InputError(
            f"the cache in {printable(str(cache_dir))} cannot be used ({printable(error.strerror or str(error))}); "
            "let XDG_CACHE_HOME name another folder"
        ) from error
    if cache.unreadable and not (skip_bad and cache.files):
        file, reason = next(iter(cache.unreadable.items()))
        more = f" (and {len(cache.unreadable) - 1} more)" if len(cache.unreadable) > 1 else ""
        advice = "none is left" if skip_bad else "remove what cannot be read, or leave it out with --skip-bad"
        raise InputError(f"{printable(os.path.join(root, file.name))}{more} cannot be read: {reason}; {advice}")
    if others:
        print(f"left out: {others}", file=sys.stderr)
    for file, reason in cache.unreadable.items():
        print(f"skipped {printable(os.path.join(root, file.name))}: {reason}", file=sys.stderr)
    return Dataset("folder", cache.images, *_classes(root, cache.files))


def _classes(root: str, files: list[_File]) -> tuple[np.ndarray | None, list[str]]:
    """Labels and the classes' names, which are printed."""
    if stray := _strays(root, files):
        if any(os.sep in file.name for file in files):
            print(f"the images have no class labels, because {stray}", file=sys.stderr)
        return None, []
    names, labels = np.unique([file.name.split(os.sep)[0] for file in files], return_inverse=True)
    classes = [printable(str(name)) for name in names]
    more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    print(f"classes: {', '.join(classes[:20])}{more}")
    if all(file.name.count(os.sep) > 1 for file in files):
        largest = printable(os.path.join(root, str(names[np.bincount(labels).argmax()])))
        print(f"every class holds only folders; if those are the classes, use --data-dir {largest}", file=sys.stderr)
    return labels.astype(np.int64), classes


def _strays(root: str, files: list[_File]) -> str:
    """A clause about the images that are in no subfolder, or "" if there are none."""
    strays = [file.name for file in files if os.sep not in file.name]
    if not strays:
        return ""
    more = f" and {len(strays) - 1} more are" if len(strays) > 1 else " is"
    return f"{printable(os.path.join(root, strays[0]))}{more} in no subfolder"


def _files_under(root: str, out: str | os.PathLike | None) -> tuple[list[_File], str]:
    """Every image file under `root` by its ending, sorted by name, and a clause about the other files.

    Hidden files and runs are left out. Links are followed, and a folder that several links lead to counts once, so that
    loops end.
    """

    def fail(error: OSError) -> None:
        raise error

    def identity(folder: str | os.PathLike) -> tuple[int, int]:
        status = os.stat(folder)
        return status.st_dev, status.st_ino

    files, others = [], Counter()
    seen = {identity(out)} if out is not None and os.path.exists(out) else set()
    try:
        for folder, subfolders, names in os.walk(root, followlinks=True, onerror=fail):
            if identity(folder) in seen or not {"run.json", ".lock"}.isdisjoint(names):
                if folder == root:
                    raise InputError(
                        f"{printable(root)} is the folder of a run; name a folder of images with --data-dir"
                    )
                subfolders.clear()
                continue
            seen.add(identity(folder))
            subfolders[:] = sorted(_visible(subfolders))
            for name in _visible(names):
                ending = os.path.splitext(name)[1].lower()
                if ending in extensions():
                    files.append(_file(root, os.path.join(folder, name)))
                else:
                    others[printable(ending) or "without an ending"] += 1
    except OSError as error:
        name = printable(os.fsdecode(error.filename or root))
        raise InputError(f"{name} cannot be read: {error.strerror}; check --data-dir") from error
    counts = [f"{count} {ending}" for ending, count in others.most_common(5)]
    counts += [f"{sum(others.values())} in all"] if len(others) > 5 else []
    return sorted(filter(None, files)), f"{', '.join(counts)} (no endings of images)" if counts else ""


def _visible(names: list[str]) -> list[str]:
    return [name for name in names if not _LEFT_BEHIND.fullmatch(name)]


def _file(root: str, path: str) -> _File | None:
    """The entry of a file; None for what is no file, such as a pipe."""
    name = os.path.relpath(path, root)
    try:
        status = os.stat(path)
    except OSError:  # a link that leads nowhere, or a file that has just vanished
        return _File(name, -1, -1)
    return _File(name, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


# The cache: {key}.images has the bytes of the images one after another, {key}.json says which they are.


def _cached(
    path: Path, root: str, files: list[_File], shape: Shape, out: str | os.PathLike | None, anew: bool
) -> _Cache:
    """The images in `files`, from the cache as far as it has them; `anew` makes it anew. An interrupt keeps what is
    decoded until then."""
    old = (not anew and _read(path, shape)) or _Cache(np.empty((0, *shape), np.uint8), [], {}, 8)
    if _is_current(old, root, files, shape):
        return old
    rows, depth = {file: row for row, file in enumerate(old.files)}, old.depth
    if depth > 8 and not rows.keys() <= set(files):  # what needed that depth may be gone
        rows, depth = {}, 8
    with workshop(path.parent) as beside:
        needed, free = len(files) * math.prod(shape), shutil.disk_usage(beside).free
        if needed > free:
            raise OSError(f"it needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left")
        while True:
            good, unreadable = [], {}
            try:
                with open(beside / "images", "wb") as target:  # not a memmap, which a full disk would end by SIGBUS
                    for file in _with_progress(files):
                        try:
                            name = os.path.join(root, file.name)
                            pixels = old.images[rows[file]] if file in rows else decode(name, shape, depth)
                        except InputError as error:
                            unreadable[file] = str(error)
                        else:
                            target.write(pixels.tobytes())
                            good.append(file)
            except TooShallow as found:  # the 16-bit images before it were scaled for a smaller depth
                rows, (depth,) = {}, found.args
            except KeyboardInterrupt:
                if len(good) > len(rows):
                    _keep(path, beside, good, unreadable, depth)
                raise
            else:
                break
        if 8 < depth < 16:
            print(f"16-bit images are scaled as {depth}-bit: none has a value above {2**depth - 1}")
        del old  # Windows does not replace a file that is mapped
        _keep(path, beside, good, unreadable, depth)
    if _files_under(root, out)[0] != files:
        raise InputError(f"{printable(root)} changed while it was read; rerun when nothing writes there")
    with open(path.with_suffix(".images"), "rb") as file:
        return _Cache(_mapped(file, len(good), shape), good, unreadable, depth)


def _read(path: Path, shape: Shape) -> _Cache | None:
    """What is decoded; None if there is nothing, or another file than the one that was written."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        with open(path.with_suffix(".images"), "rb") as file:
            status = os.fstat(file.fileno())
            if note["version"] != VERSION or note["images"] != [status.st_size, status.st_mtime_ns]:
                return None
            files, unreadable = ([_File(*each) for each in note[key]] for key in ("files", "unreadable"))
            return _Cache(_mapped(file, len(files), shape), files, dict.fromkeys(unreadable, ""), note["depth"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _mapped(file: BinaryIO, count: int, shape: Shape) -> np.ndarray:
    """The first `count` images in a file, read when they are used."""
    if not count:
        return np.empty((0, *shape), np.uint8)
    return np.asarray(np.memmap(file, np.uint8, "r", shape=(count, *shape)))


def _is_current(cache: _Cache, root: str, files: list[_File], shape: Shape) -> bool:
    """Whether a cache is of these files. What could not be read is tried again: its reason may have gone."""
    if sorted([*cache.files, *cache.unreadable]) != files:
        return False
    for file in cache.unreadable:
        try:
            decode(os.path.join(root, file.name), shape, cache.depth)
        except InputError as error:
            cache.unreadable[file] = str(error)
        except TooShallow:
            return False
        else:
            return False
    return True


def _keep(path: Path, beside: Path, files: list[_File], unreadable: Iterable[_File], depth: int) -> None:
    """Rename what is decoded to the cache's names. The note has the size and time of the images that it belongs to."""
    status = os.stat(beside / "images")
    note = {"version": VERSION, "depth": depth, "images": [status.st_size, status.st_mtime_ns]}
    (beside / "note").write_text(json.dumps({**note, "files": files, "unreadable": list(unreadable)}))
    os.replace(beside / "images", path.with_suffix(".images"))
    os.replace(beside / "note", path.with_suffix(".json"))


def _with_progress(files: list[_File]) -> Iterator[_File]:
    """The files; how many are done is printed if it takes longer than `QUIET`."""
    shown, due = False, time.monotonic() + QUIET
    every, end = (0.2, "\r") if sys.stdout.isatty() else (30, "\n")
    for done, file in enumerate(files):
        if time.monotonic() > due:
            print(f"decoding images, once: {done} of {len(files)}", end=end, flush=True)
            shown, due = True, time.monotonic() + every
        yield file
    if shown:
        print(f"decoding images, once: {len(files)} of {len(files)}")
