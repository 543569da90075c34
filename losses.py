"""Losses other than the article's, from the papers that each names. The article's is in dcgan_keras.py.

Every loss is a function `(gscore, rscore, smoothing) -> (dloss, gloss)` of D's outputs for generated and for real
images, each (batch, 1). The target of real images is 1 - smoothing.
"""

from collections.abc import Callable
from typing import NamedTuple

from command import InputError
from tf1 import tf
from tf1.graph import last_operation


class Loss(NamedTuple):
    """A loss and what it expects of D."""

    function: Callable
    activation: str  # of D's last layer
    score: Callable  # turns D's output into the reported D(x)
    smoothing: float  # the default


# The article's loss has no gradient beyond log_eps(0) = -25.3, so G learns nothing more once D is certain. The losses
# below take D's output without a sigmoid: they have the same values, and a gradient however certain D is.


def check_scores(score: tf.Tensor) -> None:
    """Raise InputError where D's output is not a score in (0, 1), because its last layer is linear or the like."""
    operation = last_operation(score)
    if operation.type in ("BiasAdd", "MatMul", "Conv2D", "AddV2", "Mean", "Relu", "LeakyRelu", "Tanh"):
        raise InputError(
            f"the article's loss takes scores in (0, 1), but the discriminator ends in {operation.type}: end it in a "
            "sigmoid, or choose another loss"
        )


def cross_entropy(logits, target):
    """The mean of -target * log(sigmoid(logits)) - (1 - target) * log(1 - sigmoid(logits)); logits (batch, 1)."""
    targets = target * tf.ones_like(logits)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits))


def minimax(glogits, rlogits, smoothing=0.0):
    """The value V(D, G) of Goodfellow et al. 2014, equation 1. D maximizes it, G minimizes it.

    G's loss is the part of V that depends on G, as in their algorithm 1.
    """
    dloss = cross_entropy(glogits, 0) + cross_entropy(rlogits, 1 - smoothing)
    gloss = -cross_entropy(glogits, 0)
    return dloss, gloss


def bce(glogits, rlogits, smoothing=0.0):
    """Non-saturating binary cross-entropy: G maximizes log D(G(z)) (Goodfellow et al. 2014, section 3)."""
    dloss = cross_entropy(glogits, 0) + cross_entropy(rlogits, 1 - smoothing)
    gloss = cross_entropy(glogits, 1)
    return dloss, gloss


def lsgan(gscore, rscore, smoothing=0.0):
    """Least squares (Mao et al. 2016, equation 2, with a = 0 and b = c = 1)."""
    dloss = tf.reduce_mean((rscore - (1 - smoothing)) ** 2 + gscore**2) / 2
    gloss = tf.reduce_mean((gscore - 1) ** 2) / 2
    return dloss, gloss


OTHER_LOSSES = {
    "minimax": Loss(minimax, "linear", tf.sigmoid, 0.0),
    "bce": Loss(bce, "linear", tf.sigmoid, 0.0),
    "lsgan": Loss(lsgan, "linear", tf.identity, 0.0),
}


def class_loss(labels, logits):
    """The mean negative log-likelihood of the right class: -L_C of AC-GAN (Odena et al. 2016, equation 3).

    labels: (batch, 1) int; logits: (batch, classes).
    """
    right = tf.squeeze(tf.cast(labels, tf.int32), 1)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=right, logits=logits))
