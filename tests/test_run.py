"""What a run leaves, how it resumes, and what it refuses: at the command."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SHORT, bad_input, contents, state
from PIL import Image

import command
import dcgan_keras
import models
from tf1 import keras, tf
from training import health, logs, weights
from training import run as training
from training.folder import RunFolder, numbered, read_run
from training.noise import noise_for, noise_of, sample_feed
from training.settings import parse


def test_noise_depends_on_seed_and_step_only():
    noise = noise_for(1, 7, 1000, (100,))
    assert noise.shape == (1000, 100) and noise.dtype == np.float32
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    np.testing.assert_array_equal(noise, noise_for(1, 7, 1000, (100,)))
    assert (noise != noise_for(1, 8, 1000, (100,))).any() and (noise != noise_for(2, 7, 1000, (100,))).any()


def test_tile_k_of_a_grid_is_seed_k(graph):
    feed = sample_feed(models.article_generator(), 0)
    assert feed.shape == (64, 100)
    for seed in (0, 5, 63):
        np.testing.assert_array_equal(feed[seed], np.random.default_rng(seed).standard_normal(100, dtype=np.float32))
    labels, noise = sample_feed(models.MODELS["acgan28"].generator(10), 10)
    assert labels[:, 0].tolist() == [row for row in range(10) for _ in range(8)]
    np.testing.assert_array_equal(noise[8 * 3 + 5], noise_of(5, noise.shape[1:]))


# What a run leaves.


def test_a_run_writes_what_it_promises(dcgan, tmp_path):
    result = dcgan(*SHORT, "--steps", 7, "--keep-every", 5, "--keep-checkpoints")
    assert result.returncode == 0 and result.stderr == ""
    for name in ("dloss", "gloss", "D(x)", "D(G(z))", "images/s"):
        assert name in result.stdout
    assert re.match(r"tiny on 10,000 images of faces, batch size 4, on CPU .*; output in run\n", result.stdout)
    out = tmp_path / "run"
    saved = [f"{name}.{suffix}" for name in ("checkpoint_000004", "checkpoint_000007", "state_000005")
             for suffix in ("index", "data-00000-of-00001")]  # fmt: skip
    assert {p.name for p in out.iterdir() if not p.name.startswith((".lock", "events.out"))} == {
        *(f"step_{step:06d}.png" for step in (0, 3, 6, 7)),
        *("checkpoint", *saved, "generator.h5", "discriminator.h5", "generator_000005.h5"),
        *("losses.csv", "epochs.csv", "progress.gif", "run.json"),
    }
    rows = list(logs.read_rows(out / "losses.csv"))
    assert [row[0] for row in rows] == list(range(1, 8)) and np.isfinite(rows).all()
    with Image.open(out / "step_000007.png") as grid:
        assert grid.size == (2 * (8 * 33 - 1),) * 2
    with Image.open(out / "progress.gif") as animation:
        assert animation.n_frames == 4
    run = read_run(out)
    expected = {
        "model": "tiny",
        "shape": [32, 32, 3],
        "source": None,
        "dataset": "faces",
        "loss": "article",
        "smoothing": 0.1,
        "seed": 0,
    }
    expected |= {"recipe": "one-pass", "updates": "simultaneous", "learning_rate": 1e-4, "beta1": 0.2, "devices": 1}
    expected |= {"pixels": [-0.5, 0.5], "batch_size": 4, "images": 10_000, "step": 7, "steps": 7}
    assert {name: run[name] for name in expected} == expected
    assert run["classes"][0] == "bald" and "CPU" in run["device"] and run["versions"]["tensorflow"] == tf.__version__


def test_weights_files_load_with_keras(dcgan, tmp_path, graph):
    dcgan(*SHORT[:-1], "article", "--steps", 2)
    for name, network in (("generator", models.article_generator()), ("discriminator", models.article_discriminator())):
        before = network.get_weights()
        network.load_weights(tmp_path / "run" / f"{name}.h5")
        assert all((old != new).any() for old, new in zip(before, network.get_weights(), strict=True))


def test_tensorboard_gets_losses_samples_and_the_graph(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 4)
    (file,) = (tmp_path / "run").glob("events.out.*")
    scalars, images, graphs = {}, [], 0
    for event in tf.train.summary_iterator(str(file)):
        graphs += bool(event.graph_def)
        for value in event.summary.value:
            if value.HasField("image"):
                images.append(event.step)
            else:
                scalars.setdefault(value.tag, []).append((event.step, np.float32(value.simple_value)))
    rows = list(logs.read_rows(tmp_path / "run" / "losses.csv"))
    for column, tag in enumerate(("dloss", "gloss", "D(x)", "D(G(z))"), 1):
        assert scalars[tag] == [(row[0], np.float32(row[column])) for row in rows]
    assert images == [0, 3, 4] and graphs == 1


@pytest.fixture
def images(tmp_path):
    """Arguments for a folder of seven images without classes, in batches of two: three steps are an epoch."""
    (tmp_path / "images").mkdir()
    for i in range(7):
        Image.new("RGB", (32, 32), (30 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return ("--dataset", "folder", "--data-dir", "images", "--batch-size", 2, "--model", "tiny")


def test_epochs_have_the_mean_losses_whether_resumed_or_not(dcgan, images, tmp_path):
    run = (*images, "--checkpoint-every", "1epoch")
    dcgan(*run, "--out", "whole", "--epochs", 3, "--sample-every", "2epochs")
    for length in (("--steps", 4), ("--epochs", 3)):
        dcgan(*run, "--out", "parts", *length)
    whole, parts = ((tmp_path / out / "epochs.csv").read_bytes() for out in ("whole", "parts"))
    assert whole == parts
    losses = np.array([row[1:3] for row in logs.read_rows(tmp_path / "whole" / "losses.csv")])
    rows = np.array(list(logs.read_losses(tmp_path / "whole" / "epochs.csv")))
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3])
    np.testing.assert_allclose(rows[:, 1:], losses.reshape(3, 3, 2).mean(axis=1), rtol=1e-6)
    assert {p.name for p in (tmp_path / "whole").glob("step_*")} == {f"step_00000{n}.png" for n in (0, 6, 9)}


def test_checkpoints_come_every_so_many_steps_epochs_or_minutes(capsys):
    def every(*arguments):
        settings = parse([*arguments])
        settings.count_steps(100)
        return settings.checkpoint_every, settings.checkpoint_minutes

    assert every() == (500, 10)
    assert every("--checkpoint-every", "70") == (70, None)
    assert every("--checkpoint-every", "3epochs") == (300, None)
    assert every("--checkpoint-every", "5min") == (None, 5)
    with pytest.raises(SystemExit):
        parse(["--sample-every", "5min"])
    assert "'5min' is not a whole number" in capsys.readouterr().err


def test_the_animation_is_bounded_in_frames_and_size_and_says_so(tmp_path, capsys):
    for step in range(130):
        Image.new("RGB", (1281, 40), (step, 0, 0)).save(tmp_path / f"step_{step:06d}.png")
    logs.make_animation(RunFolder(tmp_path))
    with Image.open(tmp_path / "progress.gif") as animation:
        assert animation.n_frames == 120 and max(animation.size) == 640
        animation.seek(animation.n_frames - 1)
        assert abs(animation.convert("RGB").getpixel((5, 5))[0] - 129) < 4
    assert capsys.readouterr().out.strip().endswith("progress.gif has 120 of 130 samples, 50% of their size")


# Resuming.


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(("tiny",), id="tiny"),
        pytest.param(("article",), id="article", marks=pytest.mark.long),
        pytest.param(("acgan32", "--batch-size", "2"), id="dropout and classes"),
        pytest.param(("tiny", "--recipe", "two-model"), id="two models"),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(run, dcgan, tmp_path):
    """In one go, and in pieces that end at a checkpoint and between two."""
    run = (*SHORT[:-1], *run)
    dcgan(*run, "--steps", 7, "--out", "whole")
    for steps in (5, 7):
        result = dcgan(*run, "--steps", steps, "--out", "pieces")
        assert result.returncode == 0 and result.stderr == ""
    assert "resuming from step 5" in result.stdout and "7/7 [" in result.stdout and "\n1/7" not in result.stdout
    whole, pieces = contents(tmp_path / "whole"), contents(tmp_path / "pieces")
    pieces.pop("step_000005.png")
    for name in ("checkpoint_000005.index", "checkpoint_000005.data-00000-of-00001", "progress.gif"):
        pieces.pop(name)
    names = ("checkpoint", "run.json", "checkpoint_000004.index", "checkpoint_000004.data-00000-of-00001")
    for name in (*names, "progress.gif"):
        whole.pop(name), pieces.pop(name, None)
    assert whole == pieces
    kinds = " ".join(state(tmp_path / "whole", 7))
    for kind in ("kernel/Adam", "kernel/Adam_1", "beta1_power", "moving_mean") if "two-model" not in run else ():
        assert kind in kinds


@pytest.fixture
def arrays(tmp_path):
    values = np.random.default_rng(0).integers(256, size=(9, 20, 30), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=values, labels=np.arange(9) % 3)


@pytest.mark.parametrize(
    "options",
    [
        ("--model", str(ROOT / "examples" / "own_pair.py")),
        ("--model", "article", "--size", "16x32", "--grey", "--flip", "--batch-size", "2"),
        ("--dataset", "arrays", "--data-dir", "images.npz", "--flip"),
    ],
    ids=["own networks", "another size, grey and mirrored", "arrays"],
)
def test_own_networks_and_own_images_resume_with_the_same_bits(options, dcgan, arrays, tmp_path):
    run = (*SHORT, *options)
    for steps in (4, 6):
        assert dcgan(*run, "--steps", steps).returncode == 0
    assert dcgan(*run, "--steps", 6, "--out", "whole").returncode == 0
    now, whole = state(tmp_path / "run", 6), state(tmp_path / "whole", 6)
    assert all((now[name] == whole[name]).all() for name in whole)


def test_a_changed_file_of_networks_is_refused_by_name(dcgan, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text((ROOT / "examples" / "own_pair.py").read_text())
    assert dcgan(*SHORT[:-1], "mine.py", "--steps", 1).returncode == 0
    file.write_text(file.read_text() + "# changed\n")
    assert "was made with source mine.py" in bad_input(dcgan(*SHORT[:-1], "mine.py", "--steps", 2))
    file.write_text("pair = 1 / 0\n")
    assert "mine.py, line 1: ZeroDivisionError" in bad_input(dcgan(*SHORT[:-1], "mine.py", "--steps", 2))


def test_a_finished_run_says_so_and_changes_nothing(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    result = dcgan(*SHORT, "--steps", 2)
    assert result.returncode == 0 and "is at step 2 already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing data", "index"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 8)
    whole = state(tmp_path / "run", 8)
    data = tmp_path / "run" / "checkpoint_000008.data-00000-of-00001"
    content = data.read_bytes()
    middle = len(content) // 2
    match damage:
        case "flipped":
            data.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "cut" | "empty":
            data.write_bytes(content[: middle * (damage == "cut")])
        case "missing data":
            data.unlink()
        case "index":
            (tmp_path / "run" / "checkpoint_000008.index").write_bytes(b"damaged" * 20)
    result = dcgan(*SHORT, "--steps", 8)
    assert result.returncode == 0 and "resuming from step 4" in result.stdout
    assert result.stderr.count("\n") == 1 and "checkpoint_000008 is damaged" in result.stderr
    again = state(tmp_path / "run", 8)
    assert whole.keys() == again.keys() and all((whole[name] == again[name]).all() for name in whole)


def test_where_every_checkpoint_is_damaged_the_run_is_refused(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 8)
    for path in (tmp_path / "run").glob("checkpoint_*.data*"):
        path.write_bytes(path.read_bytes()[:-9])
    before = contents(tmp_path / "run")
    result = dcgan(*SHORT, "--steps", 9)
    assert result.returncode == 2 and "every checkpoint in run is damaged: --restart" in result.stderr
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "setting",
    [("--loss", "bce"), ("--updates", "alternating"), ("--learning-rate", "0.001"), ("--batch-size", "5"),
     ("--seed", "3")],
)  # fmt: skip
def test_a_run_goes_on_with_its_own_settings_only(setting, dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    before = contents(tmp_path / "run")
    message = bad_input(dcgan(*SHORT, *setting, "--steps", 4))
    assert setting[0].strip("-").replace("-", " ") in message and setting[1] in message and "--restart" in message
    assert contents(tmp_path / "run") == before


def test_other_data_are_refused(dcgan, images, tmp_path):
    run = (*images, "--out", "run", "--steps")
    assert dcgan(*run, 2).returncode == 0
    Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / "3.png")
    assert "was made with checksum" in bad_input(dcgan(*run, 4))
    (tmp_path / "images" / "7.png").write_bytes((tmp_path / "images" / "6.png").read_bytes())
    assert "was made with images 7, not 8" in bad_input(dcgan(*run, 4))


def test_a_checkpoint_of_another_program_is_refused_in_one_line(dcgan, tmp_path, monkeypatch):
    dcgan(*SHORT, "--steps", 2)
    other = models.MODELS["tiny"]._replace(generator=models.MODELS["plain"].generator)
    monkeypatch.setitem(models.MODELS, "tiny", other)
    message = bad_input(dcgan(*SHORT, "--steps", 3))
    assert "checkpoint_000002 has other variables than this program's tiny" in message and "--restart" in message


# Other beginnings.


def test_restart_keeps_what_was_there(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 2)
    old = contents(tmp_path / "run")
    result = dcgan(*SHORT, "--steps", 3, "--restart")
    assert "what was in run is now in " in result.stdout and contents(tmp_path / "run.1") == old
    assert "checkpoint_000002.index" not in contents(tmp_path / "run")


def test_start_from_takes_weights_and_begins_a_new_optimizer(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 3, "--out", "first")
    new = (*SHORT, "--steps", 1, "--seed", 7, "--learning-rate", "1e-12")
    assert dcgan(*new, "--start-from", "first").returncode == 0
    first, now = state(tmp_path / "first", 3), state(tmp_path / "run", 1)
    kernels = [name for name in first if name.endswith("kernel")]
    assert len(kernels) == 3
    for name in kernels:
        np.testing.assert_allclose(now[name], first[name], atol=1e-9)
    assert now["beta2_power"] > first["beta2_power"]  # Adam's powers begin anew
    assert read_run(tmp_path / "run")["started_from"] == {"folder": "first", "step": None}
    result = dcgan(*new[:-4], "--steps", 2, "--seed", 7, "--learning-rate", "1e-12", "--start-from", "nowhere")
    assert result.returncode == 0 and "--start-from is for new runs" in result.stdout


@pytest.mark.parametrize("option", [("--from-step", 4), ("--keep-optimizer",)])
def test_start_from_a_state_ends_with_the_same_bits_and_leaves_the_other_run_alone(option, dcgan, tmp_path):
    run = (*SHORT, "--keep-every", 4, "--keep-checkpoints")
    dcgan(*run, "--steps", 5, "--out", "first")
    before = contents(tmp_path / "first")
    result = dcgan(*run, "--steps", 8, "--start-from", "first", *option)
    step = 4 if len(option) == 2 else 5
    assert result.returncode == 0 and f"starting from first, step {step}\n" in result.stdout
    assert contents(tmp_path / "first") == before
    assert read_run(tmp_path / "run")["started_from"] == {"folder": "first", "step": step}
    dcgan(*run, "--steps", 8, "--out", "whole")
    whole, now = state(tmp_path / "whole", 8), state(tmp_path / "run", 8)
    assert all((whole[name] == now[name]).all() for name in whole)
    for name in ("losses.csv", "epochs.csv", "step_000008.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_learning_rate_can_change_on_the_way(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 4, "--out", "first")
    result = dcgan(*SHORT, "--steps", 6, "--start-from", "first", "--keep-optimizer", "--learning-rate", "1e-12")
    assert result.returncode == 0
    first, now = state(tmp_path / "first", 4), state(tmp_path / "run", 6)
    kernel = next(name for name in first if name.endswith("kernel"))
    np.testing.assert_allclose(now[kernel], first[kernel], atol=1e-9)
    assert now["beta1_power"] < first["beta1_power"]  # Adam's powers go on
    again = dcgan(*SHORT, "--steps", 7, "--learning-rate", "1e-12")  # a resume needs no --start-from
    assert again.returncode == 0 and "resuming from step 6" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "new", "--start-from", "nowhere"), "nowhere"),
        (("--out", "new", "--start-from", "first", "--from-step", 5), "first has no training state of step 5"),
        (("--start-from", "first", "--from-step", 4, "--restart", "--model", "plain"), "other variables"),
        (("--restart", "--batch-size", 20_000), "fewer than a batch"),
        (("--restart", "--dataset", "folder", "--data-dir", "nowhere"), "nowhere"),
        (("--restart", "--out", "first/run.json"), "first/run.json"),
    ],
)
def test_what_is_refused_changes_nothing(arguments, words, dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 4, "--out", "first")
    dcgan(*SHORT, "--steps", 1)
    before = {name: contents(tmp_path / name) for name in ("first", "run")}
    assert words in bad_input(dcgan(*SHORT, "--steps", 3, *arguments))
    assert {name: contents(tmp_path / name) for name in ("first", "run")} == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["first", "run"]


def test_no_room_on_the_disk_is_refused_before_anything_changes(dcgan, tmp_path, monkeypatch):
    dcgan(*SHORT, "--steps", 1)
    before = contents(tmp_path / "run")
    usage = training.RunFolder.check_room.__globals__["shutil"].disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(path)._replace(free=9_000))
    for arguments in ((), ("--restart",), ("--out", "new")):
        assert "GiB free" in bad_input(dcgan(*SHORT, "--steps", 2, *arguments))
    assert contents(tmp_path / "run") == before
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["run"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "0"), "below 1"),
        (("--steps", 3, "--epochs", 1), "not allowed with"),
        (("--sample-every", "25days"), "25epochs"),
        (("--keep-every", "0epochs"), "below 1"),
        (("--loss", "wgan"), "lsgan"),
        (("--beta1", "nan"), "nan"),
        (("--seed", "5000000000"), "--seed"),
        (("--dataset", "x"), "--dataset"),
        (("--model", "x"), "article, mnist"),
        (("--from-step", "4"), "--start-from"),
        (("--keep-checkpoints",), "--keep-every"),
        (("--recipe", "two-model", "--updates", "alternating"), "one-pass"),
        (("--out", "file/run"), "--out file/run cannot be written"),
        (("--out", os.fsdecode(b"caf\xe9")), r"--out caf\udce9 is not UTF-8"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, dcgan, tmp_path):
    (tmp_path / "file").touch()
    assert words in bad_input(dcgan(*SHORT, *arguments))
    assert {p.name for p in tmp_path.iterdir()} <= {"file", "cache"}


def test_a_folder_is_named_in_any_letters(dcgan, tmp_path):
    assert dcgan(*SHORT, "--steps", 1, "--out", "łódź 写真").returncode == 0
    assert (tmp_path / "łódź 写真" / "generator.h5").exists()


def test_help_and_wrong_options_do_not_wait_for_tensorflow():
    """Half a second on an idle machine; here, that TensorFlow is not loaded."""
    for arguments, code in ((["--help"], 0), (["--dataset", "x"], 2), (["--model", "x"], 2)):
        program = "import runpy, sys; sys.argv[1:] = %r\ntry: runpy.run_path('dcgan_keras.py', run_name='__main__')\n"
        program += "except SystemExit as leaving: sys.exit(40 if 'tensorflow' in sys.modules else leaving.code)"
        done = subprocess.run([sys.executable, "-c", program % arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code and done.stderr.count("\n") == (code == 2), done.stderr


def test_acgan_needs_classes(dcgan, images):
    assert "subfolder" in bad_input(dcgan(*images, "--model", "acgan32"))


def test_summary_counts_parameters_and_trains_nothing(dcgan, tmp_path):
    result = dcgan("--summary", "--model", "dcgan64")
    assert result.returncode == 0
    assert "12664195" in result.stdout.replace(",", "") and "11041665" in result.stdout.replace(",", "")
    assert list(tmp_path.iterdir()) == []


def test_models_are_built_in_a_session_with_the_projects_settings(dcgan, monkeypatch):
    """The first session of a process sets up its devices, so it must not be one that Keras opens by itself."""
    seen = []

    def generator():
        seen.append(keras.backend.get_session()._config.gpu_options.allow_growth)
        raise command.InputError("this is far enough")

    monkeypatch.setitem(models.MODELS, "tiny", models.MODELS["tiny"]._replace(generator=generator))
    assert dcgan("--model", "tiny", "--dataset", "faces").returncode == 2
    assert seen == [True]


# What goes wrong on the way.


def spoiled(monkeypatch, at, losses=None, then=lambda: None):
    """Let step `at` do `then` and report `losses`."""

    def gan(*networks, _gan=dcgan_keras.RECIPES["one-pass"], **options):
        gan_feed, count = _gan(*networks, **options), 0

        def feed(sess, *batch, scores):
            nonlocal count
            count += 1
            values = gan_feed(sess, *batch, scores=scores)
            if count == at:
                then()
                return values if losses is None else list(losses)
            return values

        return feed

    monkeypatch.setitem(dcgan_keras.RECIPES, "one-pass", gan)


def test_losses_that_are_nan_stop_the_run_on_a_line_of_their_own(dcgan, tmp_path, monkeypatch):
    spoiled(monkeypatch, 6, np.float32([np.nan, 1, 1, 1]))
    result = dcgan(*SHORT, "--steps", 9)
    assert result.returncode == 1 and result.stdout.endswith("\n") and result.stderr.count("\n") == 1
    assert (
        "the losses are NaN or infinite at step 6; the last good checkpoint is run/checkpoint_000004" in result.stderr
    )
    assert [row[0] for row in logs.read_rows(tmp_path / "run" / "losses.csv")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_replace_no_good_ones(value, dcgan, tmp_path, monkeypatch):
    def spoil():
        variable = next(v for v in tf.global_variables() if v.op.name.endswith("moving_mean"))
        variable.load(np.full(variable.shape, value), keras.backend.get_session())

    spoiled(monkeypatch, 8, then=spoil)
    before = contents(tmp_path / "run") if dcgan(*SHORT, "--steps", 7).returncode == 0 else None
    spoiled(monkeypatch, 1, then=spoil)
    result = dcgan(*SHORT, "--steps", 8, "--keep-every", 8)
    assert result.returncode == 1 and "weights are no longer finite" in result.stderr and "step 8" in result.stderr
    after = contents(tmp_path / "run")
    for name in before.keys() - {"losses.csv", "run.json", "progress.gif"}:
        assert after[name] == before[name], name
    assert not list((tmp_path / "run").glob("generator_*"))


def test_out_of_memory_is_one_line(dcgan, monkeypatch):
    def fail():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[32,1]")

    spoiled(monkeypatch, 2, then=fail)
    result = dcgan(*SHORT, "--steps", 3)
    assert result.returncode == 1 and re.match("error: CPU .* is out of memory at batch size 4: ", result.stderr)


def test_a_model_that_may_not_fit_into_memory_is_a_warning(graph, monkeypatch, capsys):
    pair = [models.article_generator(), models.article_discriminator()]
    for available, warned in ((9, True), (900_000_000, False)):
        monkeypatch.setattr(health.Path, "read_text", lambda path, kb=available: f"MemAvailable: {kb} kB\n")
        health.warn_of_memory(pair, 32)
        err = capsys.readouterr().err
        assert err.startswith("warning: training may need 0.") == warned and err.count("\n") == warned


@pytest.mark.parametrize(
    "row",
    ["3,1.5,2", "\0\xff", "three,1,2,0.5,0.5", "2,1,2,0.5,0.5", ""],
    ids=["short", "bytes", "word", "twice", "gone"],
)
def test_a_damaged_losses_csv_is_kept_and_said(row, dcgan, tmp_path):
    """A file whose third line is damaged: all other rows stay, and the means of its epoch are left out."""
    dcgan(*SHORT, "--steps", 5)
    path = tmp_path / "run" / "losses.csv"
    lines = path.read_text().splitlines(keepends=True)
    damaged = "".join([*lines[:3], f"{row}\n" if row else "", *lines[4:]]).encode("latin-1")
    path.write_bytes(damaged)
    result = dcgan(*SHORT, "--steps", 6)
    assert result.returncode == 0 and "losses_damaged.csv" in result.stderr and result.stderr.count("\n") == 1
    assert (tmp_path / "run" / "losses_damaged.csv").read_bytes() == damaged
    assert [r[0] for r in logs.read_rows(path)] == [1, 2, 4, 5, 6]


def test_means_of_an_epoch_with_missing_steps_are_left_out():
    epochs = logs.Epochs(3)
    rows = [row for step in (1, 2, 4, 5, 6, 7, 8, 9) for row in epochs.add(step, step, 0)]
    assert rows == ["2,5,0\n", "3,8,0\n"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_run_json_is_one_line(content, dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 1)
    (tmp_path / "run" / "run.json").write_bytes(content)
    assert "run.json" in bad_input(dcgan(*SHORT, "--steps", 2))


# Warnings.


def of(images):
    """A data set of these images, (classes, number, ...) or (1, number, ...), for `Warnings`."""
    labels = np.repeat(np.arange(len(images)), images.shape[1])
    return training.data.Dataset("these", images.reshape(-1, *images.shape[2:]), labels, [])


def test_collapsed_samples_are_reported_once(capsys):
    real = np.random.default_rng(0).integers(256, size=(1, 64, 8, 8, 1), dtype=np.uint8)
    watch = health.Warnings(of(real), 0, "article")
    for step in range(0, 3000, 500):
        watch.samples(step, real[0] // 2)
    assert capsys.readouterr().err == ""
    for step in range(3000, 9000, 500):
        watch.samples(step, np.repeat(real[0, :1], 64, axis=0))
    err = capsys.readouterr().err
    assert err.startswith("warning: the samples have collapsed at step 3500") and err.count("\n") == 1


def test_collapsed_rows_of_classes_are_reported(capsys):
    real = np.random.default_rng(0).integers(256, size=(3, 20, 8, 8, 1), dtype=np.uint8)
    watch = health.Warnings(of(real), 3, "bce")
    for step in (500, 1000):
        watch.samples(step, np.repeat(real[:, :1], 8, axis=1).reshape(24, 8, 8, 1))
    assert "the samples of a class have collapsed" in capsys.readouterr().err


@pytest.mark.parametrize(("loss", "score"), [("article", 1e-14), ("minimax", 1e-3)])
def test_a_vanished_gradient_is_reported_once(loss, score, capsys):
    watch = health.Warnings(of(np.zeros((1, 2, 2, 2, 1), np.uint8)), 0, loss)
    for step in range(200):
        watch.scores(step, 0.3 if step % 49 == 0 else score)
    assert capsys.readouterr().err == ""
    for step in range(200, 400):
        watch.scores(step, score)
    err = capsys.readouterr().err
    assert err.startswith("warning: D is certain") and "--loss bce" in err and err.count("\n") == 1


def test_numbered_files_are_sorted_by_step_and_foreign_ones_left_alone(tmp_path):
    for name in ("999500", "1000000", "000500", "best", "5_copy"):
        (tmp_path / f"step_{name}.png").touch()
    assert [path.stem for path in numbered(tmp_path, "step", "png")] == ["step_000500", "step_999500", "step_1000000"]


def test_discriminators_of_gigabytes_are_found_by_their_shapes_first(tmp_path, graph, dcgan):
    """`--start-from` names the file whose weights are another model's."""
    dcgan(*SHORT, "--steps", 1, "--out", "first")
    (tmp_path / "first" / "generator.h5").write_bytes((tmp_path / "first" / "discriminator.h5").read_bytes())
    message = bad_input(dcgan(*SHORT, "--steps", 1, "--start-from", "first"))
    assert "first/generator.h5 does not have the weights of this model's generator" in message
    assert not (tmp_path / "run").exists()


def test_json_of_a_run_is_plain(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == 1
    assert weights.read(tmp_path / "run" / "generator.h5")
