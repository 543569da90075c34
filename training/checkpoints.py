"""Checkpoints: the whole state of a training run in one HDF5 file, written and read variable by variable; run.json."""

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np

from command import InputError, RunError, replacing
from tf1 import distributed, keras, tf
from training import weights
from training.folder import (
    check_name,
    check_room,
    checkpoints,
    copy,
    last_checkpoint,
    numbered,
    set_aside,
    sha256,
    step_of,
)

HEADER = 512  # bytes in front of a checkpoint's HDF5 part, for its checksum


def room(variables: list[tf.Variable]) -> int:
    """Bytes that these take in a file. HDF5 would notice a full disk too, but print it for every object."""
    return sum(variable.shape.num_elements() * variable.dtype.size + 4096 for variable in variables)


def check_disk(out: Path, networks: list[keras.Model], generators: int = 0, states: int = 0) -> None:
    """Raise InputError where a run's files will not fit: two checkpoints and a third while it is written, the weights,
    and so many generators and whole states as --keep-every will keep."""
    checkpoint, sizes = room(tf.global_variables()), [room(network.weights) for network in networks]
    needed = (3 - min(2, len(checkpoints(out))) + states) * checkpoint + generators * sizes[0] + max(sizes)
    needed += sum(sizes) if not (out / "discriminator.h5").exists() else 0
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InputError(
            f"the run's checkpoints and weights need {needed / 2**30:.2f} GiB, and the disk of {out} has "
            f"{free / 2**30:.2f} GiB free: make room, or give another --out"
        )


def not_finite(what: str, step: int, out: Path) -> RunError:
    return RunError(f"{what} NaN or infinite at step {step}; {last_checkpoint(out)}. A lower --learning-rate may help")


def check_finite(sess: tf.Session, variables: list[tf.Variable], step: int, out: Path) -> None:
    """Raise RunError where a value is NaN or infinite. Reads one variable at a time, as the largest fill the memory."""
    for variable in variables:
        if not np.isfinite(sess.run(variable)).all():
            raise not_finite(f"the weights are no longer finite: {variable.op.name} is", step, out)


def save_weights(model: keras.Model, path: Path) -> None:
    check_room(path.parent, room(model.weights))
    with replacing(path) as beside:
        model.save_weights(beside, save_format="h5")


def save_state(path: Path, sess: tf.Session, step: int, settings: dict) -> None:
    """Write all variables of the graph (weights, moving averages, Adam's slots and powers), one at a time."""
    check_room(path.parent, room(tf.global_variables()))
    with replacing(path) as beside:
        with h5py.File(beside, "w", userblock_size=HEADER) as file:
            file.attrs["step"] = step
            file.attrs["settings"] = json.dumps(settings)
            for variable in tf.global_variables():
                file[dataset_name(variable)] = sess.run(variable)
        with open(beside, "r+b") as file:
            file.seek(HEADER)
            checksum = sha256(file).hexdigest()
            file.seek(0)
            file.write(checksum.encode())


def save_checkpoint(out: Path, sess: tf.Session, step: int, settings: dict) -> None:
    """Write the state to checkpoint_{step}.h5 and keep two checkpoints."""
    save_state(out / f"checkpoint_{step:06d}.h5", sess, step, settings)
    # A checkpoint of a later step is damaged, or this run would have resumed from it.
    kept = [path for path in checkpoints(out) if step_of(path) <= step][-2:]
    for path in checkpoints(out):
        if path not in kept:
            path.unlink()


def restore(sess: tf.Session, out: Path, settings: dict) -> int:
    """Load the newest checkpoint in `out` that is whole and return its step, or 0 where there is none.

    Raises InputError when the checkpoint is one of another run (`settings`) or program, or when all are damaged. What
    checkpoints of an earlier version do not have among their settings is not compared.
    """
    for path in reversed(checkpoints(out)):
        with open(path, "rb") as file:
            checksum = file.read(HEADER).rstrip(b"\0")
            whole = checksum == sha256(file).hexdigest().encode()
        if not whole:  # HDF5 does not get to see it: on damaged files it may crash
            print(f"{path} is damaged (its checksum is wrong): trying the one before it", file=sys.stderr)
            continue
        with h5py.File(path, "r") as file:
            saved = json.loads(file.attrs["settings"])
            saved.setdefault("smoothing", 0.1 if saved.get("loss") == "article" else 0.0)  # before it was a setting
            for name in (each for each in settings if each in saved):
                if saved[name] != settings[name]:
                    raise InputError(
                        f"{path} was made with {name} {_shortened(saved[name])}, not {_shortened(settings[name])}: "
                        "run it with that, or give another --out or --restart"
                    )
            variables = {dataset_name(variable): variable for variable in tf.global_variables()}
            if {name: file[name].shape for name in file} != {name: tuple(v.shape) for name, v in variables.items()}:
                raise InputError(
                    f"{path} has other variables than this program's {settings.get('model')}, perhaps from another "
                    "version: give another --out or --restart"
                )
            for name, variable in variables.items():
                for replica in distributed.copies(variable):
                    replica.load(file[name][()], sess)
            return int(file.attrs["step"])
    if checkpoints(out):
        raise InputError(f"every checkpoint in {out} is damaged: --restart starts over")
    return 0


def _shortened(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def dataset_name(variable: tf.Variable) -> str:
    return variable.op.name.replace("/", ".")  # HDF5 takes a slash for a group; Adam's names lie below the weights'


# Beginning elsewhere than at the last checkpoint.


def go_back(out: Path, step: int) -> None:
    """Make the run in `out` one that has come to `step`. The folder as it was is kept under another name.

    Raises InputError where there is no state of that step.
    """
    states = {step_of(path): path for name in ("checkpoint", "state") for path in numbered(out, name, "h5")}
    if step not in states:
        known = f"it has {', '.join(map(str, sorted(states)))}" if states else "it has none"
        raise InputError(f"{out} has no state of step {step} (--keep-checkpoints keeps them); {known}")
    check_name(out)
    beside = out.with_name(f".partial-{out.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        for path in out.iterdir():
            number = None if path.name.startswith("events") else step_of(path)
            later = path.suffix in (".h5", ".gif") if number is None else number > step
            if path.is_file() and not later and not path.name.startswith(("checkpoint", ".")):
                copy(path, beside)
        shutil.copy2(states[step], beside / f"checkpoint_{step:06d}.h5")
        set_aside(out, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_networks(folder: Path, networks: dict[str, keras.Model]) -> dict[str, list[weights.LayerWeights]]:
    """The weights {name}.h5 of another run in `folder` for these networks. Raises InputError where they do not fit."""
    found = {}
    for name, model in networks.items():
        path = folder / f"{name}.h5"
        found[name] = weights.read(path)
        if difference := weights.mismatch(model, found[name]):
            raise InputError(f"--start-from: {path} does not have the weights of this model's {name}: {difference}")
    return found


# run.json


def write_run(out: Path, run: dict) -> None:
    """Write run.json: the settings of a run, what it was made with, and how far it is."""
    with replacing(out / "run.json") as beside:
        beside.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def read_run(folder: Path) -> dict | None:
    """What run.json in the folder of a run says; None where there is none, as in runs of an earlier version.

    Raises InputError where it is not a JSON object.
    """
    path = Path(folder, "run.json")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(run, dict):
        raise InputError(f"{path} is not a JSON object")
    return run
