"""How often one training step computes each network: the article's claim."""

from collections import Counter

import numpy as np
import pytest

from dcgan_keras import article_losses, gan
from tf1 import keras, tf
from tf1.graph import in_one_product
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


@pytest.mark.parametrize(("units", "products"), [(40, 1), (1, 2)])  # it pays for large weights only
def test_the_gradient_of_a_large_dense_layer_takes_one_product(units, products, sess):
    batches = [tf.constant(np.random.default_rng(seed).random((4, 30)), tf.float32) for seed in (0, 1)]
    dense = layers.Dense(units, use_bias=False)
    loss = tf.add_n([tf.reduce_sum(dense(batch) ** 2) for batch in batches])
    [(plain, weights)] = tf.train.AdamOptimizer().compute_gradients(loss, dense.weights)
    gradient = in_one_product(plain, weights)
    assert (gradient is not plain) == (products == 1)
    sess.run(tf.global_variables_initializer())
    np.testing.assert_allclose(*sess.run([gradient, plain]), rtol=1e-4, atol=1e-5)
