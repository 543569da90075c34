"""Every dataset as it should be, and every broken one refused with one line and nothing left behind."""

import contextlib
import functools
import io
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import types
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import data
from command import InputError

RGB32 = (32, 32, 3)
CIFAR = "cifar-10-batches-py"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """An empty folder for pictures."""
    path = tmp_path / "pictures"
    path.mkdir()
    return path


@pytest.fixture
def load_folder(folder, cache):
    return functools.partial(data.load, "folder", shape=RGB32, data_dir=folder, cache_dir=cache)


def refused(*words, **arguments):
    """Check that `data.load` refuses `arguments` with one printable line that has `words`."""
    with pytest.raises(InputError) as caught:
        data.load(**arguments)
    line = str(caught.value)
    assert line.isprintable(), line
    for word in words:
        assert word in line
    return line


@pytest.fixture
def refuse_folder(folder, cache):
    """`refused` for the folder that `load_folder` reads."""
    return functools.partial(refused, name="folder", shape=RGB32, data_dir=folder, cache_dir=cache)


@contextlib.contextmanager
def memory_within(limit):
    """Check that what happens inside never takes more than `limit` bytes above what was taken before."""

    def taken(key):
        return int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) * 1024

    if not Path("/proc/self/clear_refs").exists():
        yield  # not Linux
        return
    Path("/proc/self/clear_refs").write_text("5")  # lets the peak, VmHWM, begin anew
    before = taken("VmRSS:")
    yield
    assert taken("VmHWM:") - before < limit


def left_behind(cache):
    return list(cache.iterdir()) if cache.exists() else []


