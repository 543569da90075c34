"""Several devices and workers train as one. The devices here are parts of the CPU, the jobs are on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, bad_input, plain_pair, tiny_pair
from PIL import Image

import command
import dcgan_keras
from tf1 import cores, distributed, keras, layers, set_seed, tf
from training.settings import number_or_all


def batches(steps, size=8):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield rng.uniform(-1, 1, (size, 32, 32, 3)).astype(np.float32), rng.standard_normal((size, 5), np.float32)


# Several devices in one process.


@pytest.fixture
def on_devices():
    """Build a pair and its step on this number of devices: (session, step, both networks, saver)."""
    with tf.Graph().as_default():

        def build(pair, devices, **options):
            set_seed(0)
            job = distributed.join(devices, 8)
            sess = job.session()
            keras.backend.set_session(sess)
            with job.scope():
                networks = pair["generator"](), pair["discriminator"]()
                step = job.build(dcgan_keras.gan, *networks, batch_size=8, learning_rate=1e-3, **options)
            saver = tf.train.Saver(tf.global_variables(), max_to_keep=2)
            sess.run(tf.global_variables_initializer())
            return sess, step, networks, saver

        yield build


@pytest.mark.parametrize("alternating", [False, pytest.param(True, marks=pytest.mark.long)])
def test_two_devices_end_as_one_with_the_same_batch(alternating, on_devices):
    """Up to rounding, without batch statistics."""
    ends = []
    for devices in (1, 2):
        with tf.Graph().as_default():
            sess, step, networks, _ = on_devices(plain_pair(), devices, alternating=alternating)
            losses = [step(sess, *batch) for batch in batches(6)]
            ends.append([losses, *(weight for network in networks for weight in network.get_weights())])
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_all_devices_hold_one_state_and_tensorflows_saver_restores_it_on_each(on_devices, tmp_path):
    """With batch statistics. After a resume the bits are those of an uninterrupted run."""
    sess, step, _, saver = on_devices(tiny_pair(), 2)

    def state():
        return [[copy.tobytes() for copy in sess.run(distributed.copies(v))] for v in tf.global_variables()]

    def go_on():
        losses = [step(sess, *batch) for batch in batches(3)]
        return losses, state()

    go_on()
    path = saver.save(sess, str(tmp_path / "checkpoint"), global_step=3, write_meta_graph=False)
    saved, undisturbed = state(), go_on()
    assert all(first == second for first, second in undisturbed[1])
    assert all(before != after for before, after in zip(saved, undisturbed[1], strict=True))
    saver.restore(sess, path)
    assert state() == saved and go_on() == undisturbed


def test_every_replica_has_its_own_dropout(graph):
    job = distributed.join(2)
    with job.scope():
        layer = layers.SeededDropout(0.5, seed=1)
        tf.train.get_or_create_global_step()
        drops = job.run(lambda: layer(tf.ones((1000,)), training=True))
    with job.session() as two:
        two.run(tf.global_variables_initializer())
        first, second = two.run(drops)
    assert ((first == 0) != (second == 0)).mean() == pytest.approx(0.5, abs=0.1)


def test_the_command_trains_on_two_devices_and_resumes_on_one(pictures, dcgan):
    run = ("--dataset", "folder", "--data-dir", pictures, "--model", "tiny", "--batch-size", 8, "--out", "run")
    assert dcgan(*run, "--devices", 2, "--steps", 2).returncode == 0
    result = dcgan(*run, "--devices", 1, "--steps", 3)
    assert result.returncode == 0 and "from step 2" in result.stdout


def test_devices_that_cannot_be_used_are_refused(dcgan, tmp_path):
    line = bad_input(dcgan("--dataset", "faces", "--model", "tiny", "--batch-size", 32, "--devices", 3))
    assert line == "error: --batch-size 32 is for all devices together and cannot be divided among 3\n"
    assert not list(tmp_path.iterdir())


def test_gpus_are_used_one_by_default_and_all_when_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 8)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "A100"})
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", made.append)
    one, all_of_them = (distributed.join(number_or_all(text), 32) for text in ("1", "all"))
    assert (one.replicas, one.device) == (1, "GPU 0 (A100)")
    assert one.config().gpu_options.visible_device_list == "0"
    assert made == [[f"/gpu:{i}" for i in range(8)]] and all_of_them.replicas == 8
    with pytest.raises(command.InputError, match="--devices 9: TensorFlow finds 8 GPUs"):
        distributed.join(9)


def test_the_processor_is_named():
    assert distributed.join(2, 32).device == f"CPU ({cores()} cores) as 2 devices"


# Several workers: here two threads, each a worker with a server and a graph of its own.


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def workers_do(work):
    """Call work(job, sess, weights) in two workers, whose weights begin as 1 and 2; returns both results."""
    addresses = free_addresses(2)

    def worker(index):
        with tf.Graph().as_default():
            job = distributed.Worker(distributed.Task({"worker": addresses}, "worker", index), 0)
            with job.scope():
                weights = tf.get_variable("weights", (3,), initializer=tf.constant_initializer(index + 1.0))
                network = keras.layers.Layer()
                job.build(lambda *networks, adam: lambda sess: None, network, network)
            with job.session() as sess:
                sess.run(tf.global_variables_initializer())
                return work(job, sess, weights)

    with ThreadPoolExecutor() as threads:
        return list(threads.map(worker, range(2)))


def test_a_job_begins_with_the_state_of_worker_0_also_without_a_checkpoint(tmp_path):
    def work(job, sess, weights):
        saver = tf.train.Saver(tf.global_variables(), max_to_keep=2)
        begun = job.begin(sess, lambda: 0), sess.run(weights).tolist()
        if job.index == 0:
            sess.run(distributed.copies(weights)[0].assign([4, 5, 6]))
            path = saver.save(sess, str(tmp_path / "checkpoint"), global_step=7, write_meta_graph=False)
            sess.run(distributed.copies(weights)[0].assign([0, 0, 0]))
        return begun, (job.begin(sess, lambda: saver.restore(sess, path) or 7), sess.run(weights).tolist())

    assert workers_do(work) == [((0, [1, 1, 1]), (7, [4, 5, 6]))] * 2


def test_what_workers_disagree_on_or_worker_0_refuses_is_the_same_line_in_all():
    def work(job, sess, weights):
        def refuse():
            assert job.index == 0
            raise command.InputError("run is of another batch size")

        with pytest.raises(command.InputError) as refused:
            job.begin(sess, refuse)
        with pytest.raises(command.InputError) as different:
            job.agree(sess, lambda: {"seed": 0, "loss": ("bce", "minimax")[job.index]})
        return str(refused.value), str(different.value)

    disagreement = "worker 1 has loss minimax, but worker 0 has bce: give all workers the same command and data"
    assert workers_do(work) == [("run is of another batch size", disagreement)] * 2


def test_a_silent_worker_ends_the_others_after_a_while(monkeypatch):
    def work(job, sess, weights):
        if job.index == 0:
            return None
        monkeypatch.setattr(distributed, "PATIENCE", 1)
        with job.session() as impatient, pytest.raises(command.RunError) as lost, job.watched(lambda: "step 5"):
            job.agree(impatient, dict)
        return str(lost.value)

    line = workers_do(work)[1]
    assert line.startswith("another worker ended or is silent") and line.endswith("start the job again from step 5")


def test_a_worker_that_does_not_come_is_one_line(dcgan, monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "PATIENCE", 1)
    addresses = free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", config(addresses, 0))
    result = dcgan("--dataset", "faces", "--model", "tiny")
    assert result.returncode == 1
    assert result.stderr == f"error: worker 1 ({addresses[1]}) did not start within 1 seconds\n"
    assert not list(tmp_path.iterdir())


def test_a_worker_that_ends_before_the_job_begins_is_one_line(dcgan, monkeypatch):
    """Here it is a process that listens, and closes its port while TensorFlow waits for it to answer."""
    (mine,) = free_addresses(1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        theirs = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("TF_CONFIG", config([mine, theirs], 0))
        threading.Timer(1, other.close).start()
        result = dcgan("--dataset", "faces", "--model", "tiny")
    line = f"error: worker 1 ({theirs}) ended: start the job again from its last checkpoint\n"
    assert (result.returncode, result.stderr) == (1, line)


# A job of two processes.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(64):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


class Running:
    """Two processes of the command, in folders worker0 and worker1 of their own."""

    def __init__(self, folder, *arguments):
        self.folder, self.processes = folder, []
        addresses = free_addresses(2)
        for i in range(2):
            (cwd := folder / f"worker{i}").mkdir(exist_ok=True)
            environment = {**os.environ, "TF_CONFIG": config(addresses, i), "XDG_CACHE_HOME": str(folder / "cache")}
            with open(folder / f"out{i}", "w") as out, open(folder / f"err{i}", "w") as err:
                line = [sys.executable, ROOT / "tests" / "tiny_command.py", *arguments]
                process = subprocess.Popen(list(map(str, line)), cwd=cwd, env=environment, stdout=out, stderr=err)
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def step(self):
        run = self.folder / "worker0" / "run" / "run.json"
        return json.loads(run.read_text())["step"] if run.exists() else 0

    def comes_to(self, step):
        latest = time.monotonic() + 300
        while self.step() < step:
            assert time.monotonic() < latest and all(process.poll() is None for process in self.processes), self.end()
            time.sleep(0.02)

    def end(self):
        """(exit code, stdout, stderr) of both."""
        for process in self.processes:
            process.wait(60)
        texts = [[(self.folder / f"{name}{i}").read_text() for name in ("out", "err")] for i in range(2)]
        return [(process.returncode, *text) for process, text in zip(self.processes, texts, strict=True)]


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process where POSIX sends it SIGTERM")
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_job_of_which_one_process_is_told_to_stop_stops_in_step(killed, pictures, tmp_path, dcgan):
    """All is saved, and is where one process would be. The same for a job that resumes after one of it was killed."""
    run = ("--dataset", "folder", "--data-dir", pictures, "--model", "plain", "--batch-size", 16, "--out", "run")
    run = (*run, "--sample-every", 5000)
    if killed:
        with Running(tmp_path, *run, "--checkpoint-every", 20, "--steps", 5000) as job:
            job.comes_to(40)  # run.json is written before the checkpoint of its step, so that of step 20 is there
            job.processes[0].kill()
            code, _, err = job.end()[1]
        assert code == 1 and err.startswith("error: worker 0 (127.0.0.1:")
        assert err.endswith(") ended: start the job again from the last checkpoint that worker 0 has written\n")
    with Running(tmp_path, *run, "--checkpoint-every", 20, "--steps", 5000) as job:
        job.comes_to(job.step() + 1)
        job.processes[1].terminate()
        results = job.end()
    assert [(code, err) for code, _, err in results] == [(128 + signal.SIGTERM, "")] * 2
    step = job.step()
    assert f"stopped at step {step}, all saved" in results[0][1] and f"stopped at step {step}\n" in results[1][1]
    assert ("resuming from step" in results[0][1]) == killed and not list((tmp_path / "worker1").iterdir())
    assert dcgan(*run, "--steps", step).returncode == 0
    folders = (tmp_path / "run", tmp_path / "worker0" / "run")
    losses = [np.loadtxt(folder / "losses.csv", delimiter=",", skiprows=1) for folder in folders]
    np.testing.assert_allclose(*losses, rtol=1e-2, atol=1e-3)


# TF_CONFIG.


def config(addresses, index, kind="worker", **cluster):
    return json.dumps({"cluster": {"worker": addresses, **cluster}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON like"),
        ("[" * 100_000, "is not JSON like"),
        ('{"cluster": [1]}', "is not JSON like"),
        ('{"cluster": {"worker": ["here:1"]}}', "is not JSON like"),
        (config(["here"], 0), "is not JSON like"),
        (config([7], 0), "is not JSON like"),
        (config(["here:1"], "0"), "is not JSON like"),
        (config(["a:1", "a:1"], 0), "one address for two tasks"),
        (config(["a:1"], 1), "makes this process worker 1, but the cluster has worker 0"),
        (config(["a:1"], 0, "evaluator"), "makes this process evaluator 0"),
        (config(["a:1"], 0, ps=["b:1"]), "workers and one chief, and no other tasks"),
        (config(["a:1"], 0, chief=["b:1", "c:1"]), "workers and one chief"),
    ],
)
def test_a_wrong_TF_CONFIG_is_one_line(text, words, dcgan, monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", text)
    line = bad_input(dcgan("--dataset", "faces", "--model", "tiny"))
    assert line.startswith("error: TF_CONFIG ") and words in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [None, "", "{}", '{"environment": "cloud", "cluster": {}}'])
def test_without_a_cluster_a_process_is_alone(text):
    assert distributed.task_of(text) is None


def test_a_chief_is_the_first_worker():
    task = distributed.task_of(config(["b:1", "c:1"], 1, chief=["a:1"]))
    assert list(task.names.items()) == [("chief 0", "a:1"), ("worker 0", "b:1"), ("worker 1", "c:1")]


def test_a_port_in_use_is_one_line(dcgan, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", config([f"127.0.0.1:{port}"], 0))
        line = bad_input(dcgan("--dataset", "faces", "--model", "tiny"))
    assert line.startswith(f"error: TF_CONFIG gives worker 0 the address 127.0.0.1:{port}; is its port in use here?")


@pytest.mark.parametrize("options", [("--recipe", "two-model"), ("--devices", 2)])
def test_what_a_worker_cannot_do_is_one_line(options, dcgan, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(["127.0.0.1:4000"], 0))
    assert options[0] in bad_input(dcgan("--dataset", "faces", "--model", "tiny", *options))
