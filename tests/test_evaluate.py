import csv
import json
import math

import h5py
import numpy as np
import pytest
from conftest import bad_input, tiny_pair

import command
import data
from reproduce import evaluate
from reproduce.evaluate import frechet_distance, precision_and_recall
from tf1 import keras, tf

# The Frechet distance.


def corners(scale=(1.0, 1.0), centre=(0.0, 0.0)):
    """Four points whose covariance is diagonal: 4/3 of the squares of `scale`."""
    return np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * scale + centre


def test_distance_to_itself_is_zero():
    features = np.random.default_rng(0).standard_normal((200, 16)) @ np.random.default_rng(1).random((16, 16))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    flat = np.random.default_rng(0).random((5, 16))  # fewer points than features: covariances without full rank
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-6)


def test_distances_worked_out_by_hand():
    assert frechet_distance(corners(), corners(centre=(3, -4))) == pytest.approx(25)
    # Diagonal covariances: the sum of (s1 - s2)^2 of the standard deviations, here sqrt(4/3) times the scales.
    by_hand = 4 / 3 * ((1 - 2) ** 2 + (1 - 5) ** 2)
    assert frechet_distance(corners(), corners(scale=(2, 5))) == pytest.approx(by_hand)
    assert frechet_distance([[-1.0], [1.0]], [[0.0], [6.0]]) == pytest.approx(9 + 2 * (1 - 3) ** 2)


def test_distance_of_covariances_that_do_not_commute():
    """tr (C1 C2)^(1/2) of 2x2 matrices is sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2)))."""
    mix = np.array([[2.0, 1.0], [0.0, 0.5]])
    one, other = corners(scale=(3, 1)), corners() @ mix
    c1, c2 = np.diag([12, 4 / 3]), 4 / 3 * mix.T @ mix
    root = math.sqrt(np.trace(c1 @ c2) + 2 * math.sqrt(np.linalg.det(c1) * np.linalg.det(c2)))
    assert not np.allclose(c1 @ c2, c2 @ c1)
    assert frechet_distance(one, other) == pytest.approx(np.trace(c1) + np.trace(c2) - 2 * root)


def test_distance_grows_with_noise_and_with_the_share_of_strangers():
    rng = np.random.default_rng(0)
    real, noise = rng.standard_normal((2, 500, 8))
    distances = [frechet_distance(real, real + level * noise) for level in (0, 0.25, 0.5, 1, 2)]
    assert distances == sorted(distances) and distances[1] > 1e-3
    strangers = [frechet_distance(real, np.where(np.arange(500)[:, np.newaxis] < n, 3, real)) for n in (0, 50, 200)]
    assert strangers == sorted(strangers) and strangers[1] > 1e-3


# Precision and recall.

LINE = np.arange(6.0)[:, np.newaxis]  # 0, 1 ... 5: with k = 1, each ball reaches to the next point


def test_a_set_covers_itself():
    assert precision_and_recall(LINE, LINE, k=1) == (1, 1)


def test_sets_apart_cover_nothing_of_each_other():
    assert precision_and_recall(LINE, LINE + 100, k=3) == (0, 0)


def test_precision_without_recall_and_recall_without_precision():
    collapsed = np.array([[0.0], [0.01], [0.02], [0.03]])  # good points, all in one place
    assert precision_and_recall(LINE, collapsed, k=1) == (1, 1 / 6)
    assert precision_and_recall(collapsed, LINE, k=1) == (1 / 6, 1)


def test_the_ball_reaches_to_the_kth_neighbour_and_no_further():
    real = np.array([[0.0], [1.0], [10.0]])  # k = 2: radii 10, 9, 10
    generated = np.array([[-10.0], [-10.5], [20.0], [20.5], [500.0]])
    assert precision_and_recall(real, generated, k=2)[0] == 2 / 5
    assert precision_and_recall(real, generated, k=1)[0] == 0  # radii 1, 1, 9


def test_blocks_do_not_change_the_numbers(monkeypatch):
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((50, 4)), rng.standard_normal((40, 4)) + 1
    distances = np.linalg.norm(real[:, np.newaxis] - generated, axis=-1)

    def radii(points):
        return np.sort(np.linalg.norm(points[:, np.newaxis] - points, axis=-1))[:, 3]

    expected = (
        (distances <= radii(real)[:, np.newaxis]).any(axis=0).mean(),
        (distances <= radii(generated)).any(axis=1).mean(),
    )
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1
    for block in (1, 7, 1000):
        monkeypatch.setattr(evaluate, "BLOCK", block)
        assert precision_and_recall(real, generated) == pytest.approx(expected)
    known = evaluate.squared_radii(real, 3)
    assert precision_and_recall(real, generated, real_radii=known) == precision_and_recall(real, generated)


# Variety.


def test_mean_distances_worked_out_by_hand():
    images = np.zeros((3, 1, 2, 1), np.uint8)
    images[1, 0, 0], images[2, 0, 1] = 255, 255  # a right triangle of sides 1, 1 and the root of 2
    assert evaluate.mean_distance(images) == pytest.approx((2 + math.sqrt(2)) / 3)


