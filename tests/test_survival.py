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
from conftest import ROOT, SHORT, bad_input, contents, gone_console
from PIL import Image

import command
import data
import dcgan_keras
from tf1 import tf
from training import folder, logs
from training.folder import RunFolder, numbered, read_run, step_of

TINY_COMMAND = [sys.executable, str(ROOT / "tests" / "tiny_command.py")]
TESTS = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}

posix = pytest.mark.skipif(os.name != "posix", reason="needs the signals and locks of POSIX")


def last_step(paths):
    return step_of(paths[-1]) if paths else 0


def everything_opens(out):
    """Open every file of a run, but for those that are still being written."""
    for path in out.iterdir() if out.exists() else []:
        match path.name.split("_")[0].split(".")[0], path.suffix:
            case "checkpoint" | "state", ".index":
                with contextlib.suppress(tf.errors.DataLossError, tf.errors.OutOfRangeError):
                    reader = tf.train.load_checkpoint(str(path.with_suffix("")))
                    for name in reader.get_variable_to_shape_map():
                        reader.get_tensor(name)
            case "generator" | "discriminator", ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
            case "step" | "progress", _:
                with Image.open(path) as picture:
                    picture.load()
            case "losses" | "epochs", ".csv":
                steps = [step for step, _, _ in logs.read_losses(path)]
                assert steps == list(range(1, len(steps) + 1))
                assert len(path.read_text().splitlines()) - 1 <= len(steps) + 1  # one line at most may be cut
            case "run", ".json":
                assert read_run(out)


# Resume.


@pytest.fixture
def watched(monkeypatch):
    """Watch every step of the command: `watched.fed` has a digest of the images and the noise of each, which must be
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


@pytest.mark.long
def test_steps_cut_at_random_points_end_with_the_same_bits(dcgan, watched, tmp_path):
    """1,000 faces in batches of 48 are an epoch of 20 steps, so most cuts are in the middle of one."""
    run = (*SHORT, "--batch-size", 48, "--steps", 50, "--checkpoint-every", 9, "--sample-every", 20)
    assert dcgan(*run, "--out", "whole").returncode == 0
    for number, cut in enumerate(sorted(random.Random(5).sample(range(10, 45), 2))):
        watched.then[cut] = [signalled, crashed][number % 2]
        assert dcgan(*run, "--out", "pieces").returncode == 130
    assert dcgan(*run, "--out", "pieces").returncode == 0
    assert not watched.then and watched.fed.keys() == set(range(1, 51))
    whole, pieces = contents(tmp_path / "whole"), contents(tmp_path / "pieces")
    assert whole.keys() == pieces.keys()
    assert [name for name in whole if whole[name] != pieces[name]] == []


# Kill.

RESUMED_AND_WHOLE = """
import sys, tiny_command, dcgan_keras
from tf1 import tf
for out in ("killed", "whole"):
    with tf.Graph().as_default():
        assert dcgan_keras.main([*sys.argv[1:], "--out", out]) == 0
