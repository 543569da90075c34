"""CIFAR-10: the official files as they are, and every broken one refused without running it."""

import functools
import os
import pickle
import pickletools
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from broken import RGB32, SHORT_AND_LONG, fuzz, memory_within, mutations, refused
from hypothesis import strategies as st

import data
from command import InputError
from sources import cifar10, official

CIFAR = "cifar-10-batches-py"


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


LABELS = python2_list(b"K" + bytes([i % 10]) for i in range(10_000))


@functools.cache
def good_batch(fill=0):
    return python2_dict(batch_items(fill=fill))


def batch_with(**values):
    """A batch of `values`, and of the labels that belong into it, but of a single picture."""
    items = {b"labels": LABELS, b"data": batch_items(1)[b"data"]}
    return python2_dict({**items, **{key.encode(): value for key, value in values.items()}})


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


def test_cifar10_from_a_folder(cifar_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cifar10 = data.load("cifar10", RGB32, data_dir=cifar_dir)
    assert cifar10.images.shape == (50_000, *RGB32) and cifar10.images.dtype == np.uint8
    assert cifar10.images[::10_000, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert cifar10.labels.dtype == np.int64 and cifar10.labels[:12].tolist() == [*range(10), 0, 1]
    assert cifar10.classes == [f"class {i}" for i in range(10)]


def test_cifar10_test_split(cifar_dir, tmp_path):
    shutil.copytree(cifar_dir, tmp_path / "d", copy_function=os.link)
    refused("test_batch cannot be read", name="cifar10", shape=RGB32, data_dir=tmp_path / "d", split="test")
    (tmp_path / "d" / CIFAR / "test_batch").write_bytes(good_batch(6))
    test = data.load("cifar10", RGB32, data_dir=tmp_path / "d", split="test")
    assert test.images.shape == (10_000, *RGB32) and test.labels.shape == (10_000,)
    assert (test.images[:, 0, 0, 0] == 6).all()
    grey = data.load("cifar10", (8, 8, 1), data_dir=tmp_path / "d", split="test").images
    assert grey.shape == (10_000, 8, 8, 1) and (grey == 6).all()


def test_the_cifar10_reader_agrees_with_pickle():
    values = np.random.default_rng(0).integers(0, 256, (10_000, 3072), np.uint8)
    content = batch_with(data=python2_matrix(10_000, 3072, values.tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2: numpy.core has moved
        expected = pickle.loads(content, encoding="bytes")
    images, labels = cifar10.batch(content, "batch")
    np.testing.assert_array_equal(images, expected[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(labels, expected[b"labels"])
    in_columns = batch_with(data=python2_matrix(10_000, 3072, values.tobytes("F"), order=b"\x88"))
    np.testing.assert_array_equal(cifar10.batch(in_columns, "batch")[0], images)


def test_cifar10_without_batches_meta_has_the_standard_classes(cifar_dir, tmp_path):
    shutil.copytree(cifar_dir, tmp_path / "d", copy_function=os.link, ignore=shutil.ignore_patterns("*.meta"))
    assert data.load("cifar10", RGB32, data_dir=tmp_path / "d").classes == cifar10.CLASSES


def test_cifar10_that_would_not_fit_into_memory_is_refused(cifar_dir):
    refused("1 GB", "--dataset folder", name="cifar10", shape=(200, 200, 3), data_dir=cifar_dir)


RUN = b"cposix\nsystem\nU\x0etouch /tmp/ran\x85R"
BROKEN_BATCHES = {
    "empty": (lambda: b"", "truncated"),
    "cut": (lambda: good_batch()[:1_000_000], "truncated"),
    "cut by one byte": (lambda: good_batch()[:-1], "truncated"),
    "text": (lambda: b"<html>404</html>", "is not what"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00", "is not what"),
    "pickled by Python 3": (lambda: pickle.dumps({}, 4), "is not what"),
    "not hold a dict": (lambda: b"\x80\x02K\x01.", "not hold a dict"),
    "an empty dict": (lambda: b"\x80\x02}.", "10,000 labels"),
    "no data": (lambda: python2_dict({b"labels": LABELS}), "pictures"),
    "no labels": (lambda: python2_dict({b"data": python2_matrix(1, 1, b"0")}), "10,000 labels"),
    "too few pictures": (lambda: batch_with(), "10,000 pictures"),
    "too few labels": (lambda: batch_with(labels=python2_list([b"K\x01"] * 9_999)), "10,000 labels"),
    "a label of 10": (lambda: batch_with(labels=python2_list([b"K\x0a"] * 10_000)), "0 to 9"),
    "a label of -1": (lambda: batch_with(labels=python2_list([b"J\xff\xff\xff\xff"] * 10_000)), "0 to 9"),
    "labels of True": (lambda: batch_with(labels=python2_list([b"\x88"] * 10_000)), "0 to 9"),
    "labels as text": (lambda: batch_with(labels=python2_string(b"0" * 10_000)), "10,000 labels"),
    "data as text": (lambda: batch_with(data=python2_string(b"0" * 10_000)), "pictures"),
    "data never filled": (lambda: batch_with(data=python2_matrix(1, 1, b"0").split(b"(K\x01")[0]), "pictures"),
    "floats": (lambda: batch_with(data=python2_matrix(10_000, 3072, b"", dtype=b"f4")), "is not what"),
    "objects": (lambda: batch_with(data=python2_matrix(10_000, 3072, b"", dtype=b"O8")), "is not what"),
    "a giant matrix": (lambda: batch_with(data=python2_matrix(2**31 - 1, 2**31 - 1, b"")), "size that it claims"),
    "a negative matrix": (lambda: batch_with(data=python2_matrix(-1, -3072, b"0" * 3072)), "size that it claims"),
    "a matrix of too few bytes": (
        lambda: batch_with(data=python2_matrix(10_000, 3072, b"0")),
        "size that it claims",
    ),
    "a string longer than the file": (lambda: b"\x80\x02T\xff\xff\xff\x7f0", "truncated"),
    "a string of negative length": (lambda: b"\x80\x02T\xff\xff\xff\xff0", "is not what"),
    "a number of 4 GB": (lambda: b"\x80\x02\x8b\xff\xff\xff\x7f0", "is not what"),
    "a memo that is not there": (lambda: b"\x80\x02h\x00.", "is not what"),
    "an empty stack": (lambda: b"\x80\x02tR.", "is not what"),
    "a key without a value": (lambda: b"\x80\x02}(U\x01au.", "is not what"),
    "an unhashable key": (lambda: b"\x80\x02}(]K\x01u.", "is not what"),
    "a list in itself, as labels": (lambda: batch_with(labels=b"]q\x20(" + b"h\x20" * 10_000 + b"e"), "0 to 9"),
    "lists doubled 200 times": (
        lambda: (
            b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(200)) + b"}U\x06labelsh\xc8s."
        ),
        "10,000 labels",
    ),
    "a million brackets": (lambda: b"\x80\x02" + b"]" * 2_000_000, "more instructions"),
    "a deep nest": (lambda: b"\x80\x02}U\x06labels" + b"]" * 400_000 + b"a" * 399_999 + b"s.", "10,000 labels"),
    "code by REDUCE": (lambda: b"\x80\x02" + RUN + b".", "names posix.system"),
    "code as a value": (lambda: batch_with(labels=RUN), "names posix.system"),
    "code by INST": (lambda: b"\x80\x02(U\x0etouch /tmp/raniposix\nsystem\n.", "is not what"),
    "code by OBJ": (lambda: b"\x80\x02(cposix\nsystem\nU\x0etouch /tmp/rano.", "names posix.system"),
    "code by NEWOBJ": (lambda: b"\x80\x02cposix\nsystem\nU\x0etouch /tmp/ran\x85\x81.", "names posix.system"),
    "a call by OBJ": (lambda: b"\x80\x02(cnumpy\ndtype\nU\x01ao.", "is not what"),
    "a call by NEWOBJ": (lambda: b"\x80\x02cnumpy\ndtype\nU\x01a\x85\x81.", "is not what"),
    "code by an extension": (lambda: b"\x80\x02\x82\x01.", "is not what"),
    "code by BUILD": (lambda: b"\x80\x02cnumpy\ndtype\n}(U\x03foo" + RUN + b"ub.", "names posix.system"),
    "state for a name": (lambda: b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.", "is not what"),
    "state for a list": (lambda: b"\x80\x02]}U\x01aK\x01sb.", "is not what"),
    "a call of a string": (lambda: b"\x80\x02cnumpy\ndtype\nT\x00\x00\x40\x00" + bytes(2**22) + b"R.", "is not what"),
    "a persistent id": (lambda: b"\x80\x02K\x01Q.", "is not what"),
    "a frame": (lambda: b"\x80\x02\x95\xff\xff\xff\xff\xff\xff\xff\x7f0", "is not what"),
    "8 EB of bytes": (lambda: b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f0", "is not what"),
    "8 EB of a bytearray": (lambda: b"\x80\x02\x96\xff\xff\xff\xff\xff\xff\xff\x7f0", "is not what"),
    "a memo of a large index": (lambda: b"\x80\x02}r\xff\xff\xff\x7f.", "10,000 labels"),
    "a key of nested tuples": (lambda: b"\x80\x02}K\x00" + b"\x85" * 400_000 + b"K\x01s.", "is not what"),
    "a name without an end": (lambda: b"\x80\x02c" + b"n" * 2**24, "names nnn"),
    "escapes for the terminal": (lambda: b"\x80\x02c\x1b[2J\n\x07\n)R.", r"\x1b[2J.\x07"),
}


@pytest.mark.parametrize("content, reason", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_a_broken_batch_is_refused(content, reason):
    content = content()
    with memory_within(300e6), pytest.raises(InputError) as caught:
        cifar10.batch(content, "it")
    line = str(caught.value)
    assert line.startswith("it is not a CIFAR-10 batch: ") and reason in line and line.isprintable()
    assert not Path("/tmp/ran").exists()


def test_the_unpickler_has_nothing_that_could_be_called():
    names = {opcode.code.encode("latin-1")[0]: opcode.name for opcode in pickletools.opcodes}
    inherited = pickle._Unpickler.dispatch
    reader = cifar10.Unpickler
    assert {names[code] for code in reader.dispatch if reader.dispatch[code] is not inherited[code]} == {
        *("EMPTY_DICT", "REDUCE", "BUILD")
    }
    assert {names[code] for code in reader.dispatch} == {
        *("PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD"),
        *("BININT", "BININT1", "BININT2", "BINSTRING", "SHORT_BINSTRING", "NONE", "NEWTRUE", "NEWFALSE"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    }
    for name in reader.NAMES:
        assert type(reader(cifar10.Source(b"")).find_class(*name.rsplit(".", 1))) is str


def test_a_broken_batch_behind_good_ones_is_named(cifar_dir, tmp_path):
    shutil.copytree(cifar_dir / CIFAR, tmp_path / CIFAR, copy_function=os.link)
    (tmp_path / CIFAR / "data_batch_3").unlink()
    refused("data_batch_3 cannot be read: No such file", name="cifar10", shape=RGB32, data_dir=tmp_path)
    (tmp_path / CIFAR / "data_batch_3").write_bytes(good_batch()[:99])
    refused("data_batch_3 is not a CIFAR-10 batch", name="cifar10", shape=RGB32, data_dir=tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02}.", b"\x80\x02}U\x0blabel_namesU\x01as.", b"\x80\x02" + RUN + b"."],
    ids=["empty", "no names", "a text", "code"],
)
def test_a_broken_batches_meta_is_refused(content, cifar_dir, tmp_path):
    shutil.copytree(cifar_dir / CIFAR, tmp_path / CIFAR, copy_function=os.link)
    (tmp_path / CIFAR / "batches.meta").unlink()
    (tmp_path / CIFAR / "batches.meta").write_bytes(content)
    refused("batches.meta is not CIFAR-10's batches.meta", "again", name="cifar10", shape=RGB32, data_dir=tmp_path)
    assert not Path("/tmp/ran").exists()


def test_a_missing_cifar10_folder_is_named(tmp_path):
    refused(str(tmp_path / CIFAR), "--data-dir", name="cifar10", shape=RGB32, data_dir=tmp_path)


def test_an_archive_with_paths_that_climb_out_is_never_unpacked(tmp_path):
    import tarfile

    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(inside / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../climbed"))
        tar.addfile(tarfile.TarInfo(f"{CIFAR}/data_batch_1"))
    refused("unpack cifar-10-python.tar.gz", name="cifar10", shape=RGB32, data_dir=inside)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cifar-10-python.tar.gz", "inside"]


def test_without_a_folder_cifar10_is_downloaded(cifar_dir, monkeypatch):
    monkeypatch.setattr(official, "download", lambda name, **_: {"cifar10": cifar_dir}[name])
    assert data.load("cifar10", RGB32).classes == [f"class {i}" for i in range(10)]


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