def save(path, colour="red", size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(image, format="PNG", shape=RGB32, **options):
    return data.picture(io.BytesIO(encoded(image, format, **options)), shape)


# --- scaling and batches ---------------------------------------------------------------------------------------------


def numbered(n):
    """A dataset whose picture i is filled with i and has the label i."""
    images = np.tile(np.arange(n, dtype=np.uint8).reshape(-1, 1, 1, 1), (1, 2, 2, 1))
    return data.Dataset("numbered", images, np.arange(n), [str(i) for i in range(n)])


def test_scale_is_the_articles_to_the_last_bit():
    images = np.arange(256, dtype=np.uint8)
    scaled = data.scale(images, (-0.5, 0.5))
    assert scaled.dtype == np.float32
    assert scaled.tobytes() == (images.astype(np.float32) / 255 - 0.5).tobytes()


@pytest.mark.parametrize("pixels", [(-0.5, 0.5), (-1, 1), (0, 1)])
def test_unscale_inverts_scale(pixels):
    images = np.arange(256, dtype=np.uint8)
    scaled = data.scale(images, pixels)
    assert (scaled.min(), scaled.max()) == pixels
    np.testing.assert_array_equal(data.unscale(scaled, pixels), images)


def test_unscale_rounds_and_clips():
    low_to_high = np.array([-9, 0, 0.4 / 255, 0.6 / 255, 1, 9])
    assert data.unscale(low_to_high, (0, 1)).tolist() == [0, 0, 0, 1, 255, 255]


def take(n, *arguments, **options):
    batches = data.batches(*arguments, **options)
    return [next(batches) for _ in range(n)]


def test_an_epoch_shows_every_picture_once_and_the_next_has_another_order():
    assert data.batches_per_epoch(numbered(12), 4) == 3
    batches = take(6, numbered(12), 4, (0, 255), seed=1)
    for images, labels in batches:
        assert images.shape == (4, 2, 2, 1) and images.dtype == np.float32
        assert (images == labels.reshape(-1, 1, 1, 1)).all()
    first, second = (np.concatenate([labels for _, labels in batches[i : i + 3]]).tolist() for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_remainder_of_an_epoch_is_dropped():
    assert data.batches_per_epoch(numbered(11), 4) == 2
    seen = np.concatenate([labels for _, labels in take(2, numbered(11), 4, (0, 1), seed=1)])
    assert len(set(seen.tolist())) == 8


@pytest.mark.parametrize("start", [0, 1, 2, 3, 5, 13])
def test_a_resumed_run_sees_the_same_batches(start):
    whole = take(16, numbered(11), 3, (-0.5, 0.5), seed=7)
    resumed = take(16 - start, numbered(11), 3, (-0.5, 0.5), seed=7, start=start)
    for (images, labels), (same_images, same_labels) in zip(whole[start:], resumed, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_parts_of_workers_make_up_the_batch(workers):
    whole = take(5, numbered(20), 6, (0, 1), seed=3, start=2)
    parts = [take(5, numbered(20), 6, (0, 1), seed=3, start=2, part=(i, workers)) for i in range(workers)]
    for (images, labels), *of_workers in zip(whole, *parts, strict=True):
        assert {len(labels) for _, labels in of_workers} == {6 // workers}
        np.testing.assert_array_equal(images, np.concatenate([images for images, _ in of_workers]))
        np.testing.assert_array_equal(labels, np.concatenate([labels for _, labels in of_workers]))


def test_another_seed_is_another_order():
    (_, one), (_, other) = (take(1, numbered(100), 50, (0, 1), seed=seed)[0] for seed in (1, 2))
    assert one.tolist() != other.tolist()


def test_fewer_pictures_than_a_batch_are_refused_before_the_first_batch():
    with pytest.raises(InputError, match=r"numbered has 3 pictures, fewer than a batch of 4.*--batch-size"):
        data.batches(numbered(3), 4, (0, 1), seed=1)


def test_pictures_without_labels_come_in_batches_too():
    assert take(1, numbered(4)._replace(labels=None), 4, (0, 1), seed=1)[0][1] is None


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_shapes():
    shapes = data.load("shapes", RGB32)
    assert shapes.images.shape == (10_000, *RGB32) and shapes.images.dtype == np.uint8
    assert len(shapes.classes) == 10
    assert np.bincount(shapes.labels).tolist() == [1000] * 10
    assert len({picture.tobytes() for picture in shapes.images}) == 10_000


def test_shapes_depend_on_the_seed_alone():
    one, same, other = (data.load("shapes", (16, 16, 1), seed=seed).images for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_test_shapes_are_others_and_a_folder_has_none(tmp_path):
    train, test = (data.load("shapes", (16, 16, 1), seed=3, split=split).images for split in ("train", "test"))
    assert not {picture.tobytes() for picture in train} & {picture.tobytes() for picture in test}
    refused("no test pictures", name="folder", shape=RGB32, data_dir=tmp_path, split="test")
    refused("no split valid", name="shapes", shape=RGB32, split="valid")


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 48, 3), (200, 200, 3)])
def test_shapes_of_any_size_stay_within_their_memory(shape):
    images = data.load("shapes", shape).images
    assert images.shape[1:] == shape
    assert len(images) == 10_000 or 2**26 < images.nbytes <= 2**27


def test_every_class_has_an_outline_of_its_own_that_fits_into_the_picture():
    y, x = np.mgrid[-1.5:1.5:150j, -1.5:1.5:150j]
    outlines = [data._distance(name, x, y) < 0 for name in data.SHAPES_CLASSES]
    for i, outline in enumerate(outlines):
        assert 0.1 < outline.mean() * 9 / np.pi < 1  # of the unit disc
        assert np.hypot(x, y)[outline].max() < 1.12
        for other in outlines[:i]:
            assert (outline != other).sum() > 0.05 * outline.sum()


def test_edges_of_shapes_are_smooth():
    """Drawn twice as large and halved, a shape stays what it is: the edges of both are averages over their pixels."""
    small, large = (data._draw(5, 50, (n, n, 1), np.random.default_rng(0)).astype(float) for n in (32, 64))
    halved = large.reshape(50, 32, 2, 32, 2, 1).mean((2, 4))
    assert np.abs(small - halved).mean() < 1
    assert np.abs(small - large[:, ::2, ::2]).mean() > 2  # what edges of whole pixels would give


# --- what can be asked for -------------------------------------------------------------------------------------------


def test_an_unknown_dataset_is_refused_by_name():
    refused("no dataset imagenet", *data.DATASETS, name="imagenet", shape=RGB32)


def test_a_model_of_four_channels_is_refused():
    refused("(8, 8, 4)", name="shapes", shape=(8, 8, 4))


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


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


def test_the_cifar10_reader_agrees_with_pickle():
    values = np.random.default_rng(0).integers(0, 256, (10_000, 3072), np.uint8)
    content = batch_with(data=python2_matrix(10_000, 3072, values.tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2: numpy.core has moved
        expected = pickle.loads(content, encoding="bytes")
    images, labels = data.cifar10_batch(content, "batch")
    np.testing.assert_array_equal(images, expected[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(labels, expected[b"labels"])
    in_columns = batch_with(data=python2_matrix(10_000, 3072, values.tobytes("F"), order=b"\x88"))
    np.testing.assert_array_equal(data.cifar10_batch(in_columns, "batch")[0], images)


def test_cifar10_without_batches_meta_has_the_standard_classes(cifar_dir, tmp_path):
    shutil.copytree(cifar_dir, tmp_path / "d", copy_function=os.link, ignore=shutil.ignore_patterns("*.meta"))
    assert data.load("cifar10", RGB32, data_dir=tmp_path / "d").classes == data.CIFAR10_CLASSES


def test_cifar10_for_a_grey_model_of_another_size(cifar_dir):
    assert data.load("cifar10", (8, 8, 1), data_dir=cifar_dir).images.shape == (50_000, 8, 8, 1)


def test_cifar10_that_would_not_fit_into_memory_is_refused(cifar_dir):
    refused("1 GB", "--dataset folder", name="cifar10", shape=(200, 200, 3), data_dir=cifar_dir)


RUN = b"cposix\nsystem\nU\x0etouch /tmp/ran\x85R"
BROKEN_BATCHES = {
    "empty": (lambda: b"", "cut short"),
    "cut": (lambda: good_batch()[:1_000_000], "cut short"),
    "cut by one byte": (lambda: good_batch()[:-1], "cut short"),
    "text": (lambda: b"<html>404</html>", "no such file"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00", "no such file"),
    "pickled by Python 3": (lambda: pickle.dumps({}, 4), "another protocol"),
    "no dict": (lambda: b"\x80\x02K\x01.", "no dict"),
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
    "floats": (lambda: batch_with(data=python2_matrix(10_000, 3072, b"", dtype=b"f4")), "run numpy.dtype"),
    "objects": (lambda: batch_with(data=python2_matrix(10_000, 3072, b"", dtype=b"O8")), "run numpy.dtype"),
    "a giant matrix": (lambda: batch_with(data=python2_matrix(2**31 - 1, 2**31 - 1, b"")), "another size"),
    "a negative matrix": (lambda: batch_with(data=python2_matrix(-1, -3072, b"0" * 3072)), "another size"),
    "a matrix of too few bytes": (lambda: batch_with(data=python2_matrix(10_000, 3072, b"0")), "another size"),
    "a string longer than the file": (lambda: b"\x80\x02T\xff\xff\xff\x7f0", "cut short"),
    "a string of negative length": (lambda: b"\x80\x02T\xff\xff\xff\xff0", "cut short"),
    "a number of 4 GB": (lambda: b"\x80\x02\x8b\xff\xff\xff\x7f0", "no such file"),
    "a memo that is not there": (lambda: b"\x80\x02h\x00.", "no sense"),
    "an empty stack": (lambda: b"\x80\x02tR.", "no sense"),
    "a key without a value": (lambda: b"\x80\x02}(U\x01au.", "no sense"),
    "an unhashable key": (lambda: b"\x80\x02}(]K\x01u.", "no sense"),
    "a list in itself, as labels": (lambda: batch_with(labels=b"]q\x20(" + b"h\x20" * 10_000 + b"e"), "0 to 9"),
    "lists doubled 200 times": (
        lambda: (
            b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(200)) + b"}U\x06labelsh\xc8s."
        ),
        "10,000 labels",
    ),
    "a million brackets": (lambda: b"\x80\x02" + b"]" * 2_000_000, "more instructions"),
    "a deep nest": (lambda: b"\x80\x02}U\x06labels" + b"]" * 400_000 + b"a" * 399_999 + b"s.", "10,000 labels"),
    "code by REDUCE": (lambda: b"\x80\x02" + RUN + b".", "run posix.system"),
    "code as a value": (lambda: batch_with(labels=RUN), "run posix.system"),
    "code by INST": (lambda: b"\x80\x02(U\x0etouch /tmp/raniposix\nsystem\n.", "no such file"),
    "code by OBJ": (lambda: b"\x80\x02(cposix\nsystem\nU\x0etouch /tmp/rano.", "no such file"),
    "code by NEWOBJ": (lambda: b"\x80\x02cposix\nsystem\nU\x0etouch /tmp/ran\x85\x81.", "no such file"),
    "code by an extension": (lambda: b"\x80\x02\x82\x01.", "no such file"),
    "code by BUILD": (lambda: b"\x80\x02cnumpy\ndtype\n}(U\x03foo" + RUN + b"ub.", "run posix.system"),
    "state for a name": (lambda: b"\x80\x02cnumpy\ndtype\n}b.", "no sense"),
    "escapes for the terminal": (lambda: b"\x80\x02c\x1b[2J\n\x07\n)R.", r"\x1b[2J.\x07"),
}


@pytest.mark.parametrize("content, reason", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_a_broken_cifar10_batch_is_refused(content, reason, cifar_dir, tmp_path):
    (tmp_path / CIFAR).mkdir()
    path = tmp_path / CIFAR / "data_batch_1"
    path.write_bytes(content())
    with memory_within(300e6):
        refused(f"{path} is no CIFAR-10 batch: ", reason, "anew", name="cifar10", shape=RGB32, data_dir=tmp_path)
    assert list(tmp_path.rglob("*")) == [tmp_path / CIFAR, path]
    assert not Path("/tmp/ran").exists()


def test_a_broken_batch_behind_good_ones_is_named(cifar_dir, tmp_path):
    shutil.copytree(cifar_dir / CIFAR, tmp_path / CIFAR, copy_function=os.link)
    (tmp_path / CIFAR / "data_batch_3").unlink()
    refused("data_batch_3 cannot be read: No such file", name="cifar10", shape=RGB32, data_dir=tmp_path)
    (tmp_path / CIFAR / "data_batch_3").write_bytes(good_batch()[:99])
    refused("data_batch_3 is no CIFAR-10 batch", name="cifar10", shape=RGB32, data_dir=tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02}.", b"\x80\x02}U\x0blabel_namesU\x01as.", b"\x80\x02" + RUN + b"."],
    ids=["empty", "no names", "a text", "code"],
)
def test_a_broken_batches_meta_is_refused(content, cifar_dir, tmp_path):
    shutil.copytree(cifar_dir / CIFAR, tmp_path / CIFAR, copy_function=os.link)
    (tmp_path / CIFAR / "batches.meta").unlink()
    (tmp_path / CIFAR / "batches.meta").write_bytes(content)
    refused("batches.meta is no CIFAR-10 batches.meta", "anew", name="cifar10", shape=RGB32, data_dir=tmp_path)
    assert not Path("/tmp/ran").exists()


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


@pytest.mark.parametrize("name, file", [("cifar10", f"{CIFAR}/data_batch_1"), ("mnist", "mnist.npz")])
@pytest.mark.parametrize(
    "make, reason",
    [
        (None, "No such file"),
        (a_folder, "is not a file"),
        (a_pipe, "is not a file"),
        (a_device, "is not a file"),
        (a_loop, "cannot be read"),
        (a_giant, "larger than any official file"),
    ],
)
def test_what_is_no_ordinary_file_is_refused(name, file, make, reason, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if make:
        make(path)
    refused(str(path), reason, name=name, shape=RGB32, data_dir=tmp_path)


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


# --- downloads -------------------------------------------------------------------------------------------------------


def keras_that(get_file, monkeypatch):
    """Let `tf_keras.utils` be one whose downloads are `get_file()`."""
    for name in ("tf_keras", "tf_keras.utils"):
        module = types.ModuleType(name)
        module.get_file = lambda **_: get_file()
        monkeypatch.setitem(sys.modules, name, module)


def test_without_a_folder_keras_downloads_cifar10(cifar_dir, monkeypatch):
    keras_that(lambda: str(cifar_dir / CIFAR), monkeypatch)
    dataset = data.load("cifar10", RGB32)
    assert dataset.images[::10_000, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert dataset.labels[:12].tolist() == [*range(10), 0, 1] and dataset.classes == [f"class {i}" for i in range(10)]


def test_without_a_folder_keras_downloads_mnist(tmp_path, monkeypatch):
    (tmp_path / "mnist.npz").write_bytes(good_npz())
    keras_that(lambda: str(tmp_path / "mnist.npz"), monkeypatch)
    assert data.load("mnist", (28, 28, 1)).labels[:11].tolist() == [*range(10), 0]


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
    def fail():
        raise error

    keras_that(fail, monkeypatch)
    refused(name, "--data-dir", "--dataset shapes", name=name, shape=RGB32)


def test_with_a_folder_nothing_is_downloaded(tmp_path, monkeypatch):
    def fail():
        raise AssertionError("a download")

    keras_that(fail, monkeypatch)
    refused("mnist.npz cannot be read", name="mnist", shape=RGB32, data_dir=tmp_path)
    refused(CIFAR, name="cifar10", shape=RGB32, data_dir=tmp_path)


# --- MNIST -----------------------------------------------------------------------------------------------------------


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
    images = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), np.uint8)
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


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


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
    "floats": (lambda: npz(x_train=np.zeros((6, 28, 28), np.float32)), "x_train is no uint8"),
    "another shape": (lambda: npz(x_train=np.zeros((60_000, 28, 27), np.uint8)), "x_train is no uint8"),
    "too few labels": (lambda: npz(y_train=np.zeros(59_999, np.uint8)), "y_train is no uint8"),
    "a label of 10": (lambda: npz(y_train=np.full(60_000, 10, np.uint8)), "0 to 9"),
    "objects": (lambda: npz(x_train=np.array([Runs()], object)), "x_train is no uint8"),
    "a pickle": (lambda: zipped(x_train=pickle.dumps(Runs())), "x_train is no uint8"),
    "code in the header": (lambda: zipped(x_train=npy(b"__import__('os').system('touch /tmp/ran')")), "no uint8"),
    "brackets in the header": (lambda: zipped(x_train=npy(b"(" * 60_000)), "no uint8"),
    "an unknown version": (lambda: zipped(x_train=npy(HEADER, version=b"\x09\0")), "no uint8"),
    "fewer bytes than the header says": (lambda: zipped(x_train=npy(HEADER, b"0")), "another size"),
    "a bomb: more bytes than the header says": (lambda: zipped(x_train=npy(HEADER, bytes(2**28))), "another size"),
    "packed by another method": (lambda: zipped(zipfile.ZIP_LZMA, x_train=npy(HEADER)), "packed"),
    "a million members": (lambda: zipped(x_train=b"") + b"PK\1\2" * 1_000_000, "too many members"),
}


@pytest.mark.parametrize("content, reason", BROKEN_NPZ.values(), ids=BROKEN_NPZ)
def test_a_broken_mnist_archive_is_refused(content, reason, tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(content())
    with memory_within(150e6):
        refused(f"{path} is no MNIST archive", reason, "anew", name="mnist", shape=RGB32, data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert not Path("/tmp/ran").exists()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_is_cropped_to_its_middle_and_resized():
    image = Image.new("RGB", (300, 100), "blue")
    image.paste("red", (100, 0, 200, 100))
    picture = decoded(image)
    assert picture.shape == RGB32 and picture.dtype == np.uint8
    assert (picture[:, 4:-4] == (255, 0, 0)).all()
    assert (decoded(image, shape=(20, 60, 3))[:, :16] == (0, 0, 255)).all()  # a wide model sees the whole


def test_a_picture_for_a_grey_model_is_grey():
    assert decoded(Image.new("RGB", (5, 5), "red"), shape=(8, 8, 1)).tolist() == np.full((8, 8, 1), 76).tolist()


def test_a_large_jpeg_is_decoded_as_exactly_as_a_png():
    x = np.linspace(0, 255, 1024)
    image = Image.fromarray(np.stack(np.broadcast_arrays(x, x[:, None], 128), -1).astype(np.uint8))
    difference = decoded(image).astype(int) - decoded(image, "JPEG", quality=95)
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("mode, format", [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("I;16B", "TIFF")])
def test_16_bits_are_scaled_and_not_clipped(mode, format):
    values = np.full((8, 8), 0x8000, {"I;16": "<u2", "I": "<i4", "I;16B": ">u2"}[mode])
    image = Image.frombytes(mode, (8, 8), values.tobytes())
    assert (decoded(image, format) == 128).all()


@pytest.mark.parametrize("value, expected", [(0.5, 128), (1, 255)])
def test_floats_from_0_to_1_are_read(value, expected):
    assert (decoded(Image.new("F", (4, 4), value), "TIFF") == expected).all()


@pytest.mark.parametrize("mode, value", [("F", 300.0), ("F", -1.0), ("F", float("nan")), ("I", 70_000), ("I", -1)])
def test_values_of_no_known_range_are_refused(mode, value):
    with pytest.raises(InputError, match="neither 8 nor 16 bits"):
        decoded(Image.new(mode, (4, 4), value), "TIFF")


@pytest.mark.parametrize("channels, white", [(3, [255, 255, 255]), (1, [255])])
def test_what_is_transparent_is_white(channels, white):
    shape = (8, 8, channels)
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0])
    images = [
        encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"),
        encoded(Image.new("LA", (4, 4), (0, 0)), "PNG"),
        encoded(palette, "PNG", transparency=0),
        encoded(Image.new("RGB", (4, 4), "red"), "PNG", transparency=(255, 0, 0)),
        encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "WEBP", lossless=True),
    ]
    for content in images:
        assert (data.picture(io.BytesIO(content), shape) == white).all()


def test_half_transparent_red_is_pink():
    assert (decoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))) == [255, 127, 127]).all()