"""


@posix
@pytest.mark.parametrize(("model", "kills"), [("tiny", 1), pytest.param("article", 30, marks=pytest.mark.long)])
def test_killed_at_any_moment_a_run_ends_with_the_same_bits(model, kills, tmp_path):
    steps, every = 3 * kills + 4, 2
    run = [*SHORT, "--model", model, "--steps", str(steps), "--sample-every", "1", "--checkpoint-every", str(every)]
    moments, out, hits = random.Random(), tmp_path / "killed", 0

    def samples():
        return numbered(out, "step", "png")

    for _ in range(kills):
        target = last_step(samples()) + moments.randint(1, 3)
        command_line = [*TINY_COMMAND, *run, "--out", "killed"]
        with subprocess.Popen(command_line, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
            while last_step(samples()) < target and process.poll() is None:
                time.sleep(0.002)
            times = [path.stat().st_mtime for path in samples()[-2:]]
            time.sleep(moments.uniform(0, min(1, times[-1] - times[0])))  # about a step and a save
            process.kill()
        assert process.returncode == -signal.SIGKILL
        hits += any(out.glob(".partial-*")) or any(out.glob("*temp*"))
        everything_opens(out)
        assert last_step(samples()) - last_step(RunFolder(out).checkpoints()) <= every + 1
    print(f"{hits} of {kills} kills while a file was being written")
    subprocess.run(
        [sys.executable, "-c", RESUMED_AND_WHOLE, *run], cwd=tmp_path, env=TESTS, check=True, capture_output=True
    )
    killed, whole = contents(out), contents(tmp_path / "whole")
    assert killed.keys() == whole.keys()  # so no partial file is left
    assert [name for name in whole if killed[name] != whole[name]] == []


# Signals.


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_end_saves_with_the_step_that_it_came_in(name, dcgan, watched, tmp_path):
    number = getattr(signal, name)
    watched.then[2] = lambda: signal.raise_signal(number)
    result = dcgan(*SHORT, "--steps", 9)
    assert result.returncode == 128 + number and result.stderr == ""
    assert result.stdout.splitlines()[-1] == "stopped at step 2, all saved: rerun the command to resume"
    assert last_step(RunFolder(tmp_path / "run").checkpoints()) == 2
    with Image.open(tmp_path / "run" / "progress.gif") as animation:
        assert animation.n_frames == 1
    assert [row[0] for row in logs.read_losses(tmp_path / "run" / "losses.csv")] == [1, 2]


@posix
def test_all_that_a_system_sends_to_end_a_job_is_such_a_signal():
    for name in (
        "INT",
        "TERM",
        "HUP",
        "QUIT",
        "USR1",
        "USR2",
        "XCPU",
        "ALRM",
        *(["PWR"] if hasattr(signal, "SIGPWR") else []),
    ):
        with command.remembered() as came:
            signal.raise_signal(getattr(signal, f"SIG{name}"))
            assert came() == getattr(signal, f"SIG{name}")


@posix
def test_a_signal_that_is_ignored_as_by_nohup_does_not_end_the_run(dcgan, watched):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        watched.then[1] = lambda: signal.raise_signal(signal.SIGHUP)
        assert dcgan(*SHORT, "--steps", 2).returncode == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_it_saves_ends_the_run_with_the_next_step(dcgan, monkeypatch):
    """What is printed holds: between the save and the line that says so, no signal can slip in."""
    save, saved = tf.train.Saver.save, []

    def interrupted_save(saver, sess, path, **options):
        save(saver, sess, path, **options)
        if "checkpoint" in path:
            saved.append(int(path[-6:]))
        if saved == [4]:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(tf.train.Saver, "save", interrupted_save)
    result = dcgan(*SHORT, "--steps", 9)
    assert result.returncode == 128 + signal.SIGTERM and saved == [4, 5]
    assert " - stopping: saving the run\n" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("stopped at step 5, all saved")


SLOW_DISK = """
import time, tiny_command, command, dcgan_keras
from tf1 import tf
save = tf.train.Saver.save
def slow(saver, sess, path, **options):
    if path.endswith("000004"):
        open("saving", "w").close()
        time.sleep(100)
    save(saver, sess, path, **options)
