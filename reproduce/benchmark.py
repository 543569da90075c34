"""How fast the article's step is beside other ways to train the same networks, in one run on one machine.

    python -m reproduce.benchmark --json benchmark.json
    python -m reproduce.benchmark --workers 4           # instead, what several processes cost that train together

Each variant is a process of its own, and all of them take turns of a few steps, so that a machine that gets slower or
busier on the way does the same to all. What counts are the ratios of turns next to each other. The networks are the
article's, and so are the loss and Adam's settings; every variant is fed pictures and noise from NumPy.
"""

import argparse
import json
import math
import os
import platform
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

import command
from command import InputError, RunError

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZES = (32, 128)
LEARNING_RATE, BETA1 = 1e-4, 0.2
MATRIX = 2048  # rows and columns of the matrices that the machine's rate is measured with
PATIENCE = 300  # seconds that a variant may take to start
WARM_UP = 4  # steps of each variant at each batch size that are not counted

# The article's networks, from any Keras' layers. A variant cannot take them from models.py where graph mode and this
# project's layers must not be loaded; the tests compare the two.


def article_networks(keras, conv, conv_transpose, concat_diff, width: int = 1):
    """(generator, discriminator) as in models.py, from the classes given; `width` multiplies the numbers of filters."""
    layers = keras.layers

    def normalized(convolution):
        return [convolution, layers.BatchNormalization(momentum=0.99, epsilon=1e-3)]

    generator = [keras.Input((100,)), layers.Reshape((1, 1, 100))]
    for filters, strides, padding in ((192, 1, "valid"), (96, 2, "same"), (48, 2, "same"), (24, 2, "same")):
        generator += normalized(conv_transpose(filters * width, 4, strides=strides, padding=padding))
        generator += [layers.LeakyReLU(0.2)]
    generator += [conv_transpose(3, 4, padding="same"), layers.Activation("tanh")]

    discriminator = [keras.Input((32, 32, 3)), conv(24 * width, 4, strides=2, padding="same")]
    discriminator += [layers.LeakyReLU(0.2), concat_diff()]
    for filters in (48, 96, 192):
        discriminator += normalized(conv(filters * width, 4, strides=2, padding="same"))
        discriminator += [layers.LeakyReLU(0.2), concat_diff()]
    discriminator += [conv(1, 2), layers.Activation("sigmoid"), layers.Reshape((1,))]
    return keras.Sequential(generator), keras.Sequential(discriminator)


def stock_networks(keras, tf):
    """(generator, discriminator) of stock layers alone."""

    class ConcatDiff(keras.layers.Layer):
        def call(self, x):
            difference = tf.abs(x - tf.reduce_mean(x, axis=0))
            return tf.concat([x, tf.reduce_mean(difference, axis=-1, keepdims=True)], axis=-1)

        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], input_shape[-1] + 1)

    return article_networks(keras, keras.layers.Conv2D, keras.layers.Conv2DTranspose, ConcatDiff)


# The variants. Each function loads what it needs and returns `step(images, noise)`: images (batch, 32, 32, 3) in
# [-0.5, 0.5] and noise (batch, 100), float32.

Step = Callable[[np.ndarray, np.ndarray], object]


def article(batch_size: int = 32, width: int = 1) -> Step:
    """This project's step, `dcgan_keras.gan()`, set up as the command does."""
    import models
    from dcgan_keras import gan
    from layers import ConcatDiff, Conv2D, Conv2DTranspose
    from tf1 import keras, session_config, tf

    session = tf.Session(config=session_config(batch_size))
    keras.backend.set_session(session)
    if width == 1:
        networks = models.article_generator(), models.article_discriminator()
    else:
        networks = article_networks(keras, Conv2D, Conv2DTranspose, ConcatDiff, width)
    gan_feed = gan(*networks, learning_rate=LEARNING_RATE, beta1=BETA1, batch_size=batch_size)
    session.run(tf.global_variables_initializer())
    return lambda images, noise: gan_feed(session, images, noise)


def two_model_step(keras, generator, discriminator, predict: Callable) -> Step:
    """The two-model recipe as the sources write it: D on real, D on generated pictures, then G through a frozen D."""
    adam = keras.optimizers.legacy.Adam
    discriminator.compile(adam(LEARNING_RATE, beta_1=BETA1), "binary_crossentropy")
    discriminator.trainable = False
    noise_input = keras.Input((100,))
    combined = keras.Model(noise_input, discriminator(generator(noise_input)))
    combined.compile(adam(LEARNING_RATE, beta_1=BETA1), "binary_crossentropy")
    discriminator.trainable = True  # each model goes by what it was compiled with

    def step(images, noise):
        ones = np.ones((len(images), 1), np.float32)
        generated = predict(generator, noise)
        discriminator.train_on_batch(images, 0.9 * ones)
        discriminator.train_on_batch(generated, 0 * ones)
        combined.train_on_batch(noise, ones)

    return step


