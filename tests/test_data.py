"""What every dataset shares: scaling, batches, and what can be asked for."""

import io
import os
import pickle

import numpy as np
import pytest
from broken import RGB32, Runs, refused

import data
from command import InputError


def numbered(n):
    """A dataset whose image i is filled with i and has the label i."""
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


def test_an_epoch_shows_every_image_once_and_the_next_has_another_order():
    assert data.batches_per_epoch(numbered(12), 4) == 3
    batches = take(6, numbered(12), 4, (0, 255), seed=1)
    for images, labels in batches:
        assert images.shape == (4, 2, 2, 1) and images.dtype == np.float32
        assert (images == labels.reshape(-1, 1, 1, 1)).all()
    other_seed = take(3, numbered(12), 4, (0, 255), seed=2)
    orders = [
        np.concatenate([labels for _, labels in each]).tolist() for each in (batches[:3], batches[3:], other_seed)
    ]
    assert [sorted(order) for order in orders] == [list(range(12))] * 3
    assert orders[0] != orders[1] and orders[0] != orders[2]


def test_the_remainder_of_an_epoch_is_dropped():
    assert data.batches_per_epoch(numbered(11), 4) == 2
    assert len({label for _, labels in take(2, numbered(11), 4, (0, 1), seed=1) for label in labels}) == 8


@pytest.mark.parametrize("start", [0, 1, 3, 13])  # 3: an epoch's end
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_parts_of_a_resumed_runs_workers_make_up_the_same_batches(start, workers):
    whole = take(16, numbered(20), 6, (0, 1), seed=3)[start:]
    parts = [take(16 - start, numbered(20), 6, (0, 1), seed=3, start=start, part=(i, workers)) for i in range(workers)]
    for (images, labels), *of_workers in zip(whole, *parts, strict=True):
        assert {len(labels) for _, labels in of_workers} == {6 // workers}
        np.testing.assert_array_equal(images, np.concatenate([images for images, _ in of_workers]))
        np.testing.assert_array_equal(labels, np.concatenate([labels for _, labels in of_workers]))


def test_fewer_images_than_a_batch_are_refused_before_the_first_batch():
    with pytest.raises(InputError, match=r"numbered has 3 images, fewer than a batch of 4.*--batch-size"):
        data.batches(numbered(3), 4, (0, 1), seed=1)


def test_images_without_labels_come_in_batches_too():
    assert take(1, numbered(4)._replace(labels=None), 4, (0, 1), seed=1)[0][1] is None


def test_half_of_the_images_are_mirrored_by_seed_and_step():
    left = np.zeros((100, 2, 4, 1), np.uint8)
    left[:, :, 0] = 255
    dataset = numbered(100)._replace(images=left)

    def mirrored(n, start=0, part=(0, 1), seed=1):
        batches = data.batches(dataset, 20, (0, 1), seed, start, part, flip=True)
        return [batch[:, 0, 3, 0].tolist() for batch, _ in (next(batches) for _ in range(n))]

    whole = mirrored(12)  # two epochs and more
    assert all(set(batch) == {0, 1} for batch in whole) and 0.4 < np.mean(whole) < 0.6
    assert len({tuple(batch) for batch in whole}) == 12 and mirrored(12, seed=2) != whole
    assert mirrored(5, start=7) == whole[7:]
    parts = [mirrored(12, part=(i, 2)) for i in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert (left[:, :, 0] == 255).all()  # the dataset is as it was
    assert not any(batch[:, 0, 3].any() for batch, _ in take(5, dataset, 20, (0, 1), seed=1))


# Arrays.

GREY = np.random.default_rng(0).integers(0, 256, (30, 8, 9), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (30, 8, 9, 3), np.uint8)
THIRDS = np.arange(30) % 3


def saved(content):
    """The bytes of an .npz, from a dict, or of an .npy."""
    file = io.BytesIO()
    np.savez(file, **content) if isinstance(content, dict) else np.save(file, content)
    return file.getvalue()


@pytest.fixture
def load_arrays(tmp_path):
    def load(content, shape=(8, 9, 3), **options):
        (tmp_path / "file").write_bytes(saved(content))
        return data.load("arrays", shape, data_dir=tmp_path / "file", **options)

    return load


@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: {"anything": images}])
def test_arrays_of_every_kind(wrap, load_arrays):
    floats = GREY / 255, (GREY / 127.5 - 1).astype(np.float32)
    for images in (GREY, GREY[..., np.newaxis], np.asfortranarray(GREY), *floats):
        dataset = load_arrays(wrap(images), (8, 9, 1))
        assert (dataset.name, dataset.labels, dataset.classes) == ("arrays", None, [])
        np.testing.assert_array_equal(dataset.images[..., 0], GREY)
    for images in (COLOUR, COLOUR.astype(np.float16) / 255):
        np.testing.assert_array_equal(load_arrays(wrap(images)).images, COLOUR)


