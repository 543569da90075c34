"""Broken data as a user meets them: one line that says what is wrong, exit code 2, and nothing left behind."""

import os

import pytest
from conftest import bad_input
from PIL import Image

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
    assert result.returncode == 0 and (tmp_path / "run" / "checkpoint_000002.index").exists()
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        f"skipped {folder / name}" for name in ("empty.png", "text.jpg")
    ]