def test_variety_is_that_of_the_poorest_class():
    real = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(40) % 2
    assert evaluate.variety(real, real, labels, labels) == pytest.approx(1)
    collapsed = np.where(labels[:, np.newaxis, np.newaxis, np.newaxis] == 1, real[1], real)
    assert evaluate.variety(real, collapsed, labels, labels) == pytest.approx(0, abs=1e-6)
    assert 0.3 < evaluate.variety(real, collapsed, labels) < 0.9


def test_large_pictures_are_reduced_to_the_mean_of_their_pixels():
    images = np.zeros((2, 128, 192, 3), np.uint8)
    images[0, :2, :3, 1] = 90
    images[0, 2, 3] = 60
    small = evaluate.reduced(images)
    assert (
        small.shape == (2, 64, 64, 3) and small[0, 0, 0].tolist() == [0, 90, 0] and small[0, 1, 1].tolist() == [10] * 3
    )
    assert evaluate.reduced(images[:, :64, :64, :1]).shape == (2, 64, 64, 1)


# The classifier.


@pytest.fixture
def few_shapes(monkeypatch):
    """Let `data.load` give few shapes, and a classifier see them often enough; returns the training pictures."""
    load = data.load

    def few(name, shape, **options):
        dataset = load(name, shape, **options)
        return dataset._replace(images=dataset.images[:1000], labels=dataset.labels[:1000])

    monkeypatch.setattr(data, "load", few)
    monkeypatch.setattr(evaluate, "BATCH", 50)
    monkeypatch.setattr(evaluate, "EPOCHS", 3)
    return few


