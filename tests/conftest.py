"""What several tests need: a graph of one's own, the command, and the recording and pictures beside the project."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import command  # first: it sets up what h5py reads when it is loaded

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def graph():
    """An empty default graph, and Keras' session on it."""
    from tf1 import keras, session_config, set_seed, tf

    with tf.Graph().as_default() as graph, tf.Session(config=session_config()) as sess:
        set_seed(0)
        keras.backend.set_session(sess)
        yield graph


@pytest.fixture
def sess(graph):
    from tf1 import keras

    return keras.backend.get_session()


@pytest.fixture
def run_command(tmp_path):
    """Run one of the project's commands in an empty folder, as a user does."""

    def run(script, *arguments, timeout=300, **environment):
        return subprocess.run(
            [sys.executable, str(ROOT / script), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def tiny_pair():
    """A pair with all that the article's has, and quickly built: for tests of what happens around the step."""
    import models
    from tf1 import keras

    layers = keras.layers

    def generator():
        first = [layers.InputLayer((5,)), layers.Dense(48), layers.BatchNormalization(), layers.LeakyReLU(0.2)]
        return keras.Sequential([*first, layers.Reshape((4, 4, 3)), layers.UpSampling2D(8), layers.Activation("tanh")])

    def discriminator(activation="sigmoid"):
        first = [layers.InputLayer((32, 32, 3)), layers.Conv2D(4, 4, strides=8), layers.BatchNormalization()]
        last = [layers.Flatten(), layers.Dense(1, activation=activation)]
        return keras.Sequential([*first, models.ConcatDiff(), *last])

    return {"generator": generator, "discriminator": discriminator}


def plain_pair():
    """A pair in which no picture has to do with the others of its batch: the same in one batch or in parts."""
    from tf1 import keras

    layers = keras.layers

    def generator():
        first = [layers.InputLayer((5,)), layers.Dense(192), layers.LeakyReLU(0.2), layers.Reshape((8, 8, 3))]
        last = layers.Conv2D(3, 3, padding="same", activation="tanh")
        return keras.Sequential([*first, layers.UpSampling2D(4), last])

    def discriminator(activation="sigmoid"):
        first = [layers.InputLayer((32, 32, 3)), layers.Conv2D(8, 4, strides=4), layers.LeakyReLU(0.2)]
        return keras.Sequential([*first, layers.Flatten(), layers.Dense(1, activation=activation)])

    return {"generator": generator, "discriminator": discriminator}


def class_pair():
    """A pair with classes and dropout, whose G is a model inside another."""
    import models
    from tf1 import keras

    layers = keras.layers

    def generator(classes):
        return models.acgan_generator(classes, generator_model=tiny_pair()["generator"]())

    def discriminator(classes, activation="sigmoid"):
        image = keras.Input((32, 32, 3))
        features = models.SeededDropout(0.3)(layers.Flatten()(layers.MaxPooling2D(8)(image)))
        return keras.Model(image, [layers.Dense(1, activation=activation)(features), layers.Dense(classes)(features)])

    return {"generator": generator, "discriminator": discriminator, "with_classes": True}


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(tmp_path, monkeypatch, capfd):
    """Run a command's `main` in this process, an empty folder and a graph of its own: saves loading TensorFlow anew."""
    from tf1 import tf

    monkeypatch.chdir(tmp_path)

    def run(main, *arguments):
        capfd.readouterr()
        with tf.Graph().as_default(), pytest.raises(SystemExit) as leaving:
            command.run(lambda: main(list(map(str, arguments))))
        return Result(leaving.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def drawn():
    """Draws each data set of faces once for all tests of a process: `drawn(shape, seed)`."""
    from sources import faces

    load = functools.cache(faces.load)
    return lambda shape, seed, **options: load(tuple(shape), tuple(seed) if isinstance(seed, list) else seed, **options)


@pytest.fixture
def dcgan(drawn, run_here, tmp_path, monkeypatch):
    """`python dcgan_keras.py` in this process, with 1,000 faces, where "tiny", "plain" and "classes" are models."""
    import dcgan_keras
    import models
    from sources import faces
    from training import settings

    pairs = {"tiny": tiny_pair(), "plain": plain_pair(), "classes": class_pair()}
    monkeypatch.setattr(faces, "load", functools.partial(drawn, count=1000))
    monkeypatch.setattr(settings, "MODELS", (*settings.MODELS, *pairs))
    for name, pair in pairs.items():
        monkeypatch.setitem(models.MODELS, name, models.MODELS["article"]._replace(**pair))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: run_here(dcgan_keras.main, *arguments)


RAN = {}


@pytest.fixture
def ran(dcgan, tmp_path, tmp_path_factory):
    """The folder that a short run with these arguments leaves; it is made once for all tests, and copied."""

    def copy(*arguments, out="run"):
        if arguments not in RAN:
            result = dcgan(*SHORT, *arguments, "--out", "ran")
            assert result.returncode == 0 and result.stderr == "", result.stderr
            RAN[arguments] = shutil.move(tmp_path / "ran", tmp_path_factory.mktemp("ran"))
        return Path(shutil.copytree(RAN[arguments], tmp_path / out))

    return copy


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """A folder with real CIFAR-10 and MNIST in the layouts that users have them in."""
    if not SHARED.exists():
        pytest.skip("the real pictures are not here: no folder 'shared' beside the project")
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, str(SHARED / "data" / "unpack.py"), str(folder)], check=True, capture_output=True)
    return folder


SHORT = ("--dataset", "faces", "--batch-size", "4", "--sample-every", "3", "--checkpoint-every", "4")
SHORT += ("--keep-every", "4", "--keep-checkpoints", "--out", "run", "--model", "tiny")


def contents(out):
    """What a run leaves, by name, but for the times that are in TensorBoard's files."""
    return {p.name: p.read_bytes() for p in out.iterdir() if not p.name.startswith((".lock", "events.out"))}


def state(out, step):
    """Everything in a checkpoint, by name."""
    from tf1 import tf

    reader = tf.train.load_checkpoint(str(out / f"checkpoint_{step:06d}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def bad_input(result):
    """The one line on stderr of a command that refused its input."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def gone_console(kind):
    """A descriptor to write to whose other end is gone, or takes no text. The other end stays open in that case."""
    other, mine = os.openpty() if kind == "a terminal that hangs up" else os.pipe()
    if not kind.startswith("a full pipe"):
        os.close(other)
        return mine
    os.set_blocking(mine, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(mine, bytes(4096))
    os.set_blocking(mine, "that waits" in kind)
    return mine
