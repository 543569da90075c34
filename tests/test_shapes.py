"""Shapes: reproducible, of any size, and each class with an outline of its own."""

import numpy as np
import pytest
from broken import RGB32

import data
from sources import shapes


def test_shapes():
    dataset = data.load("faces", RGB32)
    assert dataset.images.shape == (10_000, *RGB32) and dataset.images.dtype == np.uint8
    assert len(dataset.classes) == 10
    assert np.bincount(dataset.labels).tolist() == [1000] * 10
    assert len({picture.tobytes() for picture in dataset.images}) == 10_000


def test_shapes_depend_on_the_seed_alone():
    one, same, other = (data.load("faces", (16, 16, 1), seed=seed).images for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_test_shapes_are_others():
    train, test = (data.load("faces", (16, 16, 1), seed=3, split=split).images for split in ("train", "test"))
    assert not {picture.tobytes() for picture in train} & {picture.tobytes() for picture in test}


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 48, 3), (200, 200, 3)])
def test_shapes_of_any_size_stay_within_their_memory(shape):
    images = data.load("faces", shape).images
    assert images.shape[1:] == shape
    assert len(images) == 10_000 or 2**26 < images.nbytes <= 2**27


def test_every_class_has_an_outline_of_its_own_that_fits_into_the_picture():
    y, x = np.mgrid[-1.5:1.5:150j, -1.5:1.5:150j]
    outlines = [shapes._distance(name, x, y) < 0 for name in shapes.CLASSES]
    for i, outline in enumerate(outlines):
        assert 0.1 < outline.mean() * 9 / np.pi < 1  # of the unit disc
        assert np.hypot(x, y)[outline].max() < 1.12
        for other in outlines[:i]:
            assert (outline != other).sum() > 0.05 * outline.sum()


def test_edges_of_shapes_are_smooth():
    """Drawn twice as large and halved, a shape stays what it is: the edges of both are averages over their pixels."""
    small, large = (shapes._draw(5, 50, (n, n, 1), np.random.default_rng(0)).astype(float) for n in (32, 64))
    halved = large.reshape(50, 32, 2, 32, 2, 1).mean((2, 4))
    assert np.abs(small - halved).mean() < 1
    assert np.abs(small - large[:, ::2, ::2]).mean() > 2  # what edges of whole pixels would give


def test_kinds_are_told_apart_by_the_most_similar_picture():
    """Few variations, as G has to learn them in minutes; by chance, one in ten would be right."""
    train, test = (data.load("faces", (16, 16, 1), split=split) for split in ("train", "test"))

    def normed(images):
        points = images.reshape(len(images), -1).astype(np.float32)
        points -= points.mean(axis=1, keepdims=True)
        return points / np.linalg.norm(points, axis=1, keepdims=True)

    nearest = (normed(test.images[:500]) @ normed(train.images[:4000]).T).argmax(axis=1)
    assert (train.labels[nearest] == test.labels[:500]).mean() > 0.8
