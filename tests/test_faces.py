"""Drawn faces: reproducible everywhere, of any size, and ten classes that can be told apart."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from broken import RGB32
from conftest import ROOT
from PIL import Image, ImageOps

import data
from sources import faces


def digest(*arguments):
    dataset = faces.load(*arguments)
    return hashlib.sha256(dataset.images.tobytes() + dataset.labels.tobytes()).hexdigest()


def test_ten_thousand_faces_of_ten_classes_that_the_most_similar_face_tells_apart(drawn):
    """By chance, one in ten would be right."""
    train, test = drawn(RGB32, 0), faces.load(RGB32, [0, 1], 300)
    assert train.images.shape == (10_000, *RGB32) and train.images.dtype == np.uint8
    assert np.bincount(train.labels).tolist() == [1000] * 10 and len(train.classes) == 10
    assert len({image.tobytes() for image in train.images}) == 10_000

    def normed(images):
        points = images.reshape(len(images), -1).astype(np.float32)
        points -= points.mean(axis=1, keepdims=True)
        return points / np.linalg.norm(points, axis=1, keepdims=True)

    nearest = (normed(test.images) @ normed(train.images[:4000]).T).argmax(axis=1)
    assert (train.labels[nearest] == test.labels).mean() > 0.5


def test_the_images_depend_on_the_seed_and_the_split(monkeypatch):
    monkeypatch.setattr(faces, "MAX_BYTES", 300 * 16 * 16)
    one, same, other = (data.load("faces", (16, 16, 1), seed=seed).images for seed in (3, 3, 4))
    test = data.load("faces", (16, 16, 1), seed=3, split="test").images
    np.testing.assert_array_equal(one, same)
    assert len(one) == 300  # as many as fit
    for others in (other, test):
        assert not {image.tobytes() for image in one} & {image.tobytes() for image in others}


# SHA-256 of the first faces of seed 0. Long runs are resumed with them: other bytes need another `faces.VERSION`.
DIGESTS = {
    (32, 32, 3): "8daf634f37633ec5cbb722389f7c006d5e4c9c4ff28e286ad4b69bbad1434662",
    (28, 28, 1): "ddfbdff341e7ebe38d78bb6f60aec6819af10241041f15288b30a20bb00ffd3e",
    (20, 48, 3): "25a1d1e1f432a054af3c9f4cfb4c21f7b331c07330dd888b958b55619e810ef8",
    (200, 200, 3): "64e09da078ab8e500884cbe699a98cb2cf80a1dff37a236aa6fa559549859bbd",
}


@pytest.mark.parametrize("shape", DIGESTS)
def test_the_bytes_are_those_that_were_committed(shape):
    assert digest(shape, 0, 20) == DIGESTS[shape]


def test_the_bytes_do_not_depend_on_the_processor():
    """A child that has to do without the processor's newer instructions, in the C library and in NumPy."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    slower = {
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2_Usable,-AVX2,-FMA_Usable,-FMA,-AVX512F,-ERMS",
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    code = "import test_faces as t; print([t.digest(shape, 0, 20) for shape in t.DIGESTS])"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **slower}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == repr(list(DIGESTS.values()))


def test_a_run_can_be_resumed_on_another_processor(monkeypatch):
    """So the checksum is of what is drawn from, not of bytes."""
    monkeypatch.setattr(faces, "MAX_BYTES", 300 * 16 * 16)
    drawn = data.load("faces", (16, 16, 1))
    other = drawn._replace(images=drawn.images ^ 1)
    assert data.checksum(drawn) == data.checksum(other)
    others = [data.load("faces", shape, seed=seed) for shape, seed in (((16, 16, 1), 1), ((16, 16, 3), 0))]
    assert len({data.checksum(each) for each in (drawn, *others)}) == 3


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 48, 3), (90, 60, 3), (8, 8, 1), (200, 200, 3)])
def test_faces_of_any_size_are_the_same_faces(shape):
    """Reduced to a common size, they resemble those of 64x64 more than others do."""

    def small(images):
        grey = [ImageOps.fit(Image.fromarray(image.squeeze()).convert("L"), (8, 8)) for image in images]
        points = np.array(grey, np.float32).reshape(len(grey), -1)
        return points - points.mean(axis=1, keepdims=True)

    sized, usual = (small(faces.load(each, 0, 30).images) for each in (shape, (64, 64, 1)))
    distances = ((sized[:, np.newaxis] - usual) ** 2).mean(axis=2)
    assert (distances.argmin(axis=1) == np.arange(30)).mean() > 0.8
