import csv
import functools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from broken import flipped
from conftest import ROOT, bad_input
from PIL import Image

from reproduce import evaluate
from reproduce.evaluate import frechet_distance, precision_and_recall
from sources import Dataset, faces


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
    line = np.arange(6.0)[:, np.newaxis]  # with k = 1, each ball reaches to the next point
    assert precision_and_recall(line, line, k=1) == (1, 1)
    assert precision_and_recall(line, line + 100, k=3) == (0, 0)
    collapsed = np.array([[0.0], [0.01], [0.02], [0.03]])  # good points, all in one place
    assert precision_and_recall(line, collapsed, k=1) == (1, 1 / 6)
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


def tiny_weights(path, paint=None):
    """Write weights of the model "tiny"; with `paint`, (r, g, b) in (-1, 1), every pixel of its images is that."""
    import models
    from tf1 import keras, set_seed, tf

    path.parent.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        set_seed(0)
        generator = models.MODELS["tiny"].generator()
        sess.run(tf.global_variables_initializer())
        if paint:
            kernel, bias, gamma, beta, *moving = generator.get_weights()
            beta = np.tile(np.arctanh(paint) / np.where(np.less(paint, 0), 0.2, 1), 16)  # before LeakyReLU and tanh
            generator.set_weights([0 * kernel, bias, gamma, beta, *moving])
        generator.save_weights(path, save_format="h5")
    return path


def test_there_is_a_row_for_real_images_and_for_each_file(run, tmp_path):
    weights = tiny_weights(tmp_path / "generator_000500.h5")
    (tmp_path / "run.json").write_text(json.dumps({"model": "tiny", "dataset": "faces"}))
    result = run("--samples", 60, "--weights", weights, "--out", "quality.csv")
    assert result.returncode == 0, result.stderr
    assert "% of 400 test images" in result.stdout and "not FID" in result.stdout
    real, untrained = csv.DictReader((tmp_path / "quality.csv").read_text().splitlines())
    assert real["step"] == "" and untrained["step"] == "500"
    assert float(untrained["frechet"]) > 3 * float(real["frechet"])  # nothing like real images
    assert float(untrained["precision"]) < float(real["precision"])


def test_the_classifiers_cache_is_made_anew_for_other_images_and_when_it_is_damaged(tmp_path, monkeypatch):
    from reproduce import features

    weights, trained = [np.arange(3.0), np.ones((2, 2))], []
    monkeypatch.setattr(features, "train_classifier", lambda *given: trained.append(given) or weights)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = Dataset("faces", np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), ["a"])

    def trains(*given):
        trained.clear()
        for one, other in zip(features.cached_classifier(*given), weights, strict=True):
            np.testing.assert_array_equal(one, other)
        return bool(trained)

    assert trains(dataset, 0) and not trains(dataset, 0)
    (cache,) = tmp_path.glob("dcgan_keras/classifier_*.npz")
    assert trains(dataset, 1) and trains(dataset._replace(images=dataset.images + 1), 0)
    content = cache.read_bytes()
    for damaged in (flipped(content, content.index(weights[0].tobytes()) + 9), content[:-30], b"", b"text"):
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


def test_help_and_wrong_options_do_not_wait_for_tensorflow():
    code = """import importlib, sys
for module in ("evaluate", "figures", "console", "benchmark", "ways"):
    try:
        importlib.import_module(f"reproduce.{module}").main(["--none"])
    except SystemExit as leaving:
        assert leaving.code == 2
print(*sys.modules)"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr.count("--help") == 5, result.stderr
    assert {"tensorflow", "matplotlib", "torch"}.isdisjoint(result.stdout.split())
