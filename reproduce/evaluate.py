"""Measure the quality of a generator's pictures, with nothing to download.

    python -m reproduce.evaluate --dataset cifar10 --data-dir DIR --weights samples/cifar10/generator_*.h5

A small classifier is trained once on the dataset itself. In the space of its features, samples are compared with the
test pictures. The first line has the same numbers for real pictures that the classifier has not seen: the best that a
generator can reach. The numbers compare generators of one dataset with each other. They are not the usual FID; for that
there is --inception.

    frechet     Fréchet distance, less is better (Heusel et al. 2017)
    precision   share of samples among real pictures, recall the other way round (Kynkäänniemi et al. 2019)
    rarest      share of samples in the class that the classifier finds least often
    variety     mean distance between two samples, in their pixels, as a multiple of that between two test pictures; of
                a generator with classes, both within a class, and of the class where it is least
    asked       share of samples that the classifier finds in the class that was asked for

Pictures larger than 64x64 are compared reduced to that size.
"""

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import command
import data
import models
from command import InputError
from sources import cache_home
from tf1 import keras, session_config, set_seed, tf
from training import checkpoints
from training.generator import load_generator
from training.noise import noise_for

layers = keras.layers

K = 3  # which nearest neighbour bounds a point's ball: Kynkäänniemi et al. 2019, section 3.1
BLOCK = 1000  # rows of a distance matrix held at a time: 80 MB of 10,000 columns
DATASETS = [name for name in data.DATASETS if name not in ("folder", "arrays")]  # which have no test images
LARGEST = 64  # pixels, of a side: what the classifier sees
FIELDS = ("pictures", "step", "samples", "frechet", "precision", "recall", "rarest", "variety", "asked")
LINE = "{:<40} {:>7} {:>8} {:>9} {:>10} {:>7} {:>7} {:>8} {:>7}"

# How the classifier is trained. The cache is keyed by the four numbers, so a change of them trains it anew.
EPOCHS, BATCH, PEAK_RATE, RECIPE = 6, 128, 0.2, 1

# The measures: numpy only.


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The squared Frechet distance of two Gaussians with the means and covariances of two sets of features.

    one, other: (n, features) and (m, features), n and m at least 2. Source: Heusel et al. 2017, section 2, equation 6:
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    c1, c2 = np.atleast_2d(np.cov(one, rowvar=False)), np.atleast_2d(np.cov(other, rowvar=False))
    # C1 C2 has the eigenvalues of the symmetric product C1^(1/2) C2 C1^(1/2), which are real and not negative.
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    roots = np.sqrt(np.linalg.eigvalsh(root @ c2 @ root).clip(0))
    difference = one.mean(axis=0) - other.mean(axis=0)
    return float(difference @ difference + np.trace(c1) + np.trace(c2) - 2 * roots.sum())


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, k: int = K, real_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """The share of generated points within the manifold of the real ones, and the other way round, 0 to 1.

    real, generated: (n, features) and (m, features), n and m above k. A set's manifold is the union of balls around its
    points, each reaching to its k-th nearest neighbour. Source: Kynkäänniemi et al. 2019, section 3.1, equations 1, 2.
    real_radii: `squared_radii(real, k)`, if they are known; they take a third of the time.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    real_radii = squared_radii(real, k) if real_radii is None else real_radii
    generated_radii = squared_radii(generated, k)
    covered = np.zeros(len(generated), bool)
    recalled = 0
    for rows, squares in squared_distances(real, generated):
        covered |= (squares <= real_radii[rows, np.newaxis]).any(axis=0)
        recalled += (squares <= generated_radii).any(axis=1).sum()
    return float(covered.mean()), float(recalled / len(real))


def squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """(n,): each point's squared distance to its k-th nearest neighbour among the others. points: (n, features)."""
    points = np.asarray(points, np.float64)
    # In each row the point itself comes first, at distance 0.
    return np.concatenate([np.partition(squares, k, axis=1)[:, k] for _, squares in squared_distances(points, points)])


def squared_distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The matrix of all squared distances of (n, features) to (m, features), block by block as (rows, (BLOCK, m))."""
    lengths = (columns**2).sum(axis=1)
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        squares = (block**2).sum(axis=1)[:, np.newaxis] + lengths - 2 * block @ columns.T
        yield slice(first, first + len(block)), squares.clip(0)


def mean_distance(images: np.ndarray, most: int = 1000) -> float:
    """The mean Euclidean distance between two of these pictures, (n, ...) uint8, n at least 2; of `most` among them."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), most)).astype(int)
    points = images[chosen].reshape(len(chosen), -1) / 255
    total = sum(np.sqrt(squares).sum() for _, squares in squared_distances(points, points))
    return float(total / (len(chosen) * (len(chosen) - 1)))