tf.train.Saver.save = slow
command.run(dcgan_keras.main)
"""


@posix
def test_a_second_ctrl_c_leaves_at_once_without_harm(dcgan, tmp_path):
    run = (*SHORT, "--checkpoint-every", "2", "--steps", "6")
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_DISK, *run], cwd=tmp_path, env=TESTS, stderr=subprocess.PIPE
    ) as process:
        while not (tmp_path / "saving").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None  # it would save and leave, if the disk let it
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130 and stderr == b""
    everything_opens(tmp_path / "run")
    assert "resuming from step 2" in dcgan(*run).stdout


@posix
def test_a_signal_before_the_first_step_is_one_line(dcgan, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: signal.raise_signal(signal.SIGUSR1))
    result = dcgan(*SHORT)
    assert (result.returncode, result.stderr) == (128 + signal.SIGUSR1, "interrupted\n")
    assert not list(tmp_path.iterdir())


# A console that goes away.


@posix
def test_a_run_trains_on_without_a_console(dcgan, watched, tmp_path, monkeypatch):
    """The terminal hangs up, then the output is a full pipe that nobody reads."""
    monkeypatch.setattr(command, "STALLED", 0.1)
    out, err = sys.stdout, sys.stderr

    def goes(kind):
        sys.stdout = sys.stderr = command.Console(open(gone_console(kind), "w"))  # noqa: SIM115
        print("x" * 1000)

    watched.then = {1: lambda: goes("a terminal that hangs up"), 2: lambda: goes("a full pipe that waits")}
    try:
        with tf.Graph().as_default():
            assert dcgan_keras.main([*SHORT, "--steps", "4"]) == 0
        sys.stdout.leave().close()
    finally:
        sys.stdout, sys.stderr = out, err
    assert last_step(RunFolder(tmp_path / "run").checkpoints()) == 4


@posix
def test_a_run_piped_into_head_without_stderr_ends_whole(tmp_path):
    line = " ".join([*TINY_COMMAND, *SHORT, "--steps 20 2>&- | head -n 1"])
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("tiny on ") and done.stderr == ""
    for _ in range(200):
        if (tmp_path / "run" / "progress.gif").exists():
            break
        time.sleep(0.1)
    assert last_step(RunFolder(tmp_path / "run").checkpoints()) == 20


# Two runs, a file system that lacks a service.


@posix
def test_a_second_run_into_the_same_folder_is_refused(dcgan, tmp_path):
    with RunFolder(tmp_path / "run").locked():
        for option in ((), ("--restart",)):
            assert "another run is writing to run" in bad_input(dcgan(*SHORT, "--steps", 2, *option))
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["run"]
    assert dcgan(*SHORT, "--steps", 1).returncode == 0  # the lock is gone with the run


def fails(code):
    def call(*_):
        raise OSError(code, os.strerror(code))

    return call


@posix
def test_a_file_system_without_locks_and_sync_is_one_warning(dcgan, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(os, "fsync", fails(22))  # EINVAL
    monkeypatch.setattr(folder.fcntl, "flock", fails(37))  # ENOLCK
    result = dcgan(*SHORT, "--steps", 1)
    assert result.returncode == 0 and result.stderr.startswith("warning: run cannot be locked")
    assert result.stderr.count("\n") == 1
    for code in (38, 95, 22, 524):  # ENOSYS, EOPNOTSUPP, EINVAL, and what NFS says
        monkeypatch.setattr(folder.fcntl, "flock", fails(code))
        with RunFolder(tmp_path / "run").locked():
            assert capfd.readouterr().err.count("cannot be locked") == 1


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


@posix
def test_a_full_disk_stops_the_run_and_harms_nothing(dcgan, ran, watched, tmp_path, unmount):
    """At step 5 a small disk is full, and the log finds no room. Then 30 KB are left: the checkpoint finds none."""
    out = tmp_path / "run"
    out.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", out):
        pytest.skip("only root can mount a small disk")
    unmount.append(out)
    filler = out / "filler"
    for left in (0, 30):
        watched.then[5] = lambda kb=left: filler.write_bytes(bytes(shutil.disk_usage(out).free - kb * 1024))
        last = "the last good checkpoint is run/checkpoint_000004"
        cannot_go_on(dcgan(*SHORT, "--steps", 8), "No space left on device", last)
        filler.unlink()
        everything_opens(out)
    assert dcgan(*SHORT, "--steps", 8).returncode == 0
    assert contents(out) == contents(ran("--steps", 8, out="other"))


def close(out, unmount):
    if os.geteuid():
        out.chmod(0o500)
    else:  # whom permissions do not stop
        unmount.append(out)
        assert mounted("--bind", out, out) and mounted("-o", "remount,bind,ro", out)


def move(out, unmount):
    out.rename(out.with_name("moved"))


@posix
@pytest.mark.parametrize(
    ("happens", "where", "words"),
    [
        (close, "run", ("the last good checkpoint is run/checkpoint_000004",)),
        (move, "moved", ("No such file or directory", "there is no checkpoint")),
    ],
)
def test_a_folder_that_is_closed_or_gone_stops_the_run(happens, where, words, dcgan, watched, tmp_path, unmount):
    watched.then[5] = lambda: happens(tmp_path / "run", unmount)
    cannot_go_on(dcgan(*SHORT, "--steps", 9), *words)
    (tmp_path / "run").chmod(0o700) if happens is close and os.geteuid() else None
    everything_opens(tmp_path / where)
    assert last_step(RunFolder(tmp_path / where).checkpoints()) == 4
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == [where]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("Unable to synchronously write (errno = 27, error message = '...')"), "File too large"),
        (tf.errors.UnknownError(None, None, "run/checkpoint: Stale file handle"), "Stale file handle"),
        (RuntimeError("Unable to close file (errno = 5, error message = '...')"), "Input/output error"),
        (RuntimeError("a fault of the program"), None),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), None),
    ],
)
def test_only_a_failed_write_is_called_a_disk_that_cannot_be_written(error, line, tmp_path):
    kind = command.RunError if line else type(error)
    text = f"run can no longer be written .{line}" if line else None
    with pytest.raises(kind, match=text), RunFolder(tmp_path / "run").writing():
        raise error


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
@pytest.mark.long
def test_a_long_run_takes_no_more_memory_and_no_more_time(tmp_path):
    """As many epochs as steps, so that what an epoch costs counts too."""
    early, steps = 1_000, 20_000
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURED,
            *SHORT,
            "--sample-every",
            "500",
            "--checkpoint-every",
            "500",
            "--steps",
            str(steps),
        ],
        cwd=tmp_path,
        env=TESTS,
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
