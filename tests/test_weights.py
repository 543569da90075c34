"""Weights of the right model are set, all others are refused with one line, and broken bytes harm nothing."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

import h5py
import numpy as np
import pytest
from broken import mutations
from conftest import ROOT, tiny_pair
from hypothesis import HealthCheck, given, settings

import models
from command import InputError
from reproduce import figures
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
    weights.save_weights(model, tmp_path / "tiny.h5")
    return tmp_path / "tiny.h5"


def load(model, path):
    layers = weights.read(path)
    if difference := weights.mismatch(model, layers):
        raise InputError(f"{path}: {difference}")
    weights.set_weights(model, layers)


def refused(model, path, *words):
    """Check that `path` is refused with one line that has `words`, and the model is as it was."""
    before = model.get_weights()
    with pytest.raises(InputError) as caught:
        load(model, path)
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
    load(other, path)
    assert equal(model, other)


def test_committed_weights_load(graph, monkeypatch):
    model = models.article_generator()
    monkeypatch.setattr(weights, "_opens", lambda path: True)  # saves a process for each
    folders = [ROOT / folder for folder in (figures.COMMITTED, *figures.OTHERS)]  # not those of a user's runs
    for path in [ROOT / figures.BEST, *(path for folder in folders for path in sorted(folder.glob("*.h5")))]:
        assert weights.mismatch(model, weights.read(path)) is None


def test_the_weights_of_a_whole_saved_model_are_read_and_its_code_is_not(model, tmp_path):
    """A Lambda layer is code in the file; a model of the same shapes takes the weights without it."""
    saved = tiny_pair()["generator"]()
    saved.add(keras.layers.Lambda(lambda x: x / 0))
    filled(saved, seed=2)
    saved.save(tmp_path / "whole.h5")
    load(model, tmp_path / "whole.h5")
    assert equal(model, saved)


def test_nested_and_frozen_layers_keep_their_order(graph, tmp_path):
    def nested():
        inner = tiny_pair()["generator"]()
        inner.layers[1].trainable = False
        return keras.Sequential([keras.layers.InputLayer((5,)), inner, keras.layers.Conv2D(1, 1)])

    first, second = filled(nested()), filled(nested(), seed=1)
    weights.save_weights(first, tmp_path / "nested.h5")
    load(second, tmp_path / "nested.h5")
    assert equal(first, second)


def test_weights_of_another_model_are_refused_with_both_shapes(model, path):
    refused(tiny_pair()["discriminator"](), path, "layer 1 has 5x48 48", "4x4x3x4 4")
    fewer = keras.Sequential(model.layers[:1])
    fewer.build((None, 5))
    refused(fewer, path, "has 2 layers with weights, the model 1")


def test_a_full_disk_is_an_error_and_keeps_the_old_file(model, path, monkeypatch, capfd):
    before = path.read_bytes()
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(100))
    with pytest.raises(OSError, match="No space left") as caught:
        weights.save_weights(model, path)
    assert caught.value.errno == errno.ENOSPC and path.read_bytes() == before
    assert capfd.readouterr().err == "" and len(list(path.parent.iterdir())) == 1


@pytest.mark.long  # looks at every number of it
def test_a_file_of_more_than_2_gb_is_read(graph, tmp_path):
    """As of faces200's discriminator; sparse here, so the disk need not have them."""
    path = tmp_path / "large.h5"
    model = keras.Sequential([keras.layers.InputLayer((1,)), keras.layers.Dense(1)])
    model.save_weights(path, save_format="h5")
    number = 2**29 + 2**20
    with h5py.File(path, "r+") as file:
        del file["dense/dense/kernel:0"]
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((1, number))
        h5py.h5d.create(file["dense/dense"].id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, create)
    (layer,) = weights.read(path)
    assert path.stat().st_size > 2**31 and [array.shape for array in layer.arrays] == [(1, number), (1,)]


# Files that are not as Keras writes them.


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


def linked_root(file, group):
    file["model_weights"] = h5py.ExternalLink("/etc/passwd", "/")


def external(file, group):
    del group["kernel:0"]
    group.create_dataset("kernel:0", (5, 48), np.float32, external=[("/etc/passwd", 0, 960)])


def again(file, group):
    """Names of the same numbers, more of them than the file has bytes."""
    group.attrs["weight_names"] = [b"dense/kernel:0"] * 100
    file["dense"].attrs["weight_names"] = [b"dense/kernel:0"] * 100