def variety(
    real: np.ndarray, generated: np.ndarray, real_labels: np.ndarray, labels: np.ndarray | None = None
) -> float:
    """How much generated pictures differ from each other, as a multiple of how much real ones do.

    real, generated: (n, ...) and (m, ...) uint8. With `labels`, (m,), both within a class, and of the class where it is
    least.
    """
    if labels is None:
        return mean_distance(generated) / mean_distance(real)
    pairs = [(real[real_labels == label], generated[labels == label]) for label in np.unique(labels)]
    return min((mean_distance(b) / mean_distance(a) for a, b in pairs if len(a) > 1 and len(b) > 1), default=np.nan)


# The features: the classifier's, or Inception's.


def classifier(shape: data.Shape, classes: int) -> keras.Model:
    """A small convolutional network: pictures (*shape,) in [-1, 1] -> 128 features -> logits (classes,)."""

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
        flips = np.random.default_rng(seed)
        bar = keras.utils.Progbar(steps, interval=30)
        for step in range(steps):
            batch, of_batch = next(batches)
            if dataset.name != "mnist":  # a digit's mirror image is no digit
                flipped = flips.random(BATCH) < 0.5
                batch[flipped] = batch[flipped, :, ::-1]
            # The rate rises over the first quarter and falls to 0: Smith and Topin 2017, "Super-convergence".
            now = PEAK_RATE * min(step / (0.25 * steps), (steps - step) / (0.75 * steps))
            value, _ = sess.run([loss, update], {images: batch, labels: of_batch, rate: now})
            bar.update(step + 1, [("classifier's loss", value)])
        return network.get_weights()


