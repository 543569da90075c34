"""Checkpoints: the whole state of a training run in one HDF5 file, written and read variable by variable."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

import distributed
from command import InputError, RunError
from files import check_room, checkpoints, last_checkpoint, replacing, sha256
from tf1 import keras, tf

HEADER = 512  # bytes in front of a checkpoint's HDF5 part, for its checksum


def room(variables: list[tf.Variable]) -> int:
    """Bytes that these take in a file. HDF5 would notice a full disk too, but print it for every object."""
    return sum(variable.shape.num_elements() * variable.dtype.size + 4096 for variable in variables)


def save_weights(model: keras.Model, path: Path) -> None:
    check_room(path.parent, room(model.weights))
    with replacing(path) as beside:
        model.save_weights(beside, save_format="h5")


def not_a_number(step: int, out: Path) -> RunError:
    return RunError(f"the losses are no longer numbers at step {step}; {last_checkpoint(out)}")


def save_checkpoint(out: Path, sess: tf.Session, step: int, settings: dict) -> None:
    """Write all variables of the graph (weights, moving averages, Adam's slots and powers), one at a time."""
    check_room(out, room(tf.global_variables()))
    with replacing(out / f"checkpoint_{step:06d}.h5") as beside:
        with h5py.File(beside, "w", userblock_size=HEADER) as file:
            file.attrs["step"] = step
            file.attrs["settings"] = json.dumps(settings)
            for variable in tf.global_variables():
                value = sess.run(variable)
                if not np.isfinite(value).all():
                    raise not_a_number(step + 1, out)
                file[dataset_name(variable)] = value
                del value  # or two of the largest would be in memory at a time
        with open(beside, "r+b") as file:
            file.seek(HEADER)
            checksum = sha256(file).hexdigest()
            file.seek(0)
            file.write(checksum.encode())
    # Two are kept. One of a later step is damaged, or this run would have begun there.
    kept = [path for path in checkpoints(out) if int(path.stem.split("_")[1]) <= step][-2:]
    for path in checkpoints(out):
        if path not in kept:
            path.unlink()


def restore(sess: tf.Session, out: Path, settings: dict) -> int:
    """Load the newest checkpoint in `out` that is whole and return its step, or 0 where there is none.

    Raises InputError when the checkpoint is one of another run (`settings`) or program, or when all are damaged.
    """
    for path in reversed(checkpoints(out)):
        with open(path, "rb") as file:
            checksum = file.read(HEADER).rstrip(b"\0")
            whole = checksum == sha256(file).hexdigest().encode()
        if not whole:  # HDF5 gets to see nothing else: on damaged files it may crash
            print(f"{path} is damaged (its checksum is wrong): trying the one before it", file=sys.stderr)
            continue
        with h5py.File(path, "r") as file:
            saved = json.loads(file.attrs["settings"])
            saved.setdefault("smoothing", 0.1 if saved.get("loss") == "article" else 0.0)  # as it was without a choice
            for name in (each for each in settings if each in saved):
                if saved.get(name) != settings[name]:
                    raise InputError(
                        f"{path} was made with {name} {saved.get(name)}, not {settings[name]}: "
                        "run it with that, or give another --out or --restart"
                    )
            variables = {dataset_name(variable): variable for variable in tf.global_variables()}
            if {name: file[name].shape for name in file} != {name: tuple(v.shape) for name, v in variables.items()}:
                raise InputError(
                    f"{path} has other variables than this program's {settings.get('model')}, perhaps from another "
                    "version: give another --out or --restart"
                )
            for name, variable in variables.items():
                for copy in distributed.copies(variable):
                    copy.load(file[name][()], sess)
            return int(file.attrs["step"])
    if checkpoints(out):
        raise InputError(f"every checkpoint in {out} is damaged: --restart begins anew")
    return 0


def dataset_name(variable: tf.Variable) -> str:
    return variable.op.name.replace("/", ".")  # HDF5 takes a slash for a group; Adam's names lie below the weights'