def plain_predict(generator, noise):
    return generator.predict(noise, batch_size=len(noise), verbose=0)


def predict_on_batch(generator, noise):
    return generator.predict_on_batch(noise)


def two_model(predict: Callable = plain_predict) -> Step:
    """Two models on stock layers in TF2's default mode, where Keras compiles each call to a function."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf

    return two_model_step(tf.keras, *stock_networks(tf.keras, tf), predict)


def two_model_on_batch() -> Step:
    """The same with `predict_on_batch`."""
    return two_model(predict_on_batch)


def two_model_graph(own_layers: bool = False) -> Step:
    """Two models on stock layers in TF1's graph mode."""
    import models
    from tf1 import keras, session_config, tf

    keras.backend.set_session(tf.Session(config=session_config()))
    own = models.article_generator, models.article_discriminator
    networks = [make() for make in own] if own_layers else stock_networks(keras, tf)
    return two_model_step(keras, *networks, predict_on_batch)


def two_model_graph_own_layers() -> Step:
    """The same on this project's layers."""
    return two_model_graph(own_layers=True)


def keras3() -> Step:
    """A Keras 3 `train_step` with a gradient tape for each network, D's over both kinds of pictures in one batch.

    So keras.io's DCGAN example is built. XLA, which Keras 3 turns on by itself, is slower here and left off.
    """
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    def log_eps(x):
        return tf.math.log(x + 1e-7)  # 1e-11 is lost beside 1 in float32

    class Gan(keras.Model):
        def __init__(self, generator, discriminator):
            super().__init__()
            self.generator, self.discriminator = generator, discriminator
            self.g_optimizer, self.d_optimizer = (keras.optimizers.Adam(LEARNING_RATE, beta_1=BETA1) for _ in range(2))

        def train_step(self, data):
            images, noise = data[:2]  # there is a third, the weights of examples
            generated = self.generator(noise, training=True)
            with tf.GradientTape() as tape:
                score = self.discriminator(tf.concat([generated, images], 0), training=True)
                gscore, rscore = tf.split(score, 2)
                dloss = -tf.reduce_mean(log_eps(1 - gscore) + 0.1 * log_eps(1 - rscore) + 0.9 * log_eps(rscore))
            weights = self.discriminator.trainable_weights
            self.d_optimizer.apply_gradients(zip(tape.gradient(dloss, weights), weights, strict=True))
            with tf.GradientTape() as tape:
                score = self.discriminator(self.generator(noise, training=True), training=True)
                gloss = -tf.reduce_mean(log_eps(score))
            weights = self.generator.trainable_weights
            self.g_optimizer.apply_gradients(zip(tape.gradient(gloss, weights), weights, strict=True))
            return {"dloss": dloss, "gloss": gloss}

    gan = Gan(*stock_networks(keras, tf))
    gan.compile(jit_compile=False)
    return lambda images, noise: gan.train_on_batch(images, noise)


def torch_networks():
    """(torch, generator, discriminator): the article's networks in PyTorch, channels last."""
    import torch
    from torch import nn

    class ConcatDiff(nn.Module):
        def forward(self, x):
            return torch.cat([x, (x - x.mean(0)).abs().mean(1, keepdim=True)], 1)

    class Crop(nn.Module):  # Keras' "same" of an even kernel begins one pixel earlier than it ends
        def forward(self, x):
            return x[:, :, :-1, :-1]

    def normalized(convolution, filters):
        return [convolution, nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01), nn.LeakyReLU(0.2)]

    generator = [nn.Unflatten(1, (100, 1, 1)), *normalized(nn.ConvTranspose2d(100, 192, 4), 192)]
    for inputs, filters in ((192, 96), (96, 48), (48, 24)):
        generator += normalized(nn.ConvTranspose2d(inputs, filters, 4, 2, 1), filters)
    generator += [nn.ConvTranspose2d(24, 3, 4, 1, 1), Crop(), nn.Tanh()]

    discriminator = [nn.Conv2d(3, 24, 4, 2, 1), nn.LeakyReLU(0.2), ConcatDiff()]
    for inputs, filters in ((25, 48), (49, 96), (97, 192)):
        discriminator += [*normalized(nn.Conv2d(inputs, filters, 4, 2, 1), filters), ConcatDiff()]
    discriminator += [nn.Conv2d(193, 1, 2), nn.Sigmoid(), nn.Flatten()]
    networks = nn.Sequential(*generator), nn.Sequential(*discriminator)
    return torch, *(network.to(memory_format=torch.channels_last) for network in networks)


