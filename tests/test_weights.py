"""Weights of the right model are set, all others are refused with one line, and broken bytes harm nothing."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, tiny_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import InputError
from tf1 import keras, tf
from training import weights


def filled(model, seed=0):
    """The model with random weights, positive as variances have to be."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


@pytest.fixture
def model(graph):
    return filled(tiny_pair()["generator"]())


@pytest.fixture
def path(model, tmp_path):
    """The file of the model's weights."""
    model.save_weights(tmp_path / "tiny.h5", save_format="h5")
    return tmp_path / "tiny.h5"


def refused(model, path, *words):
    """Check that `path` is refused with one line that has `words`, and the model is as it was."""
    before = model.get_weights()
    with pytest.raises(InputError) as caught:
        weights.load_weights(model, path)
    line = str(caught.value)
    assert line.isprintable() and str(path) in line
    for word in words:
        assert word in line
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def equal(model, other):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_weights_come_back_to_the_last_bit(model, path):
    other = filled(tiny_pair()["generator"](), seed=1)  # its layers have other names: Keras counts them
    assert not equal(model, other)
    weights.load_weights(other, path)
    assert equal(model, other)


def test_the_weights_of_a_whole_saved_model_are_read_and_its_code_is_not(model, tmp_path):
    """A Lambda layer is code in the file; a model of the same shapes takes the weights without it."""
    saved = tiny_pair()["generator"]()
    saved.add(keras.layers.Lambda(lambda x: x / 0))
    filled(saved, seed=2)
    saved.save(tmp_path / "whole.h5")
    weights.load_weights(model, tmp_path / "whole.h5")
    assert equal(model, saved)


def test_nested_and_frozen_layers_keep_their_order(graph, tmp_path):
    def nested():
        inner = tiny_pair()["generator"]()
        inner.layers[1].trainable = False
        return keras.Sequential([keras.layers.InputLayer((5,)), inner, keras.layers.Conv2D(1, 1)])

    first, second = filled(nested()), filled(nested(), seed=1)
    first.save_weights(tmp_path / "nested.h5", save_format="h5")
    weights.load_weights(second, tmp_path / "nested.h5")
    assert equal(first, second)


def test_weights_of_another_model_are_refused_with_both_shapes(model, path, tmp_path):
    other = tiny_pair()["discriminator"]()
    refused(other, path, "layer 1 has 5x48 48", "4x4x3x4 4")
    fewer = keras.Sequential(model.layers[:1])
    fewer.build((None, 5))
    refused(fewer, path, "has 2 layers with weights, the model 1")


def edited(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file, file["dense/dense"])


def replace(name, **arguments):
    """An edit that puts another dataset in the place of a kernel or bias."""

    def edit(file, group):
        value = group[name][()]
        del group[name]
        group.create_dataset(name, **{"data": value, **arguments})

    return edit


def link(file, group):
    del group["kernel:0"]
    group["kernel:0"] = h5py.ExternalLink("/etc/passwd", "/")


def external(file, group):
    del group["kernel:0"]
    group.create_dataset("kernel:0", (5, 48), np.float32, external=[("/etc/passwd", 0, 960)])


EDITS = {
    "no number": (replace("bias:0", data=np.full(48, np.nan, np.float32)), "NaN or infinite"),
    "float64": (replace("bias:0", dtype=np.float64), "not of type float32"),
    "text": (replace("bias:0", data=np.full(48, b"x")), "not of type float32"),
    "compressed": (replace("kernel:0", compression="gzip"), "not stored as Keras stores them"),
    "another shape": (replace("bias:0", data=np.zeros(47, np.float32)), "layer 1 has 5x48 47"),
    "far more than there is": (replace("bias:0", data=None, shape=(10**12,), dtype=np.float32), "damaged"),
    "a link out of the file": (link, "links"),
    "bytes of another file": (external, "not stored as Keras stores them"),
    "no list of layers": (lambda file, group: file.attrs.pop("layer_names"), "not one of Keras weights"),
    "a layer missing": (lambda file, group: file.pop("dense"), "links in place of weights"),
    "a list that is none": (lambda file, group: file.attrs.create("layer_names", 3), "damaged"),
}


@pytest.mark.parametrize("name", EDITS)
def test_files_that_are_not_as_keras_writes_them_are_refused(name, model, path):
    edit, word = EDITS[name]
    edited(path, edit)
    refused(model, path, word)


def test_a_file_of_keras_3_is_refused_with_what_to_do(model, tmp_path):
    save = (
        """import keras; keras.Sequential([keras.Input((5,)), keras.layers.Dense(48)]).save_weights("k.weights.h5")"""
    )
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "0"}
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, env=environment, check=True, capture_output=True)
    refused(model, tmp_path / "k.weights.h5", "Keras 3", "tf-keras 2")


