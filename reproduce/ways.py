"""Every way to train the article's networks that the benchmark compares, one function each.

Networks, loss and Adam's settings are the article's in all of them, and every way is fed pictures and noise from NumPy.
"""

import os
from collections.abc import Callable
from functools import partial

import numpy as np

LEARNING_RATE, BETA1 = 1e-4, 0.2
MATRIX = 2048  # rows and columns of the matrices that the machine's rate is measured with

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
    from models import ConcatDiff
    from tf1 import keras, session_config, tf
    from tf1.layers import Conv2D, Conv2DTranspose

    session = tf.Session(config=session_config(batch_size))
    keras.backend.set_session(session)
    if width == 1:
        networks = models.article_generator(), models.article_discriminator()
    else:
        networks = article_networks(keras, Conv2D, Conv2DTranspose, ConcatDiff, width)
    gan_feed = gan(*networks, learning_rate=LEARNING_RATE, beta1=BETA1, batch_size=batch_size)
    session.run(tf.global_variables_initializer())
    return lambda images, noise: gan_feed(session, images, noise, scores=True)  # as training does


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


def two_model_graph(own_layers: bool = False) -> Step:
    """Two models on stock layers in TF1's graph mode."""
    import models
    from tf1 import keras, session_config, tf

    keras.backend.set_session(tf.Session(config=session_config()))
    own = models.article_generator, models.article_discriminator
    networks = [make() for make in own] if own_layers else stock_networks(keras, tf)
    return two_model_step(keras, *networks, predict_on_batch)


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
    "two-model-graph-own": (
        "two-model, TF1 graph mode, this project's layers",
        partial(two_model_graph, own_layers=True),
    ),
    "two-model": ("two-model, the sources' recipe, TF2 default mode", two_model),
    "two-model-on-batch": ("the same with predict_on_batch", partial(two_model, predict_on_batch)),
    "keras3": ("Keras 3 train_step, two tapes", keras3),
    "torch-two-pass": ("PyTorch two-pass, channels_last", torch_two_pass),
    "torch-one-pass": ("PyTorch one-pass, channels_last", torch_one_pass),
    "torch-two-pass-compile": ("PyTorch two-pass, torch.compile", partial(torch_two_pass, compiled=True)),
    "torch-one-pass-compile": ("PyTorch one-pass, torch.compile", partial(torch_one_pass, compiled=True)),
}
RATE = "matrix-product"  # takes turns with the variants
