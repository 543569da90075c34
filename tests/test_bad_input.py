"""Broken data as a user meets them: one line that says what is wrong, exit code 2, and nothing left behind."""

import ast
import hashlib
import io
import os
import tarfile

import pytest
from conftest import ROOT, bad_input
from PIL import Image
from test_data import BROKEN_BATCHES, BROKEN_NPZ, BROKEN_PICTURES, CIFAR, HEADER, npy, zipped

import data
import models

TINY = ("--model", "tiny", "--batch-size", "2", "--steps", "2", "--out", "run")
FROM_DATA = (*TINY, "--data-dir", "data")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def refused(dcgan, tmp_path):
    """Run the command, which must refuse its data in one line and leave the disk as it was; returns the line."""

    def everything():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def run(*arguments):
        before = everything()
        line = bad_input(dcgan(*arguments))
        cache = tmp_path / "cache" / "dcgan_keras"  # where pictures are decoded; an empty folder does no harm
        assert everything().keys() - {cache.parent, cache} == before.keys() and not os.path.exists("/tmp/ran")
        assert line.startswith("error: ") and line.strip().isprintable()
        return line

    return run


def save(path, size=(8, 8)):
    Image.new("RGB", size, "red").save(path)


@pytest.mark.parametrize("content, reason", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_a_broken_cifar10_batch(content, reason, folder, refused):
    (folder / CIFAR).mkdir()
    (folder / CIFAR / "data_batch_1").write_bytes(content())
    line = refused("--dataset", "cifar10", *FROM_DATA)
    assert f"{CIFAR}/data_batch_1 is no CIFAR-10 batch: " in line and reason in line


# Those whose making alone takes a second are in test_data.py.
SMALL_NPZ = [
    kind for kind in BROKEN_NPZ if kind.startswith(("empty", "text", "no pic", "a pickle", "code", "an unknown"))
]


@pytest.mark.parametrize("kind", SMALL_NPZ)
def test_a_broken_mnist_archive(kind, folder, refused):
    content, reason = BROKEN_NPZ[kind]
    (folder / "mnist.npz").write_bytes(content())
    line = refused("--dataset", "mnist", *FROM_DATA)
    assert "mnist.npz is no MNIST archive" in line and reason in line


@pytest.mark.parametrize("content, reason", BROKEN_PICTURES.values(), ids=BROKEN_PICTURES)
def test_a_broken_picture_beside_good_ones(content, reason, folder, refused):
    save(folder / "1.png")
    save(folder / "2.png")
    (folder / "broken.jpg").write_bytes(content)
    line = refused("--dataset", "folder", *FROM_DATA)
    assert "broken.jpg cannot be read: " in line and reason in line and "--skip-bad" in line


def test_skip_bad_trains_on_the_good_ones_and_lists_the_others(folder, dcgan, tmp_path):
    for i in range(3):
        save(folder / f"{i}.png")
    for name in ("empty.png", "text.jpg"):
        (folder / name).write_bytes(b"" if name == "empty.png" else b"<html>404</html>")
    result = dcgan("--dataset", "folder", *FROM_DATA, "--skip-bad")
    assert result.returncode == 0 and (tmp_path / "run" / "checkpoint_000002.h5").exists()
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        f"skipped {folder / name}" for name in ("empty.png", "text.jpg")
    ]


def nothing(folder):
    pass


def one_picture(folder):
    save(folder / "1.png")


def no_such_folder(folder):
    folder.rmdir()


def a_loop(folder):
    (folder / "up").symlink_to(folder)


def a_link_to_nowhere(folder):
    one_picture(folder)
    save(folder / "3.png")
    (folder / "2.png").symlink_to("nowhere")


def a_pipe(folder):
    os.mkfifo(folder / "mnist.npz")


def a_packed_archive(folder):
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../climbed"))


