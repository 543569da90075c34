import csv
import functools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, bad_input
from PIL import Image

from reproduce import evaluate
from reproduce.evaluate import frechet_distance, precision_and_recall
from sources import Dataset, faces

LINE = np.arange(6.0)[:, np.newaxis]  # 0, 1 ... 5: with k = 1, each ball reaches to the next point


def corners(scale=(1.0, 1.0), centre=(0.0, 0.0)):
    """Four points whose covariance is diagonal: 4/3 of the squares of `scale`."""
    return np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * scale + centre


def test_distances_worked_out_by_hand():
    assert frechet_distance(corners(), corners()) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(corners(), corners(centre=(3, -4))) == pytest.approx(25)
    # Diagonal covariances: the sum of (s1 - s2)^2 of the standard deviations, here sqrt(4/3) times the scales.
    assert frechet_distance(corners(), corners(scale=(2, 5))) == pytest.approx(4 / 3 * (1 + 16))


def test_distance_of_covariances_that_do_not_commute():
    """tr (C1 C2)^(1/2) of 2x2 matrices is sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2)))."""
    mix = np.array([[2.0, 1.0], [0.0, 0.5]])
    c1, c2 = np.diag([12, 4 / 3]), 4 / 3 * mix.T @ mix
    root = math.sqrt(np.trace(c1 @ c2) + 2 * math.sqrt(np.linalg.det(c1) * np.linalg.det(c2)))
    distance = frechet_distance(corners(scale=(3, 1)), corners() @ mix)
    assert distance == pytest.approx(np.trace(c1) + np.trace(c2) - 2 * root)


def test_precision_and_recall_worked_out_by_hand():
    assert precision_and_recall(LINE, LINE, k=1) == (1, 1)
    assert precision_and_recall(LINE, LINE + 100, k=3) == (0, 0)
    collapsed = np.array([[0.0], [0.01], [0.02], [0.03]])  # good points, all in one place
    assert precision_and_recall(LINE, collapsed, k=1) == (1, 1 / 6)
    real = np.array([[0.0], [1.0], [10.0]])  # radii for k = 2: 10, 9, 10; for k = 1: 1, 1, 9
    generated = np.array([[-10.0], [-10.5], [20.0], [20.5], [500.0]])
    assert precision_and_recall(real, generated, k=2)[0] == 2 / 5
    assert precision_and_recall(real, generated, k=1)[0] == 0


def test_blocks_do_not_change_the_numbers(monkeypatch):
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((50, 4)), rng.standard_normal((40, 4)) + 1
    whole = precision_and_recall(real, generated)
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    assert precision_and_recall(real, generated) == pytest.approx(whole)


def test_variety_is_the_minimum_over_the_classes():
    images = np.zeros((3, 1, 2, 1), np.uint8)
    images[1, 0, 0], images[2, 0, 1] = 255, 255  # a right triangle of sides 1, 1 and the root of 2
    assert evaluate.mean_distance(images) == pytest.approx((2 + math.sqrt(2)) / 3)
    real = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(40) % 2
    collapsed = np.where(labels[:, np.newaxis, np.newaxis, np.newaxis] == 1, real[1], real)
    assert evaluate.variety(real, real, labels, labels) == pytest.approx(1)
    assert evaluate.variety(real, collapsed, labels, labels) == pytest.approx(0, abs=1e-6)


def test_large_images_are_reduced_to_the_mean_of_their_pixels():
    images = np.zeros((2, 128, 192, 3), np.uint8)
    images[0, :2, :3, 1] = 90
    small = evaluate.reduced(images)
    assert small.shape == (2, 64, 64, 3) and small[0, 0, 0].tolist() == [0, 90, 0]


# The command.


@pytest.fixture
def run(dcgan, run_here, monkeypatch):
    """`python -m reproduce.evaluate` in this process and an empty folder, with few faces and a short training."""
    from reproduce import features

    monkeypatch.setattr(faces, "load", functools.partial(faces.load, count=400))
    monkeypatch.setattr(features, "BATCH", 40)
    monkeypatch.setattr(features, "EPOCHS", 2)
    return lambda *arguments: run_here(evaluate.main, *arguments)