def torch_losses(torch, gscore, rscore=None):
    """The article's losses: (of D on generated, of D on real, of G); an epsilon that float32 has beside 1."""

    def log_eps(x):
        return torch.log(x + 1e-7)

    real = None if rscore is None else -(0.1 * log_eps(1 - rscore) + 0.9 * log_eps(rscore)).mean()
    return -log_eps(1 - gscore).mean(), real, -log_eps(gscore).mean()


def torch_step(recipe: Callable, torch) -> Step:
    """Feed a recipe from NumPy, as channels-last tensors."""

    def step(images, noise):
        pictures = torch.from_numpy(images).permute(0, 3, 1, 2)  # a view, which is channels last by itself
        return [loss.item() for loss in recipe(pictures, torch.from_numpy(noise))]

    return step


def torch_two_pass(compiled: bool = False) -> Step:
    """The recipe of pytorch/examples' DCGAN: D on real, D on detached generated pictures, then G through the new D."""
    torch, generator, discriminator = torch_networks()
    adam = {"lr": LEARNING_RATE, "betas": (BETA1, 0.999)}
    d_optimizer = torch.optim.Adam(discriminator.parameters(), **adam)
    g_optimizer = torch.optim.Adam(generator.parameters(), **adam)
    if compiled:
        generator, discriminator = (torch.compile(network, dynamic=False) for network in (generator, discriminator))

    def recipe(pictures, noise):
        d_optimizer.zero_grad()
        rscore = discriminator(pictures)
        real = torch_losses(torch, rscore, rscore)[1]
        real.backward()
        generated = generator(noise)
        fake = torch_losses(torch, discriminator(generated.detach()))[0]
        fake.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        gloss = torch_losses(torch, discriminator(generated))[2]
        gloss.backward()
        g_optimizer.step()
        return real + fake, gloss

    return torch_step(recipe, torch)


def torch_one_pass(compiled: bool = False) -> Step:
    """The article's idea in PyTorch: one forward pass, and the gradient of each loss by its own weights alone."""
    torch, generator, discriminator = torch_networks()
    d_weights, g_weights = list(discriminator.parameters()), list(generator.parameters())
    adam = {"lr": LEARNING_RATE, "betas": (BETA1, 0.999), "fused": True}  # one kernel for all weights
    optimizers = torch.optim.Adam(d_weights, **adam), torch.optim.Adam(g_weights, **adam)
    if compiled:
        generator, discriminator = (torch.compile(network, dynamic=False) for network in (generator, discriminator))

    def recipe(pictures, noise):
        gscore, rscore = discriminator(generator(noise)), discriminator(pictures)
        fake, real, gloss = torch_losses(torch, gscore, rscore)
        gradients = (
            torch.autograd.grad(fake + real, d_weights, retain_graph=True),
            torch.autograd.grad(gloss, g_weights),
        )
        for weights, slopes, optimizer in zip((d_weights, g_weights), gradients, optimizers, strict=True):
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = slope
            optimizer.step()
        return fake + real, gloss

    return torch_step(recipe, torch)


def torch_two_pass_compiled() -> Step:
    """The same through torch.compile."""
    return torch_two_pass(compiled=True)


def torch_one_pass_compiled() -> Step:
    """The same through torch.compile. Its backward pass cannot be taken twice, so it may not work."""
    return torch_one_pass(compiled=True)


def matrix_product() -> Step:
    """Not a way to train: one float32 product of square matrices on all cores, for the machine's rate."""
    from tf1 import session_config, tf

    matrices = [tf.Variable(tf.random.normal((MATRIX, MATRIX))) for _ in range(2)]
    product = tf.matmul(*matrices).op
    session = tf.Session(config=session_config())
    session.run(tf.global_variables_initializer())
    return lambda images, noise: session.run(product)


