"""The official files: downloaded by Keras, or what the user has; anything but an ordinary file is refused."""

import os
import sys
import types
from pathlib import Path

import pytest
from broken import RGB32, posix, refused

from sources import cifar10, mnist, official


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_device(path):
    path.symlink_to("/dev/zero")


def a_loop(path):
    path.symlink_to(path)


def a_giant(path):
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize("name, file", [("cifar10", "cifar-10-batches-py/data_batch_1"), ("mnist", "mnist.npz")])
@pytest.mark.parametrize(
    "make, reason",
    [
        (None, "No such file"),
        (a_folder, "is not a file"),
        pytest.param(a_pipe, "is not a file", marks=posix),
        pytest.param(a_device, "is not a file", marks=posix),
        pytest.param(a_loop, "cannot be read", marks=posix),
        (a_giant, "larger than any official file"),
    ],
)
def test_what_is_no_ordinary_file_is_refused(name, file, make, reason, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if make:
        make(path)
    refused(str(path), reason, name=name, shape=RGB32, data_dir=tmp_path)


def keras_that(get_file, monkeypatch):
    """Let `tf_keras.utils` be one with this `get_file`."""
    for name in ("tf_keras", "tf_keras.utils"):
        module = types.ModuleType(name)
        module.get_file = get_file
        monkeypatch.setitem(sys.modules, name, module)


def test_keras_downloads_to_its_own_cache_and_checks_the_hash(monkeypatch):
    asked = []
    keras_that(lambda **file: asked.append(file) or f"/keras/{file['fname']}", monkeypatch)
    for name, module in (("cifar10", cifar10), ("mnist", mnist)):
        assert official.download(name, **module.DOWNLOAD) == Path("/keras")
    assert [len(file["file_hash"]) for file in asked] == [64, 64]


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
@pytest.mark.parametrize(
    "error",
    [
        Exception("URL fetch failure on https://host/x: None -- Temporary failure in name resolution"),
        ValueError("Incomplete or corrupted file detected.\nThe sha256 file hash does not match the provided value"),
        EOFError(),
        OSError(28, "No space left on device"),
    ],
    ids=["no network", "wrong checksum", "cut short", "full disk"],
)
def test_a_failed_download_names_the_ways_without_one(name, error, monkeypatch):
    def fail(**_):
        raise error

    keras_that(fail, monkeypatch)
    refused(name, "--data-dir", "--dataset faces", name=name, shape=RGB32)


def test_with_a_folder_nothing_is_downloaded(tmp_path, monkeypatch):
    def fail(**_):
        raise AssertionError("a download")

    keras_that(fail, monkeypatch)
    refused("mnist.npz cannot be read", name="mnist", shape=RGB32, data_dir=tmp_path)
    refused("cifar-10-batches-py", name="cifar10", shape=RGB32, data_dir=tmp_path)
