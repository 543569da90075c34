"""How often one training step computes each network: the article's claim."""

from collections import Counter

import numpy as np
import pytest

from dcgan_keras import article_losses, gan
from tf1 import keras, tf
from two_model import two_model

layers = keras.layers


def counting(name, passes):
    """A layer that returns its input and counts in `passes[name]` how often the session computes it."""

    @tf.custom_gradient
    def identity(x):
        with tf.control_dependencies([tf.py_func(lambda: passes.update([name]), [], [])]):
            return tf.identity(x), lambda dy: dy

    return layers.Lambda(identity)


@pytest.mark.parametrize(("recipe", "expected"), [(gan, {"G": 1, "D": 2}), (two_model, {"G": 2, "D": 3})])
def test_one_step_computes_each_network_so_often(recipe, expected, sess):
    passes = Counter()
    generator = keras.Sequential([layers.InputLayer((3,)), layers.Dense(5, "tanh"), counting("G", passes)])
    discriminator = keras.Sequential([layers.InputLayer((5,)), counting("D", passes), layers.Dense(1, "sigmoid")])
    step = recipe(generator, discriminator, article_losses)
    sess.run(tf.global_variables_initializer())
    step(sess, np.zeros((2, 5), np.float32), np.zeros((2, 3), np.float32))
    assert passes == expected
