"""What every dataset shares: scaling, batches, and what can be asked for."""

import numpy as np
import pytest
from broken import RGB32, refused

import data
from command import InputError


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


def test_an_unknown_dataset_is_refused_by_name():
    refused("no dataset imagenet", *data.DATASETS, name="imagenet", shape=RGB32)


def test_a_model_of_four_channels_is_refused():
    refused("(8, 8, 4)", name="faces", shape=(8, 8, 4))


def test_an_unknown_split_is_refused_and_a_folder_has_no_test_pictures(tmp_path):
    refused("no split valid", name="faces", shape=RGB32, split="valid")
    refused("no test pictures", name="folder", shape=RGB32, data_dir=tmp_path, split="test")


def test_the_checksum_is_of_every_picture_label_and_shape():
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
        ("--data-dir", "faces", {"data_dir": "pictures"}),
        ("--skip-bad", "cifar10", {"skip_bad": True}),
        ("--skip-bad", "faces", {"skip_bad": True}),
        ("--check-cache", "mnist", {"check_cache": True}),
    ],
)
def test_an_option_that_the_dataset_does_not_use_is_refused_by_name(option, name, value):
    refused(option, name, name=name, shape=RGB32, **value)
