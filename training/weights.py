"""Keras weights in HDF5 files: checked before they are used, and never executed.

The HDF5 library reads addresses and sizes from the file; on some broken files it crashes or never ends. So a child
process opens every file first. Of a whole saved model only the weights are read, never its configuration.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from command import InputError, replacing

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60  # for the child; it reads names and shapes only, so the size of the file does not matter
MEMORY = 2**30  # bytes of address space for the child
DAMAGED = "is damaged: the HDF5 library cannot read it"
KERAS_3 = 'is in the format of Keras 3; save it with tf-keras 2 and save_weights(..., save_format="h5")'
CHECKPOINT = "is a checkpoint; the weights are in generator.h5 next to it"


class LayerWeights(NamedTuple):
    """One layer's weights as the file has them."""

    name: str
    arrays: list[np.ndarray]  # float32, mapped from the file: what is not used takes no memory


def room(variables) -> int:
    """Bytes that TensorFlow variables take in a file, with what a format adds to each."""
    return sum(variable.shape.num_elements() * variable.dtype.size + 4096 for variable in variables)


def save_weights(model, path: Path) -> None:
    """Write the weights of a Keras model as HDF5. Raises OSError where the disk is full, and keeps the old file."""
    if shutil.disk_usage(path.parent).free < room(model.weights):  # HDF5 would print it for every object
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with replacing(path) as beside:
        model.save_weights(beside, save_format="h5")


def mismatch(model, layers: list[LayerWeights]) -> str | None:
    """The first difference between the shapes that were read and those of a model; None where all are the same."""
    expected = _weights(model)
    for number, (found, (layer, weights)) in enumerate(zip(layers, expected, strict=False), 1):
        shapes, wanted = [array.shape for array in found.arrays], [tuple(weight.shape) for weight in weights]
        if shapes != wanted:
            return f"its layer {number} has {_listed(shapes)}, the model's ({layer.name}) {_listed(wanted)}"
    if len(layers) != len(expected):
        return f"it has {len(layers)} layers with weights, the model {len(expected)}"
    return None


def set_weights(model, layers: list[LayerWeights]) -> None:
    """Set a model's weights, in Keras' session, to those that were read; there is no `mismatch`."""
    from tf1 import keras  # here: the child does without TensorFlow

    for (_, weights), found in zip(_weights(model), layers, strict=True):
        keras.backend.batch_set_value(list(zip(weights, found.arrays, strict=True)))


def _weights(model) -> list[tuple]:
    """The layers that have weights, each with these in the order of the file."""
    weights = [(layer, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers]
    return [pair for pair in weights if pair[1]]


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def read(path: str | os.PathLike) -> list[LayerWeights]:
    """The weights in a file, layer by layer.

    path: a file that tf-keras 2 wrote, by `save_weights(..., save_format="h5")` or by `save("....h5")`. Layers are in
    order, as Keras matches them, since names carry a counter. Raises InputError where it is no such file, or weights
    are not finite.
    """
    path = Path(path)
    if path.suffix == ".index" or ".data-" in path.name or Path(f"{path}.index").exists():
        raise InputError(f"{path} {CHECKPOINT}")
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give a file of weights, such as generator.h5 of a run")
        if path.exists() and not path.is_file():  # a pipe would block, a device may never end
            raise InputError(f"{path} is not a file")
        with open(path, "rb") as file:
            if file.read(4) == b"PK\3\4":  # .keras files are ZIP archives
                raise InputError(f"{path} {KERAS_3}")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an HDF5 file")
    if not _opens(path):
        raise InputError(f"{path} {DAMAGED}")
    try:
        with _opened(path) as file:
            layers = [LayerWeights(name, [_mapped(path, each) for each in found]) for name, found in _layers(file)]
        if sum(array.nbytes for layer in layers for array in layer.arrays) > size:
            raise InputError(DAMAGED)  # several names for the same bytes
        for array in (array for layer in layers for array in layer.arrays):
            if array.size and not np.isfinite([array.min(), array.max()]).all():
                raise InputError("has weights that are NaN or infinite")
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except Exception as error:  # on broken bytes, h5py raises whatever comes first
        raise InputError(f"{path} {DAMAGED}") from error
    return layers


def _opens(path: Path) -> bool:
    """Whether a child process gets through the file's names and shapes alive."""
    child = [sys.executable, "-m", "training.weights", os.path.abspath(path)]
    # NumPy's threads reserve address space by the core, which counts against the limit
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run(child, cwd=ROOT, env=environment, timeout=SECONDS, **quiet).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _opened(path: str | os.PathLike) -> h5py.File:
    return h5py.File(path, "r", locking=False)  # some network file systems have no locks


def _layers(file: h5py.File) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Layers that have weights, in order: names and datasets. Raises InputError, whose text follows the file's name."""
    names = set(file)  # not `in file`, which would follow a link
    if names & {"layers", "_layer_checkpoint_dependencies"}:
        raise InputError(KERAS_3)
    root = _below(file, "model_weights") if "model_weights" in names else file  # a whole model's are below
    if "layer_names" not in root.attrs:
        raise InputError("is an HDF5 file, but not one of Keras weights")
    for layer in root.attrs["layer_names"]:
        group = _below(root, layer)
        if datasets := [_below(group, name) for name in group.attrs["weight_names"]]:
            yield _text(layer), datasets


def _below(group: h5py.Group, path: str | bytes) -> h5py.Group | h5py.Dataset:
    """What has this path in the file itself: a link or an external dataset could name any file of this machine."""
    for part in _text(path).split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise InputError("has links in place of weights")
        group = group[part]
    if isinstance(group, h5py.Dataset):
        if group.dtype != np.float32:
            raise InputError("has weights that are not of type float32")
        # Stored whole, a weight is no larger than the file; compressed, a few bytes could claim any amount of memory.
        if group.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or group.external:
            raise InputError("has weights that are not stored as Keras stores them")
    return group


def _mapped(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A dataset as a part of the file, read when it is used."""
    if not dataset.size:
        return np.zeros(dataset.shape, np.float32)
    try:
        return np.memmap(path, np.float32, "r", dataset.id.get_offset(), dataset.shape)
    except OSError:  # some file systems cannot map a file
        return dataset[()]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


if __name__ == "__main__":  # the child: it ends well, or `read` does not go on
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):  # other systems have no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with contextlib.suppress(InputError), _opened(sys.argv[1]) as opened:
        list(_layers(opened))
