import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from conftest import ROOT, bad_input
from PIL import Image

import command
import data
import dcgan_keras
import models
from reproduce import evaluate
from tf1 import keras, tf
from training import folder as files
from training import logs, weights
from training import run as training
from training.noise import noise_for, noise_of, sample_feed

EVERY_FEW = ("--sample-every", "3", "--checkpoint-every", "4")
SHORT = ("--dataset", "faces", "--batch-size", "4", *EVERY_FEW, "--out", "run", "--model", "tiny")
FAST = ("--learning-rate", "1e-3", "--steps", "200")
ARTICLE = (*SHORT[:-1], "article")


def state(folder, step):
    """Everything in a checkpoint, by name."""
    with h5py.File(folder / f"checkpoint_{step:06d}.h5") as file:
        return {name: file[name][()] for name in file}


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_noise_depends_on_seed_and_step_alone():
    noise = noise_for(1, 7, 4, (100,))
    assert noise.shape == (4, 100) and noise.dtype == np.float32
    np.testing.assert_array_equal(noise, noise_for(1, 7, 4, (100,)))
    assert (noise != noise_for(1, 8, 4, (100,))).all()
    assert (noise != noise_for(2, 7, 4, (100,))).all()


def test_noise_is_standard_normal():
    noise = noise_for(0, 1, 1000, (100,))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_a_run_writes_what_it_promises(run_command, tmp_path):
    result = run_command("dcgan_keras.py", *ARTICLE, "--steps", 7, "--keep-every", 5)
    assert result.returncode == 0 and result.stderr == ""
    for name in ("dloss", "gloss", "D(x)", "D(G(z))", "images/s"):
        assert name in result.stdout
    assert re.match(r"article on 10,000 pictures of shapes, batch size 4, on CPU .*; output in run\n", result.stdout)
    out = tmp_path / "run"
    names = {p.name for p in out.iterdir() if not p.name.startswith((".lock", "events.out"))}
    assert names == {
        *(f"step_{step:06d}.png" for step in (0, 3, 6, 7)),
        *("checkpoint_000004.h5", "checkpoint_000007.h5"),
        *(
            "generator.h5",
            "discriminator.h5",
            "generator_000005.h5",
            "losses.csv",
            "epochs.csv",
            "progress.gif",
            "run.json",
        ),
    }
    assert [step for step, _, _ in logs.read_losses(out / "losses.csv")] == list(range(1, 8))
    with Image.open(out / "step_000007.png") as grid:
        assert grid.size == (2 * (8 * 33 - 1),) * 2
    with Image.open(out / "progress.gif") as film:
        assert film.n_frames == 4


