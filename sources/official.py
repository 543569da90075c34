"""The official files of CIFAR-10 and MNIST: their download, and their bytes."""

import os
import stat
import warnings
from pathlib import Path

from command import InputError, printable


def download(name: str, **file: str | bool) -> Path:
    """The folder with the official files of the dataset `name`. `file` has the arguments of Keras' `get_file`, which
    downloads, verifies the checksum, unpacks and caches. `InputError` if that fails.

    Only the download is Keras': its `load_data` would unpickle whatever lies in its cache.
    """
    try:
        from tf_keras.utils import get_file  # here: TensorFlow takes seconds to import, and only a download needs it

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its progress bar divides by the size of an empty file
            return Path(get_file(**file)).parent
    except Exception as error:  # no network, a wrong checksum, a truncated archive: there is no common exception
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise InputError(
            f"{name} could not be downloaded ({reason}); name a folder that has it with --data-dir, "
            "or use --dataset faces, which needs no download"
        ) from error


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