@pytest.mark.parametrize(
    ("x", "y", "labels", "classes"),
    [
        ("x", "y", THIRDS, ["0", "1", "2"]),
        ("images", "labels", THIRDS.reshape(30, 1).astype(np.uint8) + 5, ["5", "6", "7"]),
        ("anything", "y", np.array(["ant", "bee", "\x1bcat"])[THIRDS], ["ant", "bee", r"\x1bcat"]),
        ("x_train", "y_train", np.array([b"ant", b"bee", b"c\xff"])[THIRDS], ["ant", "bee", r"c\udcff"]),
    ],
)
def test_labels_of_arrays(x, y, labels, classes, load_arrays):
    dataset = load_arrays({x: COLOUR, y: labels}, labelled=True)
    np.testing.assert_array_equal(dataset.images, COLOUR)
    assert dataset.labels.dtype == np.int64 and sorted(dataset.classes) == sorted(classes)
    assert [dataset.classes[label] for label in dataset.labels[:4]] == [*classes, classes[0]]


OBJECTS = np.array([Runs()] * 30, object)
BROKEN_ARRAYS = {
    "empty": (b"", "cannot be used"),
    "text": (b"<html>404</html>", "cannot be used"),
    "a cut .npy": (saved(COLOUR)[:-9], "cannot be used"),
    "a cut .npz": (saved({"x": COLOUR})[:-9], "cannot be used"),
    "a pickle": (pickle.dumps(Runs()), "cannot be used"),
    "objects": (saved(OBJECTS), "Python objects"),
    "objects in an npz": (saved({"x": OBJECTS}), "Object arrays cannot be loaded"),
    "objects as labels": (saved({"x": COLOUR, "y": OBJECTS}), "Object arrays cannot be loaded"),
    "two arrays": (saved({"a": COLOUR, "b": COLOUR}), "(a, b) none is called x or images"),
    "no images at all": (saved({"y": GREY}), "none is called x or images"),
    "channels in front": (saved(COLOUR.transpose(0, 3, 1, 2)), "their shape is (30, 3, 8, 9)"),
    "one image": (saved(GREY[0]), "their shape is (8, 9)"),
    "none": (saved(GREY[:0]), "their shape is (0, 8, 9, 1)"),
    "16 bits": (saved(GREY.astype(np.uint16)), "their type is uint16"),
    "floats from 0 to 255": (saved(GREY.astype(float)), "from 0 to 255"),
    "NaN": (saved(np.full((3, 8, 8), np.nan)), "from nan to nan"),
    "fewer labels": (saved({"x": COLOUR, "y": THIRDS[:29]}), "labels are int64 of (29,)"),
    "one-hot labels": (saved({"x": COLOUR, "y": np.eye(30)}), "labels are float64 of (30, 30)"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS)
def test_broken_arrays_are_refused(content, reason, tmp_path):
    (tmp_path / "file").write_bytes(content)
    refused(reason, name="arrays", shape=RGB32, data_dir=tmp_path / "file")
    assert not os.path.exists("/tmp/ran")


def test_images_are_resized_and_coloured_all_at_once_or_batch_by_batch(load_arrays, monkeypatch):
    whole = load_arrays(GREY, (16, 20, 3))
    assert type(whole.images) is np.ndarray and whole.images.shape == (30, 16, 20, 3)
    monkeypatch.setattr(data, "IN_MEMORY", 1000)
    lazy = load_arrays(GREY, (16, 20, 3))
    assert type(lazy.images) is not np.ndarray and len(lazy.images) == 30
    for index in (7, -1, slice(3, 9), slice(None), np.array([4, 2])):
        np.testing.assert_array_equal(whole.images[index], lazy.images[index])
    assert data.checksum(lazy) != data.checksum(load_arrays(GREY, (8, 9, 1)))
    for batch, same in zip(*(take(9, each, 8, (0, 1), 3, flip=True) for each in (whole, lazy)), strict=True):
        np.testing.assert_array_equal(batch[0], same[0])


# What can be asked for.


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["no dataset imagenet", *data.DATASETS], {"name": "imagenet"}),
        (["(8, 8, 4)"], {"name": "faces", "shape": (8, 8, 4)}),
        (["no split valid"], {"name": "faces", "split": "valid"}),
        (["no test images"], {"name": "folder", "data_dir": ".", "split": "test"}),
        (["no test images"], {"name": "arrays", "data_dir": "file", "split": "test"}),
        (["--data-dir is not for"], {"name": "faces", "data_dir": "images"}),
        (["--skip-bad"], {"name": "cifar10", "skip_bad": True}),
        (["--skip-bad"], {"name": "faces", "skip_bad": True}),
        (["--check-cache"], {"name": "mnist", "check_cache": True}),
        (["--data-dir"], {"name": "folder"}),
        (["--data-dir FILE.npz"], {"name": "arrays"}),
        (["--data-dir FILE.npz"], {"name": "arrays", "data_dir": "."}),
        (["the model needs classes", "y or labels"], {"name": "arrays", "data_dir": "file", "labelled": True}),
    ],
)
def test_what_a_dataset_does_not_have_is_refused_by_name(words, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(saved(COLOUR))
    refused(*words, **{"shape": RGB32, **arguments})


def test_the_checksum_is_of_every_image_label_and_shape():
    dataset = numbered(200)
    others = [numbered(201)]
    for changed in (0, 123, 199):
        images, labels = dataset.images.copy(), dataset.labels.copy()
        images[changed, 1, 1, 0] ^= 1
        labels[changed] += 1
        others += [dataset._replace(images=images), dataset._replace(labels=labels)]
    others += [dataset._replace(labels=None), dataset._replace(images=dataset.images.reshape(200, 1, 4, 1))]
    assert data.checksum(dataset) == data.checksum(numbered(200))
    assert len({data.checksum(each) for each in [dataset, *others]}) == 1 + len(others)
