"""The methods of training that the benchmark compares, one function each, and the process that runs one of them.

    python -m reproduce.ways article --pair article --batch-size 32      the benchmark starts these

Networks, loss and Adam's settings are the same in all methods. Each is fed images and noise from NumPy, and each runs
on the GPU where its library finds one.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import command

LEARNING_RATE, BETA1 = 1e-4, 0.2


class Race(NamedTuple):
    """How a pair of networks is raced."""

    shape: tuple[int, int, int]  # of the images: (height, width, channels)
    turns: dict[int, int]  # steps per turn by batch size
    one_at_a_time: bool = False  # a process lives for one turn, for lack of memory


RACES = {
    "article": Race((32, 32, 3), {32: 8, 128: 3}),
    "dcgan": Race((64, 64, 3), {32: 2}),
    "faces200": Race((200, 200, 3), {8: 1}, one_at_a_time=True),  # each method takes 10 to 15 GB
}

# The article's networks of stock layers, from any Keras. A method cannot take them from models.py where graph mode and
# this project's layers must not be loaded. A test compares the two.


def stock_networks(keras, tf):
    """(generator, discriminator) as in models.py, of stock layers."""
    layers = keras.layers

    class ConcatDiff(layers.Layer):
        def call(self, x):
            difference = tf.abs(x - tf.reduce_mean(x, axis=0))
            return tf.concat([x, tf.reduce_mean(difference, axis=-1, keepdims=True)], axis=-1)

        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], input_shape[-1] + 1)

    def normalized(convolution):
        return [convolution, layers.BatchNormalization(momentum=0.99, epsilon=1e-3)]

    generator = [keras.Input((100,)), layers.Reshape((1, 1, 100))]
    for filters, strides, padding in ((192, 1, "valid"), (96, 2, "same"), (48, 2, "same"), (24, 2, "same")):
        generator += normalized(layers.Conv2DTranspose(filters, 4, strides=strides, padding=padding))
        generator += [layers.LeakyReLU(0.2)]
    generator += [layers.Conv2DTranspose(3, 4, padding="same"), layers.Activation("tanh")]

    discriminator = [keras.Input((32, 32, 3)), layers.Conv2D(24, 4, strides=2, padding="same")]
    discriminator += [layers.LeakyReLU(0.2), ConcatDiff()]
    for filters in (48, 96, 192):
        discriminator += normalized(layers.Conv2D(filters, 4, strides=2, padding="same"))
        discriminator += [layers.LeakyReLU(0.2), ConcatDiff()]
    discriminator += [layers.Conv2D(1, 2), layers.Activation("sigmoid"), layers.Reshape((1,))]
    return keras.Sequential(generator), keras.Sequential(discriminator)


# The methods. Each function loads what it needs and returns `step(images, noise)`: images (batch, height, width, 3) in
# [-0.5, 0.5] and noise (batch, 100), float32.

Step = Callable[[np.ndarray, np.ndarray], object]


def article(pair: str, batch_size: int) -> Step:
    """This project's step, `dcgan_keras.gan()`, set up as the command does."""
    import models
    from dcgan_keras import gan
    from tf1 import keras, session_config, tf

    session = tf.Session(config=session_config(batch_size, RACES[pair].shape))
    keras.backend.set_session(session)
    networks = models.MODELS[pair].generator(), models.MODELS[pair].discriminator()
    gan_feed = gan(*networks, learning_rate=LEARNING_RATE, beta1=BETA1, batch_size=batch_size)
    session.run(tf.global_variables_initializer())
    return lambda images, noise: gan_feed(session, images, noise, scores=True)  # as training does


def two_model_step(keras, generator, discriminator, on_batch: bool) -> Step:
    """The two-model recipe of the tutorials: D on real images, D on generated ones, then G through a frozen D.

    on_batch: generate by `predict_on_batch`, not by `predict`.
    """
    adam = keras.optimizers.legacy.Adam
    discriminator.compile(adam(LEARNING_RATE, beta_1=BETA1), "binary_crossentropy")
    discriminator.trainable = False
    noise_input = keras.Input((100,))
    combined = keras.Model(noise_input, discriminator(generator(noise_input)))
    combined.compile(adam(LEARNING_RATE, beta_1=BETA1), "binary_crossentropy")
    discriminator.trainable = True  # each model goes by what it was compiled with
    predict = generator.predict_on_batch if on_batch else generator.predict

    def step(images, noise):
        ones = np.ones((len(images), 1), np.float32)
        generated = predict(noise) if on_batch else predict(noise, batch_size=len(noise), verbose=0)
        discriminator.train_on_batch(images, 0.9 * ones)
        discriminator.train_on_batch(generated, 0 * ones)
        combined.train_on_batch(noise, ones)

    return step


