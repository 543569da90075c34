"""Broken data as a user meets them: one line that says what is wrong, exit code 2, and nothing left behind."""

import ast
import hashlib
import io
import os
import tarfile

import pytest
from conftest import ROOT, bad_input
from PIL import Image

import models
from sources import cifar10, mnist

CIFAR = "cifar-10-batches-py"

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
        paths = (path for path in tmp_path.rglob("*") if tmp_path / "cache" not in [path, *path.parents])
        return {path: path.stat().st_mtime_ns for path in paths}

    def run(*arguments):
        before = everything()
        line = bad_input(dcgan(*arguments))
        assert everything().keys() == before.keys() and not os.path.exists("/tmp/ran")  # the cache keeps its work
        assert line.startswith("error: ") and line.strip().isprintable()
        return line

    return run


def save(path, size=(8, 8)):
    Image.new("RGB", size, "red").save(path)


def a_broken_batch(folder):
    (folder / CIFAR).mkdir()
    (folder / CIFAR / "data_batch_1").write_bytes(b"\x80\x02cposix\nsystem\nU\x0etouch /tmp/ran\x85R.")


def a_broken_archive(folder):
    (folder / "mnist.npz").write_bytes(b"<html>404</html>")


def a_broken_picture(folder):
    save(folder / "1.png")
    save(folder / "2.png")
    (folder / "3.png").write_bytes(b"<html>404</html>")


def no_such_folder(folder):
    folder.rmdir()


@pytest.mark.parametrize(
    ("dataset", "make", "words"),
    [
        ("cifar10", a_broken_batch, f"{CIFAR}/data_batch_1 is not a CIFAR-10 batch: it names posix.system"),
        ("mnist", a_broken_archive, "mnist.npz is not an MNIST archive"),
        ("folder", a_broken_picture, "3.png cannot be read: "),
        ("folder", no_such_folder, "check --data-dir"),
    ],
)
def test_broken_data(dataset, make, words, folder, refused):
    make(folder)
    assert words in refused("--dataset", dataset, *FROM_DATA)


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


# Downloads, from files beside the test instead of the network.


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """`downloads(name, content, checksum)` lets the download of a dataset find this content."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".keras").mkdir(parents=True)

    def place(name, content, checksum=None):
        (tmp_path / "origin").write_bytes(content)
        download = {"cifar10": cifar10, "mnist": mnist}[name].DOWNLOAD
        monkeypatch.setitem(download, "origin", (tmp_path / "origin").as_uri())
        monkeypatch.setitem(download, "file_hash", checksum or download["file_hash"])

    return place


def climbing_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in ("../climbed", "../../climbed", f"{CIFAR}/../../climbed", f"{CIFAR}/data_batch_1"):
            tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


@pytest.mark.parametrize(("name", "content"), [("cifar10", climbing_tar()), ("mnist", b"")], ids=["climbing", "empty"])
def test_a_download_with_a_wrong_checksum_is_neither_unpacked_nor_read(name, content, downloads, dcgan, tmp_path):
    downloads(name, content)
    line = bad_input(dcgan("--dataset", name, *TINY))
    assert f"{name} could not be downloaded" in line and "--dataset faces" in line
    assert "hash does not match" in line or not content
    kept = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert kept <= {"cifar-10-batches-py.tar.gz", "mnist.npz", "keras.json"}  # as it came
    assert not (tmp_path / "run").exists() and not list(tmp_path.rglob("climbed"))


def test_a_download_is_read_as_any_other_file(downloads, dcgan, tmp_path):
    content = b"<html>404</html>"
    downloads("mnist", content, hashlib.sha256(content).hexdigest())
    assert "mnist.npz is not an MNIST archive" in bad_input(dcgan("--dataset", "mnist", *TINY))
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
    """What in a Python source could run what a file holds: names, modules, and allow_pickle in any form but False.

    `import pickle` alone is no harm. Of its names only `_Unpickler`, the base of CIFAR-10's reader, and the exception
    are free; test_cifar10.py shows what that reader has left of it.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="pickle"), attr=name):
                if name not in ("_Unpickler", "UnpicklingError"):
                    found.add(f"pickle.{name}")
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in FORBIDDEN:
                # re.compile makes a pattern, not code
                if not (name == "compile" and isinstance(node, ast.Attribute)):
                    found.add(name)
            case ast.Import(names=[ast.alias(name="pickle", asname=None)]):
                pass
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
        ("import pickle\npickle.loads(x)", "pickle.loads"),
        ("import pickle\nread = pickle.Unpickler", "pickle.Unpickler"),
        ("import pickle as p", "pickle"),
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
