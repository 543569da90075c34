"""CIFAR-10 and MNIST: the official files as they are, found or downloaded, and every broken one refused."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from broken import RGB32, SHORT_AND_LONG, Runs, flipped, fuzz, memory_within, mutations, posix, refused
from conftest import ROOT
from hypothesis import strategies as st

import data
from command import InputError
from sources import cifar10, mnist

CIFAR = "cifar-10-batches-py"
GREY28 = (28, 28, 1)


def python2_string(value):
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def python2_matrix(rows, columns, content, dtype=b"u1", order=b"\x89"):
    integer = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01bq\x08\x87Rq\x09(K\x01"
        + integer
        + b"\x86cnumpy\ndtype\nq\x0a"
        + python2_string(dtype)
        + b"K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + order
        + python2_string(content)
        + b"tb"
    )


def python2_list(items):
    return b"]q\x03(" + b"".join(items) + b"e"


def python2_dict(items):
    return b"\x80\x02}q\x01(" + b"".join(python2_string(key) + value for key, value in items.items()) + b"u."


def batch_items(rows=10_000, fill=0):
    """The values of a data_batch file, pickled as Python 2 did: memo, short and long strings, batched integers."""
    return {
        b"batch_label": python2_string(b"training batch"),
        b"labels": python2_list(b"K" + bytes([i % 10]) for i in range(rows)),
        b"data": python2_matrix(rows, 3072, bytes([fill]) * (rows * 3072)),
        b"filenames": python2_list([python2_string(b"picture.png")] * rows),
    }


@functools.cache
def good_batch(fill=0):
    return python2_dict(batch_items(fill=fill))


def batch_with(**values):
    """A batch of `values`, and otherwise of what belongs into it."""
    return python2_dict({**batch_items(), **{key.encode(): value for key, value in values.items()}})


@pytest.fixture(scope="module")
def cifar_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    (root / CIFAR).mkdir()
    for i in range(1, 6):
        (root / CIFAR / f"data_batch_{i}").write_bytes(good_batch(i))
    names = python2_list(python2_string(b"class %d" % i) for i in range(10))
    (root / CIFAR / "batches.meta").write_bytes(python2_dict({b"label_names": names, b"num_vis": b"M\x00\x0c"}))
    yield root
    shutil.rmtree(root)  # 155 MB


@pytest.fixture
def test_dir(tmp_path):
    """A folder with a test_batch, whose images are filled with 6."""
    (tmp_path / CIFAR).mkdir()
    (tmp_path / CIFAR / "test_batch").write_bytes(good_batch(6))
    return tmp_path


def test_cifar10_from_a_folder(cifar_dir):
    dataset = data.load("cifar10", RGB32, data_dir=cifar_dir)
    assert dataset.images.shape == (50_000, *RGB32) and dataset.images.dtype == np.uint8
    assert dataset.images[::10_000, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert dataset.labels.dtype == np.int64 and dataset.labels[:12].tolist() == [*range(10), 0, 1]
    assert dataset.classes == [f"class {i}" for i in range(10)]


def test_cifar10_is_read_at_sizes_that_take_more_than_1_gb(cifar_dir):
    with memory_within(600e6):
        large = data.load("cifar10", (128, 128, 3), data_dir=cifar_dir)
        images, _ = next(data.batches(large, 64, (0, 255), 0))
    assert large.images.shape == (50_000, 128, 128, 3) and images.shape == (64, 128, 128, 3)
    assert (images == images[:, :1, :1, :1]).all() and set(np.unique(images)) == {1, 2, 3, 4, 5}


def test_cifar10_test_split_without_batches_meta(test_dir):
    test = data.load("cifar10", RGB32, data_dir=test_dir, split="test")
    assert test.images.shape == (10_000, *RGB32) and test.labels.shape == (10_000,)
    assert (test.images == 6).all() and test.classes[0] == "airplane"


def test_the_cifar10_reader_agrees_with_pickle():
    values = np.random.default_rng(0).integers(0, 256, (10_000, 3072), np.uint8)
    content = batch_with(data=python2_matrix(10_000, 3072, values.tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2: numpy.core has moved
        expected = pickle.loads(content, encoding="bytes")
    images, labels = cifar10.batch(content, "batch")
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(10_000, 3072), expected[b"data"])
    assert np.array_equal(labels, expected[b"labels"])
    in_columns = batch_with(data=python2_matrix(10_000, 3072, values.tobytes("F"), order=b"\x88"))
    assert np.array_equal(cifar10.batch(in_columns, "batch")[0], images)


RUN = b"cposix\nsystem\nU\x0etouch /tmp/ran\x85R"
BROKEN_BATCHES = {
    "empty": (lambda: b"", "truncated"),
    "cut by one byte": (lambda: good_batch()[:-1], "truncated"),
    "text": (lambda: b"<html>404</html>", "no pickle of that kind"),
    "not a dict": (lambda: b"\x80\x02K\x01.", "does not hold a dict"),
    "an empty dict": (lambda: b"\x80\x02}.", "10,000 labels"),
    "too few labels": (lambda: batch_with(labels=python2_list([b"K\x01"] * 9_999)), "10,000 labels"),
    "a label of 10": (lambda: batch_with(labels=python2_list([b"K\x0a"] * 10_000)), "0 to 9"),
    "labels of True": (lambda: batch_with(labels=python2_list([b"\x88"] * 10_000)), "0 to 9"),
    "data as text": (lambda: batch_with(data=python2_string(b"0" * 10_000)), "images of 32x32"),
    "data never filled": (lambda: batch_with(data=python2_matrix(1, 1, b"0").split(b"(K\x01")[0]), "images of 32x32"),
    "objects": (lambda: batch_with(data=python2_matrix(10_000, 3072, b"", dtype=b"O8")), "images of 32x32"),
    "a giant matrix": (lambda: batch_with(data=python2_matrix(2**31 - 1, 2**31 - 1, b"")), "images of 32x32"),
    "a string longer than the file": (lambda: b"\x80\x02T\xff\xff\xff\x7f0", "truncated"),
    "8 EB of a bytearray": (lambda: b"\x80\x02\x96\xff\xff\xff\xff\xff\xff\xff\x7f0", "no pickle of that kind"),
    "a memo of a large index": (lambda: b"\x80\x02}r\xff\xff\xff\x7f.", "10,000 labels"),
    "a key of nested tuples": (lambda: b"\x80\x02}K\x00" + b"\x85" * 200_000 + b"K\x01s.", "no pickle of that kind"),
    "a deep nest": (lambda: b"\x80\x02}U\x06labels" + b"]" * 99_999 + b"a" * 99_998 + b"s.", "10,000 labels"),
    "code by REDUCE": (lambda: b"\x80\x02" + RUN + b".", "names posix.system"),
    "code as a value": (lambda: batch_with(labels=RUN), "names posix.system"),
    "code by INST": (lambda: b"\x80\x02(U\x0etouch /tmp/raniposix\nsystem\n.", "no pickle of that kind"),
    "code by STACK_GLOBAL": (lambda: pickle.dumps(Runs(), 4), "no pickle of that kind"),
    "code of NumPy": (lambda: b"\x80\x02cnumpy\nload\nU\x01x\x85R.", "names numpy.load"),
    "state for a name": (lambda: b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.", "no pickle of that kind"),
    "a call of a string": (lambda: b"\x80\x02U\x01a)R.", "no pickle of that kind"),
    "escapes for the terminal": (lambda: b"\x80\x02c\x1b[2J\n\x07\n)R.", r"\x1b[2J.\x07"),
}


@pytest.mark.parametrize("content, reason", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_a_broken_batch_is_refused_and_calls_nothing(content, reason):
    content = content()
    with memory_within(200e6), pytest.raises(InputError) as caught:
        cifar10.batch(content, "it")
    line = str(caught.value)
    assert line.startswith("it is not a CIFAR-10 batch: ") and reason in line and line.isprintable()
    assert not Path("/tmp/ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}U\x0blabel_namesU\x01as.", b"\x80\x02" + RUN + b"."])
def test_a_broken_batches_meta_is_refused(content, test_dir):
    (test_dir / CIFAR / "batches.meta").write_bytes(content)
    arguments = {"name": "cifar10", "shape": RGB32, "data_dir": test_dir, "split": "test"}
    refused("batches.meta is not CIFAR-10's batches.meta", "again", **arguments)
    assert not Path("/tmp/ran").exists()


INSTRUCTIONS = [
    *(bytes([byte]) for byte in range(256)),
    *(b"K\x00", b"K\x01", b"J\xff\xff\xff\xff", b"U\x01b", b"U\x02u1", b"U\x01|", b"U\x04data", b"T\xff\xff\xff\x7f"),
    *(b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x80\x02", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", python2_matrix(1, 3, b"abc"), b"cposix\nsystem\n"),
]


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_cifar10_reader(examples):
    programs = st.lists(st.sampled_from(INSTRUCTIONS), max_size=60).map(lambda parts: b"\x80\x02" + b"".join(parts))
    contents = mutations(python2_dict(batch_items(2))) | programs | st.binary()
    fuzz(lambda content: cifar10.batch(content, "it"), contents, examples)


# MNIST.


def npz(compress=True, **arrays):
    file = io.BytesIO()
    good = {"x_test": np.zeros((10_000, 28, 28), np.uint8), "y_test": np.arange(10_000, dtype=np.uint8) % 10}
    (np.savez_compressed if compress else np.savez)(file, **{**good, **arrays})
    return file.getvalue()


def zipped(compression=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(header, content=b"", version=b"\1\0"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000, 28, 28), }"


def load_mnist(folder, split="test"):
    return data.load("mnist", GREY28, data_dir=folder, split=split)


def test_mnist_from_a_folder(tmp_path):
    images = {f"x_{split}": np.zeros((n, 28, 28), np.uint8) for split, n in (("train", 60_000), ("test", 10_000))}
    for each in images.values():
        each[::600] = np.random.default_rng(0).integers(0, 256, each[::600].shape)
    (tmp_path / "mnist.npz").write_bytes(npz(y_train=np.arange(60_000, dtype=np.uint8) % 7, **images))
    for split, kinds in (("train", 7), ("test", 10)):
        dataset = load_mnist(tmp_path, split)
        assert np.array_equal(dataset.images[..., 0], images[f"x_{split}"])
        assert dataset.labels.dtype == np.int64 and dataset.labels[:11].tolist() == [i % kinds for i in range(11)]
        assert dataset.classes == list("0123456789")


NOISE = np.random.default_rng(0).integers(0, 10, 10_000, np.uint8)
BROKEN_NPZ = {
    "empty": (lambda: b"", ""),
    "text": (lambda: b"<html>404</html>", ""),
    "cut": (lambda: npz()[:-100], ""),
    "one bit flipped": (lambda: flipped(npz(compress=False), 3_000_000), "CRC"),
    "one bit of the packed flipped": (lambda: flipped(npz(y_test=NOISE), -3_000), ""),
    "no images": (lambda: zipped(y_test=b""), "x_test"),
    "no labels": (lambda: zipped(x_test=npy(HEADER, bytes(7_840_000))), "y_test"),
    "floats": (lambda: npz(x_test=np.zeros((6, 28, 28), np.float32)), "x_test is not a uint8"),
    "another shape": (lambda: npz(x_test=np.zeros((10_000, 28, 27), np.uint8)), "x_test is not a uint8"),
    "too few labels": (lambda: npz(y_test=np.zeros(9_999, np.uint8)), "y_test is not a uint8"),
    "a label of 10": (lambda: npz(y_test=np.full(10_000, 10, np.uint8)), "0 to 9"),
    "objects": (lambda: npz(x_test=np.array([Runs()], object)), ""),
    "a pickle": (lambda: zipped(x_test=pickle.dumps(Runs())), ""),
    "an array, no archive": (lambda: npy(HEADER, bytes(7_840_000)), "no array called x_test"),
    "code in the header": (lambda: zipped(x_test=npy(b"__import__('os').system('touch /tmp/ran')")), ""),
    "fewer bytes than the header says": (lambda: zipped(x_test=npy(HEADER, b"0")), ""),
    "a header of 8 TB": (lambda: zipped(x_test=npy(HEADER.replace(b"10000, ", b"10000000000, "))), ""),
    "a bomb": (lambda: zipped(x_test=npy(HEADER, bytes(2**27))), "x_test is too large"),
}


@pytest.mark.parametrize("content, reason", BROKEN_NPZ.values(), ids=BROKEN_NPZ)
def test_a_broken_archive_is_refused(content, reason, tmp_path):
    (tmp_path / "mnist.npz").write_bytes(content())
    with memory_within(100e6):
        line = refused(reason, "again", name="mnist", shape=GREY28, data_dir=tmp_path, split="test")
    assert line.startswith(f"{tmp_path / 'mnist.npz'} is not an MNIST archive") and not Path("/tmp/ran").exists()


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_npz_reader(examples, tmp_path):
    small = zipped(x_test=npy(HEADER, bytes(999)), y_test=npy(HEADER))
    stored = zipped(zipfile.ZIP_STORED, x_test=npy(HEADER), y_test=npy(HEADER))
    contents = mutations(small, stored) | st.binary().map(lambda content: zipped(x_test=content)) | st.binary()

    def read(content):
        (tmp_path / "mnist.npz").write_bytes(content)
        load_mnist(tmp_path)

    fuzz(read, contents, examples)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10


@pytest.mark.parametrize("packed", [(False, False), (True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("folder", "split", "name"),
    [
        (".", "train", "train-images-idx3-ubyte"),  # as on the sites of MNIST, Fashion-MNIST and KMNIST
        (".", "test", "t10k-images.idx3-ubyte"),  # as on Kaggle
        ("MNIST/raw", "train", "train-images-idx3-ubyte"),  # torchvision's
        ("raw", "test", "emnist-digits-test-images-idx3-ubyte"),
        (".", "train", "emnist-mnist-train-images-idx3-ubyte"),
    ],
)
def test_idx_files(folder, split, name, packed, tmp_path):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    names = name, name.replace("images", "labels").replace("idx3", "idx1")
    for name, array, pack in zip(names, (IMAGES, LABELS), packed, strict=True):
        path = tmp_path / folder / (f"{name}.gz" if pack else name)
        path.write_bytes(gzip.compress(idx(array)) if pack else idx(array))
    dataset = load_mnist(tmp_path, split)
    expected = IMAGES.transpose(0, 2, 1) if "emnist" in name else IMAGES  # which lie on their sides there
    np.testing.assert_array_equal(dataset.images[..., 0], expected)
    assert dataset.labels.tolist() == LABELS.tolist() and dataset.classes == list("0123456789")


def test_idx_files_as_kaggle_and_browsers_leave_them(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").mkdir()  # Kaggle: with a file of that name in it
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(gzip.compress(idx(LABELS)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx(IMAGES))  # unpacked by the browser
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(LABELS))
    for split in ("train", "test"):
        np.testing.assert_array_equal(load_mnist(tmp_path, split).images[..., 0], IMAGES)


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (b"<html>404</html>", idx(LABELS), "train-images-idx3-ubyte is not an idx file"),
        (idx(IMAGES)[:-1], idx(LABELS), "train-images-idx3-ubyte is not an idx file"),
        (gzip.compress(idx(IMAGES))[:-9], idx(LABELS), "train-images-idx3-ubyte is not an idx file"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, idx(LABELS), "train-images-idx3-ubyte is not an idx file"),
        (idx(IMAGES), None, "train-labels-idx1-ubyte cannot be read: No such file"),
        (idx(IMAGES), idx(LABELS[1:]), "20 images, 19 labels"),
        (idx(IMAGES), idx(LABELS + 1), "labels up to 10"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "0 images"),
    ],
)
def test_broken_idx_files_are_refused(images, labels, reason, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    refused(reason, name="mnist", shape=GREY28, data_dir=tmp_path)


# Files, and where they are looked for.


NO_FILES = [
    (lambda path: path.mkdir(), "is not a file"),
    (lambda path: (path.touch(), os.truncate(path, 2**40)), "larger than any official file"),
    pytest.param(os.mkfifo, "is not a file", marks=posix),
    pytest.param(lambda path: path.symlink_to("/dev/zero"), "is not a file", marks=posix),
]


@pytest.mark.parametrize("name, file", [("cifar10", f"{CIFAR}/data_batch_1"), ("mnist", "mnist.npz")])
@pytest.mark.parametrize(("make", "reason"), NO_FILES)
def test_what_is_no_ordinary_file_is_refused(name, file, make, reason, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    make(path)
    refused(str(path), reason, name=name, shape=RGB32, data_dir=tmp_path)


def test_a_folder_without_the_files_is_named(tmp_path):
    refused(f"{tmp_path} has neither mnist.npz nor train-images", name="mnist", shape=RGB32, data_dir=tmp_path)
    refused(f"{tmp_path / CIFAR}; --data-dir", name="cifar10", shape=RGB32, data_dir=tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").touch()
    refused("unpack cifar-10-python.tar.gz", name="cifar10", shape=RGB32, data_dir=tmp_path)
    (tmp_path / CIFAR).mkdir()
    reason = "data_batch_1 cannot be read: No such file or directory; check --data-dir"
    refused(reason, name="cifar10", shape=RGB32, data_dir=tmp_path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home directory with files of others in Keras' folder, and servers whose files are beside it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("KERAS_HOME", raising=False)
    keras = tmp_path / "home" / ".keras" / "datasets"
    keras.mkdir(parents=True)
    (keras / "imdb.npz").write_bytes(b"of others")
    for module in (cifar10, mnist):
        monkeypatch.setitem(module.DOWNLOAD, "origin", (tmp_path / "nothing").as_uri())
    return tmp_path / "home"


def serve(monkeypatch, module, path, content):
    path.write_bytes(content)
    monkeypatch.setitem(module.DOWNLOAD, "origin", path.as_uri())
    monkeypatch.setitem(module.DOWNLOAD, "file_hash", hashlib.sha256(content).hexdigest())


def archive(**files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{CIFAR}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def load_test_batch():
    return data.load("cifar10", RGB32, split="test").images


@pytest.mark.parametrize("place", [".keras/datasets", ".keras/datasets/cifar-10-batches-py-target"])
def test_what_keras_has_is_used_without_the_network(place, home):
    (home / place / CIFAR).mkdir(parents=True)
    (home / place / CIFAR / "test_batch").write_bytes(good_batch(6))
    (home / ".keras" / "datasets" / "mnist.npz").write_bytes(npz())
    assert (load_test_batch() == 6).all() and len(load_mnist(None).images) == 10_000
    assert not (home / ".cache").exists()


def test_a_half_unpacked_folder_of_keras_is_left_alone_and_the_download_goes_elsewhere(home, tmp_path, monkeypatch):
    half = home / ".keras" / "datasets" / CIFAR / "test_batch"
    half.parent.mkdir()
    half.write_bytes(good_batch()[:1_000])
    serve(monkeypatch, cifar10, tmp_path / "served", archive(test_batch=good_batch(6)))
    assert (load_test_batch() == 6).all()
    (tmp_path / "served").unlink()
    assert (load_test_batch() == 6).all()  # from the disk
    assert half.stat().st_size == 1_000
    assert [path.name for path in (home / ".cache/dcgan_keras/cifar10").iterdir()] == [CIFAR]
    (home / ".cache/dcgan_keras/cifar10" / CIFAR / "test_batch").write_bytes(b"")  # damaged since
    serve(monkeypatch, cifar10, tmp_path / "served", archive(test_batch=good_batch(7)))
    assert (load_test_batch() == 7).all()


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_unpacking_loses_nothing(number, home, tmp_path, monkeypatch):
    serve(monkeypatch, cifar10, tmp_path / "served", archive(test_batch=good_batch(6)))
    code = f"""if True:
        import os, tarfile, command, data
        from sources import cifar10

        cifar10.DOWNLOAD = {cifar10.DOWNLOAD}
        tarfile.copyfileobj = lambda source, target, *_: (target.write(b"half"), os.kill(os.getpid(), {int(number)}))
        command.run(lambda: data.load("cifar10", (32, 32, 3), split="test") and 0)
    """
    child = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert child.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert (home / ".keras/datasets/imdb.npz").read_bytes() == b"of others"
    (tmp_path / "served").unlink()  # the archive is not needed again
    assert (load_test_batch() == 6).all()


def test_processes_that_download_at_the_same_time_do_not_fail(home, tmp_path, monkeypatch):
    serve(monkeypatch, cifar10, tmp_path / "served", archive(test_batch=good_batch(6)))
    once = iter([True])

    def extract(*arguments, real=tarfile.TarFile.extractall):
        if next(once, False):
            assert (load_test_batch() == 6).all()  # the other one, which is faster
        real(*arguments)

    monkeypatch.setattr(tarfile.TarFile, "extractall", extract)
    assert (load_test_batch() == 6).all()


@pytest.mark.parametrize("module, name", [(cifar10, "cifar10"), (mnist, "mnist")])
@pytest.mark.parametrize("served, reason", [(None, "No such file"), (b"", "hash does not match"), (b"<html>", "hash")])
def test_a_failed_download_is_one_line_and_leaves_nothing(module, name, served, reason, home, tmp_path, monkeypatch):
    if served is not None:
        (tmp_path / "served").write_bytes(served)
        monkeypatch.setitem(module.DOWNLOAD, "origin", (tmp_path / "served").as_uri())
    refused(f"{name} could not be downloaded", reason, "--data-dir", "--dataset faces", name=name, shape=RGB32)
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["imdb.npz"]


@posix
def test_without_a_home_directory_one_line_says_so(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("KERAS_HOME", raising=False)
    refused("no home directory", "XDG_CACHE_HOME", name="mnist", shape=GREY28)
    (tmp_path / "1.png").touch()
    refused("no home directory", "XDG_CACHE_HOME", name="folder", shape=GREY28, data_dir=tmp_path)