def with_memory_growth(tf):
    """TensorFlow, which takes a GPU's memory as it needs it, not all at once: other methods are on it too."""
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


def two_model(pair: str, batch_size: int, on_batch: bool = False) -> Step:
    """Two models of stock layers in TF2's default mode, where Keras compiles each call to a function."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow

    tf = with_memory_growth(tensorflow)
    return two_model_step(tf.keras, *stock_networks(tf.keras, tf), on_batch)


def two_model_graph(pair: str, batch_size: int, own_layers: bool = False) -> Step:
    """Two models in TF1's graph mode, of stock layers as in `two_model`.

    own_layers: this project's layers and threads, so that only the passes differ from the article's step.
    """
    import models
    from tf1 import keras, session_config, tf

    config = session_config(batch_size, RACES[pair].shape) if own_layers else session_config()
    keras.backend.set_session(tf.Session(config=config))
    if own_layers:
        networks = models.MODELS[pair].generator(), models.MODELS[pair].discriminator()
    else:
        networks = stock_networks(keras, tf)
    return two_model_step(keras, *networks, on_batch=True)


def keras3(pair: str, batch_size: int) -> Step:
    """A Keras 3 `train_step` with a gradient tape for each network, as in keras.io's DCGAN example.

    D sees real and generated images in one batch. XLA, which Keras 3 turns on by default, is slower here and off.
    """
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow

    tf = with_memory_growth(tensorflow)

    def log_eps(x):
        return tf.math.log(x + 1e-7)  # 1e-11 is lost next to 1 in float32

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


def torch_networks(pair: str, compiled: bool = False):
    """(torch, generator, discriminator): the pair's networks in PyTorch, channels last, on the GPU if there is one."""
    import torch
    from torch import nn

    class ConcatDiff(nn.Module):
        def forward(self, x):
            return torch.cat([x, (x - x.mean(0)).abs().mean(1, keepdim=True)], 1)

    class Crop(nn.Module):  # Keras' "same" of an even kernel begins one pixel earlier than it ends
        def forward(self, x):
            return x[:, :, :-1, :-1]

    normalization = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    leaky = partial(nn.LeakyReLU, 0.2)

    def normalized(layer, activation=leaky):
        return [layer, normalization(layer.out_channels), activation()]

    generator, discriminator = [nn.Unflatten(1, (100, 1, 1))], []
    if pair == "article":
        generator += normalized(nn.ConvTranspose2d(100, 192, 4))
        for filters in (96, 48, 24):
            generator += normalized(nn.ConvTranspose2d(2 * filters, filters, 4, 2, 1))
        generator += [nn.ConvTranspose2d(24, 3, 4, 1, 1), Crop(), nn.Tanh()]
        discriminator += [nn.Conv2d(3, 24, 4, 2, 1), leaky(), ConcatDiff()]
        for filters in (48, 96, 192):
            discriminator += [*normalized(nn.Conv2d(filters // 2 + 1, filters, 4, 2, 1)), ConcatDiff()]
        discriminator += [nn.Conv2d(193, 1, 2), nn.Sigmoid(), nn.Flatten()]
    elif pair == "dcgan":
        generator += normalized(nn.ConvTranspose2d(100, 1024, 4), nn.ReLU)
        for filters in (512, 256, 128):
            generator += normalized(nn.ConvTranspose2d(2 * filters, filters, 4, 2, 1), nn.ReLU)
        generator += [nn.ConvTranspose2d(128, 3, 4, 2, 1), nn.Tanh()]
        discriminator += [nn.Conv2d(3, 128, 4, 2, 1), leaky()]
        for filters in (256, 512, 1024):
            discriminator += normalized(nn.Conv2d(filters // 2, filters, 4, 2, 1))
        discriminator += [nn.Conv2d(1024, 1, 4), nn.Sigmoid(), nn.Flatten()]
    else:  # faces200, which normalizes after the activation
        generator = [nn.Linear(100, 25 * 25 * 128), nn.Unflatten(1, (128, 25, 25)), leaky(), normalization(128)]
        for filters in (64, 32):
            generator += [nn.ConvTranspose2d(2 * filters, filters, 5, 2, 2, 1), leaky(), normalization(filters)]
        generator += [nn.ConvTranspose2d(32, 3, 5, 2, 2, 1), nn.Tanh()]
        for inputs, filters in ((3, 32), (32, 64), (64, 128)):
            discriminator += [nn.Conv2d(inputs, filters, 5, 2, 2), leaky()]
        discriminator += [nn.Flatten(), nn.Linear(80_000, 8192), leaky(), nn.Linear(8192, 1), nn.Sigmoid()]
    place = "cuda" if torch.cuda.is_available() else "cpu"
    networks = [nn.Sequential(*layers) for layers in (generator, discriminator)]
    networks = [network.to(place, memory_format=torch.channels_last) for network in networks]
    if compiled:
        networks = [torch.compile(network, dynamic=False) for network in networks]
    return torch, *networks


def log_eps(x):
    return (x + 1e-7).log()  # 1e-11 is lost next to 1 in float32


def torch_step(torch, recipe: Callable) -> Step:
    """Feed a recipe from NumPy, as channels-last tensors."""
    place = "cuda" if torch.cuda.is_available() else "cpu"

    def step(images, noise):
        images = torch.from_numpy(images).permute(0, 3, 1, 2)  # a view, which is channels last already
        return [loss.item() for loss in recipe(images.to(place), torch.from_numpy(noise).to(place))]

    return step


def torch_two_pass(pair: str, batch_size: int, compiled: bool = False) -> Step:
    """The recipe of pytorch/examples' DCGAN: D on real, D on detached generated images, then G through the new D."""
    torch, generator, discriminator = torch_networks(pair, compiled)
    adam = partial(torch.optim.Adam, lr=LEARNING_RATE, betas=(BETA1, 0.999))
    d_optimizer, g_optimizer = adam(discriminator.parameters()), adam(generator.parameters())

    def recipe(images, noise):
        d_optimizer.zero_grad()
        rscore = discriminator(images)
        real = -(0.1 * log_eps(1 - rscore) + 0.9 * log_eps(rscore)).mean()
        real.backward()
        generated = generator(noise)
        fake = -log_eps(1 - discriminator(generated.detach())).mean()
        fake.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        gloss = -log_eps(discriminator(generated)).mean()
        gloss.backward()
        g_optimizer.step()
        return real + fake, gloss

    return torch_step(torch, recipe)


def torch_one_pass(pair: str, batch_size: int, compiled: bool = False) -> Step:
    """The article's idea in PyTorch: one forward pass, and each loss's gradient by its own network's weights only."""
    torch, generator, discriminator = torch_networks(pair, compiled)
    if compiled:
        import torch._functorch.config

        torch._functorch.config.donated_buffer = False  # the backward pass over D is run twice
    d_weights, g_weights = list(discriminator.parameters()), list(generator.parameters())
    adam = partial(torch.optim.Adam, lr=LEARNING_RATE, betas=(BETA1, 0.999), fused=True)  # one kernel for all weights
    optimizers = adam(d_weights), adam(g_weights)

    def recipe(images, noise):
        gscore, rscore = discriminator(generator(noise)), discriminator(images)
        real = -(0.1 * log_eps(1 - rscore) + 0.9 * log_eps(rscore)).mean()
        dloss, gloss = real - log_eps(1 - gscore).mean(), -log_eps(gscore).mean()
        gradients = torch.autograd.grad(dloss, d_weights, retain_graph=True), torch.autograd.grad(gloss, g_weights)
        for weights, slopes, optimizer in zip((d_weights, g_weights), gradients, optimizers, strict=True):
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = slope
            optimizer.step()
        return dloss, gloss

    return torch_step(torch, recipe)


def rate() -> tuple[Step, int]:
    """Not a method of training: (an operation, its floating-point operations), for the machine's rate.

    The fastest of a matrix product and two convolutions of TensorFlow, in float32 on all cores or the GPU.
    """
    from tf1 import session_config, tf

    size = 2048
    matrices = [tf.Variable(tf.random.normal((size, size))) for _ in range(2)]
    candidates = [(tf.matmul(*matrices).op, 2 * size**3)]
    for side, channels in ((64, 64), (16, 256)):
        images = tf.Variable(tf.random.normal((32, side, side, channels)))
        kernel = tf.Variable(tf.random.normal((3, 3, channels, channels)))
        candidates.append((tf.nn.conv2d(images, kernel, 1, "SAME").op, 2 * 32 * side**2 * 9 * channels**2))
    session = tf.Session(config=session_config())
    session.run(tf.global_variables_initializer())

    def flop_per_second(candidate):
        operation, flop = candidate
        session.run(operation)
        began = time.perf_counter()
        session.run(operation)
        return flop / (time.perf_counter() - began)

    operation, flop = max(candidates, key=flop_per_second)
    return lambda images, noise: session.run(operation), flop


METHODS: dict[str, tuple[str, Callable[..., Step]]] = {
    "article": ("the article's step, this project", article),
    "two-model-graph": ("two-model, TF1 graph mode, stock layers", two_model_graph),
    "two-model-graph-own": (
        "two-model, TF1 graph mode, this project's layers",
        partial(two_model_graph, own_layers=True),
    ),
    "two-model": ("two-model as in the tutorials, TF2 default mode", two_model),
    "two-model-on-batch": ("two-model with predict_on_batch, TF2 default mode", partial(two_model, on_batch=True)),
    "keras3": ("Keras 3 train_step, two tapes", keras3),
    "torch-two-pass": ("PyTorch two-pass, channels_last", torch_two_pass),
    "torch-one-pass": ("PyTorch one-pass, channels_last", torch_one_pass),
    "torch-two-pass-compile": ("PyTorch two-pass, torch.compile", partial(torch_two_pass, compiled=True)),
    "torch-one-pass-compile": ("PyTorch one-pass, torch.compile", partial(torch_one_pass, compiled=True)),
}
OF_OTHER_PAIRS = ("article", "two-model-graph-own", "torch-two-pass", "torch-one-pass")
RATE = "rate"  # takes turns with the methods


# The process.


def device() -> str:
    """Where the library that this process has loaded computes: "GPU" or "CPU"."""
    if "torch" in sys.modules:
        return "GPU" if sys.modules["torch"].cuda.is_available() else "CPU"
    return "GPU" if sys.modules["tensorflow"].config.list_physical_devices("GPU") else "CPU"


def serve(name: str, pair: str, batch_size: int) -> int:
    """Answer each number of steps on stdin with the seconds that they took on stdout, as lines of JSON.

    The first line says where the method runs, or {"unavailable": why it does not}.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as tf1 sets it: the same convolutions for all
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, *RACES[pair].shape), np.float32) - np.float32(0.5)
    noise = rng.standard_normal((batch_size, 100), np.float32)
    try:
        step, flop = rate() if name == RATE else (METHODS[name][1](pair, batch_size), None)
        for _ in range(2):
            step(images, noise)
    except Exception as error:  # of any kind: the library is missing, or cannot do this
        print(json.dumps({"unavailable": command.one_line(error)[:200]}), file=out)
        return 0
    print(json.dumps({"device": device(), "flop": flop}), file=out)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step(images, noise)
        print(json.dumps(time.perf_counter() - began), file=out)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = command.Parser(prog="python -m reproduce.ways", description="Run one method; the benchmark starts these.")
    parser.add_argument("name", choices=[*METHODS, RATE], help="method to run")
    parser.add_argument("--pair", choices=RACES, default="article", help="networks to train (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=command.at_least(1), default=32, metavar="N", help="batch size (default: %(default)s)"
    )
    arguments = parser.parse_args(arguments)
    return serve(arguments.name, arguments.pair, arguments.batch_size)


if __name__ == "__main__":
    command.run(main)
