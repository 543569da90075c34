"""The features in which reproduce.evaluate compares images: of a small classifier, or of Inception."""

import hashlib
import zipfile
from collections.abc import Callable

import numpy as np

import command
import data
from command import InputError
from sources import cache_home
from tf1 import keras, session_config, set_seed, tf

layers = keras.layers

# How the classifier is trained. The cache is keyed by the four numbers, so a change of them trains it anew.
EPOCHS, BATCH, PEAK_RATE, RECIPE = 6, 128, 0.2, 1

# A mirrored digit is no digit, and whether a folder's classes survive it is not known. The classes of CIFAR-10 and of
# the faces stay what they are.
NOT_MIRRORED = ("mnist", "folder")


def classifier(shape: data.Shape, classes: int) -> keras.Model:
    """A small convolutional network: images (*shape,) in [-1, 1] -> 128 features -> logits (classes,)."""

    def block(filters, size=3, strides=1, pool=False):
        return [
            layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False),
            *([layers.MaxPool2D(padding="same")] if pool else []),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]

    return keras.Sequential(
        [
            layers.InputLayer(shape),
            *block(32, size=6, strides=2),  # 16x16, of 32x32
            *block(64, pool=True),  # 8x8
            *block(128, pool=True),  # 4x4
            *block(128),
            layers.GlobalAveragePooling2D(name="features"),
            layers.Dense(classes),
        ]
    )


def train_classifier(dataset: data.Dataset, seed: int) -> list[np.ndarray]:
    """The weights of a `classifier` after `EPOCHS` epochs, in a graph of its own."""
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        set_seed(seed)
        network = classifier(dataset.images.shape[1:], len(dataset.classes))
        images, rate = keras.Input(dataset.images.shape[1:]), tf.placeholder(tf.float32, ())
        labels = tf.placeholder(tf.int64, (None,))
        logits = network(images, training=True)
        loss = tf.losses.softmax_cross_entropy(tf.one_hot(labels, len(dataset.classes)), logits, label_smoothing=0.1)
        with tf.control_dependencies(network.get_updates_for(images)):
            update = tf.train.MomentumOptimizer(rate, 0.9, use_nesterov=True).minimize(loss)
        sess.run(tf.global_variables_initializer())
        steps = EPOCHS * data.batches_per_epoch(dataset, BATCH)
        batches = data.batches(dataset, BATCH, (-1, 1), seed)
        mirrored = dataset.name not in NOT_MIRRORED
        flips = np.random.default_rng(seed)
        bar = keras.utils.Progbar(steps, interval=30)
        for step in range(steps):
            batch, of_batch = next(batches)
            if mirrored:
                flipped = flips.random(BATCH) < 0.5
                batch[flipped] = batch[flipped, :, ::-1]
            # The rate rises over the first quarter and falls to 0: Smith and Topin 2017, "Super-convergence".
            now = PEAK_RATE * min(step / (0.25 * steps), (steps - step) / (0.75 * steps))
            value, _ = sess.run([loss, update], {images: batch, labels: of_batch, rate: now})
            bar.update(step + 1, [("classifier's loss", value)])
        return network.get_weights()


def cached_classifier(dataset: data.Dataset, seed: int) -> list[np.ndarray]:
    """The same from the cache, where it has a classifier of these images, this seed and this recipe."""
    digest = hashlib.sha256(repr((EPOCHS, BATCH, PEAK_RATE, RECIPE, seed, dataset.images.shape)).encode())
    digest.update(np.ascontiguousarray(dataset.images))
    digest.update(dataset.labels)
    path = cache_home() / f"classifier_{digest.hexdigest()[:32]}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in file.files]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # missing or damaged: np.savez has CRCs
        weights = train_classifier(dataset, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with command.replacing(path) as beside:
        np.savez(beside, *weights)
    return weights


Features = Callable[[np.ndarray], np.ndarray]  # images (n, height, width, channels) uint8 -> (n, features) float32


def classifier_features(
    sess: tf.Session, weights: list[np.ndarray], dataset: data.Dataset
) -> tuple[Features, Features]:
    """In the default graph: what gives a classifier's features (n, 128), and what gives its logits (n, classes)."""
    network = classifier(dataset.images.shape[1:], len(dataset.classes))
    inner = keras.Model(network.input, [network.get_layer("features").output, network.output])
    images = tf.placeholder(tf.float32, (None, *dataset.images.shape[1:]))
    features, logits = inner(images, training=False)
    sess.run(tf.variables_initializer(network.variables))
    network.set_weights(weights)

    def of(tensor):
        return in_batches(lambda batch: sess.run(tensor, {images: data.scale(batch, (-1, 1))}), 500)

    return of(features), of(logits)


def inception_features(sess: tf.Session) -> Features:
    """What gives InceptionV3's 2048 pooled features of images, which are enlarged to 299x299 (bilinear), in [-1, 1].

    The weights are Keras' for ImageNet, which it downloads. They are not those of the FID's original network, and
    neither are the distances. Raises InputError when they cannot be downloaded.
    """
    try:
        network = keras.applications.InceptionV3(weights="imagenet", include_top=False, pooling="avg")
    except Exception as error:  # no network, a wrong checksum, a file cut short: anything may come out of there
        raise InputError(
            f"Inception's weights could not be downloaded ({command.one_line(error)}); "
            "leave out --inception, which needs them"
        ) from error
    images = tf.placeholder(tf.uint8, (None, None, None, None))
    coloured = tf.cond(tf.shape(images)[-1] > 1, lambda: images, lambda: tf.image.grayscale_to_rgb(images))
    coloured = tf.ensure_shape(coloured, (None, None, None, 3))
    enlarged = tf.image.resize_bilinear(tf.cast(coloured, tf.float32), (299, 299), half_pixel_centers=True)
    features = network(enlarged / 127.5 - 1, training=False)
    return in_batches(lambda batch: sess.run(features, {images: batch}), 50)


def in_batches(function: Callable[[np.ndarray], np.ndarray], size: int) -> Features:
    """The function, called with `size` rows at a time."""
    return lambda rows: np.concatenate([function(rows[first : first + size]) for first in range(0, len(rows), size)])
