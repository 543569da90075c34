"""MNIST: Keras' archive as it is, and every broken one refused."""

import functools
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from broken import SHORT_AND_LONG, flipped, fuzz, memory_within, mutations, refused
from hypothesis import strategies as st

import data
from command import InputError
from sources import mnist, official


def npz(compress=True, **arrays):
    file = io.BytesIO()
    good = {"x_train": np.zeros((60_000, 28, 28), np.uint8), "y_train": np.arange(60_000, dtype=np.uint8) % 10}
    (np.savez_compressed if compress else np.savez)(file, **{**good, **arrays})
    return file.getvalue()


@functools.cache
def good_npz():
    return npz()


def zipped(compression=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(header, content=b"", version=b"\1\0"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }"


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_from_a_folder(compress, tmp_path):
    images = np.zeros((60_000, 28, 28), np.uint8)
    images[::600] = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
    (tmp_path / "mnist.npz").write_bytes(npz(compress, x_train=images))
    mnist = data.load("mnist", (28, 28, 1), data_dir=tmp_path)
    np.testing.assert_array_equal(mnist.images[..., 0], images)
    assert mnist.labels.dtype == np.int64 and mnist.labels[:11].tolist() == [*range(10), 0]
    assert mnist.classes == list("0123456789")


def test_mnist_test_split(tmp_path):
    x_test = np.random.default_rng(1).integers(0, 256, (10_000, 28, 28), np.uint8)
    (tmp_path / "mnist.npz").write_bytes(npz(x_test=x_test, y_test=np.full(10_000, 9, np.uint8)))
    test = data.load("mnist", (28, 28, 1), data_dir=tmp_path, split="test")
    np.testing.assert_array_equal(test.images[..., 0], x_test)
    assert test.labels.tolist() == [9] * 10_000


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)


BROKEN_NPZ = {
    "empty": (lambda: b"", "not a zip file"),
    "text": (lambda: b"<html>404</html>", "not a zip file"),
    "cut": (lambda: good_npz()[:-100], "not a zip file"),
    "one bit flipped": (lambda: flipped(npz(compress=False), 30_000_000), "CRC"),
    "one bit of the packed flipped": (lambda: flipped(good_npz(), 9_000), ""),
    "no pictures": (lambda: zipped(y_train=b""), "x_train"),
    "no labels": (lambda: zipped(x_train=npy(HEADER, bytes(47_040_000))), "y_train"),
    "floats": (lambda: npz(x_train=np.zeros((6, 28, 28), np.float32)), "x_train is not a uint8"),
    "another shape": (lambda: npz(x_train=np.zeros((60_000, 28, 27), np.uint8)), "x_train is not a uint8"),
    "too few labels": (lambda: npz(y_train=np.zeros(59_999, np.uint8)), "y_train is not a uint8"),
    "a label of 10": (lambda: npz(y_train=np.full(60_000, 10, np.uint8)), "0 to 9"),
    "objects": (lambda: npz(x_train=np.array([Runs()], object)), "x_train is not a uint8"),
    "a pickle": (lambda: zipped(x_train=pickle.dumps(Runs())), "x_train is not a uint8"),
    "code in the header": (lambda: zipped(x_train=npy(b"__import__('os').system('touch /tmp/ran')")), "not a uint8"),
    "brackets in the header": (lambda: zipped(x_train=npy(b"(" * 60_000)), "not a uint8"),
    "an unknown version": (lambda: zipped(x_train=npy(HEADER, version=b"\x09\0")), "not a uint8"),
    "fewer bytes than the header says": (lambda: zipped(x_train=npy(HEADER, b"0")), "size that it claims"),
    "a bomb: more bytes than the header says": (
        lambda: zipped(x_train=npy(HEADER, bytes(2**28))),
        "size that it claims",
    ),
    "compressed by another method": (lambda: zipped(zipfile.ZIP_LZMA, x_train=npy(HEADER)), "compressed"),
    "a million members": (lambda: zipped(x_train=b"") + b"PK\1\2" * 1_000_000, "too many members"),
}


@pytest.mark.parametrize("content, reason", BROKEN_NPZ.values(), ids=BROKEN_NPZ)
def test_a_broken_archive_is_refused(content, reason):
    content = content()
    with memory_within(150e6), pytest.raises(InputError) as caught:
        mnist.arrays(content, "it")
    line = str(caught.value)
    assert line.startswith("it is not an MNIST archive") and reason in line and line.isprintable()
    assert not Path("/tmp/ran").exists()


def test_a_broken_archive_is_named(tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"<html>404</html>")
    refused(f"{path} is not an MNIST archive", "again", name="mnist", shape=(28, 28, 1), data_dir=tmp_path)


def test_without_a_folder_mnist_is_downloaded(tmp_path, monkeypatch):
    (tmp_path / "mnist.npz").write_bytes(good_npz())
    monkeypatch.setattr(official, "download", lambda name, **_: {"mnist": tmp_path}[name])
    assert data.load("mnist", (28, 28, 1)).labels[:11].tolist() == [*range(10), 0]


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_npz_reader(examples):
    small = zipped(x_train=npy(HEADER, bytes(999)), y_train=npy(HEADER))
    stored = zipped(zipfile.ZIP_STORED, x_train=npy(HEADER), y_train=npy(HEADER))
    contents = mutations(small, stored) | st.binary().map(lambda content: zipped(x_train=content)) | st.binary()
    fuzz(lambda content: mnist.arrays(content, "it"), contents, examples)
