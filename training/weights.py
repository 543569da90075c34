"""A model's weights from an HDF5 file that may be another model's, damaged, or made to do harm.

HDF5 is a C library that reads addresses and sizes from the file; on broken ones it can crash or never end. So a process
of its own reads the file, with bounds on time and memory where the system has them, and hands over names, shapes and
numbers. Nothing in the file
is executed: no pickle, and of a whole saved model only the weights are looked at, never its configuration.
"""

import contextlib
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from command import InputError, RunError, one_line, replacing

try:
    import resource
except ImportError:  # Windows
    resource = None

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20  # of computing; a file of 2.6 GB takes a few
DAMAGED = "is damaged: the HDF5 library cannot read it"


def save_weights(model, path: Path) -> None:
    with replacing(path) as beside:
        model.save_weights(beside, save_format="h5")


class LayerWeights(NamedTuple):
    """One layer's weights as the file has them."""

    name: str
    arrays: list[np.ndarray]  # float32


def load_weights(model, path: str | os.PathLike) -> None:
    """Set the weights of a Keras model to those in `path`, all of them or none.

    path: what tf-keras 2 writes, by `save_weights(..., save_format="h5")` or by `save("....h5")`. Layers are matched by
    their order, as Keras does, since names carry a counter. Raises `InputError` when the file is no such file, or its
    weights are not finite or do not have the model's shapes.
    """
    layers = read(path)
    difference = mismatch(model, layers)
    if difference:
        raise InputError(f"{path} does not have the weights of this model: {difference}")
    set_weights(model, layers)


def mismatch(model, layers: list[LayerWeights]) -> str | None:
    """What first tells weights that were read from those of a model, or None where all shapes are the same."""
    expected = _weights(model)
    for number, (found, (layer, weights)) in enumerate(zip(layers, expected, strict=False), 1):
        shapes, wanted = [array.shape for array in found.arrays], [tuple(weight.shape) for weight in weights]
        if shapes != wanted:
            return f"its layer {number} has {_listed(shapes)}, the model's ({layer.name}) {_listed(wanted)}"
    if len(layers) != len(expected):
        return f"it has {len(layers)} layers with weights, the model {len(expected)}"
    return None


def set_weights(model, layers: list[LayerWeights]) -> None:
    """Set a model's weights to those that were read; there is no `mismatch`."""
    from tf1 import keras  # here: TensorFlow takes seconds, and the process that reads the file does not need it

    pairs = zip(_weights(model), layers, strict=True)
    keras.backend.batch_set_value(
        [pair for (_, weights), found in pairs for pair in zip(weights, found.arrays, strict=True)]
    )


def _weights(model) -> list[tuple]:
    """The layers that have weights, each with these in the order of the file."""
    weights = [(layer, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers]
    return [pair for pair in weights if pair[1]]


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def read(path: str | os.PathLike) -> list[LayerWeights]:
    """The weights in a file, layer by layer, read in a process of its own. Raises `InputError`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device may never end
            raise InputError(f"{path} is not a file")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        reader = subprocess.run(
            [sys.executable, "-m", "training.weights", os.path.abspath(path)],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            capture_output=True,
            # NumPy's threads reserve address space by the core, which counts against the bound
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            timeout=None if resource else 10 * SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{path} {DAMAGED}") from None
    if reader.returncode not in (0, 1, 2):  # a crash, or over the bounds
        raise InputError(f"{path} {DAMAGED}")
    if reader.returncode == 2:
        raise InputError(f"{path} {reader.stdout.decode()}")
    if reader.returncode:
        raise RunError(f"{path} could not be read: {reader.stderr.decode(errors='replace')[-200:]}")
    start = reader.stdout.index(b"\n") + 1
    layers = []
    for name, shapes in json.loads(reader.stdout[:start]):
        arrays = []
        for shape in shapes:
            array = np.frombuffer(reader.stdout, np.float32, math.prod(shape), start).reshape(shape)
            start += array.nbytes
            arrays.append(array)
        layers.append(LayerWeights(name, arrays))
    return layers


# --- the process that reads ------------------------------------------------------------------------------------------


def _main(path: str) -> int:
    """Write one line of JSON, [[layer, [shape, ...]], ...], and the numbers to stdout; or why not, with exit code 2."""
    size = os.stat(path).st_size
    limit("RLIMIT_CPU", SECONDS)
    limit("RLIMIT_AS", 2**30 + 2 * size)
    limit("RLIMIT_CORE", 0)
    out = sys.stdout.buffer
    try:
        if not h5py.is_hdf5(path):
            raise InputError("is not an HDF5 file")
        with h5py.File(path, "r") as file:
            layers = [(name, list(datasets)) for name, datasets in _layers(file)]
            if sum(dataset.nbytes for _, datasets in layers for dataset in datasets) > size:
                raise InputError(DAMAGED)  # else a few bytes could claim any amount of memory
            arrays = [dataset[()] for _, datasets in layers for dataset in datasets]
            header = [(name, [dataset.shape for dataset in datasets]) for name, datasets in layers if datasets]
        if not all(np.isfinite(array).all() for array in arrays):
            raise InputError("has weights that are NaN or infinite")
    except Exception as error:  # on broken bytes, h5py raises whatever comes first
        out.write((one_line(error) if isinstance(error, InputError) else DAMAGED).encode())
        return 2
    out.write(json.dumps(header).encode() + b"\n")
    for array in arrays:
        out.write(array.tobytes())
    return 0


def limit(name: str, most: int) -> None:
    """Limit a resource of this process, where the system can: Windows has no such limits, macOS none on memory."""
    if resource and hasattr(resource, name):
        kind = getattr(resource, name)
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _layers(file: h5py.File) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Layers' names and datasets, in their order. Raises `InputError`, whose text follows the file's name."""
    if "settings" in file.attrs and "step" in file.attrs:
        raise InputError("is a training checkpoint; the weights are in generator.h5 beside it")
    if "layers" in file or "_layer_checkpoint_dependencies" in file:
        raise InputError('is in the format of Keras 3; save it with tf-keras 2 and save_weights(..., save_format="h5")')
    root = file.get("model_weights", file)  # a whole model: its weights are below
    if "layer_names" not in root.attrs:
        raise InputError("is an HDF5 file, but not one of Keras weights")
    for layer in root.attrs["layer_names"]:
        group = _below(root, layer)
        yield _text(layer), [_below(group, name) for name in group.attrs["weight_names"]]


def _below(group: h5py.Group, path: str | bytes) -> h5py.Group | h5py.Dataset:
    """What has this path in the file itself: a link or an external dataset could name any file of this machine."""
    for part in _text(path).split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise InputError("has links in place of weights")
        group = group[part]
    if isinstance(group, h5py.Dataset):
        if group.dtype != np.float32:
            raise InputError("has weights that are not of type float32")
        if group.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or group.external:
            raise InputError("has weights that are not stored as Keras stores them")
    return group


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