@pytest.mark.parametrize("model", ["article", "tiny"])
def test_a_resumed_run_ends_with_the_same_bits(model, dcgan, tmp_path):
    """In one go, and cut between and at checkpoints, and in the middle of an epoch."""
    dcgan(*SHORT[:-1], model, "--steps", 11, "--out", "whole")
    for steps in (4, 5, 11):
        result = dcgan(*SHORT[:-1], model, "--steps", steps, "--out", "pieces")
        assert result.returncode == 0
    assert "resuming from step 5" in result.stdout
    same_bits(state(tmp_path / "whole", 11), state(tmp_path / "pieces", 11))
    for name in ("losses.csv", "step_000011.png", "step_000006.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_a_finished_run_says_so_and_changes_nothing(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    result = dcgan(*SHORT, "--steps", 2)
    assert result.returncode == 0 and "is at step 2 already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == before


def test_restart_of_the_current_folder_is_refused_in_one_line(dcgan, tmp_path):
    assert "--out . would have to be renamed" in bad_input(dcgan(*SHORT, "--out", ".", "--restart", "--steps", 2))
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_restart_keeps_what_was_there(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    old = (tmp_path / "run" / "losses.csv").read_bytes()
    result = dcgan(*SHORT, "--steps", 3, "--restart")
    assert "what was in run is in run.1 now" in result.stdout
    assert (tmp_path / "run.1" / "losses.csv").read_bytes() == old
    assert not (tmp_path / "run" / "checkpoint_000002.h5").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(number, tmp_path):
    arguments = [*ARTICLE, "--checkpoint-every", "100000", "--sample-every", "100000", "--steps", "100000"]
    command = [sys.executable, str(ROOT / "dcgan_keras.py"), *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        losses = tmp_path / "run" / "losses.csv"
        while run.poll() is None and (not losses.exists() or losses.stat().st_size < 1000):
            time.sleep(0.1)
        run.send_signal(number)
        stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 128 + number and stderr == ""
    last = stdout.splitlines()[-1]
    (checkpoint,) = files.checkpoints(tmp_path / "run")
    step = int(checkpoint.stem.split("_")[1])
    assert last == f"stopped at step {step}, all saved: rerun the command to resume"
    assert (tmp_path / "run" / "progress.gif").exists()
    assert [row[0] for row in logs.read_losses(losses)] == list(range(1, step + 1))


@pytest.fixture
def toy(graph, sess, tmp_path):
    """`toy(at, **settings)` trains, by `train()`, one weight whose steps are counted in it; `at(step)` is called before
    each step ends, and may return what the step's dloss shall be."""
    network = keras.Sequential([keras.layers.InputLayer((2, 2, 1)), keras.layers.Conv2D(1, 1)])
    weight, value = network.weights[0], tf.placeholder(tf.float32, ())
    put = weight.assign(tf.fill(weight.shape, value))
    pictures = data.Dataset("these", np.zeros((9, 2, 2, 1), np.uint8), None, [])

    def run(at, steps=10, **settings):
        step = 0

        def gan_feed(sess, images, noise, labels, scores):
            nonlocal step
            step += 1
            given = at(step)
            sess.run(put, {value: step if given is None else given[0]})
            return [np.float32(0.5 if given is None else given[1]), *np.float32([1, 0.5, 0.5])]

        settings = {"batch_size": 3, "seed": 0, "sample_every": 5, "checkpoint_every": 2, **settings}
        arguments = training.Settings(pixels=(-1, 1), steps=steps, **settings)
        return training.train(gan_feed, network, network, pictures, tmp_path / "run", arguments)

    return run


def weight_in(path):
    (layer,) = weights.read(path)
    return float(layer.arrays[0].ravel()[0])


def test_losses_that_are_nan_stop_the_run(toy, tmp_path):
    with pytest.raises(command.RunError, match=r"losses are NaN .* step 6; .*checkpoint_000004\.h5"):
        toy(lambda step: (1, np.nan) if step == 6 else None)
    assert [row[0] for row in logs.read_losses(tmp_path / "run" / "losses.csv")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_nan_replace_no_good_ones(value, toy, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(command.RunError, match=r"weights .* NaN or infinite at step 6; .*checkpoint_000004\.h5"):
        toy(lambda step: (value, 0.5) if step == 6 else None)
    assert weight_in(out / "generator.h5") == weight_in(out / "discriminator.h5") == 4
    assert [p.name for p in files.checkpoints(out)] == ["checkpoint_000002.h5", "checkpoint_000004.h5"]


def test_weights_that_are_nan_are_not_kept(toy, tmp_path):
    with pytest.raises(command.RunError, match=r"weights .* NaN or infinite at step 6"):
        toy(lambda step: (np.nan, 0.5) if step == 6 else None, keep_every=3, checkpoint_every=100)
    assert [p.name for p in files.numbered(tmp_path / "run", "generator", "h5")] == ["generator_000003.h5"]


def test_an_error_begins_on_a_line_of_its_own_after_the_bar(toy, capsys):
    with pytest.raises(command.RunError):
        toy(lambda step: (1, np.nan) if step == 2 else None)
    out = capsys.readouterr().out
    assert "1/10 [" in out and out.endswith("\n")


def test_out_of_memory_is_one_line(toy):
    def at(step):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[32,1]")

    with pytest.raises(command.RunError, match=r"^CPU .* is out of memory at batch size 3: choose a smaller"):
        toy(at)


def test_checkpoints_by_time(toy, tmp_path, monkeypatch):
    """Steps of 70 seconds by the clock, and a checkpoint every two minutes."""
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    saved = []
    monkeypatch.setattr(training, "save_checkpoint", lambda out, sess, step, settings: saved.append(step))

    def at(step):
        now[0] += 70

    toy(at, steps=7, checkpoint_every=None, checkpoint_minutes=2)
    assert saved == [2, 4, 6, 7]


def test_checkpoints_are_every_so_many_steps_epochs_or_minutes(capsys):
    def every(*arguments):
        return dcgan_keras.checkpoints_every(dcgan_keras.parse(list(arguments)).checkpoint_every, 100)

    assert every() == {"checkpoint_every": 500, "checkpoint_minutes": 10}
    assert every("--checkpoint-every", "70") == {"checkpoint_every": 70, "checkpoint_minutes": None}
    assert every("--checkpoint-every", "3epochs") == {"checkpoint_every": 300, "checkpoint_minutes": None}
    assert every("--checkpoint-every", "5min") == {"checkpoint_every": None, "checkpoint_minutes": 5}
    with pytest.raises(SystemExit):
        dcgan_keras.parse(["--sample-every", "5min"])
    assert "'5min' is not a whole number" in capsys.readouterr().err


def test_a_resumed_bar_counts_from_the_step_it_is_at(dcgan):
    dcgan(*SHORT, "--steps", 3)
    result = dcgan(*SHORT, "--steps", 5)
    assert "5/5 [" in result.stdout and "\n1/" not in result.stdout and "4/5 [" in result.stdout


def test_tile_k_of_a_grid_is_seed_k(graph):
    feed = sample_feed(models.article_generator(), 0)
    assert feed.shape == (64, 100)
    for seed in (0, 5, 63):
        np.testing.assert_array_equal(feed[seed], noise_of(seed, (100,)))
        np.testing.assert_array_equal(feed[seed], np.random.default_rng(seed).standard_normal(100, dtype=np.float32))
    labels, noise = sample_feed(models.MODELS["acgan28"].generator(10), 10)
    assert labels[:, 0].tolist() == [row for row in range(10) for _ in range(8)]
    np.testing.assert_array_equal(noise[8 * 3 + 5], noise_of(5, noise.shape[1:]))


@pytest.mark.parametrize(
    "argument",
    [("--steps", "0"), ("--batch-size", "0"), ("--dataset", "x"), ("--model", "x"), ("--seed", "5000000000")],
)
def test_wrong_arguments_are_told_in_one_line(argument, dcgan, tmp_path):
    assert argument[0] in bad_input(dcgan(*argument))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_in_one_line(dcgan, tmp_path):
    (tmp_path / "file").touch()
    message = bad_input(dcgan(*SHORT, "--out", "file/run"))
    assert "--out file/run cannot be written" in message


def closer_to_the_data(out, dataset, monkeypatch):
    """By the Fréchet distance in the features of a small classifier, G is closer to the data than it was, and than
    pictures of the data's mean colour are."""
    dataset = dataset._replace(images=dataset.images[:4000], labels=dataset.labels[:4000])
    monkeypatch.setattr(evaluate, "BATCH", 50)
    monkeypatch.setattr(evaluate, "EPOCHS", 2)
    classifier = evaluate.train_classifier(dataset, 0)
    noise = np.stack([noise_of(seed, (100,)) for seed in range(1000)])
    made = {"one colour": np.broadcast_to(dataset.images.mean((0, 1, 2)).astype(np.uint8), (1000, 32, 32, 3))}
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        features, _ = evaluate.classifier_features(sess, classifier, dataset)
        generator = models.article_generator()
        made["before"] = data.unscale(generator.predict(noise), (-0.5, 0.5))
        weights.load_weights(generator, out / "generator.h5")
        made["after"] = data.unscale(generator.predict(noise), (-0.5, 0.5))
        real = features(dataset.images)
        distance = {name: evaluate.frechet_distance(features(images), real) for name, images in made.items()}
    print(distance)
    assert distance["after"] < 0.8 * distance["before"] and distance["after"] < 0.8 * distance["one colour"]


def test_200_steps_on_shapes_bring_samples_closer_to_the_data(run_command, tmp_path, monkeypatch):
    result = run_command("dcgan_keras.py", "--dataset", "faces", *FAST)
    assert result.returncode == 0 and result.stderr == ""
    closer_to_the_data(tmp_path / "samples" / "faces", data.load("faces", (32, 32, 3)), monkeypatch)


def test_200_steps_on_real_cifar10_bring_samples_closer_to_the_data(run_command, tmp_path, monkeypatch, real_data):
    result = run_command("dcgan_keras.py", "--dataset", "cifar10", "--data-dir", real_data, *FAST)
    assert result.returncode == 0 and result.stderr == ""
    cifar10 = data.load("cifar10", (32, 32, 3), data_dir=real_data)
    closer_to_the_data(tmp_path / "samples" / "cifar10", cifar10, monkeypatch)