EDITS = {
    "no number": (replace("bias:0", data=np.full(48, np.nan, np.float32)), "NaN or infinite"),
    "float64": (replace("bias:0", dtype=np.float64), "not of type float32"),
    "text": (replace("bias:0", data=np.full(48, b"x")), "not of type float32"),
    "compressed": (replace("kernel:0", compression="gzip"), "not stored as Keras stores them"),
    "a compressed claim": (
        replace("kernel:0", data=None, shape=(10**10,), dtype=np.float32, chunks=(10**6,), compression="gzip"),
        "not stored as Keras stores them",
    ),
    "another shape": (replace("bias:0", data=np.zeros(47, np.float32)), "layer 1 has 5x48 47"),
    "far more than there is": (replace("bias:0", data=None, shape=(10**12,), dtype=np.float32), "damaged"),
    "the same again and again": (again, "damaged"),
    "a link out of the file": (link, "links"),
    "a link for all": (linked_root, "links"),
    "bytes of another file": (external, "not stored as Keras stores them"),
    "no list of layers": (lambda file, group: file.attrs.pop("layer_names"), "not one of Keras weights"),
    "a layer missing": (lambda file, group: file.pop("dense"), "links in place of weights"),
    "a list that is none": (lambda file, group: file.attrs.create("layer_names", 3), "damaged"),
    "Keras 3": (lambda file, group: file.create_group("layers"), "is in the format of Keras 3"),
}


@pytest.mark.parametrize("name", EDITS)
def test_files_that_are_not_as_keras_writes_them_are_refused(name, model, path):
    edit, word = EDITS[name]
    with h5py.File(path, "r+") as file:
        edit(file, file["dense/dense"])
    refused(model, path, word)


@pytest.mark.long  # loads Keras 3
def test_files_of_keras_3_are_refused_with_what_to_do(model, tmp_path):
    save = "import keras; m = keras.Sequential([keras.Input((5,)), keras.layers.Dense(48)]); "
    save += "m.save_weights('k.weights.h5'); m.save('k.keras'); m.save('k.h5')"
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "0"}
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, env=environment, check=True, capture_output=True)
    refused(model, tmp_path / "k.weights.h5", "Keras 3", "tf-keras 2")
    refused(model, tmp_path / "k.keras", "Keras 3", "tf-keras 2")
    refused(model, tmp_path / "k.h5", "layer")  # its older format is the one of Keras 2


def test_a_checkpoint_is_refused_with_where_the_weights_are(model, tmp_path):
    tf.train.Saver().save(keras.backend.get_session(), str(tmp_path / "checkpoint_000007"), write_meta_graph=False)
    names = ("checkpoint_000007", "checkpoint_000007.index", "checkpoint_000007.data-00000-of-00001")
    for name in names:
        refused(model, tmp_path / name, "is a checkpoint; the weights are in generator.h5 next to it")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not an HDF5 file"), (b"\x89PNG\r\n" * 999, "not an HDF5 file"), (b"PK\3\4" + b"x" * 99, "Keras 3")],
)
def test_a_file_that_is_no_hdf5_is_refused(content, words, model, tmp_path):
    (tmp_path / "w.keras").write_bytes(content)
    refused(model, tmp_path / "w.keras", words)


def test_a_file_cut_short_is_refused(model, path):
    content = path.read_bytes()
    for part in (0.1, 0.99):
        path.write_bytes(content[: int(len(content) * part)])
        refused(model, path, "damaged")


def test_what_is_no_file_is_refused_at_once(model, tmp_path):
    refused(model, tmp_path / "nothing.h5", "No such file")
    refused(model, tmp_path, "is a folder: give a file of weights")
    if hasattr(os, "mkfifo"):  # Windows has none
        os.mkfifo(tmp_path / "pipe.h5")
        refused(model, tmp_path / "pipe.h5", "is not a file")


@pytest.mark.parametrize("library", ["import os; os.abort()", "while True: pass", "raise MemoryError"])
def test_a_crash_or_hang_of_the_library_is_a_damaged_file(library, model, path, monkeypatch, tmp_path):
    """libhdf5 crashes or hangs on some damaged files; on which, depends on its version. Here a stand-in does."""
    (tmp_path / "h5py.py").write_text(library)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the child
    monkeypatch.setattr(weights, "SECONDS", 5 if "while" not in library else 1)
    began = time.monotonic()
    refused(model, path, "damaged")
    assert time.monotonic() - began < 30


# What other systems than Linux have of `resource`: no such module, or a limit that cannot be set.
RESOURCE = {
    "Windows": "raise ImportError('No module named resource')",
    "macOS": "RLIMIT_CORE, RLIMIT_AS = 4, 5\ndef setrlimit(kind, limits):\n    raise ValueError('exceeds')",
}


@pytest.mark.parametrize("system", RESOURCE)
def test_weights_are_read_where_there_are_no_such_limits(system, path, tmp_path, monkeypatch):
    (tmp_path / "resource.py").write_text(RESOURCE[system])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert len(weights.read(path)) == 2


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX's")
def test_weights_are_read_and_written_where_the_file_system_gives_no_lock(model, path):
    """HDF5's own lock cannot be taken where another process holds one, nor where a file system has none."""
    import fcntl

    beside = path.with_name(".partial-tiny.h5")
    with open(path) as file, open(beside, "w") as new:
        fcntl.flock(file, fcntl.LOCK_EX), fcntl.flock(new, fcntl.LOCK_EX)
        assert len(weights.read(path)) == 2
        weights.save_weights(model, path)


@pytest.mark.parametrize(
    "examples", [5, pytest.param(int(os.environ.get("FUZZ_EXAMPLES", "1000")), marks=pytest.mark.long)]
)
def test_fuzz_the_reader(examples, path):
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == 5,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(path.read_bytes()))
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
