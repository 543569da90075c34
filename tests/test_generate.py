"""What can be made of trained weights: every picture again from its seeds, and every wrong wish refused in one line."""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, bad_input
from PIL import Image
from test_weights import filled

import generate
import models
from tf1 import keras, tf
from training import generator as trained

layers = keras.layers
CLASSES = 3


def dense():
    # Were dropout on, no picture could be made again.
    first = [layers.InputLayer((5,)), layers.Dense(48), layers.BatchNormalization(), layers.Dropout(0.9)]
    return keras.Sequential([*first, layers.Reshape((4, 4, 3)), layers.Activation("tanh")])


def convolutional():
    first = [layers.InputLayer((6,)), layers.Reshape((1, 1, 6)), layers.Conv2DTranspose(5, 4)]  # 4x4
    last = [layers.Conv2DTranspose(1, 4, strides=2, padding="same"), layers.Activation("tanh")]  # 8x8
    return keras.Sequential([*first, layers.BatchNormalization(), layers.LeakyReLU(0.2), *last])


def conditional(classes=CLASSES):
    """As in an AC-GAN: the embedding of the class, times the latent vector."""
    label, latent = keras.Input((1,), dtype="int32"), keras.Input((7,))
    mixed = layers.Multiply()([layers.Flatten()(layers.Embedding(classes, 7)(label)), latent])
    return keras.Model([label, latent], layers.Reshape((4, 4, 3))(layers.Dense(48, activation="tanh")(mixed)))


GENERATORS = {"dense": dense, "convolutional": convolutional, "conditional": conditional}
BUILT_IN = models.MODELS


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    pairs = {
        name: BUILT_IN["article"]._replace(
            generator=build, pixels=(-1.0, 1.0), with_classes=name == "conditional", sizes=()
        )
        for name, build in GENERATORS.items()
    }
    monkeypatch.setattr(models, "MODELS", pairs)


@pytest.fixture
def weights(tmp_path):
    """Write the weights of a model to a file named after it."""

    def write(name, build=None):
        path = tmp_path / f"{name}.h5"
        path.write_bytes(weights_file(build or GENERATORS[name]))
        return path

    return write