VARIANTS: dict[str, tuple[str, Callable[..., Step]]] = {
    "article": ("the article's step, this project", article),
    "two-model-graph": ("two-model, TF1 graph mode, stock layers", two_model_graph),
    "two-model-graph-own": ("two-model, TF1 graph mode, this project's layers", two_model_graph_own_layers),
    "two-model": ("two-model, the sources' recipe, TF2 default mode", two_model),
    "two-model-on-batch": ("the same with predict_on_batch", two_model_on_batch),
    "keras3": ("Keras 3 train_step, two tapes", keras3),
    "torch-two-pass": ("PyTorch two-pass, channels_last", torch_two_pass),
    "torch-one-pass": ("PyTorch one-pass, channels_last", torch_one_pass),
    "torch-two-pass-compile": ("PyTorch two-pass, torch.compile", torch_two_pass_compiled),
    "torch-one-pass-compile": ("PyTorch one-pass, torch.compile", torch_one_pass_compiled),
}
RATE = "matrix-product"  # takes turns with the variants

# The floor.


def multiply_adds(model) -> list[int]:
    """Multiplications (each with an addition) per example in a forward pass, for every layer that has any, in order.

    Convolutions are counted as if no tap fell on padding. Layers without matrix products, such as normalizations, count
    nothing. Raises InputError for a layer with a kernel of another kind.
    """
    counts = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            counts += multiply_adds(layer)
            continue
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            if any(len(weight.shape) > 1 for weight in layer.trainable_weights) and "Embedding" not in str(type(layer)):
                raise InputError(f"the multiply-adds of {layer.name}, a {type(layer).__name__}, are not known")
            continue
        kind = {base.__name__ for base in type(layer).__mro__}
        size = math.prod(kernel.shape)
        if "Conv2DTranspose" in kind:  # every pixel of the input meets the whole kernel
            counts.append(size * math.prod(layer.input_shape[1:3]))
        elif kind & {"Conv2D", "Dense"}:  # every pixel of the output does; a Dense layer has one per row
            counts.append(size * math.prod(layer.output_shape[1:-1] if "Dense" in kind else layer.output_shape[1:3]))
        else:
            raise InputError(f"the multiply-adds of {layer.name}, a {type(layer).__name__}, are not known")
    return counts


def multiply_adds_of_step(generator, discriminator) -> int:
    """Multiply-adds per picture of one step of `gan()`, in whose gradients a layer costs as much as forward, twice:
    for its kernel and for its input.

    G goes forward once, and gets both gradients; its first layer's input, the noise, needs none. D goes forward twice,
    over real and generated pictures; its loss needs both gradients of both, without the pictures'; G's loss needs the
    gradients of D's inputs once more, down to the picture, but not of D's kernels.
    """
    g, d = multiply_adds(generator), multiply_adds(discriminator)
    return 3 * sum(g) - g[0] + 7 * sum(d) - 2 * d[0]


def flop_of_step(batch_size: int) -> int:
    """Floating-point operations of a step on the article's networks, a multiply-add being two."""
    import models

    return 2 * batch_size * multiply_adds_of_step(models.article_generator(), models.article_discriminator())


# A worker: a process with one variant in it.


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((size, 32, 32, 3), np.float32) - np.float32(0.5), rng.standard_normal((size, 100), np.float32)


