"""The slow recipe: what it must share with the one-pass step, and what tells them apart."""

import numpy as np
import pytest
from conftest import class_pair

from dcgan_keras import LOSSES, gan
from tf1 import keras, tf
from tf1.layers import SeededDropout
from two_model import two_model


def batch():
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 0.5, (8, 32, 32, 3)).astype(np.float32), rng.standard_normal((8, 5)).astype(np.float32)


def pair_without_normalization(activation):
    layers = keras.layers
    generator = keras.Sequential(
        [layers.InputLayer((5,)), layers.Dense(32 * 32 * 3), layers.Reshape((32, 32, 3))], name="generator"
    )
    discriminator = keras.Sequential(
        [layers.InputLayer((32, 32, 3)), layers.Flatten(), layers.Dense(1, activation=activation)], name="discriminator"
    )
    return generator, discriminator


@pytest.mark.parametrize("name", LOSSES)
def test_both_recipes_report_the_same_losses(name, sess):
    """At a learning rate that moves nothing, and without batch normalization, which the recipes feed differently."""
    loss = LOSSES[name]
    pair = pair_without_normalization(loss.activation)
    feeds = [recipe(*pair, loss.function, learning_rate=1e-12, score=loss.score) for recipe in (gan, two_model)]
    sess.run(tf.global_variables_initializer())
    one_pass, two_models = (feed(sess, *batch(), scores=True) for feed in feeds)
    np.testing.assert_allclose(two_models, one_pass, rtol=1e-5)
    assert len(set(one_pass)) == 4


def test_with_classes_both_recipes_report_the_same_numbers(sess):
    pair = class_pair()["generator"](5), class_pair()["discriminator"](5, "linear")
    feeds = [
        recipe(*pair, LOSSES["bce"].function, learning_rate=1e-12, score=tf.sigmoid) for recipe in (gan, two_model)
    ]
    sess.run(tf.global_variables_initializer())
    images, noise = batch()
    labels = np.arange(8) % 5
    one_pass, two_models = (feed(sess, images, [labels[:, np.newaxis], noise], labels, scores=True) for feed in feeds)
    # About the same: dropout draws other masks, and G normalizes by its moving averages here. G's loss is left out, as
    # one pass adds the class loss of real pictures to it, which G cannot change.
    np.testing.assert_allclose(np.delete(two_models, 1), np.delete(one_pass, 1), rtol=0.3)
    assert len(feeds[1](sess, images, [labels[:, np.newaxis], noise], labels)) == 2


@pytest.mark.parametrize("moving", ["generator", "discriminator"])
def test_each_loss_moves_its_own_network_alone(moving, sess):
    """Where a loss is 0 its network stays as it is: D is frozen behind G, and G is not part of D's updates."""
    generator, discriminator = pair_without_normalization("sigmoid")
    factors = {"generator": (0, 1), "discriminator": (1, 0)}[moving]

    def losses(gscore, rscore):
        return [factor * loss for factor, loss in zip(factors, LOSSES["article"].function(gscore, rscore), strict=True)]

    feed = two_model(generator, discriminator, losses)
    sess.run(tf.global_variables_initializer())
    before = {"generator": generator.get_weights(), "discriminator": discriminator.get_weights()}
    feed(sess, *batch())
    for network in (generator, discriminator):
        same = all((a == b).all() for a, b in zip(before[network.name], network.get_weights(), strict=True))
        assert same == (network.name != moving)


def test_dropout_of_the_generated_batch_is_not_that_of_the_real_one(sess):
    layers = keras.layers
    generator = keras.Sequential([layers.InputLayer((5,)), layers.Dense(12, kernel_initializer="zeros")])
    generator.add(layers.Reshape((2, 2, 3)))
    discriminator = keras.Sequential([layers.InputLayer((2, 2, 3)), layers.Flatten(), SeededDropout(0.5)])
    discriminator.add(layers.Dense(1))
    feed = two_model(generator, discriminator, LOSSES["lsgan"].function, learning_rate=1e-12)
    sess.run(tf.global_variables_initializer())
    generator.layers[0].bias.load(np.ones(12), sess)
    images, noise = np.ones((8, 2, 2, 3), np.float32), np.zeros((8, 5), np.float32)  # G makes these pictures, too
    means = [feed(sess, images, noise, scores=True)[2:] for _ in range(2)]
    assert len(np.unique(means)) == 4  # nor is it that of another step
    assert sess.run(tf.train.get_global_step()) == 2