@pytest.mark.parametrize(
    ("dataset", "make", "reason"),
    [
        ("folder", nothing, "has no pictures"),
        ("folder", a_loop, "has no pictures"),
        ("folder", one_picture, "folder has 1 pictures, fewer than a batch of 2"),
        ("folder", no_such_folder, "No such file or directory; check --data-dir"),
        ("folder", a_link_to_nowhere, "2.png cannot be read: No such file"),
        ("cifar10", nothing, f"there is no folder data/{CIFAR}"),
        ("cifar10", a_packed_archive, "unpack cifar-10-python.tar.gz there first"),
        ("mnist", nothing, "mnist.npz cannot be read: No such file"),
        ("mnist", a_pipe, "mnist.npz is not a file"),
    ],
)
def test_a_folder_that_does_not_do(dataset, make, reason, folder, dcgan, tmp_path):
    make(folder)
    assert reason in bad_input(dcgan("--dataset", dataset, *FROM_DATA))
    assert not (tmp_path / "run").exists() and not (tmp_path / "climbed").exists()


def test_these_are_at_least_forty_kinds():
    assert len(BROKEN_BATCHES) + len(SMALL_NPZ) + len(BROKEN_PICTURES) >= 40


# Downloads, from files beside the test instead of the network.


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """`downloads(name, content, checksum)` lets the download of a dataset find this content."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".keras").mkdir(parents=True)

    def place(name, content, checksum=None):
        (tmp_path / "origin").write_bytes(content)
        place = {**data.DOWNLOADS[name], "origin": (tmp_path / "origin").as_uri()}
        monkeypatch.setitem(data.DOWNLOADS, name, place | ({"file_hash": checksum} if checksum else {}))

    return place


def climbing_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in ("../climbed", "../../climbed", f"{CIFAR}/../../climbed", f"{CIFAR}/data_batch_1"):
            tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", climbing_tar()], ids=["empty", "text", "climbing tar"])
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_with_a_wrong_checksum_is_neither_unpacked_nor_read(name, content, downloads, dcgan, tmp_path):
    downloads(name, content)
    line = bad_input(dcgan("--dataset", name, *TINY))
    assert f"{name} could not be downloaded" in line and "--dataset shapes" in line
    assert "hash does not match" in line or not content
    kept = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert kept <= {"cifar-10-batches-py.tar.gz", "mnist.npz", "keras.json"}  # as it came
    assert not (tmp_path / "run").exists() and not list(tmp_path.rglob("climbed"))


def test_a_download_is_read_as_any_other_file(downloads, dcgan, tmp_path):
    content = zipped(x_train=npy(HEADER, b"0"))
    downloads("mnist", content, hashlib.sha256(content).hexdigest())
    assert "mnist.npz is no MNIST archive" in bad_input(dcgan("--dataset", "mnist", *TINY))
    assert not (tmp_path / "run").exists()


# Nothing foreign is executed.

FORBIDDEN = {"eval", "exec", "compile", "__import__", "Lambda", "load_model", "model_from_json", "model_from_config"}
FORBIDDEN |= {"unsafe_load", "full_load", "extractall", "load_data", "load_module", "system", "popen"}
FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "runpy",
    "imp",
}


def runs_foreign_code(source):
    """What in a Python source could run what a file holds: names, modules, and allow_pickle in any form but False."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in FORBIDDEN:
                # re.compile makes a pattern, not code
                if not (name == "compile" and isinstance(node, ast.Attribute)):
                    found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                imported = {getattr(node, "module", None) or "", *(alias.name for alias in names)}
                found |= {name.split(".")[0] for name in imported} & (FORBIDDEN | FORBIDDEN_MODULES)
            case ast.keyword(arg="allow_pickle", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                found.add("allow_pickle")
    return found


@pytest.mark.parametrize(
    "source, what",
    [
        ("import pickle\npickle.loads(x)", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import marshal as m", "marshal"),
        ("numpy.load(f, allow_pickle=True)", "allow_pickle"),
        ("keras.models.load_model(f)", "load_model"),
        ("from keras.layers import Lambda", "Lambda"),
        ("layers.Lambda(lambda x: x)", "Lambda"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("tar.extractall()", "extractall"),
        ("datasets.cifar10.load_data()", "load_data"),
    ],
)
def test_the_search_finds_what_runs_foreign_code(source, what):
    assert what in runs_foreign_code(source)


SOURCES = sorted(path for path in ROOT.rglob("*.py") if not {"tests", "site-packages"} & set(path.parts))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_runs_foreign_code(path):
    assert runs_foreign_code(path.read_text()) == set()


def test_no_model_has_a_layer_that_holds_code(graph):
    for pair in models.MODELS.values():
        for network in (pair.generator(), pair.discriminator()):
            assert not [layer.name for layer in network.submodules if type(layer).__name__ == "Lambda"]