def work(name: str, batch_size: int, width: int) -> int:
    """Answer lines on stdin, each a number of steps, with lines of JSON: seconds and the peak memory in bytes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is not an answer
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    images, noise = batch(batch_size)
    try:
        builders = {RATE: matrix_product, "article": lambda: article(batch_size, width)}
        step = builders.get(name, VARIANTS.get(name, ("", None))[1])()
        for _ in range(2):
            step(images, noise)
    except Exception as error:  # of whatever kind: another's library is not there, or cannot do this
        print(json.dumps({"unavailable": command.one_line(error)[:200]}), file=answers)
        return 0
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step(images, noise)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory()}), file=answers)
    return 0


def peak_memory() -> int:
    """Bytes that this process has taken at most."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):  # another system than Linux, where getrusage counts the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """The other end of `work`. `unavailable` is None, or why the variant cannot run here."""

    def __init__(self, name: str, batch_size: int, width: int = 1, wait: bool = True, **environment: str):
        self.name = name
        others = ("TF_USE_LEGACY_KERAS", "KERAS_BACKEND", "TF_CONFIG")
        environment = {**{k: v for k, v in os.environ.items() if k not in others}, **environment}
        numbers = ["--batch-size", str(batch_size), "--width", str(width)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reproduce.benchmark", "--worker", name, *numbers],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if not wait:
            return
        if select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.unavailable = self.answer().get("unavailable")
        else:
            self.process.kill()
            self.unavailable = f"it had not made two steps after {PATIENCE} seconds"

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RunError(f"the process of {self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, *words: object) -> None:
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def run(self, steps: int) -> dict:
        """What `work` answers to this many steps."""
        self.ask(steps)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# The measurements.


def take_turns(workers: list[Worker], steps: int, rounds: int, seconds: float) -> dict[str, list]:
    """Seconds per step of each worker by round: `rounds` of them, or as many more as fit into `seconds`.

    Every other round goes backwards, so that no variant always follows the same one.
    """
    for worker in workers:
        worker.run(1 if worker.name == RATE else WARM_UP)
    times = {worker.name: [] for worker in workers}
    until = time.perf_counter() + seconds
    while min(map(len, times.values())) < rounds or time.perf_counter() < until:
        backwards = len(times[workers[0].name]) % 2
        for worker in workers[::-1] if backwards else workers:
            count = max(1, steps // 2) if worker.name == RATE else steps
            times[worker.name].append(worker.run(count)["seconds"] / count)
    return times


def compare(names: list[str], batch_size: int, steps: int, rounds: int, seconds: float) -> tuple[dict, dict]:
    """(seconds per step of each variant that runs here, by round; why the others do not)."""
    workers, unavailable = [], {}
    try:
        for name in [*names, RATE]:
            print(f"starting: {name}, batch {batch_size}", file=sys.stderr)
            worker = Worker(name, batch_size)
            if not worker.unavailable:
                workers.append(worker)
                continue
            worker.close()
            if name in ("article", RATE):
                raise RunError(f"{name} does not run: {worker.unavailable}")
            unavailable[name] = worker.unavailable
            print(f"left out: {VARIANTS[name][0]}: {worker.unavailable}", file=sys.stderr)
        print(f"taking turns at batch {batch_size}", file=sys.stderr)
        return take_turns(workers, steps, rounds, seconds), unavailable
    finally:
        for worker in workers:
            worker.close()


def spread(values: Iterator[float]) -> dict[str, float]:
    values = list(values)
    return {"median": median(values), "min": min(values), "max": max(values)}


def of(spread: dict[str, float], digits: int = 2) -> str:
    """What `spread` gives, as a table shows it."""
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f} to {spread['max']:.{digits}f})"


def summary(times: dict[str, list[float]], flop: int) -> tuple[dict, dict]:
    """(results by variant, the floor) from seconds per step. A ratio says how many times as fast the article's step is,
    in each round."""
    results = {
        name: {
            "steps_per_second": spread(1 / t for t in each),
            "ratio": spread(t / base for t, base in zip(each, times["article"], strict=True)),
            "rounds": len(each),
        }
        for name, each in times.items()
        if name != RATE
    }
    rates = [2 * MATRIX**3 / t for t in times[RATE]]  # flop/s
    floor = {
        "flop_per_step": flop,
        "flop_per_second": spread(rates),
        "steps_per_second": spread(rate / flop for rate in rates),
        "share": spread(flop / rate / t for rate, t in zip(rates, times["article"], strict=True)),
    }
    return results, floor


class _Feed:
    """Stands in for a session, to see what a step feeds."""

    def run(self, fetches, feed_dict):
        self.feed_dict = feed_dict
        return [None, [0, 0]]


def outside_device(batch_size: int, steps: int) -> dict[str, float]:
    """Milliseconds per step of the training loop, and of them what is not the device's: making the batch and the noise,
    and a `sess.run` that takes the same feeds and does nothing with them."""
    import data
    import models
    from dcgan_keras import gan
    from tf1 import keras, session_config, tf
    from training import noise_for

    with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
        keras.backend.set_session(session)
        gan_feed = gan(models.article_generator(), models.article_discriminator(), batch_size=batch_size)
        session.run(tf.global_variables_initializer())
        batches = data.batches(data.load("shapes", (32, 32, 3)), batch_size, (-0.5, 0.5), seed=0)
        feed = _Feed()
        gan_feed(feed, *batch(batch_size))
        placeholders = {value.ndim: placeholder for placeholder, value in feed.feed_dict.items()}
        nothing = [tf.shape(placeholder) for placeholder in placeholders.values()]
        spent = {"data": [], "feed": [], "step": []}
        for step in range(steps + WARM_UP):
            began = time.perf_counter()
            images, _ = next(batches)
            noise = noise_for(0, step, batch_size, (100,))
            made = time.perf_counter()
            gan_feed(session, images, noise)
            stepped = time.perf_counter()
            session.run(nothing, {placeholders[value.ndim]: value for value in (noise, images)})
            fed = time.perf_counter()
            if step >= WARM_UP:
                for name, seconds in (("data", made - began), ("feed", fed - stepped), ("step", stepped - began)):
                    spent[name].append(1000 * seconds)
    result = {f"{name}_ms": median(each) for name, each in spent.items()}
    result["share"] = median((d + f) / s for d, f, s in zip(spent["data"], spent["feed"], spent["step"], strict=True))
    return result


def growth(points: list[tuple[int, int]], steps: int) -> list[dict]:
    """Time and peak memory of the article's step for each (batch size, width), in a fresh process each."""
    rows = []
    for batch_size, width in points:
        with Worker("article", batch_size, width) as worker:
            if worker.unavailable:
                raise RunError(f"the article's step does not run: {worker.unavailable}")
            worker.run(2)
            answers = [worker.run(1) for _ in range(steps)]
        seconds = median(answer["seconds"] for answer in answers)
        rows.append(
            {
                "batch_size": batch_size,
                "width": width,
                "ms_per_step": 1000 * seconds,
                "images_per_second": batch_size / seconds,
                "peak_bytes": answers[-1]["peak_bytes"],
            }
        )
    return rows