def test_cmyk_is_read_as_rgb():
    picture = decoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(picture.astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "RGB"])
def test_white_is_white_in_every_mode(mode):
    image = Image.new("RGB", (16, 16), "white").convert(mode)
    assert (decoded(image, "JPEG" if mode == "YCbCr" else "PNG") >= 254).all()


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        picture = decoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (picture == (255, 0, 0)).all(), format


@pytest.mark.parametrize("orientation, corner", [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_rotation_is_followed(format, orientation, corner):
    image = Image.new("L", (128, 128))
    image.paste(255, (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decoded(image, format, exif=exif)[..., 0]
    quarters = [
        [picture[:16, :16].mean(), picture[:16, 16:].mean()],
        [picture[16:, :16].mean(), picture[16:, 16:].mean()],
    ]
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == corner


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_a_picture_of_one_pixel_is_a_picture(size):
    assert (decoded(Image.new("RGB", size, "red")) == (255, 0, 0)).all()


def png_of(width, height):
    """A small PNG that claims to be of a giant size."""
    content = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zipfile.crc32(bytes(content[12:29])))
    return bytes(content)


def icon_of(png):
    """An icon that claims 16x16 and holds `png`."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


@functools.cache
def good_jpeg():
    return encoded(Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)), "JPEG")


BROKEN_PICTURES = {
    "empty": (b"", "no picture"),
    "text": (b"<html>404</html>", "no picture"),
    "cut in the middle": (good_jpeg()[:-200], "truncated"),
    "cut in the head": (good_jpeg()[:20], ""),
    "a PNG cut": (encoded(Image.effect_noise((64, 64), 90), "PNG")[:1000], "truncated"),
    "a bomb of 30,000 x 30,000": (png_of(30_000, 30_000), "pixels"),
    "a bomb of 12,000 x 7,000": (png_of(12_000, 7_000), "12000x7000 pixels are too many"),
    "a bomb in an icon": (icon_of(png_of(12_000, 12_000)), ""),
    "no pixels": (png_of(0, 0), ""),
    "PostScript, which Ghostscript would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "no picture",
    ),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(99), "no picture"),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("content, reason", BROKEN_PICTURES.values(), ids=BROKEN_PICTURES)
def test_a_broken_picture_is_refused_or_skipped(
    content, reason, skip_bad, folder, cache, load_folder, capsys, refuse_folder
):
    save(folder / "good.png")
    (folder / "broken.jpg").write_bytes(content)
    with memory_within(50e6):
        if skip_bad:
            assert load_folder(skip_bad=True).images.shape == (1, *RGB32)
            lines = capsys.readouterr().err
            assert lines.startswith(f"skipped {folder / 'broken.jpg'}: ") and reason in lines and lines.count("\n") == 1
        else:
            line = refuse_folder()
            assert (
                line.startswith(f"{folder / 'broken.jpg'} cannot be read: ") and reason in line and "--skip-bad" in line
            )
            assert not left_behind(cache)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures(folder, load_folder, capsys):
    colours = {"a.png": "red", "b.JPG": "lime", "c.bmp": "blue"}
    for name, colour in colours.items():
        save(folder / name, colour)
    (folder / "notes.txt").write_text("no picture")
    (folder / "weights.h5").write_text("no picture")
    (folder / "._a.png").write_text("hidden")
    save(folder / ".hidden" / "d.png")
    dataset = load_folder()
    assert dataset.name == "folder" and dataset.labels is None and dataset.classes == []
    assert dataset.images.shape == (3, *RGB32) and dataset.images.dtype == np.uint8
    assert np.abs(dataset.images[:, 16, 16].astype(int) - [(255, 0, 0), (0, 255, 0), (0, 0, 255)]).max() < 4
    images, labels = next(data.batches(dataset, 3, (-0.5, 0.5), seed=0))
    assert images.shape == (3, *RGB32) and labels is None
    assert capsys.readouterr() == ("", "")


def test_subfolders_are_classes(folder, load_folder):
    save(folder / "dogs" / "deep" / "1.png", "red")
    save(folder / "cats" / "2.png", "blue")
    save(folder / "cats" / "1.png", "blue")
    (folder / "empty").mkdir()
    dataset = load_folder()
    assert dataset.classes == ["cats", "dogs"]
    assert dataset.labels.tolist() == [0, 0, 1] and dataset.labels.dtype == np.int64
    assert dataset.images[:, 16, 16, 0].tolist() == [0, 0, 255]


def test_labels_stay_with_their_pictures_when_others_are_skipped(folder, load_folder):
    save(folder / "a" / "1.png", "red")
    (folder / "a" / "2.png").touch()
    (folder / "b").mkdir()
    (folder / "b" / "1.png").touch()
    save(folder / "c" / "1.png", "blue")
    dataset = load_folder(skip_bad=True)
    assert dataset.classes == ["a", "c"] and dataset.labels.tolist() == [0, 1]
    assert dataset.images[:, 16, 16, 0].tolist() == [255, 0]


def test_pictures_beside_subfolders_have_no_classes(folder, load_folder):
    save(folder / "dogs" / "1.png")
    save(folder / "1.png")
    assert load_folder().labels is None


@pytest.mark.parametrize("name", [b"caf\xe9.png", "日本語.png".encode(), b"a\nb\x1b[31m.png", b" .png", b"-rf.png"])
def test_names_in_any_encoding(name, folder, load_folder, refuse_folder):
    save(folder / "class" / "good.png")
    path = os.path.join(os.fsencode(folder), b"class\xff", name)
    os.mkdir(os.path.dirname(path))
    os.link(folder / "class" / "good.png", path)
    dataset = load_folder()
    assert len(dataset.images) == 2
    assert all(name.isprintable() for name in dataset.classes) and len(dataset.classes) == 2
    os.unlink(path)
    Path(os.fsdecode(path)).touch()
    refuse_folder("cannot be read")


def test_loops_of_links_end(folder, load_folder):
    save(folder / "a" / "1.png")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to(folder / "a")
    (folder / "c").symlink_to(folder / "c")
    assert len(load_folder().images) == 1


def test_a_linked_folder_is_followed(folder, tmp_path, load_folder):
    save(tmp_path / "elsewhere" / "1.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    dataset = load_folder()
    assert len(dataset.images) == 1 and dataset.classes == ["link"]


def test_a_link_that_leads_nowhere_is_a_bad_picture(folder, load_folder, refuse_folder):
    save(folder / "1.png")
    (folder / "2.png").symlink_to("nowhere")
    (folder / "3.png").symlink_to("3.png")
    refuse_folder(
        "2.png (and 1 more) cannot be read: No such file",
    )
    assert len(load_folder(skip_bad=True).images) == 1


def test_bad_pictures_are_counted_and_listed(folder, cache, load_folder, capsys, refuse_folder):
    save(folder / "5.png")
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"broken")
    refuse_folder("0.png (and 2 more) cannot be read", "--skip-bad")
    assert not left_behind(cache)
    for _ in range(2):  # the second time from the cache
        assert len(load_folder(skip_bad=True).images) == 1
        assert [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()] == [
            f"skipped {folder / f'{i}.png'}" for i in range(3)
        ]
    refuse_folder("0.png (and 2 more) cannot be read")  # also from the cache


def no_folder(path):
    path.rmdir()


def an_empty_folder(path):
    pass


def only_other_files(path):
    (path / "notes.txt").touch()


def only_bad_pictures(path):
    (path / "1.png").touch()
    (path / "2.png").touch()


def a_file(path):
    path.rmdir()
    save(path.with_suffix(".png")).rename(path)


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    "make, reason",
    [
        (no_folder, "No such file or directory; check --data-dir"),
        (an_empty_folder, "has no pictures"),
        (only_other_files, "has no pictures"),
        (only_bad_pictures, "1.png (and 1 more) cannot be read"),
        (a_file, "Not a directory; check --data-dir"),
    ],
)
def test_a_folder_without_good_pictures_is_refused(make, reason, skip_bad, folder, cache, refuse_folder):
    make(folder)
    refuse_folder(str(folder), reason, skip_bad=skip_bad)
    assert not left_behind(cache)


def test_a_folder_needs_a_name():
    refused("--data-dir", name="folder", shape=RGB32)


@pytest.fixture
def unprivileged():
    """A folder that everybody reaches, and this process without the rights of root."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield path
    finally:
        if root:
            os.seteuid(0)
        for each in path.rglob("*"):
            each.chmod(0o700)
        shutil.rmtree(path)


def test_what_may_not_be_read_is_refused(unprivileged):
    arguments = {"name": "folder", "shape": RGB32, "data_dir": unprivileged / "in", "cache_dir": unprivileged / "cache"}
    save(unprivileged / "in" / "1.png")
    save(unprivileged / "in" / "2.png").chmod(0)
    refused("2.png cannot be read: Permission denied", "--skip-bad", **arguments)
    assert len(data.load(**arguments, skip_bad=True).images) == 1
    (unprivileged / "in" / "closed").mkdir(0)
    refused("closed cannot be read: Permission denied", **arguments)
    (unprivileged / "in" / "closed").rmdir()
    (unprivileged / "cache").chmod(0o500)
    os.unlink(unprivileged / "in" / "2.png")
    refused("cache", "Permission denied", "XDG_CACHE_HOME", **arguments)


def remove(path):
    path.unlink()


def replace(path):
    save(path, "blue", (7, 7))


def touch(path):
    os.utime(path, ns=(1, 1))


def empty(path):
    path.write_bytes(b"")


def add(path):
    save(path.with_name("9.png"))


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("change", [remove, replace, touch, empty, add])
def test_a_folder_that_changes_while_it_is_read_is_refused(change, skip_bad, folder, cache, monkeypatch, refuse_folder):
    for i in range(3):
        save(folder / f"{i}.png")
    read = data.picture

    def read_and_change(source, shape):
        if str(source).endswith("1.png"):
            change(folder / "2.png")
        return read(source, shape)

    monkeypatch.setattr(data, "picture", read_and_change)
    refuse_folder("changed while it was read", skip_bad=skip_bad)
    assert not left_behind(cache)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def count_reads(monkeypatch):
    """A list that grows by one for every picture that is decoded."""
    reads, read = [], data.picture
    monkeypatch.setattr(data, "picture", lambda source, shape: reads.append(source) or read(source, shape))
    return reads


def test_pictures_are_decoded_once(folder, cache, load_folder, count_reads):
    save(folder / "1.png", "red")
    save(folder / "2.png", "blue")
    first = load_folder().images[:]
    again = load_folder().images
    np.testing.assert_array_equal(first, again[:])
    assert len(count_reads) == 2
    assert isinstance(again, h5py.Dataset) and again.chunks == (1, *RGB32) and again.compression is None
    assert len(left_behind(cache)) == 1
    load_folder(shape=(8, 8, 1))
    assert len(count_reads) == 4
    save(folder / "2.png", "lime", (50, 50))
    assert load_folder().images[1, 9, 9].tolist() == [0, 255, 0]
    assert len(count_reads) == 6


def test_another_folder_with_the_same_names_is_another_folder(tmp_path, cache, load_folder):
    for name, colour in (("x", "red"), ("y", "blue")):
        os.utime(save(tmp_path / name / "1.bmp", colour), ns=(1, 1))
    reds = [load_folder(data_dir=tmp_path / name).images[0, 9, 9, 0] for name in "xy"]
    assert reds == [255, 0]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_where_the_system_has_caches(variable, folder, tmp_path, monkeypatch):
    save(folder / "1.png")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    data.load("folder", RGB32, data_dir=folder)
    place = tmp_path / "home" / ("dcgan_keras" if variable == "XDG_CACHE_HOME" else ".cache/dcgan_keras")
    assert [path.suffix for path in place.iterdir()] == [".h5"]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_by_one_byte(path):
    os.truncate(path, path.stat().st_size - 1)


def flip_first(path):
    path.write_bytes(flipped(path.read_bytes(), 0))


def flip_middle(path):
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))


def flip_checksum(path):
    path.write_bytes(flipped(path.read_bytes(), len(data.CACHE_MAGIC)))


def foreign(path):
    path.write_bytes(b"no HDF5")


@pytest.mark.parametrize("damage", [empty, cut, cut_by_one_byte, flip_first, flip_middle, flip_checksum, foreign])
def test_a_damaged_cache_is_made_anew(damage, folder, cache, load_folder, count_reads):
    save(folder / "1.png")
    load_folder()
    damage(*left_behind(cache))
    assert (load_folder().images[0] == (255, 0, 0)).all()
    assert len(count_reads) == 2 and len(left_behind(cache)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("HDF5")])
