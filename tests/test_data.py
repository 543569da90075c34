"""What every dataset shares: scaling, batches, and what can be asked for."""

import os
import pickle

import numpy as np
import pytest
from broken import RGB32, refused

import data
from command import InputError

RGB89 = (8, 9, 3)


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


def load_arrays(path, shape=(8, 9, 3), **options):
    return data.load("arrays", shape, data_dir=path, **options)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_every_kind(suffix, tmp_path):
    path = tmp_path / f"file{suffix}"

    def loaded(images, shape=(8, 9, 1)):
        np.save(path, images) if suffix == ".npy" else np.savez(path, images)
        dataset = load_arrays(path, shape)
        assert (dataset.name, dataset.labels, dataset.classes) == ("arrays", None, [])
        return dataset.images

    for images in (
        GREY,
        GREY[..., np.newaxis],
        GREY / 255,
        (GREY / 127.5 - 1).astype(np.float32),
        np.asfortranarray(GREY),
    ):
        np.testing.assert_array_equal(loaded(images)[..., 0], GREY)
    np.testing.assert_array_equal(loaded(COLOUR, RGB89), COLOUR)
    np.testing.assert_array_equal(loaded(COLOUR.astype(np.float16) / 255, RGB89), COLOUR)
    assert loaded(COLOUR, (4, 4, 1)).shape == (30, 4, 4, 1)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.arange(30) % 3, ["0", "1", "2"]),
        ((np.arange(30) % 3).reshape(30, 1).astype(np.uint8) + 5, ["5", "6", "7"]),
        (np.array(["ant", "bee", "\x1bcat"])[np.arange(30) % 3], ["ant", "bee", r"\x1bcat"]),
    ],
)
@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("images", "labels"), ("anything", "y"), ("x_train", "y_train")])
def test_labels_of_arrays(x, y, labels, classes, tmp_path):
    np.savez_compressed(tmp_path / "file.npz", **{x: COLOUR, y: labels})
    dataset = load_arrays(tmp_path / "file.npz", labelled=True)
    np.testing.assert_array_equal(dataset.images, COLOUR)
    assert dataset.labels.dtype == np.int64 and sorted(dataset.classes) == sorted(classes)
    assert [dataset.classes[label] for label in dataset.labels[:4]] == [*classes, classes[0]]


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)


BROKEN_ARRAYS = {
    "no file": (None, "needs --data-dir FILE.npz or FILE.npy"),
    "empty": (b"", "has no images"),
    "text": (b"<html>404</html>", "has no images"),
    "a pickle": (pickle.dumps(Runs()), "has no images"),
    "objects": (np.array([Runs()] * 3, object), "Python objects"),
    "objects in an npz": ({"x": np.array([Runs()] * 3, object)}, "Object arrays cannot be loaded"),
    "objects as labels": ({"x": COLOUR, "y": np.array([Runs()] * 30, object)}, "Object arrays cannot be loaded"),
    "two arrays": ({"a": COLOUR, "b": COLOUR}, "(a, b) none is called x or images"),
    "no images at all": ({"y": GREY}, "none is called x or images"),
    "channels in front": (COLOUR.transpose(0, 3, 1, 2), "their shape is (30, 3, 8, 9)"),
    "one image": (GREY[0], "their shape is (8, 9)"),
    "none": (GREY[:0], "their shape is (0, 8, 9, 1)"),
    "16 bits": (GREY.astype(np.uint16), "their type is uint16"),
    "floats from 0 to 255": (GREY.astype(float), "from 0 to 255"),
    "NaN": (np.full((3, 8, 8), np.nan), "from nan to nan"),
    "fewer labels": ({"x": COLOUR, "y": np.arange(29)}, "labels are int64 of (29,)"),
    "one-hot labels": ({"x": COLOUR, "y": np.eye(30)}, "labels are float64 of (30, 30)"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS)
def test_broken_arrays_are_refused(content, reason, tmp_path):
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        with open(path, "wb") as file:
            np.savez(file, **content) if isinstance(content, dict) else np.save(file, content)
    refused(reason, name="arrays", shape=RGB89, data_dir=path)
    assert not os.path.exists("/tmp/ran")


def test_a_cut_array_file_is_refused(tmp_path):
    for suffix in ("npy", "npz"):
        path = tmp_path / f"file.{suffix}"
        np.save(path, COLOUR) if suffix == "npy" else np.savez(path, COLOUR)
        os.truncate(path, path.stat().st_size - 9)
        refused(f"file.{suffix} has no images", name="arrays", shape=RGB89, data_dir=path)


def test_what_arrays_cannot_do_is_refused_by_name(tmp_path):
    np.save(tmp_path / "file.npy", COLOUR)
    arguments = {"name": "arrays", "shape": RGB89}
    refused("--data-dir FILE.npz", **arguments)
    refused("--data-dir FILE.npz", **arguments, data_dir=tmp_path)
    refused("the model needs classes", "y or labels", **arguments, data_dir=tmp_path / "file.npy", labelled=True)
    refused("no test images", **arguments, data_dir=tmp_path / "file.npy", split="test")


def test_an_unknown_dataset_is_refused_by_name():
    refused("no dataset imagenet", *data.DATASETS, name="imagenet", shape=RGB32)


def test_a_model_of_four_channels_is_refused():
    refused("(8, 8, 4)", name="faces", shape=(8, 8, 4))


def test_an_unknown_split_is_refused_and_a_folder_has_no_test_images(tmp_path):
    refused("no split valid", name="faces", shape=RGB32, split="valid")
    refused("no test images", name="folder", shape=RGB32, data_dir=tmp_path, split="test")


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


@pytest.mark.parametrize(
    "option, name, value",
    [
        ("--data-dir", "faces", {"data_dir": "images"}),
        ("--skip-bad", "cifar10", {"skip_bad": True}),
        ("--skip-bad", "faces", {"skip_bad": True}),
        ("--check-cache", "mnist", {"check_cache": True}),
    ],
)
def test_an_option_that_the_dataset_does_not_use_is_refused_by_name(option, name, value):
    refused(option, name, name=name, shape=RGB32, **value)
