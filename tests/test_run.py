"""What a run leaves, how it resumes, and what it refuses: at the command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SHORT, bad_input, contents, state
from PIL import Image

import command
import dcgan_keras
import models
from tf1 import keras, tf
from training import health, logs, run
from training.folder import RunFolder, numbered, read_run
from training.noise import feed_for, noise_for, noise_of, sample_feed
from training.settings import parse


def test_noise_and_classes_depend_on_seed_and_step_only(graph):
    noise = noise_for(1, 7, 1000, (100,))
    assert noise.shape == (1000, 100) and noise.dtype == np.float32
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    generator = models.MODELS["acgan28"].generator(10)
    labels, latents = feed_for(generator, 1, 7, 1000, 10)
    assert labels.shape == (1000, 1) and np.unique(labels).tolist() == list(range(10))
    for again, other in ((labels, 0), (latents, 1)):
        np.testing.assert_array_equal(feed_for(generator, 1, 7, 1000, 10)[other], again)
        assert (feed_for(generator, 1, 8, 1000, 10)[other] != again).any()
        assert (feed_for(generator, 2, 7, 1000, 10)[other] != again).any()


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
    result = dcgan(*SHORT, "--steps", 7)
    assert result.returncode == 0 and result.stderr == ""
    for name in ("dloss", "gloss", "D(x)", "D(G(z))", "images/s"):
        assert name in result.stdout
    assert re.match(
        r"tiny on 1,000 images of faces \(32x32x3\), batch size 4, on CPU .*; output in run\n", result.stdout
    )
    assert "7/7 [" in result.stdout and "1/7 [" not in result.stdout  # whose time is not that of a step
    out = tmp_path / "run"
    saved = [f"{name}.{suffix}" for name in ("checkpoint_000004", "checkpoint_000007", "state_000004")
             for suffix in ("index", "data-00000-of-00001")]  # fmt: skip
    assert contents(out).keys() == {
        *(f"step_{step:06d}.png" for step in (0, 3, 6, 7)),
        *("checkpoint", *saved, "generator.h5", "discriminator.h5", "generator_000004.h5"),
        *("losses.csv", "epochs.csv", "progress.gif", "run.json"),
    }
    rows = list(logs.read_rows(out / "losses.csv"))
    assert [row[0] for row in rows] == list(range(1, 8)) and np.isfinite(rows).all()
    with Image.open(out / "step_000007.png") as grid:
        assert grid.size == (2 * (8 * 33 - 1),) * 2
    with Image.open(out / "progress.gif") as animation:
        assert animation.n_frames == 4
    found = read_run(out)
    expected = {"model": "tiny", "shape": [32, 32, 3], "source": None, "dataset": "faces", "images": 1000}
    expected |= {"loss": "article", "smoothing": 0.1, "learning_rate": 1e-4, "beta1": 0.2, "batch_size": 4, "seed": 0}
    expected |= {"recipe": "one-pass", "updates": "simultaneous", "pixels": [-0.5, 0.5], "devices": 1}
    expected |= {"step": 7, "steps": 7}
    assert {name: found[name] for name in expected} == expected
    assert found["classes"][0] == "bald" and "CPU" in found["device"]
    assert found["versions"]["tensorflow"] == tf.__version__


def test_weights_files_load_with_keras(ran, graph):
    out = ran("--steps", 5)
    for name in ("generator", "discriminator"):
        network = models.MODELS["tiny"]._asdict()[name]()
        before = network.get_weights()
        network.load_weights(out / f"{name}.h5")
        assert all((old != new).any() for old, new in zip(before, network.get_weights(), strict=True))


def test_tensorboard_gets_losses_samples_and_the_graph(ran):
    out = ran("--steps", 5)
    (file,) = out.glob("events.out.*")
    scalars, images, graphs = {}, [], 0
    for event in tf.train.summary_iterator(str(file)):
        graphs += bool(event.graph_def)
        for value in event.summary.value:
            if value.HasField("image"):
                images.append(event.step)
            else:
                scalars.setdefault(value.tag, []).append((event.step, np.float32(value.simple_value)))
    rows = list(logs.read_rows(out / "losses.csv"))
    for column, tag in enumerate(("dloss", "gloss", "D(x)", "D(G(z))"), 1):
        assert scalars[tag] == [(row[0], np.float32(row[column])) for row in rows]
    assert images == [0, 3, 5] and graphs == 1


@pytest.fixture
def images(tmp_path):
    """Arguments for a folder of seven images without classes, in batches of two: three steps are an epoch."""
    (tmp_path / "images").mkdir()
    for i in range(7):
        Image.new("RGB", (32, 32), (30 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return ("--dataset", "folder", "--data-dir", "images", "--batch-size", 2, "--model", "tiny")


def test_epochs_have_the_mean_losses_whether_resumed_or_not(dcgan, images, tmp_path):
    run = (*images, "--checkpoint-every", "1epoch", "--sample-every", "2epochs")
    dcgan(*run, "--out", "whole", "--epochs", 3)
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
    for refused, words in (
        (["--sample-every", "5min"], "'5min' is not a whole"),
        (["--keep-checkpoints"], "--keep-every"),
    ):
        with pytest.raises(SystemExit):
            parse(refused)
        assert words in capsys.readouterr().err


def test_the_animation_is_bounded_in_frames_and_size_and_says_so(tmp_path, capsys):
    for step in range(130):
        Image.new("RGB", (1281, 40), (step, 0, 0)).save(tmp_path / f"step_{step:06d}.png")
    logs.make_animation(RunFolder(tmp_path))
    with Image.open(tmp_path / "progress.gif") as animation:
        assert animation.n_frames == 120 and max(animation.size) == 640
        animation.seek(animation.n_frames - 1)
        assert abs(animation.convert("RGB").getpixel((5, 5))[0] - 129) < 4
    printed = capsys.readouterr().out.strip()
    assert printed.endswith("progress.gif shows 120 of 130 sample grids, reduced to 50% of their size")


def test_numbered_files_are_sorted_by_step_and_foreign_ones_left_alone(tmp_path):
    for name in ("999500", "1000000", "000500", "best", "5_copy"):
        (tmp_path / f"step_{name}.png").touch()
    assert [path.stem for path in numbered(tmp_path, "step", "png")] == ["step_000500", "step_999500", "step_1000000"]


# Resuming.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="tiny"),
        pytest.param(("--recipe", "two-model"), id="two models", marks=pytest.mark.long),
        pytest.param(
            ("--model", "classes", "--dataset", "arrays", "--data-dir", "images.npz", "--flip"),
            id="classes, dropout and own images, mirrored",
        ),
        pytest.param(("--model", ROOT / "examples" / "own_pair.py"), id="own networks", marks=pytest.mark.long),
        pytest.param(("--model", "article"), id="article", marks=pytest.mark.long),
        pytest.param(("--model", "article", "--size", "16x32", "--grey"), id="another size", marks=pytest.mark.long),
        pytest.param(("--model", "acgan32", "--batch-size", "2"), id="acgan32", marks=pytest.mark.long),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(options, dcgan, ran, tmp_path):
    """In one go, and in pieces that end at a checkpoint and between two."""
    values = np.random.default_rng(0).integers(256, size=(9, 20, 30), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=values, labels=np.arange(9) % 3)
    whole = contents(ran(*options, "--steps", 8, out="whole"))
    ran(*options, "--steps", 5)
    result = dcgan(*SHORT, *options, "--steps", 8)
    assert result.returncode == 0 and result.stderr == ""
    assert "resuming from step 5" in result.stdout and "8/8 [" in result.stdout and "\n1/8" not in result.stdout
    pieces = contents(tmp_path / "run")
    for name in {"step_000005.png", "checkpoint", "progress.gif"} | {
        f"checkpoint_00000{step}.{suffix}" for step in (4, 5) for suffix in ("index", "data-00000-of-00001")
    }:  # which tell of the end at step 5
        whole.pop(name, None), pieces.pop(name, None)
    assert whole == pieces and len(whole) > 12
    kinds = " ".join(state(tmp_path / "run", 8))
    for kind in ("kernel/Adam", "kernel/Adam_1", "beta1_power", "moving_mean") if not options else ():
        assert kind in kinds


def test_a_changed_file_of_networks_is_refused_by_name(dcgan, tmp_path):
    file, run = tmp_path / "mine.py", (*SHORT, "--model", "mine.py", "--steps")
    file.write_text(
        "from conftest import tiny_pair\nfrom models import Pair\npair = Pair(**tiny_pair(), loss='article')\n"
    )
    assert dcgan(*run, 1).returncode == 0
    file.write_text(file.read_text() + "# changed\n")
    assert "was made with source mine.py" in bad_input(dcgan(*run, 2))
    file.write_text("pair = 1 / 0\n")
    assert "mine.py, line 1: ZeroDivisionError" in bad_input(dcgan(*run, 2))


def test_a_finished_run_says_so_and_changes_nothing(dcgan, ran):
    out = ran("--steps", 5)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    result = dcgan(*SHORT, "--steps", 5)
    assert result.returncode == 0 and "is at step 5 already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing data", "index"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, dcgan, ran):
    out = ran("--steps", 8)
    whole = state(out, 8)
    data = out / "checkpoint_000008.data-00000-of-00001"
    content = data.read_bytes()
    middle = len(content) // 2
    match damage:
        case "flipped":
            data.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "cut":
            data.write_bytes(content[:middle])
        case "missing data":
            data.unlink()
        case "index":
            (out / "checkpoint_000008.index").write_bytes(b"damaged" * 20)
    result = dcgan(*SHORT, "--steps", 8)
    assert result.returncode == 0 and "resuming from step 4" in result.stdout
    assert result.stderr.count("\n") == 1 and "checkpoint_000008 is damaged" in result.stderr
    again = state(out, 8)
    assert whole.keys() == again.keys() and all((whole[name] == again[name]).all() for name in whole)


def test_where_every_checkpoint_is_damaged_the_run_is_refused(dcgan, ran):
    out = ran("--steps", 8)
    for path in out.glob("checkpoint_*.data*"):
        path.write_bytes(path.read_bytes()[:-9])
    before = contents(out)
    result = dcgan(*SHORT, "--steps", 9)
    assert result.returncode == 2 and "every checkpoint in run is damaged: --restart" in result.stderr
    assert contents(out) == before


@pytest.mark.parametrize("setting", [("--learning-rate", "0.001"), ("--updates", "alternating")])
def test_a_run_goes_on_with_its_own_settings_only(setting, dcgan, ran):
    out = ran("--steps", 5)
    before = contents(out)
    message = bad_input(dcgan(*SHORT, *setting, "--steps", 6))
    assert setting[0].strip("-").replace("-", " ") in message and setting[1] in message and "--restart" in message
    assert contents(out) == before


def test_other_data_are_refused(dcgan, images, tmp_path):
    run = (*images, "--out", "run", "--steps")
    assert dcgan(*run, 2).returncode == 0
    Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / "3.png")
    assert "was made with checksum" in bad_input(dcgan(*run, 4))
    (tmp_path / "images" / "7.png").write_bytes((tmp_path / "images" / "6.png").read_bytes())
    assert "was made with images 7, not 8" in bad_input(dcgan(*run, 4))


def test_a_checkpoint_of_another_program_is_refused_in_one_line(dcgan, ran, monkeypatch):
    ran("--steps", 5)
    other = models.MODELS["tiny"]._replace(generator=models.MODELS["plain"].generator)
    monkeypatch.setitem(models.MODELS, "tiny", other)
    message = bad_input(dcgan(*SHORT, "--steps", 6))
    assert "checkpoint_000005 has other variables than this program's tiny" in message and "--restart" in message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_run_json_is_one_line(content, tmp_path):
    for name in ("run.json", "checkpoint_000001.index"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(command.InputError, match=r"run\.json") as refused:
        RunFolder(tmp_path).check_identity({"seed": 1})
    assert command.one_line(refused.value) == str(refused.value)


DAMAGED_ROWS = {
    "short": "3,1.5,2",
    "long": "3,1,2,0.5,0.5,7",
    "bytes": "\0\xff",
    "zeros": "\0" * 5000,
    "word": "three,1,2,0.5,0.5",
    "no number": "3,nan,2,0.5,0.5",
    "twice": "2,1,2,0.5,0.5",
    "joined": "3,1,2,0.5,0.54,1,2,0.5,0.5",
    "gone": "",
}


def test_a_damaged_row_of_losses_csv_costs_only_itself_and_is_said(dcgan, ran):
    """What can be read stays. A file with a damaged row is kept, and the mean of its epoch is left out."""
    out = ran("--steps", 5)
    path = out / "losses.csv"
    columns, *rows = path.read_text().splitlines(keepends=True)
    for row in DAMAGED_ROWS.values():
        path.write_bytes("".join([columns, *rows[:2], f"{row}\n" if row else "", *rows[3:]]).encode("latin-1"))
        assert [r[0] for r in logs.read_rows(path)] == [1, 2, 4, 5], row
    path.write_text("".join(["a,b\n", *rows[:4], rows[4][:-3]]))  # the first line damaged, the last one cut
    damaged = path.read_bytes()
    result = dcgan(*SHORT, "--steps", 6)
    assert result.returncode == 0 and "losses_damaged.csv" in result.stderr and result.stderr.count("\n") == 1
    assert (out / "losses_damaged.csv").read_bytes() == damaged
    assert [r[0] for r in logs.read_rows(path)] == [1, 2, 3, 4, 6]
    epochs = logs.Epochs(3)
    assert [row for n in (1, 2, 4, 5, 6, 7, 8, 9) for row in epochs.add(n, n, 0)] == ["2,5,0\n", "3,8,0\n"]


# Other beginnings.


def test_restart_keeps_what_was_there(dcgan, ran, tmp_path):
    old = contents(ran("--steps", 5))
    result = dcgan(*SHORT, "--steps", 3, "--restart")
    assert "what was in run is now in " in result.stdout and contents(tmp_path / "run.1") == old
    assert "checkpoint_000005.index" not in contents(tmp_path / "run")


def test_start_from_takes_weights_and_begins_a_new_optimizer(dcgan, ran, tmp_path):
    first = state(ran("--steps", 5, out="first"), 5)
    new = (*SHORT, "--seed", 7, "--learning-rate", "1e-12")
    assert dcgan(*new, "--steps", 1, "--start-from", "first").returncode == 0
    now = state(tmp_path / "run", 1)
    kernels = [name for name in first if name.endswith("kernel")]
    assert len(kernels) == 3
    for name in kernels:
        np.testing.assert_allclose(now[name], first[name], atol=1e-9)
    assert now["beta2_power"] > first["beta2_power"]  # Adam's powers begin anew
    assert read_run(tmp_path / "run")["started_from"] == {"folder": "first", "step": None}
    result = dcgan(*new, "--steps", 2, "--start-from", "nowhere")
    assert result.returncode == 0 and "--start-from is ignored" in result.stdout


@pytest.mark.parametrize("option", [("--from-step", 4), ("--keep-optimizer",)])
def test_start_from_a_state_ends_with_the_same_bits_and_leaves_the_other_run_alone(option, dcgan, ran, tmp_path):
    first, whole = ran("--steps", 5, out="first"), ran("--steps", 8, out="whole")
    before, step = contents(first), 4 if len(option) == 2 else 5
    result = dcgan(*SHORT, "--steps", 8, "--start-from", "first", *option)
    assert result.returncode == 0 and f"starting from first, step {step}\n" in result.stdout
    assert contents(first) == before
    assert read_run(tmp_path / "run")["started_from"] == {"folder": "first", "step": step}
    expected, now = state(whole, 8), state(tmp_path / "run", 8)
    assert all((expected[name] == now[name]).all() for name in expected)
    for name in ("losses.csv", "epochs.csv", "step_000008.png"):
        assert (whole / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_learning_rate_can_change_on_the_way(dcgan, ran, tmp_path):
    first = ran("--steps", 5, out="first")
    (first / "losses.csv").unlink()
    now_slow = (*SHORT, "--learning-rate", "1e-12")
    result = dcgan(*now_slow, "--steps", 6, "--start-from", "first", "--keep-optimizer")
    assert result.returncode == 0
    assert result.stderr.startswith(
        "warning: first/losses.csv is damaged, or does not have every step up to 5: the rows"
    )
    old, now = state(first, 5), state(tmp_path / "run", 6)
    kernel = next(name for name in old if name.endswith("kernel"))
    np.testing.assert_allclose(now[kernel], old[kernel], atol=1e-9)
    assert now["beta1_power"] < old["beta1_power"]  # Adam's powers go on
    again = dcgan(*now_slow, "--steps", 7)  # a resume needs no --start-from
    assert again.returncode == 0 and "resuming from step 6" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "new", "--start-from", "nowhere"), "nowhere"),
        (("--out", "new", "--start-from", "swapped"), "swapped/generator.h5 does not have the weights of this model's"),
        (("--out", "new", "--start-from", "first", "--from-step", 3), "first has no training state of step 3"),
        (("--start-from", "first", "--from-step", 4, "--restart", "--model", "plain"), "other variables"),
        (("--restart", "--batch-size", 20_000), "fewer than a batch"),
        (("--restart", "--dataset", "folder", "--data-dir", "nowhere"), "nowhere"),
        (("--restart", "--out", "first/run.json"), "first/run.json"),
    ],
)
def test_what_is_refused_changes_nothing(arguments, words, dcgan, ran, tmp_path):
    for out in ("first", "run", "swapped"):
        ran("--steps", 5, out=out)
    (tmp_path / "swapped" / "generator.h5").write_bytes((tmp_path / "run" / "discriminator.h5").read_bytes())
    before = {name: contents(tmp_path / name) for name in ("first", "run", "swapped")}
    assert words in bad_input(dcgan(*SHORT, "--steps", 6, *arguments))
    assert {p.name: contents(p) for p in tmp_path.iterdir() if p.name != "cache"} == before


def test_no_room_on_the_disk_is_refused_before_anything_changes(dcgan, ran, tmp_path, monkeypatch):
    before = contents(ran("--steps", 5))
    usage = run.weights.shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(path)._replace(free=9_000))
    assert "GiB free" in bad_input(dcgan(*SHORT, "--steps", 6, "--restart"))
    assert {p.name: contents(p) for p in tmp_path.iterdir() if p.name != "cache"} == {"run": before}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "0"), "below 1"),
        (("--epochs", 1), "not allowed with"),
        (("--sample-every", "25days"), "25epochs"),
        (("--keep-every", "0epochs"), "below 1"),
        (("--loss", "wgan"), "lsgan"),
        (("--beta1", "nan"), "nan"),
        (("--seed", "5000000000"), "--seed"),
        (("--dataset", "x"), "--dataset"),
        (("--model", "x"), "article, mnist"),
        (("--from-step", "4"), "--start-from"),
        (("--recipe", "two-model", "--updates", "alternating"), "one-pass"),
        (("--out", "file/run"), "--out file/run cannot be written"),
        (("--out", os.fsdecode(b"caf\xe9")), r"--out caf\udce9 is not UTF-8"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, dcgan, tmp_path):
    (tmp_path / "file").touch()
    assert words in bad_input(dcgan(*SHORT, "--steps", 1, *arguments))
    assert {p.name for p in tmp_path.iterdir()} <= {"file", "cache"}


def test_without_a_home_directory_one_line_says_what_to_do(dcgan, monkeypatch):
    def home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(home))
    assert "let XDG_CACHE_HOME name a folder" in bad_input(dcgan("--dataset", "cifar10", "--steps", 1))


def test_a_folder_is_named_in_any_letters(dcgan, tmp_path):
    assert dcgan(*SHORT, "--steps", 1, "--out", "łódź 写真").returncode == 0
    assert (tmp_path / "łódź 写真" / "generator.h5").exists()


def test_help_and_wrong_options_do_not_wait_for_tensorflow():
    """Half a second on an idle machine; here, that TensorFlow is not loaded."""
    for arguments, code in ((["--help"], 0), (["--dataset", "x"], 2)):
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

    def gan(*networks, _gan=dcgan_keras.gan, **options):
        gan_feed, count = _gan(*networks, **options), 0

        def feed(sess, *batch, scores):
            nonlocal count
            count += 1
            values = gan_feed(sess, *batch, scores=scores)
            if count != at:
                return values
            then()
            return values if losses is None else losses

        return feed

    monkeypatch.setitem(dcgan_keras.RECIPES, "one-pass", gan)


def test_losses_that_are_nan_stop_the_run_on_a_line_of_their_own(dcgan, tmp_path, monkeypatch):
    spoiled(monkeypatch, 6, [np.float32("nan"), 1, 1, 1])
    result = dcgan(*SHORT, "--steps", 9)
    assert result.returncode == 1 and result.stdout.endswith("\n") and result.stderr.count("\n") == 1
    last = "the last good checkpoint is run/checkpoint_000004"
    assert f"the losses are NaN or infinite at step 6; {last}" in result.stderr
    assert [row[0] for row in logs.read_rows(tmp_path / "run" / "losses.csv")] == [1, 2, 3, 4, 5]


def test_weights_that_are_not_finite_replace_no_good_ones(dcgan, ran, monkeypatch):
    def spoil():
        variable = next(v for v in tf.global_variables() if v.op.name.endswith("moving_mean"))
        variable.load(np.full(variable.shape, np.inf), keras.backend.get_session())

    out = ran("--steps", 5)
    before = contents(out)
    spoiled(monkeypatch, 1, then=spoil)
    result = dcgan(*SHORT, "--steps", 6, "--keep-every", 6)
    assert result.returncode == 1 and "weights are no longer finite" in result.stderr and "step 6" in result.stderr
    after = contents(out)
    for name in before.keys() - {"losses.csv", "run.json", "progress.gif"}:
        assert after[name] == before[name], name
    assert not list(out.glob("generator_000006*"))


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


# Warnings.


def of(images):
    """A data set of these images, (classes, number, ...) or (1, number, ...), for `Warnings`."""
    labels = np.repeat(np.arange(len(images)), images.shape[1])
    return run.data.Dataset("these", images.reshape(-1, *images.shape[2:]), labels, [])


@pytest.mark.parametrize(("classes", "words"), [(0, "the samples have"), (3, "the samples of a class have")])
def test_collapsed_samples_are_reported_once(classes, words, capsys):
    real = np.random.default_rng(0).integers(256, size=(max(1, classes), 64, 8, 8, 1), dtype=np.uint8)
    watch = health.Warnings(of(real), classes, "article")
    for step in range(0, 3000, 500):
        watch.samples(step, real.reshape(-1, 8, 8, 1) // 2)
    assert capsys.readouterr().err == ""
    for step in range(3000, 9000, 500):
        watch.samples(step, np.repeat(real[:, :1], 64, axis=1).reshape(-1, 8, 8, 1))
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {words} collapsed at step 3500") and err.count("\n") == 1


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