# Several processes that train together.

ALONE, JOB, IN_ALL_REDUCE, REDUCE_ONE, REDUCE_ALL = "alone", "job", "in-all-reduce", "reduce-one", "reduce-all"


class _Traced:
    """Stands for a session, and keeps a trace of what it runs."""

    def __init__(self, session):
        self.session, self.traces = session, []

    def run(self, fetches, feed_dict=None):
        from tf1 import tf

        self.traces.append(tf.RunMetadata())
        options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
        return self.session.run(fetches, feed_dict, options=options, run_metadata=self.traces[-1])

    def all_reduces(self) -> list[tuple[int, float]]:
        """(bytes, seconds) of each. The seconds are from its start until it has the sum, with waiting for others."""
        found = []
        for trace in self.traces:
            for device in trace.step_stats.dev_stats:
                for node in device.node_stats:
                    name = node.node_name.split(":")[0]
                    try:
                        operation = self.session.graph.get_operation_by_name(name)
                    except (KeyError, ValueError):  # of TensorFlow's own making
                        continue
                    if operation.type.startswith("CollectiveReduce"):
                        value = operation.inputs[0]
                        found.append((value.shape.num_elements() * value.dtype.size, node.all_end_rel_micros / 1e6))
        return found


def work_in_job(batch_size: int) -> int:
    """One worker of a job, `TF_CONFIG` says which. Answers lines "what steps" on stdin with JSON.

    What: "alone", steps of `gan()` in this process; "job", steps in which all workers take part; "in-all-reduce", the
    same steps traced; "reduce-one" and "reduce-all", an all-reduce alone, of one number or of as many as there are
    gradients.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import distributed
    import models
    from dcgan_keras import gan
    from tf1 import keras, session_config, tf

    def build(job):
        networks = models.article_generator(), models.article_discriminator()
        step = job.build(gan, *networks, learning_rate=LEARNING_RATE, beta1=BETA1, batch_size=batch_size)
        return step, sum(math.prod(w.shape) for network in networks for w in network.trainable_weights)

    alone = tf.Graph()
    with alone.as_default():
        alone_session = tf.Session(config=session_config(batch_size))
        keras.backend.set_session(alone_session)
        alone_step, gradients = build(distributed.Job())
        alone_session.run(tf.global_variables_initializer())
    job = distributed.join(batch_size=batch_size)
    with job.scope():
        session = job.session()
        keras.backend.set_session(session)
        job_step, _ = build(job)
        reduce = {
            what: job.run(lambda n=n: job.reduced(tf.distribute.ReduceOp.SUM, tf.ones((n,))).op)
            for what, n in ((REDUCE_ONE, 1), (REDUCE_ALL, gradients))
        }
    session.run(tf.global_variables_initializer())
    print(json.dumps({"ready": True}), file=answers)
    images, noise = batch(batch_size)
    for line in sys.stdin:
        what, steps = line.split()
        answer, traced = {}, _Traced(session)
        began = time.perf_counter()
        for _ in range(int(steps)):
            if what == ALONE:
                alone_step(alone_session, images, noise)
            elif what in reduce:
                session.run(reduce[what])
            else:
                job_step(traced if what == IN_ALL_REDUCE else session, images, noise)
        answer["seconds"] = (time.perf_counter() - began) / int(steps)
        if what == IN_ALL_REDUCE:
            answer["all_reduces"] = traced.all_reduces()
        print(json.dumps(answer), file=answers)
    job.leave(session)
    return 0


def in_jobs(most: int, batch_size: int, steps: int, rounds: int) -> list[dict]:
    """For jobs of 1, 2, 4 … up to `most` processes on this machine: what a step takes, and what of it all-reduce.

    In each round, all processes first take `steps` steps each for itself, at the same time, then as many together.
    """
    rows = []
    for count in [2**i for i in range(most.bit_length())]:
        print(f"a job of {count}", file=sys.stderr)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        workers = []
        try:
            for i in range(count):
                config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
                workers.append(Worker(JOB, batch_size, wait=False, TF_CONFIG=json.dumps(config)))
            for worker in workers:
                worker.answer()

            def ask(what, steps, workers=workers):
                for worker in workers:
                    worker.ask(what, steps)
                return [worker.answer() for worker in workers]

            seconds = {what: [] for what in (ALONE, JOB, REDUCE_ONE, REDUCE_ALL)}
            for what in seconds:
                ask(what, WARM_UP)
            for _ in range(rounds):
                for what, each in seconds.items():
                    each.append(sum(answer["seconds"] for answer in ask(what, steps)) / count)
            traced = ask(IN_ALL_REDUCE, steps)[0]["all_reduces"]
            sizes = sorted({size for size, _ in traced})
        finally:
            for worker in workers:  # they leave together
                worker.process.stdin.close()
            for worker in workers:
                worker.close()
        rows.append(
            {
                "processes": count,
                "batch_size": batch_size,
                "steps_per_second": spread(1 / each for each in seconds[JOB]),
                "images_per_second": spread(count * batch_size / each for each in seconds[JOB]),
                "alone_ms": spread(1000 * each for each in seconds[ALONE]),
                "job_ms": spread(1000 * each for each in seconds[JOB]),
                "cost_ms": spread(1000 * (j - a) for j, a in zip(seconds[JOB], seconds[ALONE], strict=True)),
                "all_reduces_ms": {n: 1000 * median(each for size, each in traced if size == n) for n in sizes},
                "all_reduces_per_step": len(traced) / steps,
                "bytes_per_step": sum(size for size, _ in traced) / steps,
                "in_all_reduce_ms": 1000 * sum(each for _, each in traced) / steps,
                "reduce_one_ms": spread(1000 * each for each in seconds[REDUCE_ONE]),
                "reduce_all_ms": spread(1000 * each for each in seconds[REDUCE_ALL]),
            }
        )
    return rows


def jobs_table(rows: list[dict]) -> str:
    """As Markdown."""
    head = ["processes", "steps/s", "images/s", "ms per step", "each for itself", "difference", "in all-reduce"]
    head += ["all-reduces per step", "bytes per step", "an all-reduce of 1 number", "of all gradients"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [str(row["processes"]), of(row["steps_per_second"], 1), of(row["images_per_second"], 0)]
        cells += [of(row[name], 1) for name in ("job_ms", "alone_ms", "cost_ms")] + [f"{row['in_all_reduce_ms']:.1f}"]
        cells += [f"{row['all_reduces_per_step']:g}", f"{row['bytes_per_step']:,.0f}"]
        cells += [of(row["reduce_one_ms"], 2), of(row["reduce_all_ms"], 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def first_step() -> float:
    """Seconds from the start of the training command, on shapes, to the end of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "dcgan_keras.py"), "--dataset", "shapes", "--steps", "2", "--out", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        seen = b""
        while b"gloss" not in seen:  # the progress bar shows the first step's losses
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                raise RunError(f"the training command ended with exit code {process.wait()} before its first step")
            seen += part
        seconds = time.perf_counter() - began
        process.communicate()
    return seconds