def cached_classifier(dataset: data.Dataset, seed: int) -> list[np.ndarray]:
    """The same from the cache, where it is whole (its checksum is right) and of the same pictures, seed and recipe."""
    digest = hashlib.sha256(repr((EPOCHS, BATCH, PEAK_RATE, RECIPE, seed, dataset.images.shape)).encode())
    digest.update(np.ascontiguousarray(dataset.images))
    digest.update(dataset.labels)
    path = cache_home() / f"classifier_{digest.hexdigest()[:32]}.npz"
    if path.exists():
        checksum, content = path.read_bytes()[:64], path.read_bytes()[64:]
        if checksum == hashlib.sha256(content).hexdigest().encode():
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return [file[name] for name in file.files]
    weights = train_classifier(dataset, seed)
    file = io.BytesIO()
    np.savez(file, *weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    with command.replacing(path) as beside:
        beside.write_bytes(hashlib.sha256(file.getvalue()).hexdigest().encode() + file.getvalue())
    return weights


Features = Callable[[np.ndarray], np.ndarray]  # pictures (n, height, width, channels) uint8 -> (n, features) float32


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
        return lambda pictures: in_batches(
            lambda batch: sess.run(tensor, {images: data.scale(batch, (-1, 1))}), pictures, 500
        )

    return of(features), of(logits)


def inception_features(sess: tf.Session) -> Features:
    """What gives InceptionV3's 2048 pooled features: pictures enlarged to 299x299, bilinear, in [-1, 1].

    The weights are Keras' own for ImageNet, which it downloads: distances are not those of the original FID's network.
    Raises InputError when they cannot be downloaded.
    """
    try:
        network = keras.applications.InceptionV3(weights="imagenet", include_top=False, pooling="avg")
    except Exception as error:  # no network, a wrong checksum, a file cut short: anything may come out of there
        raise InputError(
            f"Inception's weights could not be downloaded ({command.one_line(error)}); "
            "leave out --inception, which alone needs them"
        ) from error
    images = tf.placeholder(tf.uint8, (None, None, None, None))
    coloured = tf.cond(tf.shape(images)[-1] > 1, lambda: images, lambda: tf.image.grayscale_to_rgb(images))
    coloured = tf.ensure_shape(coloured, (None, None, None, 3))
    enlarged = tf.image.resize_bilinear(tf.cast(coloured, tf.float32), (299, 299), half_pixel_centers=True)
    features = network(enlarged / 127.5 - 1, training=False)
    return lambda pictures: in_batches(lambda batch: sess.run(features, {images: batch}), pictures, 50)


def in_batches(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([function(rows[first : first + size]) for first in range(0, len(rows), size)])


# The command.


def samples(
    path: Path, model: str | None, count: int, seed: int, batch_statistics: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """`count` pictures of the generator in a file, uint8, and the classes that were asked for, all equally often.

    From the same noise for every file. The generator normalizes by its moving averages, as the author's program does
    when it shows samples, or, with `batch_statistics`, by each batch of 32 itself, as in training.
    """
    size = 32
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        generator = load_generator(path, model, batch_statistics)
        noise = noise_for(seed, 0, -(-count // size) * size, generator.latent)
        labels = np.arange(len(noise)) % generator.classes if generator.classes else None
        images = generator.pictures(noise, 0 if labels is None else labels, batch=size)[:count]
    return reduced(images), labels if labels is None else labels[:count]


def reduced(images: np.ndarray) -> np.ndarray:
    """Pictures of at most `LARGEST` pixels a side, each the mean of those that it stands for."""
    height, width = (min(side, LARGEST) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images
    small = [
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize(
            (width, height), Image.Resampling.BOX
        )
        for image in images
    ]
    return np.stack([np.asarray(image).reshape(height, width, -1) for image in small])


def step_of(path: Path) -> int | None:
    """The step in the name of a file of weights that a run has kept, such as generator_005000.h5."""
    found = re.search(r"_(\d{6,})\.h5$", path.name)
    return int(found[1]) if found else None


def parse(arguments: list[str] | None = None):
    parser = command.Parser(prog="python -m reproduce.evaluate", description="Measure the quality of samples.")
    add = parser.add_argument
    add("--weights", type=Path, nargs="+", required=True, metavar="FILE", help="of generators: one line for each")
    add("--dataset", choices=DATASETS, help="default: the one of the run, else cifar10")
    add("--data-dir", type=Path, metavar="DIR", help="where the data are; without it, Keras downloads and caches them")
    add("--model", choices=models.MODELS, help="default: the run's, or that which the weights fit")
    add("--samples", type=command.at_least(K + 1), default=10000, metavar="N", help="of each (%(default)s)")
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="of noise and classifier (%(default)s)")
    add("--batch-statistics", action="store_true", help="sample with each batch's own statistics, not moving averages")
    add("--inception", action="store_true", help="Inception's features, downloaded: the usual FID (slow)")
    add("--out", type=Path, metavar="FILE.csv", help="write the table here too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    for path in arguments.weights:  # before minutes of training
        if not path.is_file():
            raise InputError(f"--weights {path}: there is no such file")
    if arguments.out and not arguments.out.resolve().parent.is_dir():
        raise InputError(f"--out {arguments.out}: there is no such folder")
    count, seed = arguments.samples, arguments.seed
    run = checkpoints.read_run(arguments.weights[0].parent) or {}
    dataset = arguments.dataset or (run["dataset"] if run.get("dataset") in DATASETS else "cifar10")

    made = (
        (path, *samples(path, arguments.model, count, seed, arguments.batch_statistics)) for path in arguments.weights
    )
    first = next(made)
    shape = first[1].shape[1:]
    train, test = (
        data.load(dataset, shape, data_dir=arguments.data_dir, seed=seed, split=split) for split in ("train", "test")
    )
    # The floor: training pictures that the classifier is kept from, a fifth of them and at most 10,000.
    order = np.random.default_rng(seed).permutation(len(train.images))
    seen, held_out = np.split(order, [-min(10_000, len(order) // 5)])
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        logits = None
        if arguments.inception:
            features = inception_features(sess)
        else:
            known = train._replace(images=train.images[seen], labels=train.labels[seen])
            weights = cached_classifier(known, seed)
            keras.backend.set_session(sess)
            features, logits = classifier_features(sess, weights, train)
            accuracy = (logits(test.images).argmax(axis=1) == test.labels).mean()
            print(f"the classifier is right about {accuracy:.2%} of {len(test.images)} test pictures")
        real = features(test.images)
        radii = squared_radii(real, K)

        rows = []
        print(LINE.format(*FIELDS))

        def measure(name, step, images, labels):
            if images.shape[1:] != shape:
                raise InputError(f"{name} makes pictures of {images.shape[1:]}, the first file of {shape}")
            if labels is not None and labels.max() >= len(train.classes):
                raise InputError(f"{name} has more than the {len(train.classes)} classes of {dataset}")
            found = features(images)
            numbers = [frechet_distance(real, found), *precision_and_recall(real, found, real_radii=radii)]
            classes = logits(images).argmax(axis=1) if logits else None
            shares = np.bincount(classes, minlength=len(train.classes)) / len(images) if logits else None
            numbers += [shares.min() if logits else None, variety(test.images, images, test.labels, labels)]
            numbers += [(classes == labels).mean() if logits and labels is not None else None]
            written = ("" if number is None else f"{number:.4f}" for number in numbers)
            rows.append((name, "" if step is None else step, len(images), *written))
            print(LINE.format(*rows[-1]), flush=True)
            if arguments.out:  # after every line: the next may take minutes
                with command.replacing(arguments.out) as beside, open(beside, "w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows([FIELDS, *rows])

        measure("real, held out", None, train.images[held_out[:count]], train.labels[held_out[:count]])
        for path, images, labels in itertools.chain([first], made):
            measure(path.name, step_of(path), images, labels)
    return 0


if __name__ == "__main__":
    command.run(main)
