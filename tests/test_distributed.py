"""Several devices and workers: the same training as one, in step to the bit, and no end of a worker that others miss.

Jobs are real processes on loopback. Each worker has a folder of its own, so nothing can pass between them there.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from conftest import ROOT, bad_input
from test_survival import contents, everything_opens, step_of

import command
import dcgan_keras
from tf1 import cluster, cores, distributed, tf
from training import folder as files
from training import logs

TIMEOUT = 900  # seconds for what takes ten on an idle machine
STATE = """
import hashlib, tiny_command, command, dcgan_keras, distributed
from tf1 import tf
leave = distributed.Worker.leave
def tell(job, sess):
    digest = hashlib.sha256()
    try:
        for variable in tf.global_variables():
            for copy in distributed.copies(variable):
                digest.update(sess.run(copy).tobytes())
        print("state", digest.hexdigest(), flush=True)
    except tf.errors.FailedPreconditionError:  # not initialized: it has not begun
        pass
    leave(job, sess)
distributed.Worker.leave = tell
command.run(dcgan_keras.main)
"""


def config(addresses, number, kind="worker", **cluster):
    return json.dumps({"cluster": {"worker": addresses, **cluster}, "task": {"type": kind, "index": number}})


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Running:
    """A job: `workers` processes of `python dcgan_keras.py` with the tiny pairs, in folders worker0, worker1 …"""

    def __init__(self, folder, workers, *arguments, own=None):
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
        self.folders = [folder / f"worker{i}" for i in range(workers)]
        self.processes = []
        for i, cwd in enumerate(self.folders):
            cwd.mkdir(exist_ok=True)
            line = [*map(str, (*arguments, *(own or {}).get(i, ())))]
            environment = {"TF_CONFIG": config(self.addresses, i), "PYTHONPATH": str(ROOT / "tests")}
            with open(folder / f"out{i}", "w") as out, open(folder / f"err{i}", "w") as err:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", STATE, "--out", "run", *line],
                        cwd=cwd,
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                    )
                )
        self.outputs = [(folder / f"out{i}", folder / f"err{i}") for i in range(workers)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def until(self, condition):
        """Wait for something that happens while all are running."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < TIMEOUT
            assert all(process.poll() is None for process in self.processes), self.errors()
            time.sleep(0.01)

    def errors(self):
        return [err.read_text() for _, err in self.outputs]

    def end(self, timeout=TIMEOUT):
        """Wait for all; (exit code, stdout, stderr) of each."""
        codes = [process.wait(timeout) for process in self.processes]
        return [(code, out.read_text(), err.read_text()) for code, (out, err) in zip(codes, self.outputs, strict=True)]

    def ends_well(self):
        results = self.end()
        assert [code for code, _, _ in results] == [0] * len(results), results
        return [line for _, out, _ in results for line in out.splitlines() if line.startswith("state")]


def state(out, step):
    with h5py.File(out / f"checkpoint_{step:06d}.h5") as file:
        return {name: file[name][()] for name in file}


