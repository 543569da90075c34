"""Your own networks: a file with a `pair`, for --model.

    python dcgan_keras.py --dataset faces --model examples/own_pair.py --out samples/own_pair --steps 1000
    python generate.py walk --weights samples/own_pair/generator.h5 --model examples/own_pair.py

It has all that the built-in models have: resume, samples, logs, TensorBoard, generate.py.
"""

from models import ConcatDiff, Pair
from tf1 import keras  # Keras 2; models of Keras 3 cannot be trained here

layers = keras.layers


def generator():
    """Latent vector (64,) -> image (32, 32, 3). Enlarging before each convolution avoids checkerboard patterns."""

    def up(filters):
        return [
            layers.UpSampling2D(),
            layers.Conv2D(filters, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    return keras.Sequential(
        [
            layers.InputLayer((64,)),
            layers.Dense(4 * 4 * 64, "relu"),
            layers.Reshape((4, 4, 64)),
            *up(64),  # 8x8
            *up(32),  # 16x16
            *up(16),  # 32x32
            layers.Conv2D(3, 3, padding="same", activation="tanh"),  # tanh goes with pixels=(-1, 1)
        ]
    )


def discriminator():
    """Image (32, 32, 3) -> score (1,), without an activation: the loss below applies the sigmoid itself."""

    def down(filters):
        # ConcatDiff lets D compare the images of a batch; without it, G collapses to one image here
        return [layers.Conv2D(filters, 4, strides=2, padding="same"), layers.LeakyReLU(0.2), ConcatDiff()]

    return keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            *down(24),  # 16x16
            *down(48),  # 8x8
            *down(96),  # 4x4
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


pair = Pair(
    generator,
    discriminator,
    shape=(32, 32, 3),  # height, width, channels of the images
    pixels=(-1, 1),  # what black and white are to the networks
    loss="bce",  # one of: article (the score ends in a sigmoid), bce, lsgan, minimax (it does not)
    batch_size=32,
    learning_rate=5e-4,
    beta1=0.5,
)
