"""A run that is cut, killed, interrupted, out of room, or long: what it keeps, and that it goes on to the same bits."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import data
import dcgan_keras
from tf1 import tf
from training import checkpoints, logs
from training import folder as files
from training import run as training

TINY = ("--dataset", "faces", "--model", "tiny", "--out", "run")
TINY_COMMAND = [sys.executable, str(ROOT / "tests" / "tiny_command.py")]


def is_whole(checkpoint):
    content = checkpoint.read_bytes()
    checksum = hashlib.sha256(content[checkpoints.HEADER :]).hexdigest().encode()
    return content[: checkpoints.HEADER] == checksum.ljust(checkpoints.HEADER, b"\0")


def step_of(paths):
    return int(paths[-1].stem.split("_")[1]) if paths else 0


def contents(out):
    """What a run leaves, by name, but for the times that are in TensorBoard's files."""
    return {p.name: p.read_bytes() for p in out.iterdir() if not p.name.startswith((".lock", "events.out"))}


def everything_opens(out):
    """Open every file of a run. Hidden ones are those that are still being written."""
    for path in out.iterdir() if out.exists() else []:
        if path.name.startswith("."):
            continue
        match path.name.split("_")[0].split(".")[0], path.suffix:
            case "checkpoint", ".h5":
                assert is_whole(path), path
            case _, ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
            case _, ".png" | ".gif":
                with Image.open(path) as picture:
                    for frame in range(getattr(picture, "n_frames", 1)):
                        picture.seek(frame)
                        picture.load()
            case _, ".csv":
                steps = [step for step, _, _ in logs.read_losses(path)]
                assert steps == list(range(1, len(steps) + 1))
                assert len(path.read_text().splitlines()) - 1 <= len(steps) + 1  # one line at most may be cut
            case "run", ".json":
                assert checkpoints.read_run(out)
            case "events", _:
                with contextlib.suppress(
                    tf.errors.DataLossError
                ):  # a last record that was cut, as TensorBoard takes it
                    for _ in tf.train.summary_iterator(str(path)):
                        pass
            case _:
                raise AssertionError(path)


# Resume.


@pytest.fixture
def watched(monkeypatch):
    """Watch every step of the command: `watched.fed` has a digest of the pictures and the noise of each, which must be
    the same whenever a step is taken again; `watched.then` has what is to happen after a step, {step: function}."""

    class Watched:
        fed, then = {}, {}

    def gan(*networks, _gan=dcgan_keras.gan, **options):
        gan_feed = _gan(*networks, **options)
        counter = tf.train.get_global_step()

        def feed(sess, *batch, scores):
            step = int(sess.run(counter)) + 1
            digest = hashlib.sha256(b"".join(array.tobytes() for array in batch)).digest()
            assert Watched.fed.setdefault(step, digest) == digest
            losses = gan_feed(sess, *batch, scores=scores)
            Watched.then.pop(step, lambda: None)()
            return losses

        return feed

    monkeypatch.setitem(dcgan_keras.RECIPES, "one-pass", gan)
    return Watched


def signalled():
    signal.raise_signal(signal.SIGINT)  # saves


def crashed():
    raise KeyboardInterrupt  # saves nothing


@pytest.mark.parametrize(("model", "batch_size"), [("tiny", 96), pytest.param("article", 32, marks=pytest.mark.long)])
def test_400_steps_cut_at_random_points_end_with_the_same_bits(model, batch_size, dcgan, watched, tmp_path):
    """`shapes` has 10,000 pictures: an epoch of 104 or of 312 batches, so most cuts are in the middle of one."""
    run = ("--dataset", "faces", "--model", model, "--batch-size", batch_size, "--steps", 400)
    run += ("--checkpoint-every", 50, "--sample-every", 100)
    assert dcgan(*run, "--out", "whole").returncode == 0
    cuts = sorted(random.Random(5).sample(range(1, 400), 4))
    for number, cut in enumerate(cuts):
        watched.then[cut] = [signalled, crashed][number % 2]
        assert dcgan(*run, "--out", "pieces").returncode == 130
    assert dcgan(*run, "--out", "pieces").returncode == 0
    assert not watched.then and watched.fed.keys() == set(range(1, 401))
    whole, pieces = contents(tmp_path / "whole"), contents(tmp_path / "pieces")
    with h5py.File(tmp_path / "whole" / "checkpoint_000400.h5") as file:
        names = " ".join(file)
    for kind in ("kernel.Adam", "kernel.Adam_1", "beta1_power", "beta2_power", "moving_mean", "moving_variance"):
        assert kind in names
    assert whole.keys() == pieces.keys()
    assert [name for name in whole if whole[name] != pieces[name]] == []