def agrees(ours, theirs):
    """Within float32 rounding, of numbers around 1; powers and the step are the same."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


# One batch in parts.

PLAIN = ("--dataset", "faces", "--model", "plain", "--batch-size", 32)


@pytest.mark.parametrize("options", [(), ("--updates", "alternating")])
def test_two_devices_end_as_one_with_the_same_batch(options, tmp_path, dcgan):
    assert dcgan(*PLAIN, *options, "--steps", 20, "--out", "one").returncode == 0
    assert dcgan(*PLAIN, *options, "--steps", 20, "--devices", 2, "--out", "two").returncode == 0
    agrees(state(tmp_path / "two", 20), state(tmp_path / "one", 20))


def test_a_run_goes_on_with_another_number_of_devices(tmp_path, dcgan):
    """Where the number stays the same, to the same bits."""
    run = ("--dataset", "faces", "--model", "tiny", "--batch-size", 8)
    assert dcgan(*run, "--devices", 2, "--steps", 6, "--out", "whole").returncode == 0
    for steps in (3, 6):
        assert dcgan(*run, "--devices", 2, "--steps", steps, "--out", "pieces").returncode == 0
    whole, pieces = (contents(tmp_path / name)["checkpoint_000006.h5"] for name in ("whole", "pieces"))
    assert whole == pieces
    assert dcgan(*run, "--devices", 1, "--steps", 7, "--out", "pieces").returncode == 0
    assert step_of(files.checkpoints(tmp_path / "pieces")) == 7


@pytest.mark.parametrize("gpus", [0, 8])
def test_one_device_is_the_default(gpus, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
    arguments = dcgan_keras.parse(["--dataset", "faces"])
    job = distributed.join(arguments.devices, 32)
    assert (job.replicas, job.strategy, job.gpus) == (1, None, min(gpus, 1))
    config = job.config()
    assert config.gpu_options.visible_device_list == ("0" if gpus else "")


def test_all_devices_are_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 8)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", made.append)
    job = distributed.join(dcgan_keras.parse(["--devices", "all"]).devices, 32)
    assert made == [[f"/gpu:{i}" for i in range(8)]] and job.replicas == 8


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(dcgan, tmp_path):
    line = bad_input(dcgan("--dataset", "faces", "--model", "tiny", "--batch-size", 32, "--devices", 3))
    assert line == "error: --batch-size 32 is for all devices together and cannot be divided among 3\n"
    assert not list(tmp_path.iterdir())


def test_devices_are_named(monkeypatch):
    assert distributed.Job().device == f"CPU ({cores()} cores)"
    assert distributed.Job(local=2).device == f"CPU ({cores()} cores) as 2 devices"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second", "third"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": f"the {gpu}"})
    assert distributed.Job(local=2, gpus=2).device == "GPU 0 (the first), GPU 1 (the second)"


@pytest.mark.parametrize("options", [(), pytest.param(("--updates", "alternating"), marks=pytest.mark.long)])
def test_classes_on_two_devices(options, tmp_path, dcgan):
    run = ("--dataset", "faces", "--model", "acgan32", "--batch-size", 4, "--devices", 2, "--steps", 1)
    assert dcgan(*run, *options, "--out", "run").returncode == 0
    everything_opens(tmp_path / "run")


def test_every_replica_has_its_own_dropout(graph, sess):
    import models

    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    job = distributed.Job(strategy, 2)
    with job.scope():
        layer = models.SeededDropout(0.5, seed=1)
        tf.train.get_or_create_global_step()
        drops = job.run(lambda: layer(tf.ones((1000,)), training=True))
    with job.session() as two:
        two.run(tf.global_variables_initializer())
        first, second = two.run(drops)
    assert (first == 0).mean() == pytest.approx(0.5, abs=0.1)
    assert ((first == 0) != (second == 0)).mean() == pytest.approx(0.5, abs=0.1)


# In step.


def test_three_workers_hold_equal_weights_after_steps_of_the_articles_networks(tmp_path):
    with Running(tmp_path, 3, "--dataset", "faces", "--model", "article", "--steps", 6, "--batch-size", 12) as job:
        states = job.ends_well()
    assert len(states) == 3 and len(set(states)) == 1
    everything_opens(job.folders[0] / "run")
    assert not any(list(folder.iterdir()) for folder in job.folders[1:])


# The end of a worker, and going on.


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process where POSIX sends it SIGTERM")
def test_a_worker_is_killed_another_stopped_and_the_job_is_one_that_nobody_disturbed(tmp_path, dcgan):
    """To the bit as a job of the same workers, and to rounding as one process with the same batch."""
    run = (*PLAIN, "--checkpoint-every", 20, "--sample-every", 500, "--steps", 1_000_000)
    folder = tmp_path / "cut"
    folder.mkdir()
    out = folder / "worker0" / "run"

    def last():
        return step_of(files.checkpoints(out))

    with Running(folder, 2, *run) as job:
        job.until(lambda: last() >= 20)
        job.processes[0].kill()
        began = time.monotonic()
        code, _, err = job.end(timeout=60)[1]
        took = time.monotonic() - began
    print(f"worker 1 left {took:.1f} s after the end of worker 0")
    assert code == 1 and err.count("\n") == 1
    assert err.startswith(
        f"error: worker 0 ({job.addresses[0]}) is gone: start the job again, it resumes from the last"
    )
    everything_opens(out)

    before = last()
    with Running(folder, 2, *run) as job:  # SIGTERM to worker 1 stops both
        job.until(lambda: last() > before)
        job.processes[1].terminate()
        results = job.end()
    assert [code for code, _, _ in results] == [128 + signal.SIGTERM] * 2, results
    assert [err for _, _, err in results] == ["", ""]
    assert not list(job.folders[1].iterdir())
    stopped = last()
    assert f"stopped at step {stopped}, all saved" in results[0][1] and f"stopped at step {stopped}" in results[1][1]
    assert len(list(logs.read_losses(out / "losses.csv"))) == stopped

    whole = tmp_path / "whole"
    whole.mkdir()
    every = ("--checkpoint-every", 10_000, "--sample-every", 500, "--steps", stopped)
    with Running(whole, 2, *PLAIN, *every) as undisturbed:
        first, second = undisturbed.ends_well()
    assert first == second and all(first in output.splitlines() for _, output, _ in results)
    ours, theirs = contents(out), contents(whole / "worker0" / "run")
    for name in ("losses.csv", "generator.h5", f"checkpoint_{stopped:06d}.h5"):
        assert ours[name] == theirs[name]
    assert dcgan(*PLAIN, *every, "--out", "one").returncode == 0
    agrees(state(out, stopped), state(tmp_path / "one", stopped))
    # One process resumes what the job has left.
    result = dcgan(*PLAIN, "--steps", stopped + 2, "--out", out)
    assert result.returncode == 0 and f"from step {stopped}" in result.stdout


def test_workers_with_different_settings_are_told_which(tmp_path):
    own = {0: ("--loss", "bce"), 1: ("--loss", "minimax")}
    with Running(tmp_path, 2, *PLAIN, "--steps", 3, own=own) as job:
        results = job.end()
    for code, _, err in results:
        assert code == 2
        assert (
            err
            == "error: worker 1 has loss minimax, but worker 0 has bce: give all workers the same command and data\n"
        )
    assert not any(list(folder.iterdir()) for folder in job.folders)


def test_what_worker_0_finds_wrong_ends_all_in_one_line():
    """Its error is the note that all get."""
    worker = distributed.Worker.__new__(distributed.Worker)
    notes, left = [], []

    def say(sess, note):
        notes.append(note)
        return notes

    def restore():
        raise command.InputError("run is of another batch size")

    worker.notes, worker.leave = say, left.append
    for worker.index in (0, 1):
        with pytest.raises(command.InputError, match="run is of another batch size"):
            worker.begin("session", restore)
    assert notes == [{"error": "run is of another batch size"}, {}] and left == ["session"] * 2


# The watch.


@pytest.fixture
def silent(monkeypatch):
    """The address of what accepts connections and never says a word, as a machine does that hangs."""
    monkeypatch.setattr(cluster, "PROBE_EVERY", 0.1)
    monkeypatch.setattr(cluster, "PROBE_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_worker_that_is_silent_for_long_is_gone(silent):
    watch = cluster.Watch({"worker 1": silent})
    left = []

    def leave(name):
        left.append((name, time.monotonic() - began))
        watch.stopping.set()

    watch.leave = leave
    began = time.monotonic()
    watch.start()
    watch.join(60)
    ((name, seconds),) = left
    assert name == "worker 1" and seconds >= cluster.MISSED * 0.2


def test_a_worker_that_never_comes_is_named_and_given_up(silent, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "LATE", 0.2)
    monkeypatch.setattr(cluster, "TOO_LATE", 1)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(command.RunError, match=rf"^worker 2 \({address}\) did not come in 1 seconds"):
        cluster.Watch({"worker 2": address}).wait()
    assert capfd.readouterr().out == f"waiting for worker 2 ({address}), 1 seconds at most\n"


def test_another_process_at_the_same_address_is_not_the_same_worker():
    servers = [tf.train.Server.create_local_server() for _ in range(2)]
    addresses = [server.target.removeprefix("grpc://") for server in servers]
    watch, other = (cluster.Watch({"worker 1": address}) for address in addresses)
    watch.wait()
    assert watch.there("worker 1") and watch.there("worker 1")
    watch.calls = other.calls
    assert not watch.there("worker 1")


# TF_CONFIG.

ALONE = ["127.0.0.1:4000"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON like"),
        ("[" * 100_000, "is not JSON like"),
        ("[1]", "is not JSON like"),
        ('{"cluster": [1]}', "is not JSON like"),
        ('{"cluster": {"worker": "here:1"}}', "is not JSON like"),
        (config(["here"], 0), "is not JSON like"),
        (config(["here:99999"], 0), "is not JSON like"),
        (config(["4000"], 0), "is not JSON like"),
        (config([7], 0), "is not JSON like"),
        ('{"cluster": {"worker": ["here:1"]}}', "is not JSON like"),
        (config(["here:1"], "0"), "is not JSON like"),
        (config(["a:1", "a:1"], 0), "one address for two tasks"),
        (config(ALONE, 1), "makes this worker 1, but the cluster has worker 0"),
        (config(ALONE, -1), "makes this worker -1"),
        (config(ALONE, 0, "chief"), "makes this chief 0"),
        (config(ALONE, 0, "evaluator"), "makes this evaluator 0"),
        (config(ALONE, 0, ps=["b:1"]), "has tasks of type 'ps'"),
        (config(ALONE, 0, chief=["b:1", "c:1"]), "more than one chief"),
    ],
)
def test_a_wrong_TF_CONFIG_is_one_line(text, words):
    with pytest.raises(command.InputError, match="TF_CONFIG ") as caught:
        cluster.task_of(text)
    assert words in str(caught.value)


def test_the_command_refuses_a_wrong_TF_CONFIG(dcgan, monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", "{")
    assert bad_input(dcgan("--dataset", "faces", "--model", "tiny")).startswith("error: TF_CONFIG ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [None, "", "{}", '{"environment": "cloud", "cluster": {}}'])
def test_without_a_cluster_a_process_is_alone(text):
    assert cluster.task_of(text) is None


@pytest.mark.skipif(os.name != "posix", reason="the program that stands in for Python is a shell script")
def test_the_job_by_hand_of_the_page_is_one(tmp_path):
    """Its commands, with a `python` that shows what it was given."""
    page = (ROOT / "docs" / "distributed.md").read_text()
    shown = tmp_path / "python"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG"\n')
    shown.chmod(0o700)
    program = page[page.index("export CLUSTER") :].split("```")[0] + "wait\n"
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = subprocess.run(["bash", "-c", program], env={"PATH": path}, capture_output=True, text=True, check=True)
    tasks = [cluster.task_of(line) for line in result.stdout.splitlines()]
    assert sorted(task.name for task in tasks) == ["worker 0", "worker 1"]
    assert tasks[0].cluster == tasks[1].cluster


def test_a_chief_is_the_first_worker():
    task = cluster.task_of(config(["b:1", "c:1"], 1, chief=["a:1"]))
    assert task.names == {"chief 0": "a:1", "worker 0": "b:1", "worker 1": "c:1"}
    assert list(task.names).index(task.name) == 2


def test_a_port_in_use_is_one_line(dcgan, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", config([f"127.0.0.1:{port}"], 0))
        line = bad_input(dcgan("--dataset", "faces", "--model", "tiny"))
    assert line.startswith(f"error: TF_CONFIG gives worker 0 the address 127.0.0.1:{port}; is its port in use here?")


def test_a_cluster_of_one(dcgan, monkeypatch, tmp_path):
    run = ("--dataset", "faces", "--model", "tiny", "--steps", 3, "--batch-size", 4, "--out")
    assert dcgan(*run, "alone").returncode == 0
    monkeypatch.setenv("TF_CONFIG", config([], 0, "chief", chief=[f"127.0.0.1:{free_ports(1)[0]}"]))
    assert dcgan(*run, "job").returncode == 0
    agrees(state(tmp_path / "job", 3), state(tmp_path / "alone", 3))


@pytest.mark.parametrize("options", [("--recipe", "two-model"), ("--devices", 2)])
def test_what_a_worker_cannot_do_is_one_line(options, dcgan, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(["127.0.0.1:4000"], 0))
    assert options[0] in bad_input(dcgan("--dataset", "faces", "--model", "tiny", *options))