def machine() -> dict:
    """What the run was made on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another system than Linux
        pass
    from importlib import metadata

    versions = {}
    for package in ("tensorflow", "tf-keras", "keras", "torch", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


# The command.


def table(report: dict) -> str:
    """The report as Markdown tables."""

    sizes = list(report["results"])
    lines = ["| | " + " | ".join(f"batch {n}: steps/s | speed of the article's step over it" for n in sizes) + " |"]
    lines.append("| --- |" + " --- | --- |" * len(sizes))
    for name in report["results"][sizes[0]]:
        rows = [report["results"][size].get(name) for size in sizes]
        cells = [
            f"{of(row['steps_per_second'], 1)} | {'' if name == 'article' else of(row['ratio'])}" if row else "- | -"
            for row in rows
        ]
        lines.append(f"| {VARIANTS[name][0]} | " + " | ".join(cells) + " |")
    floors = [report["floor"][size] for size in sizes]
    cells = [f"{of(floor['steps_per_second'], 1)} | {of(floor['share'])} of it reached" for floor in floors]
    lines.append("| the floor | " + " | ".join(cells) + " |")
    lines.append("")
    for floor in floors:
        rate = of({k: v / 1e9 for k, v in floor["flop_per_second"].items()}, 0)
        lines.append(f"Floor: {floor['flop_per_step'] / 1e9:.2f} GFLOP per step at {rate} GFLOP/s of matrix products.")
    for size in sizes:
        outside = report["outside_device"][size]
        lines.append(
            f"Batch {size}: {100 * outside['share']:.1f}% of a step of training is not the device's "
            f"(data {outside['data_ms']:.2f} ms, feeding {outside['feed_ms']:.2f} ms of {outside['step_ms']:.1f} ms)."
        )
    lines.append(f"From the command's start to the end of its first step: {report['first_step_seconds']:.1f} s.")
    lines += ["", "| batch | width | ms per step | images/s | peak memory, MB |", "| --- | --- | --- | --- | --- |"]
    for row in report["growth"]:
        numbers = f"{row['ms_per_step']:.0f} | {row['images_per_second']:.0f} | {row['peak_bytes'] / 1e6:.0f}"
        lines.append(f"| {row['batch_size']} | {row['width']} | {numbers} |")
    versions = ", ".join(f"{k} {v}" for k, v in report["machine"]["versions"].items() if v)
    lines += ["", f"{report['machine']['processor']}, {report['machine']['cores']} cores; {versions}."]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="python -m reproduce.benchmark", description="Compare ways to train the same GAN.")
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="also write everything there")
    add("--variants", metavar="NAMES", help=f"only these, with commas between: {', '.join(VARIANTS)}")
    add("--seconds", type=command.at_least(1), default=130, help="of turns at each batch size (default: %(default)s)")
    add("--quick", action="store_true", help="two turns each at small sizes: shows that it runs, measures nothing")
    workers = "instead: jobs of 1, 2, 4 ... up to N processes on this machine, at batch 32 each"
    add("--workers", type=command.at_least(1), metavar="N", help=workers)
    add("--worker", help=argparse.SUPPRESS)
    add("--batch-size", type=int, default=32, help=argparse.SUPPRESS)
    add("--width", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args(arguments)
    names = arguments.variants.split(",") if arguments.variants else list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise InputError(f"there is no variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}")
    arguments.variants = list(dict.fromkeys(["article", *names]))  # it is what all are compared with
    if arguments.json and not arguments.json.parent.is_dir():
        raise InputError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    return arguments


def measure(arguments) -> dict:
    """Everything, as JSON has it."""
    sizes = (2, 4) if arguments.quick else BATCH_SIZES
    report = {"machine": machine(), "quick": arguments.quick, "unavailable": {}, "results": {}, "floor": {}}
    for size in sizes:
        steps = 1 if arguments.quick else 8 if size < 100 else 3
        turns = (2, 0) if arguments.quick else (6, arguments.seconds)
        times, report["unavailable"][str(size)] = compare(arguments.variants, size, steps, *turns)
        report["results"][str(size)], report["floor"][str(size)] = summary(times, flop_of_step(size))
    print("what is not the device's, growth, the first step", file=sys.stderr)
    steps = 2 if arguments.quick else 30
    report["outside_device"] = {str(size): outside_device(size, steps) for size in sizes}
    batches = (2,) if arguments.quick else (16, 32, 64, 128, 256, 512)
    widths = () if arguments.quick else (2, 4)
    report["growth"] = growth([*((n, 1) for n in batches), *((32, w) for w in widths)], 2 if arguments.quick else 5)
    report["first_step_seconds"] = first_step()
    return report


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    if arguments.worker == JOB:
        return work_in_job(arguments.batch_size)
    if arguments.worker:
        return work(arguments.worker, arguments.batch_size, arguments.width)
    if arguments.workers:
        size, steps, rounds = (2, 1, 2) if arguments.quick else (BATCH_SIZES[0], 10, 12)
        report = {"machine": machine(), "quick": arguments.quick}  # before: it has the load by others
        report["jobs"] = in_jobs(arguments.workers, size, steps, rounds)
        print(jobs_table(report["jobs"]))
    else:
        report = measure(arguments)
        print(table(report))
    if arguments.json:
        with command.replacing(arguments.json) as beside:
            beside.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