@functools.cache
def weights_file(build):
    """The file of a model's weights that make pictures of some contrast."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.h5")
        with tf.Graph().as_default(), tf.Session() as sess:
            keras.backend.set_session(sess)
            model = filled(build())
            signs = np.random.default_rng(1)
            for weight in model.trainable_weights:
                value = keras.backend.get_value(weight)
                keras.backend.set_value(weight, value * signs.choice([-0.3, 0.3], value.shape))
            model.save_weights(path, save_format="h5")
        return path.read_bytes()


@pytest.fixture
def run(run_here, tmp_path, monkeypatch):
    """`python generate.py` in this process, and in no other for the weights; it leaves nothing half-written."""
    monkeypatch.setattr(trained.weights, "_opens", lambda path: True)

    def run(*arguments):
        result = run_here(generate.main, *arguments)
        assert not list(tmp_path.rglob(".partial*"))
        return result

    return run


def made(result):
    """The picture that a command made, as an array."""
    assert result.returncode == 0, result.stderr
    with Image.open(result.stdout.split()[0]) as picture:
        return np.asarray(picture)


def tile(picture, row, column):
    """Of a grid of images of 4 pixels: enlarged 16 times, with a gap of one pixel."""
    return picture[row * 80 : row * 80 + 64, column * 80 : column * 80 + 64]


# Latent vectors and seeds.


def test_slerp_goes_along_the_sphere_at_even_speed():
    a, b = np.float32([1, 0, 0]), np.float32([0, 1, 0])
    for t in (0, 0.25, 0.5, 1):
        expected = [np.cos(t * np.pi / 2), np.sin(t * np.pi / 2), 0]
        np.testing.assert_allclose(generate.slerp(a, b, t), expected, atol=1e-7)
    for factor in (1, 2, -1):  # parallel vectors: linear
        a = np.float32([3, 4])
        np.testing.assert_allclose(generate.slerp(a, factor * a, 0.5), a * (1 + factor) / 2, atol=1e-6)


def test_lists_of_seeds():
    for text, expected in {"0-3": [0, 1, 2, 3], "7": [7], "9, 1-2,9": [9, 1, 2, 9]}.items():
        assert generate.seeds(text) == expected
    for text in ("", ",", "1,", "-1", "3-1", "a", "1.5", "0-10000", "0-9999,1", "9" * 19, "1--2", "²"):
        with pytest.raises(argparse.ArgumentTypeError):
            generate.seeds(text)


# What can be made.


def test_without_a_command_it_makes_a_grid_of_64_and_recognizes_the_model(run, weights):
    for name, gap in (("dense", 16), ("convolutional", 8), ("conditional", 16)):  # 64 pixels over the tile's height
        picture = made(run("--weights", weights(name)))
        assert picture.shape[0] == picture.shape[1] == 8 * (64 + gap) - gap


def test_every_tile_can_be_made_again_alone(run, weights):
    path = weights("dense")
    whole = made(run("grid", "--weights", path, "--seeds", "5-90", "--columns", "10"))
    run("single", "--weights", path, "--seeds", "17,88", "--out", "one")
    for seed in (17, 88):
        row, column = divmod(seed - 5, 10)
        with Image.open(f"one/seed_{seed:06d}.png") as single:
            expected = np.asarray(single).repeat(16, axis=0).repeat(16, axis=1)
        np.testing.assert_array_equal(tile(whole, row, column), expected)


def test_numbers_are_written_below_the_tiles(run, weights):
    path = weights("dense")
    plain = made(run("grid", "--weights", path, "--seeds", "8", "--columns", "1"))
    numbered = made(run("grid", "--weights", path, "--seeds", "8", "--columns", "1", "--numbers"))
    np.testing.assert_array_equal(numbered[:64], plain)
    assert numbered[64:].max() > 200


def test_a_picture_carries_what_makes_it_again(run, weights):
    run("grid", "--weights", weights("dense"), "--seeds", "2,3", "--out", "sub/folder/g.png")
    with Image.open("sub/folder/g.png") as picture:
        text = picture.text
    assert "label" not in text and text["command"] == "grid" and text["seeds"] == "[2, 3]" and text["model"] == "dense"
    assert text["weights"].startswith("dense.h5 sha256 ")
    run("classes", "--weights", weights("conditional"), "--seeds", "2", "--out", "c.png")
    with Image.open("c.png") as picture:
        assert "label" not in picture.text and picture.text["seeds"] == "[2]"  # it shows all classes


def test_a_walk_goes_from_seed_to_seed(run, weights, tmp_path):
    path = weights("dense")
    strip = made(run("walk", "--weights", path, "--seeds", "1,2,3", "--frames", "5", "--out", "w.png"))
    grid = made(run("grid", "--weights", path, "--seeds", "1,2,3", "--columns", "3"))
    for row in (0, 1):
        np.testing.assert_array_equal(tile(strip, row, 0), tile(grid, 0, row))
        np.testing.assert_array_equal(tile(strip, row, 4), tile(grid, 0, row + 1))
        assert (tile(strip, row, 2) != tile(strip, row, 0)).any()
    with Image.open(tmp_path / "w.gif") as film:
        assert film.n_frames == 9  # the joint of both legs is shown once
    run("walk", "--weights", path, "--seeds", "1,2,3", "--frames", "5", "--loop", "--out", "w.png")
    with Image.open(tmp_path / "w.gif") as film:
        assert film.n_frames == 12


def test_a_suffix_in_capitals_is_a_picture_too(run, weights, tmp_path):
    picture = made(run("walk", "--weights", weights("dense"), "--seeds", "1,2", "--out", "g.PNG"))
    assert picture.any() and (tmp_path / "g.gif").exists()


def test_arithmetic_adds_up_as_the_means_of_the_noise_do(run, weights):
    path = weights("dense")
    picture = made(
        run("arithmetic", "--weights", path, "--mean", "1,2", "--minus", "2,1", "--plus", "4", "--out", "a.png")
    )
    assert picture.shape[:2] == (4 * 80 - 16, 3 * 80 - 16)
    for one, other in (((0, 0), (1, 1)), ((0, 2), (1, 2)), ((2, 2), (2, 0)), ((3, 2), (2, 2))):
        # seed 1; equal means; a mean of one; a - a + c = c
        np.testing.assert_array_equal(tile(picture, *one), tile(picture, *other))
    assert not tile(picture, 2, 1).any() and not tile(picture, 3, 0).any()


def test_classes_are_rows(run, weights):
    path = weights("conditional")
    picture = made(run("classes", "--weights", path, "--seeds", "0-4"))
    names, picture = np.split(picture, [-(5 * 80 - 16)], axis=1)
    assert picture.shape[:2] == (CLASSES * 80 - 16, 5 * 80 - 16)
    assert [names[label * 80 : label * 80 + 64].max() > 200 for label in range(CLASSES)] == [True] * CLASSES
    for label in range(CLASSES):
        row = made(run("grid", "--weights", path, "--seeds", "0-4", "--columns", "5", "--class", label))
        np.testing.assert_array_equal(picture[label * 80 : label * 80 + 64], row)
    assert (picture[:64] != picture[80 : 80 + 64]).any()


def write_run(tmp_path, **run):
    (tmp_path / "run.json").write_text(json.dumps(run))


def test_rows_of_classes_are_named_by_run_json_next_to_the_weights(run, weights, tmp_path):
    path = weights("conditional")
    numbered = made(run("classes", "--weights", path, "--seeds", "0-4"))
    write_run(tmp_path, classes=["a", "bee", "a long name of a class"])
    named = made(run("classes", "--weights", path, "--seeds", "0-4"))
    assert named.shape[1] > numbered.shape[1]
    write_run(tmp_path, classes=["a name too few"])
    np.testing.assert_array_equal(made(run("classes", "--weights", path, "--seeds", "0-4")), numbered)


def test_run_json_next_to_the_weights_says_which_model_they_are_of(run, weights, monkeypatch, tmp_path):
    monkeypatch.setitem(models.MODELS, "other", models.MODELS["dense"]._replace(pixels=(-0.5, 0.5)))
    path = weights("dense")
    asked = made(run("--weights", path, "--model", "other"))
    write_run(tmp_path, model="other")
    np.testing.assert_array_equal(made(run("--weights", path)), asked)
    assert (made(run("--weights", path, "--model", "dense")) != asked).any()


def test_a_run_json_that_is_not_a_runs_is_ignored_with_one_line(tmp_path, capfd):
    wrong = [
        '{"model": [1], "classes": 5}',
        '{"classes": [1]}',
        '{"shape": [32, "x", 3]}',
        '{"shape": [32.0, 32.0, 3.0]}',
    ]
    for text in [*wrong, '{"source": 3}', '{"source": {"file": "own.py"}}', "[]", "{", "[" * 100_000, '{"model": NaN}']:
        (tmp_path / "run.json").write_text(text)
        assert trained.read_settings(tmp_path) == {}
        line = capfd.readouterr().err
        assert line.count("\n") == 1 and "run.json" in line and "ignored" in line, text


OWN = """from models import Pair
from tf1 import keras
layers = keras.layers
def generator(shape):
    kernel = (shape[0] // 2, shape[1] // 2)
    first = layers.Conv2DTranspose(4, kernel)
    last = layers.Conv2DTranspose(shape[2], 4, strides=2, padding="same", activation="tanh")
    return keras.Sequential([layers.InputLayer((6,)), layers.Reshape((1, 1, 6)), first, last])
def discriminator(shape):
    return keras.Sequential([layers.InputLayer(shape), layers.Flatten(), layers.Dense(1)])
pair = Pair(generator, discriminator, shape=(8, 8, 3))
"""


def test_a_pair_in_a_file_is_used_when_it_is_asked_for_and_never_by_itself(run, weights, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    path = weights("own", lambda: models.pair("own.py", (8, 12), 1).generator())
    write_run(tmp_path, model="own.py", source=models.source("own.py"), shape=[8, 12, 1])
    result = run("single", "--weights", path, "--model", "own.py", "--seeds", "1")
    with Image.open(result.stdout.strip()) as image:
        assert image.size == (12, 8) and not result.stderr
    (tmp_path / "own.py").write_text(OWN + "open('run', 'w')\n")
    assert "networks of own.py: give that file's path" in bad_input(run("--weights", path))
    assert not (tmp_path / "run").exists()
    result = run("single", "--weights", path, "--model", "own.py", "--seeds", "1")
    assert result.returncode == 0 and result.stderr.count("\n") == 1
    assert "own.py is not the file that" in result.stderr and (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [("article", (16, 48), 1), ("dcgan", (24, 32), 3), ("mnist", (20, 20), 3)]
    + [pytest.param("acgan32", (32, 32), 3, marks=pytest.mark.long)],
)
def test_the_weights_tell_the_size_of_the_images(name, size, channels, monkeypatch, graph, tmp_path):
    monkeypatch.setattr(models, "MODELS", BUILT_IN)
    pair = models.pair(name, size, channels)
    pair.generator(*[4] * pair.with_classes).save_weights(tmp_path / "w.h5", save_format="h5")
    generator = trained.load_generator(tmp_path / "w.h5", name)
    assert generator.model.output_shape == (None, *size, channels) and generator.classes == 4 * pair.with_classes


def test_the_smallest_larger_picture_is_the_sample_itself(run, weights):
    path = weights("convolutional")
    np.testing.assert_array_equal(
        made(run("larger", "--weights", path, "--size", "8", "--seed", "3")),
        made(run("single", "--weights", path, "--seeds", "3")),
    )


def test_larger_pictures_have_the_size_asked_for_and_the_contrast_of_samples(run, weights):
    path = weights("convolutional")
    picture = made(run("larger", "--weights", path, "--size", "40x24"))
    assert picture.shape == (40, 24)
    samples = made(run("grid", "--weights", path, "--seeds", "0-399"))
    large = made(run("larger", "--weights", path, "--size", "200"))
    assert large.std() == pytest.approx(samples[samples > 0].std(), rel=0.25)


def test_a_part_of_a_larger_image_depends_only_on_the_noise_around_it(graph, monkeypatch):
    """What a fully convolutional network promises: shift the noise, and the image shifts."""
    generator = trained.Generator("it", filled(convolutional()), (-1, 1))
    noise = trained.noise_of(0, (1, 12, 12, 6))

    def image(noise):
        monkeypatch.setattr(trained, "noise_of", lambda seed, shape: noise)
        return generator.larger(0, (30, 30)).astype(int)

    shifted = image(np.roll(noise, 1, axis=2))[:, 10:-10, 12:-10]
    np.testing.assert_allclose(shifted, image(noise)[:, 10:-10, 10:-12], atol=1)


def test_the_export_is_used_without_this_projects_code(run, weights, tmp_path):
    """Plain TensorFlow in another process makes the same pixels of the same noise."""
    np.save(tmp_path / "noise.npy", np.stack([trained.noise_of(seed, (6,)) for seed in range(9)]))
    np.save(tmp_path / "noise7.npy", np.stack([trained.noise_of(seed, (7,)) for seed in range(4)]))
    path = weights("convolutional")
    assert run("export", "--weights", path, "--out", "exported").returncode == 0
    assert run("export", "--weights", weights("conditional"), "--out", "conditional").returncode == 0
    program = """
import sys, numpy as np, tensorflow as tf
images = tf.saved_model.load("exported").signatures["serving_default"](noise=tf.constant(np.load("noise.npy")))
np.save("images.npy", images["images"].numpy())
noise, label = tf.constant(np.load("noise7.npy")), tf.constant([[2]] * 4)
images = tf.saved_model.load("conditional").signatures["serving_default"](noise=noise, label=label)
np.save("images7.npy", images["images"].numpy())
assert not {"tf1", "models", "generate", "tf_keras"} & set(sys.modules)
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    images = np.load(tmp_path / "images.npy")
    assert images.dtype == np.uint8 and images.shape == (9, 8, 8, 1)
    run("single", "--weights", path, "--seeds", "0-8", "--out", "singles")
    for seed, image in enumerate(images):
        with Image.open(f"singles/seed_{seed:06d}.png") as single:
            np.testing.assert_array_equal(image[..., 0], np.asarray(single))
    run("single", "--weights", weights("conditional"), "--seeds", "0-3", "--class", "2", "--out", "singles")
    for seed, image in enumerate(np.load(tmp_path / "images7.npy")):
        with Image.open(f"singles/seed_{seed:06d}.png") as single:
            np.testing.assert_array_equal(image, np.asarray(single))


def test_an_export_that_fails_leaves_nothing(run, weights, tmp_path, monkeypatch):
    def full(sess, folder, *_):
        Path(folder, "variables").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, "no space left")

    path = weights("dense")
    monkeypatch.setattr(tf.saved_model, "simple_save", full)
    result = run("export", "--weights", path, "--out", "exported")
    assert result.returncode == 1 and "no space left" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dense.h5"]