# Kill.


@pytest.mark.parametrize(
    ("program", "model", "kills"),
    [
        (TINY_COMMAND, "tiny", 4),
        pytest.param([sys.executable, str(ROOT / "dcgan_keras.py")], "article", 30, marks=pytest.mark.long),
    ],
)
def test_killed_at_any_moment_a_run_ends_with_the_same_bits(program, model, kills, tmp_path):
    steps, every = 3 * kills + 4, 2
    arguments = ["--dataset", "faces", "--batch-size", "4", "--model", model, "--steps", str(steps)]
    arguments += ["--sample-every", "1", "--checkpoint-every", str(every), "--out"]
    moments = random.Random(kills)
    out = tmp_path / "killed"

    def samples():
        return files.numbered(out, "step", "png")

    hits = 0
    for _ in range(kills):
        target = step_of(samples()) + moments.randint(1, 3)
        with subprocess.Popen([*program, *arguments, "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL) as run:
            while step_of(samples()) < target and run.poll() is None:
                time.sleep(0.002)
            times = [path.stat().st_mtime for path in samples()[-2:]]
            time.sleep(moments.uniform(0, min(1, times[-1] - times[0])))  # about a step and a save
            run.kill()
        assert run.returncode == -signal.SIGKILL
        hits += any(out.glob(".partial-*"))
        everything_opens(out)
        assert step_of(samples()) - step_of(files.checkpoints(out)) <= every
    print(f"{hits} of {kills} kills while a file was being written")
    assert hits or kills < 30
    for folder in ("killed", "whole"):
        subprocess.run([*program, *arguments, folder], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
        everything_opens(tmp_path / folder)
    killed, whole = contents(out), contents(tmp_path / "whole")
    assert killed.keys() == whole.keys()  # so no partial file is left
    assert [name for name in whole if killed[name] != whole[name]] == []


# Signals.


def test_a_signal_ends_the_run_with_the_step_that_it_came_in(dcgan, watched, tmp_path):
    watched.then[3] = signalled
    result = dcgan(*TINY, "--steps", 9)
    assert result.returncode == 130 and result.stderr == ""
    assert result.stdout.splitlines()[-1].startswith("stopped at step 3, all saved")
    assert step_of(files.checkpoints(tmp_path / "run")) == 3
    with Image.open(tmp_path / "run" / "progress.gif") as film:
        assert film.n_frames == 1


def test_a_signal_while_it_saves_ends_the_run_with_the_next_step(dcgan, tmp_path, monkeypatch):
    """What is printed holds: between the save and the line that says so, no signal can slip in."""
    save, saved = checkpoints.save_checkpoint, []

    def interrupted_save(out, sess, step, settings):
        save(out, sess, step, settings)
        saved.append(step)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "save_checkpoint", interrupted_save)
    result = dcgan(*TINY, "--steps", 9, "--checkpoint-every", 4)
    assert result.returncode == 128 + signal.SIGTERM and saved == [4, 5]
    assert result.stdout.splitlines()[-1].startswith("stopped at step 5, all saved")


def test_a_second_signal_leaves_at_once_without_harm(dcgan, tmp_path):
    slow_disk = """
import time, tiny_command, command, dcgan_keras, files
sync = files._sync
files._sync = lambda path: time.sleep(100) if "checkpoint_000004" in path.name else sync(path)
command.run(dcgan_keras.main)
"""
    arguments = (*TINY, "--steps", "6", "--checkpoint-every", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(
        [sys.executable, "-c", slow_disk, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    ) as run:
        while not (tmp_path / "run" / ".partial-checkpoint_000004.h5").exists() and run.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert run.poll() is None  # it would save and leave, if the disk let it
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=20)
    assert run.returncode == 130 and stderr == b""
    everything_opens(tmp_path / "run")
    assert step_of(files.checkpoints(tmp_path / "run")) == 2
    result = dcgan(*arguments)
    assert result.returncode == 0 and "resuming from step 2" in result.stdout
    assert not list((tmp_path / "run").glob(".partial-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_is_one_line(number, dcgan, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: signal.raise_signal(number))
    result = dcgan(*TINY)
    assert (result.returncode, result.stderr) == (128 + number, "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_tensorflow_loads_is_silent():
    code = """
import signal, sys
class CtrlC:
    def find_spec(self, name, *_):
        if name.startswith("tensorflow"):
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
import tf1
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


# A full disk, a folder that is closed or gone.


def mounted(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@pytest.fixture
def unmount():
    """A list of mount points, which are undone in the end."""
    points = []
    yield points
    for point in reversed(points):
        subprocess.run(["umount", "-l", str(point)], check=True)


def cannot_go_on(result, *words):
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    for word in ("error: run can no longer be written", *words):
        assert word in result.stderr


@pytest.mark.parametrize("left", [0, 100])
def test_a_full_disk_stops_the_run_and_harms_nothing(left, dcgan, watched, tmp_path, unmount):
    """At step 5, all but `left` KB of a small disk are taken: the log finds no room, or the checkpoint."""
    out, steps = tmp_path / "run", ("--steps", 8, "--checkpoint-every", 4, "--sample-every", 8)
    out.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", out):
        pytest.skip("only root can mount a small disk")
    unmount.append(out)
    filler = out / "filler"

    def fill():
        filler.write_bytes(bytes(shutil.disk_usage(out).free - left * 1024))

    watched.then[5] = fill
    cannot_go_on(
        dcgan(*TINY, *steps), "No space left on device", "the last good checkpoint is run/checkpoint_000004.h5"
    )
    filler.unlink()
    everything_opens(out)
    assert dcgan(*TINY, *steps).returncode == 0
    assert dcgan(*TINY, *steps, "--out", "other").returncode == 0
    assert contents(out) == contents(tmp_path / "other")


def close(out, unmount):
    if os.geteuid():
        out.chmod(0o500)
    else:  # whom permissions do not stop
        unmount.append(out)
        assert mounted("--bind", out, out) and mounted("-o", "remount,bind,ro", out)


def move(out, unmount):
    out.rename(out.with_name("moved"))


def remove(out, unmount):
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("happens", "where", "words"),
    [
        (close, "run", ("the last good checkpoint is run/checkpoint_000004.h5",)),
        (move, "moved", ("No such file or directory", "there is no checkpoint")),
        (remove, None, ("No such file or directory", "there is no checkpoint")),
    ],
)
def test_a_folder_that_is_closed_or_gone_stops_the_run(happens, where, words, dcgan, watched, tmp_path, unmount):
    watched.then[5] = lambda: happens(tmp_path / "run", unmount)
    cannot_go_on(dcgan(*TINY, "--steps", 9, "--checkpoint-every", 4), *words)
    (tmp_path / "run").chmod(0o700) if happens is close and os.geteuid() else None
    if where:
        everything_opens(tmp_path / where)
        assert step_of(files.checkpoints(tmp_path / where)) == 4
    else:
        assert not list(tmp_path.iterdir())


# A long run.

MEASURED = """
import json, os, sys, time, tiny_command, command, data, dcgan_keras
from tf1 import tf
load = data.load
def few(*arguments, **options):
    dataset = load(*arguments, **options)
    return dataset._replace(images=dataset.images[:4], labels=dataset.labels[:4])
data.load = few
gan, page = dcgan_keras.gan, os.sysconf("SC_PAGE_SIZE")
def measured_gan(*networks, **options):
    gan_feed, step = gan(*networks, **options), 0
    def feed(*arguments, **options):
        nonlocal step
        losses = gan_feed(*arguments, **options)
        step += 1
        if step % 500 == 0:
            memory = int(open("/proc/self/statm").read().split()[1]) * page
            graph = tf.get_default_graph()
            measured = step, memory, time.process_time(), len(graph.get_operations()), graph.finalized
            print(json.dumps(measured), file=sys.stderr)
        return losses
    return feed
dcgan_keras.RECIPES["one-pass"] = measured_gan
command.run(dcgan_keras.main)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize(("early", "steps"), [(500, 2_000), pytest.param(1_000, 20_000, marks=pytest.mark.long)])
def test_a_long_run_takes_no_more_memory_and_no_more_time(early, steps, tmp_path):
    """Of as many epochs as steps, so that what an epoch costs counts too."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *TINY, "--batch-size", "4", "--steps", str(steps)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    measured = {step: rest for step, *rest in map(json.loads, result.stderr.splitlines())}
    assert measured.keys() == set(range(500, steps + 1, 500))
    assert all(finalized for *_, finalized in measured.values())
    memory, operations = ([measured[step][i] for step in (early, steps)] for i in (0, 2))
    times = np.diff([measured[step][1] for step in range(early, steps + 1, 500)])  # of computing, not of waiting
    first, last = np.median(times[: len(times) // 3]), np.median(times[-(len(times) // 3) :])
    print(f"memory {memory[0] / 1e6:.0f} and {memory[1] / 1e6:.0f} MB, {first:.2f} and {last:.2f} s per 500 steps")
    assert memory[1] < 1.02 * memory[0]
    assert operations[0] == operations[1]
    assert last < 1.3 * first