def test_a_checkpoint_is_refused_with_where_the_weights_are(model, tmp_path):
    from training import checkpoints

    checkpoints.save_checkpoint(tmp_path, keras.backend.get_session(), 7, {})
    refused(model, tmp_path / "checkpoint_000007.h5", "checkpoint", "generator.h5")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"x" * 5000])
def test_a_file_that_is_no_hdf5_is_refused(content, model, tmp_path):
    (tmp_path / "w.h5").write_bytes(content)
    refused(model, tmp_path / "w.h5", "not an HDF5 file")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_file_cut_short_is_refused(part, model, path):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(model, path, "damaged")


def test_what_is_no_file_is_refused_at_once(model, tmp_path):
    refused(model, tmp_path / "nothing.h5", "No such file")
    refused(model, tmp_path, "is not a file")
    if hasattr(os, "mkfifo"):  # Windows has none
        os.mkfifo(tmp_path / "pipe.h5")
        refused(model, tmp_path / "pipe.h5", "is not a file")


def test_a_reader_that_dies_or_never_ends_is_reported_as_a_damaged_file(model, path, monkeypatch, tmp_path):
    """libhdf5 does both on some damaged files, which ones depends on its version; so a stand-in for the reader."""
    (tmp_path / "h5py.py").write_text("import os, resource\nif 'DIE' in os.environ: os.abort()\n")
    (tmp_path / "reader.py").write_text(Path(weights.__file__).read_text())
    (tmp_path / "command.py").write_text(Path(weights.__file__).with_name("command.py").read_text())
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "reader.py"))
    monkeypatch.setenv("DIE", "1")
    refused(model, path, "damaged")

    monkeypatch.delenv("DIE")
    (tmp_path / "h5py.py").write_text(
        "class Group: pass\nDataset = File = Group\ndef is_hdf5(path):\n    while True: pass\n"
    )
    reader = (tmp_path / "reader.py").read_text()
    (tmp_path / "reader.py").write_text(re.sub(r"^SECONDS = \d+", "SECONDS = 1", reader, flags=re.MULTILINE))
    began = time.monotonic()
    refused(model, path, "damaged")
    assert time.monotonic() - began < 60
    # Windows has no limit on computing time, so there it is the time that passes.
    (tmp_path / "resource.py").write_text("raise ImportError('as on Windows')")
    monkeypatch.setattr(weights, "resource", None)
    monkeypatch.setattr(weights, "SECONDS", 0.1)
    refused(model, path, "damaged")


# What other systems than Linux have of `resource`: no such module, or a limit that cannot be set.
RESOURCE = {
    "Windows": "raise ImportError('No module named resource')",
    "macOS": """
RLIM_INFINITY, RLIMIT_CPU, RLIMIT_AS, RLIMIT_CORE = 2**63 - 1, 0, 5, 4
def getrlimit(kind):
    return RLIM_INFINITY, RLIM_INFINITY
def setrlimit(kind, limits):
    if kind == RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
""",
}


@pytest.mark.parametrize("system", RESOURCE)
def test_weights_are_read_where_there_are_no_such_limits(system, model, path, tmp_path, monkeypatch):
    (tmp_path / "resource.py").write_text(RESOURCE[system])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the reader's, which finds this one first
    other = filled(tiny_pair()["generator"](), seed=1)
    weights.load_weights(other, path)
    assert equal(model, other)
    path.write_bytes(path.read_bytes()[:5000])
    refused(model, path, "damaged")


def test_every_module_loads_where_posix_modules_are_missing(tmp_path):
    for name in ("resource", "fcntl"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('No module named {name}')")
    files = [*ROOT.glob("*.py"), *ROOT.glob("datasets/[a-z]*.py"), *ROOT.glob("reproduce/[a-z]*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    subprocess.run([sys.executable, "-c", code, *sorted(names)], env=environment, cwd=tmp_path, check=True)


@st.composite
def mutations(draw, content):
    """The bytes of a file with some of them replaced, or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(content) - 1))
        content[at] = draw(st.sampled_from([0, 255, content[at] ^ 1, content[at] ^ 128]) | st.integers(0, 255))
    return bytes(content[: draw(st.just(len(content)) | st.integers(0, len(content)))])


@pytest.mark.parametrize(
    "examples", [20, pytest.param(int(os.environ.get("FUZZ_EXAMPLES", "1000")), marks=pytest.mark.long)]
)
def test_fuzz_the_reader(examples, tmp_path):
    with tf.Graph().as_default(), tf.Session():
        model = tiny_pair()["generator"]()
        model.save_weights(tmp_path / "w.h5", save_format="h5")

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == 20,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations((tmp_path / "w.h5").read_bytes()))
    def feed(content):
        with tempfile.NamedTemporaryFile(suffix=".h5") as file:
            file.write(content)
            file.flush()
            try:
                layers = weights.read(file.name)
            except InputError as error:
                assert str(error).isprintable()
            else:
                arrays = [array for layer in layers for array in layer.arrays]
                assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
                assert sum(array.nbytes for array in arrays) <= len(content)

    feed()