def test_the_classifier_learns_and_comes_from_the_cache(few_shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shapes = few_shapes("faces", (16, 16, 1))
    trained = []
    train = evaluate.train_classifier
    monkeypatch.setattr(evaluate, "train_classifier", lambda *a: trained.append(a) or train(*a))
    weights = evaluate.cached_classifier(shapes, 0)
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        features, logits = evaluate.classifier_features(sess, weights, shapes)
        assert features(shapes.images).shape == (1000, 128)
        assert (logits(shapes.images).argmax(axis=1) == shapes.labels).mean() > 0.2  # by chance 0.1

    for one, other in zip(weights, evaluate.cached_classifier(shapes, 0), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(trained) == 1

    monkeypatch.setattr(evaluate, "train_classifier", lambda *a: trained.append(a) or weights)
    evaluate.cached_classifier(shapes, 1)
    evaluate.cached_classifier(shapes._replace(images=shapes.images[::-1]), 0)
    assert len(trained) == 3  # another seed, other pictures
    for path in (tmp_path / "dcgan_keras").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    evaluate.cached_classifier(shapes, 0)
    assert len(trained) == 4  # its checksum was wrong


# The command.


@pytest.fixture
def run(dcgan, run_here):
    """`python -m reproduce.evaluate`, in this process, in an empty folder, where "tiny" is a model."""
    return lambda *arguments: run_here(evaluate.main, *arguments)


def tiny_weights(path, seed):
    import models
    from tf1 import set_seed

    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        set_seed(seed)
        generator = models.MODELS["tiny"].generator()
        sess.run(tf.global_variables_initializer())
        generator.save_weights(path, save_format="h5")


def test_the_table_has_real_pictures_and_a_line_for_each_file(run, few_shapes, tmp_path):
    paths = [tmp_path / "generator_000500.h5", tmp_path / "other.h5"]
    for seed, path in enumerate(paths):
        tiny_weights(path, seed)
    options = ["--dataset", "faces", "--model", "tiny", "--samples", 200, "--weights", *paths]
    first = run(*options, "--out", tmp_path / "quality.csv")
    assert first.returncode == 0, first.stderr
    assert "% of 1000 test pictures" in first.stdout
    with open(tmp_path / "quality.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["", "500", ""]
    assert [row["samples"] for row in rows] == ["200"] * 3
    real, *generated = ([float(row[name]) for name in ("frechet", "precision", "recall")] for row in rows)
    for numbers in generated:  # untrained: nothing like real pictures
        assert numbers[0] > 3 * real[0] and numbers[1] < real[1]

    (tmp_path / "run.json").write_text(json.dumps({"model": "tiny", "dataset": "faces"}))  # in place of two options
    options = ["--samples", 200, "--weights", *paths]
    again = run(*options, "--batch-statistics", "--out", tmp_path / "batch.csv")
    assert "classifier's loss" not in again.stdout  # from the cache
    lines = [(tmp_path / name).read_text().splitlines() for name in ("quality.csv", "batch.csv")]
    assert lines[0][:2] == lines[1][:2] and lines[0][2] != lines[1][2]


def test_bad_input_is_one_line(run, tmp_path):
    assert "no such file" in bad_input(run("--weights", tmp_path / "none.h5"))
    (tmp_path / "empty.h5").touch()
    assert "no such folder" in bad_input(run("--weights", tmp_path / "empty.h5", "--out", tmp_path / "no" / "q.csv"))
    assert "--samples" in bad_input(run("--weights", tmp_path / "empty.h5", "--samples", 3))


def conditional(classes=10):
    """A generator that has a picture for each class and looks at no noise: collapsed."""
    layers = keras.layers
    label, noise = keras.Input((1,), dtype="int32"), keras.Input((5,))
    picture = layers.Flatten()(layers.Embedding(classes, 32 * 32 * 3)(label))
    silent = layers.Dense(1, kernel_initializer="zeros")(noise)
    return keras.Model([label, noise], layers.Reshape((32, 32, 3))(layers.Add()([picture, silent])))


def test_generators_with_classes_are_measured_by_class(run, few_shapes, tmp_path, monkeypatch):
    """Weights that paint the mean of each class: always the class that was asked for, or never."""
    import models

    pair = models.MODELS["article"]._replace(generator=conditional, with_classes=True, pixels=(0.0, 1.0))
    monkeypatch.setitem(models.MODELS, "classes", pair)
    monkeypatch.setattr(evaluate, "cached_classifier", lambda *_: None)
    shapes = few_shapes("faces", (32, 32, 3))
    examples = shapes.images[:10] / 255  # labels are 0 to 9

    def features(*_):
        """A classifier that knows the ten examples by their pixels."""

        def logits(images):
            flat = images.reshape(len(images), -1) / 255
            return -np.stack([np.square(flat - example.reshape(-1)).sum(axis=1) for example in examples], axis=1)

        return logits, logits

    monkeypatch.setattr(evaluate, "classifier_features", features)
    paths = [tmp_path / "right.h5", tmp_path / "wrong.h5"]
    for path, order in zip(paths, (range(10), [*range(1, 10), 0]), strict=True):
        with tf.Graph().as_default(), tf.Session() as sess:
            keras.backend.set_session(sess)
            generator = conditional()
            sess.run(tf.global_variables_initializer())
            embedding = next(layer for layer in generator.layers if isinstance(layer, keras.layers.Embedding))
            embedding.set_weights([examples[list(order)].reshape(10, -1)])
            generator.save_weights(path, save_format="h5")
    options = ["--dataset", "faces", "--model", "classes", "--samples", 100, "--out", tmp_path / "q.csv"]
    result = run(*options, "--weights", *paths)
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "q.csv", newline="") as file:
        real, right, wrong = csv.DictReader(file)
    assert float(right["asked"]) == 1 and float(wrong["asked"]) == 0
    assert float(right["rarest"]) == float(wrong["rarest"]) == 0.1
    assert float(right["variety"]) == pytest.approx(0, abs=1e-3) and 0.5 < float(real["variety"]) < 1.5


def test_files_of_no_weights_or_of_another_model_are_refused(run, few_shapes, tmp_path):
    (tmp_path / "empty.h5").touch()
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        other = tiny_pair()["discriminator"]()
        sess.run(tf.global_variables_initializer())
        other.save_weights(tmp_path / "other.h5", save_format="h5")
    for name, word in (("empty.h5", "not an HDF5 file"), ("other.h5", "not have the weights of this model")):
        assert word in bad_input(run("--dataset", "faces", "--model", "tiny", "--weights", tmp_path / name))


def test_weights_are_read_as_carefully_as_anywhere(run, few_shapes, tmp_path):
    """Keras would follow the link in this process, wherever it leads."""
    tiny_weights(tmp_path / "g.h5", 0)
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        layer = file[file.attrs["layer_names"][0]]
        name = layer.attrs["weight_names"][0]
        layer.move(name, "elsewhere")
        layer[name] = h5py.SoftLink(f"{layer.name}/elsewhere")
    options = ["--dataset", "faces", "--model", "tiny", "--samples", 20]
    assert "links in place of weights" in bad_input(run(*options, "--weights", tmp_path / "g.h5"))


# Inception.


def test_inception_without_network_is_one_line(sess, monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure on https://host/x:\nTemporary failure in name resolution")

    monkeypatch.setattr(keras.applications, "InceptionV3", fail)
    with pytest.raises(command.InputError, match=r"could not be downloaded \(URL fetch.*resolution\).*--inception"):
        evaluate.inception_features(sess)


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_gets_pictures_of_299_in_minus_one_to_one(channels, sess, monkeypatch):
    def mean_and_size(weights, include_top, pooling):
        assert (weights, include_top, pooling) == ("imagenet", False, "avg")
        images = keras.Input((299, 299, 3))
        return keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))

    monkeypatch.setattr(keras.applications, "InceptionV3", mean_and_size)
    pictures = np.stack([np.full((8, 8, channels), value, np.uint8) for value in (0, 255, 51)])
    means = evaluate.inception_features(sess)(pictures)
    np.testing.assert_allclose(means, [[-1] * 3, [1] * 3, [-0.6] * 3], atol=1e-3)