def test_the_command_as_a_newcomer_types_it_in_a_console_without_umlauts(run_command, weights, tmp_path):
    """The folder's name is in letters that the console lacks, and not all of its bytes are UTF-8."""
    out = tmp_path / os.fsdecode(b"gr\xc3\xbcn\xff") / "grid.png"
    path = weights("article", models.article_generator)
    result = run_command("generate.py", "--weights", path, "--out", out, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and not result.stderr
    assert result.stdout.strip() == f"{tmp_path}/gr\\xfcn\\udcff/grid.png"
    with Image.open(out) as picture:
        assert picture.size == (8 * 66 - 2, 8 * 66 - 2) and len(picture.getcolors(10**6)) > 1000


def test_help_and_wrong_options_answer_without_loading_tensorflow():
    program = "import sys\nfrom generate import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n"
    program += "    assert not {'tensorflow', 'tf_keras', 'tf1'} & set(sys.modules)\n    raise"
    for arguments, code, words in ((["grid", "--help"], 0, "--weights FILE"), (["--seeds", "x"], 2, "seeds")):
        command = [sys.executable, "-c", program, *arguments]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == code and words in result.stdout + result.stderr, result.stderr


# What cannot be made.


REFUSED = {
    "no weights": ((), "--weights"),
    "no such file": (("--weights", "none.h5"), "No such file"),
    "unknown command": (("walks", "--weights", "dense.h5"), "walks"),
    "another model": (("--weights", "dense.h5", "--model", "convolutional"), "layer 1 has 5x48 48, the model's"),
    "no seeds": (("--weights", "dense.h5", "--seeds", "x"), "not a list of seeds"),
    "a walk of one": (("walk", "--weights", "dense.h5", "--seeds", "1"), "two --seeds"),
    "a walk without end": (("walk", "--weights", "dense.h5", "--seeds", "1,2", "--frames", "2001"), "at most 2000"),
    "a walk of too many legs": (("walk", "--weights", "dense.h5", "--seeds", "0-999"), "at most 2000"),
    "classes of none": (("classes", "--weights", "dense.h5"), "has no classes"),
    "a class of none": (("--weights", "dense.h5", "--class", "1"), "0 classes"),
    "not convolutional": (("larger", "--weights", "dense.h5", "--size", "8"), "fully convolutional"),
    "a size that is none": (("larger", "--weights", "dense.h5", "--size", "8x"), "not a size"),
    "a size too large": (("larger", "--weights", "dense.h5", "--size", "2049"), "2048"),
    "an unknown model": (("--weights", "dense.h5", "--model", "dnse"), "choose one of dense, convolutional"),
    "a file that is none": (("--weights", "dense.h5", "--model", "none.py"), "none.py cannot be read"),
    "no picture": (("--weights", "dense.h5", "--out", "folder"), ".png"),
    "below a file": (("--weights", "dense.h5", "--out", "dense.h5/x.png"), "cannot be written"),
    "an export that exists": (("export", "--weights", "dense.h5", "--out", "dense.h5"), "exists already"),
}


def test_wrong_wishes_are_refused_in_one_line_and_leave_nothing(run, weights, tmp_path):
    weights("dense")
    for arguments, word in REFUSED.values():
        assert word in bad_input(run(*arguments)), arguments
        assert [path.name for path in tmp_path.iterdir()] == ["dense.h5"]


def test_sizes_that_no_noise_makes_are_refused_with_those_that_do(run, weights):
    path = weights("convolutional")
    for asked in ("7", "8x17"):
        line = bad_input(run("larger", "--weights", path, "--size", asked))
        assert "8 pixels" in line and "multiple of 2" in line


def test_weights_that_fit_no_model_are_refused_and_with_a_name_it_says_what_differs(run, weights):
    path = weights("other", lambda: keras.Sequential([layers.InputLayer((2,)), layers.Dense(9)]))
    assert "--model NAME" in bad_input(run("--weights", path))
    for name in GENERATORS:
        line = bad_input(run("--weights", path, "--model", name))
        assert f"{name} of 32x32x3" in line and "2x9 9" in line


def test_weights_that_fit_two_models_of_other_pixels_need_the_name(run, weights, monkeypatch):
    other = models.MODELS["dense"]._replace(pixels=(-0.5, 0.5))
    monkeypatch.setitem(models.MODELS, "other", other)
    path = weights("dense")
    assert "--model dense or other" in bad_input(run("--weights", path))
    pictures = [made(run("--weights", path, "--model", name)) for name in ("dense", "other")]
    assert pictures[0].std() < pictures[1].std()


def test_weights_whose_pictures_are_nan_are_refused(run, weights):
    path = weights("dense")
    with h5py.File(path, "r+") as file:
        file["batch_normalization/batch_normalization/moving_variance:0"][...] = -1
    assert "NaN" in bad_input(run("--weights", path))
