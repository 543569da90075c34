"""The slow recipe: what it must share with the one-pass step, and what tells them apart."""

import numpy as np
import pytest
from conftest import tiny_pair

import models
from dcgan_keras import LOSSES, gan
from test_training import EVERY_FEW, same_bits, state
from tf1 import keras, tf
from two_model import two_model

RUN = ("--dataset", "shapes", "--batch-size", "4", *EVERY_FEW, "--model", "tiny", "--recipe", "two-model")


def batch():
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 0.5, (8, 32, 32, 3)).astype(np.float32), rng.standard_normal((8, 5)).astype(np.float32)


def pair_without_normalization(activation):
    layers = keras.layers
    generator = keras.Sequential([layers.InputLayer((5,)), layers.Dense(32 * 32 * 3), layers.Reshape((32, 32, 3))])
    discriminator = keras.Sequential(
        [layers.InputLayer((32, 32, 3)), layers.Flatten(), layers.Dense(1, activation=activation)]
    )
    return generator, discriminator


@pytest.mark.parametrize("name", LOSSES)
def test_both_recipes_report_the_same_losses(name, sess):
    """At a learning rate that moves nothing, and without batch normalization, which the recipes feed differently."""
    pair = pair_without_normalization("linear" if name == "lsgan" else "sigmoid")
    feeds = [recipe(*pair, LOSSES[name], learning_rate=1e-12) for recipe in (gan, two_model)]
    sess.run(tf.global_variables_initializer())
    one_pass, two_models = (feed(sess, *batch()) for feed in feeds)
    np.testing.assert_allclose(two_models, one_pass, rtol=1e-5)
    assert len(set(one_pass)) == 2
