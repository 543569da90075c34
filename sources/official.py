"""The official files of CIFAR-10 and MNIST: where they may be already, their download, and their bytes."""

import hashlib
import os
import shutil
import stat
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from command import InputError, one_line, printable
from sources import Dataset, cache_home, workshop


def find(name: str, read: Callable[[Path], Dataset], download: Callable[[Path], None]) -> Dataset:
    """What `read` makes of the first folder that has the files of the dataset `name` whole: one of Keras', which are
    only read, or our own, to which `download` fetches them. Raises `InputError`."""
    own = cache_home() / name
    for place in [*_keras_folders(), own]:
        with suppress(InputError):
            return read(place)
    try:
        download(own)
    except Exception as error:  # no network, a wrong checksum, a cut archive, a full disk: no common exception
        with suppress(InputError):
            return read(own)  # another process has been faster
        raise InputError(
            f"{name} could not be downloaded to {printable(str(own))} ({printable(one_line(error))}); name a folder "
            "that has it with --data-dir, or use --dataset faces, which needs no download"
        ) from error
    return read(own)


def _keras_folders() -> list[Path]:
    """Where tf_keras and Keras 3 keep downloads, with the folder into which Keras 3 unpacks CIFAR-10."""
    try:
        datasets = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "datasets")
    except RuntimeError:  # no home directory
        return []
    return [datasets, datasets / "cifar-10-batches-py-target"]


def fetch(path: Path, origin: str, file_hash: str) -> None:
    """Download the file at the URL `origin`, whose SHA-256 has to be `file_hash`, to `path`, unless it is there."""
    if os.path.exists(path) and _sha256(path) == file_hash:
        return
    print(f"downloading {origin}")
    with workshop(path.parent) as beside:
        with urllib.request.urlopen(origin, timeout=60) as response, open(beside / path.name, "wb") as file:
            shutil.copyfileobj(response, file)
        if _sha256(beside / path.name) != file_hash:
            raise ValueError("the hash does not match that of the official file")
        os.replace(beside / path.name, path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content(path: Path, limit: int = 2**26) -> bytes:
    """The bytes of a file of at most `limit` bytes, twice the size of the largest official one. `InputError` if it is
    larger, no regular file, or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, a device may never end
            raise InputError(f"{printable(str(path))} is not a file")
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{printable(str(path))} cannot be read: {error.strerror}; check --data-dir") from error
    if len(content) > limit:
        raise InputError(f"{printable(str(path))} is larger than any official file; download it again")
    return content