def tiny_weights(path, seed=0):
    import models
    from tf1 import keras, set_seed, tf

    path.parent.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        set_seed(seed)
        generator = models.MODELS["tiny"].generator()
        sess.run(tf.global_variables_initializer())
        generator.save_weights(path, save_format="h5")
    return path


def test_there_is_a_row_for_real_images_and_for_each_file(run, tmp_path):
    paths = [tiny_weights(tmp_path / name, seed) for seed, name in enumerate(("generator_000500.h5", "other.h5"))]
    (tmp_path / "run.json").write_text(json.dumps({"model": "tiny", "dataset": "faces"}))
    options = ["--samples", 60, "--weights", *paths, "--out", tmp_path / "quality.csv"]
    first = run(*options)
    assert first.returncode == 0, first.stderr
    assert "% of 400 test images" in first.stdout and "not FID" in first.stdout
    real, *generated = csv.DictReader((tmp_path / "quality.csv").read_text().splitlines())
    assert [row["step"] for row in (real, *generated)] == ["", "500", ""]
    for row in generated:  # untrained: nothing like real images
        assert float(row["frechet"]) > 3 * float(real["frechet"])
        assert float(row["precision"]) < float(real["precision"])


def test_the_classifiers_cache_is_made_anew_for_other_images_and_when_it_is_damaged(tmp_path, monkeypatch):
    from reproduce import features

    weights, trained = [np.arange(3.0), np.ones((2, 2))], []
    monkeypatch.setattr(features, "train_classifier", lambda *given: trained.append(given) or weights)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64)
    dataset = Dataset("faces", images, labels, ["a"])

    def trains(*given):
        before = len(trained)
        for one, other in zip(features.cached_classifier(*given), weights, strict=True):
            np.testing.assert_array_equal(one, other)
        return len(trained) > before

    assert trains(dataset, 0) and not trains(dataset, 0)
    (cache,) = tmp_path.glob("dcgan_keras/classifier_*.npz")
    assert trains(dataset, 1) and trains(dataset._replace(images=images + 1), 0)
    content = cache.read_bytes()
    place = content.index(np.arange(3.0).tobytes()) + 9
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for damaged in (flipped, content[:-30], content[:50], b"", b"text"):
        cache.write_bytes(damaged)
        assert trains(dataset, 0) and not trains(dataset, 0)


def test_a_generator_of_a_folder_is_measured_against_its_folder_or_refused(run, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (260, 32, 32, 3), np.uint8)
    for i, picture in enumerate(pictures):
        folder = tmp_path / "pictures" / ("ab"[i % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i}.png")
    weights = tiny_weights(tmp_path / "run" / "generator.h5")
    options = ["--model", "tiny", "--samples", 50, "--weights", weights]
    run_json = tmp_path / "run" / "run.json"
    run_json.write_text(json.dumps({"model": "tiny", "dataset": "folder"}))
    assert "--data-dir" in bad_input(run(*options))
    run_json.write_text(json.dumps({"model": "tiny", "dataset": "folder", "data_dir": str(tmp_path / "pictures")}))
    result = run(*options)
    assert result.returncode == 0 and "% of 52 test images" in result.stdout  # a fifth
    for path in list((tmp_path / "pictures" / "a").iterdir())[:100]:
        path.unlink()
    assert "160 images; a comparison needs at least 200" in bad_input(run(*options))


def test_bad_input_is_one_line(run, tmp_path):
    assert "no such file" in bad_input(run("--weights", tmp_path / "none.h5"))
    (tmp_path / "empty.h5").touch()
    assert "no such folder" in bad_input(run("--weights", tmp_path / "empty.h5", "--out", tmp_path / "no" / "q.csv"))
    assert "--samples" in bad_input(run("--weights", tmp_path / "empty.h5", "--samples", 3))
    assert "no --model none" in bad_input(run("--weights", tmp_path / "empty.h5", "--model", "none"))


@pytest.mark.parametrize("module", ["evaluate", "figures", "console", "benchmark", "ways"])
def test_help_and_wrong_options_do_not_wait_for_tensorflow(module):
    code = f"import sys, reproduce.{module} as m\ntry: m.main(['--none'])\nfinally: print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "--help" in result.stderr
    assert {"tensorflow", "matplotlib", "torch"}.isdisjoint(result.stdout.split())