def test_an_interrupted_cache_leaves_nothing_behind(error, folder, cache, monkeypatch):
    save(folder / "1.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((KeyboardInterrupt, InputError)) as caught:
        data.load("folder", RGB32, data_dir=folder, cache_dir=cache)
    assert isinstance(error, KeyboardInterrupt) or "XDG_CACHE_HOME" in str(caught.value)
    assert not left_behind(cache)


def test_a_disk_that_is_too_small_is_told_of_before_any_work(folder, cache, monkeypatch, count_reads, refuse_folder):
    save(folder / "1.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    refuse_folder("GB left", "XDG_CACHE_HOME")
    assert not count_reads and not left_behind(cache)


@pytest.mark.parametrize("name", ["cache", "cache/deep"])
def test_a_cache_that_cannot_be_made_is_refused(name, folder, tmp_path):
    save(folder / "1.png")
    (tmp_path / "cache").write_text("a file")
    refused(
        str(tmp_path / name), "XDG_CACHE_HOME", name="folder", shape=RGB32, data_dir=folder, cache_dir=tmp_path / name
    )


def test_what_a_killed_run_left_is_cleared_and_what_a_living_one_writes_is_not(folder, cache, load_folder):
    save(folder / "1.png")
    cache.mkdir()
    (cache / "old.partial").touch()
    os.utime(cache / "old.partial", (1, 1))
    (cache / "new.partial").touch()
    load_folder()
    assert sorted(path.suffix for path in left_behind(cache)) == [".h5", ".partial"]


def test_the_cache_is_private(folder, cache, load_folder):
    save(folder / "1.png")
    load_folder()
    assert stat.S_IMODE(left_behind(cache)[0].stat().st_mode) == 0o600


PEAK = """
import sys, data
dataset = data.load("folder", (64, 64, 3), data_dir=sys.argv[1], cache_dir=sys.argv[2])
batches = data.batches(dataset, 50, (-0.5, 0.5), seed=0)
for _ in range(data.batches_per_epoch(dataset, 50)):
    next(batches)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_folder(tmp_path):
    picture = tmp_path / "picture.bmp"
    Image.effect_noise((64, 64), 90).convert("RGB").save(picture)
    sizes, peaks = (500, 4500), []
    for size in sizes:
        folder = tmp_path / str(size)
        folder.mkdir()
        for i in range(size):
            os.link(picture, folder / f"{i}.bmp")
        run = subprocess.run(
            [sys.executable, "-c", PEAK, folder, tmp_path / "cache"],
            cwd=Path(data.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout) * 1024)
    per_picture = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    assert per_picture < 0.15 * 64 * 64 * 3  # bytes: little more than the name


# --- fuzzing ---------------------------------------------------------------------------------------------------------

SHORT_AND_LONG = [100, pytest.param(int(os.environ.get("FUZZ_EXAMPLES", "35000")), marks=pytest.mark.long)]


def fuzz(read, contents, examples):
    """Feed `contents` to `read`: only `InputError`, with a printable text, may come out, and memory is bounded."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 100,
        suppress_health_check=list(HealthCheck),
    )
    @given(contents)
    def feed(content):
        try:
            read(content)
        except InputError as error:
            assert str(error).isprintable()

    with warnings.catch_warnings(), memory_within(1e9):
        warnings.simplefilter("error")
        feed()


@st.composite
def mutations(draw, *seeds):
    """One of `seeds` with some bytes replaced, removed, doubled or cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["replace", "insert", "remove", "double", "cut"])):
            case "replace":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "insert":
                content[at:at] = draw(st.binary(max_size=9))
            case "remove":
                del content[at : at + draw(st.integers(1, 99))]
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 99))]
            case "cut":
                del content[at:]
    return bytes(content)


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
    fuzz(lambda content: data.cifar10_batch(content, "it"), contents, examples)


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_npz_reader(examples):
    small = zipped(x_train=npy(HEADER, bytes(999)), y_train=npy(HEADER))
    stored = zipped(zipfile.ZIP_STORED, x_train=npy(HEADER), y_train=npy(HEADER))
    contents = mutations(small, stored) | st.binary().map(lambda content: zipped(x_train=content)) | st.binary()
    fuzz(lambda content: data.mnist_arrays(content, "it"), contents, examples)


@functools.cache
def small_pictures():
    noise = Image.effect_noise((9, 9), 90)
    formats = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "ICNS", "PCX", "SGI", "QOI", "DDS"]
    formats += [name for name in ("JPEG2000", "AVIF") if name in Image.SAVE]  # where Pillow was built with them
    colour = [encoded(noise.convert("RGB"), name) for name in formats]
    return [*colour, encoded(noise.convert("P"), "PNG"), encoded(noise, "GIF"), png_of(9, 9)]


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_picture_reader(examples):
    Image.init()
    contents = mutations(*small_pictures()) | st.binary()
    fuzz(lambda content: data.picture(io.BytesIO(content), (4, 4, 3)), contents, examples)
