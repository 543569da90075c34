"""Measure the quality of a generator's samples, with nothing to download.

    python -m reproduce.evaluate --dataset cifar10 --data-dir DIR --weights samples/cifar10/generator_*.h5

A small classifier is trained once on the dataset. In the space of its features, samples are compared with the test
images. The first row has the same numbers for real images that the classifier has not seen: the best that a generator
can reach. The numbers compare generators of one dataset with each other.

    frechet     Fréchet distance in the features of that classifier, not FID; lower is better; real images have about
                0.016 on CIFAR-10 (Heusel et al. 2017 define it for Inception's features)
    precision   share of samples among real images; recall is the reverse (Kynkäänniemi et al. 2019)
    rarest      share of samples in the class that the classifier finds least often
    variety     mean distance between two samples, in pixels, as a multiple of that between two test images; for a
                generator with classes, both within a class, and the minimum over the classes
    asked       share of samples that the classifier finds in the requested class

With --inception the features are those of Keras' Inception. Its weights are not those of the FID's original network
either, so do not compare these distances with published ones. Images larger than 64x64 are compared reduced to 64x64.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import command
import data
from command import InputError, printable
from reproduce import tables
from training import pictures
from training.folder import read_run, step_of

K = 3  # which nearest neighbour bounds a point's ball: Kynkäänniemi et al. 2019, section 3.1
BLOCK = 1000  # rows of a distance matrix held at a time: 80 MB of 10,000 columns
LARGEST = 64  # pixels, of a side: what the classifier sees
FEWEST = 200  # images of a folder, so that the classifier has a full batch
FIELDS = ("pictures", "step", "samples", "frechet", "precision", "recall", "rarest", "variety", "asked")
LINE = "{:<40} {:>7} {:>8} {:>9} {:>10} {:>7} {:>7} {:>8} {:>7}"
OF_CLASSIFIER = "a small classifier of this project, not FID; lower is better; real images about 0.016 on CIFAR-10"
OF_INCEPTION = "Keras' Inception, whose distances are not those of the FID's original network; lower is better"

# The measures: numpy only.


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The squared Fréchet distance of two Gaussians with the means and covariances of two sets of features.

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
    real_radii = squared_radii(real, k) if real_radii is None else real_radii
    generated_radii = squared_radii(generated, k)
    covered, recalled = np.zeros(len(generated), bool), 0
    for rows, squares in squared_distances(real, generated):
        covered |= (squares <= real_radii[rows, np.newaxis]).any(axis=0)
        recalled += (squares <= generated_radii).any(axis=1).sum()
    return float(covered.mean()), float(recalled / len(real))


def squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """(n,): each point's squared distance to its k-th nearest neighbour among the others. points: (n, features)."""
    # In each row the point itself comes first, at distance 0.
    return np.concatenate([np.partition(squares, k, axis=1)[:, k] for _, squares in squared_distances(points, points)])


def squared_distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The matrix of all squared distances of (n, features) to (m, features), block by block as (rows, (BLOCK, m))."""
    rows, columns = np.asarray(rows, np.float64), np.asarray(columns, np.float64)
    lengths = (columns**2).sum(axis=1)
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        squares = (block**2).sum(axis=1)[:, np.newaxis] + lengths - 2 * block @ columns.T
        yield slice(first, first + len(block)), squares.clip(0)


def mean_distance(images: np.ndarray, most: int = 1000) -> float:
    """The mean Euclidean distance between two images of (n, ...) uint8, n at least 2; of at most `most` of them."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), most)).astype(int)
    points = images[chosen].reshape(len(chosen), -1) / 255
    total = sum(np.sqrt(squares).sum() for _, squares in squared_distances(points, points))
    return float(total / (len(chosen) * (len(chosen) - 1)))


def variety(
    real: np.ndarray, generated: np.ndarray, real_labels: np.ndarray, labels: np.ndarray | None = None
) -> float:
    """How much generated images differ from each other, as a multiple of how much real ones do.

    real, generated: (n, ...) and (m, ...) uint8. With `labels`, (m,), both are within a class, and the result is the
    minimum over the classes.
    """
    if labels is None:
        return mean_distance(generated) / mean_distance(real)
    pairs = [(real[real_labels == label], generated[labels == label]) for label in np.unique(labels)]
    return min((mean_distance(b) / mean_distance(a) for a, b in pairs if len(a) > 1 and len(b) > 1), default=np.nan)


# The command.


def samples(
    path: Path, model: str | None, count: int, seed: int, batch_statistics: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """`count` samples of the generator in a file, uint8, and the requested classes, all equally often.

    Every file gets the same noise. The generator normalizes by its moving averages, as the author's program does when
    it shows samples, or, with `batch_statistics`, by each batch of 32, as in training.
    """
    from tf1 import keras, session_config, tf
    from training.generator import load_generator
    from training.noise import noise_for

    size = 32
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        generator = load_generator(path, model, batch_statistics)
        noise = noise_for(seed, 0, -(-count // size) * size, generator.latent)
        labels = np.arange(len(noise)) % generator.classes if generator.classes else None
        images = generator.pictures(noise, 0 if labels is None else labels, batch=size)[:count]
    return reduced(images), labels if labels is None else labels[:count]


def reduced(images: np.ndarray) -> np.ndarray:
    """Images reduced to at most `LARGEST` pixels a side; each pixel is the mean of those that it replaces."""
    height, width = (min(side, LARGEST) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images
    small = (pictures.image_of(image).resize((width, height), Image.Resampling.BOX) for image in images)
    return np.stack([np.asarray(image).reshape(height, width, -1) for image in small])


def parse(arguments: list[str] | None = None):
    parser = command.Parser(
        prog="python -m reproduce.evaluate", description="Measure the quality of samples (not FID)."
    )
    add = parser.add_argument
    add(
        "--weights",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="weights of one or more generators; each gets a row",
    )
    add("--dataset", choices=data.DATASETS, help="default: read from run.json, else cifar10")
    add("--data-dir", type=Path, metavar="DIR", help="folder of the data; default: read from run.json, else downloaded")
    add("--model", metavar="NAME", help="the networks; default: read from run.json, else inferred from the weights")
    add(
        "--samples",
        type=command.at_least(K + 1),
        default=10000,
        metavar="N",
        help="number of samples of each generator (default: %(default)s)",
    )
    add("--seed", type=command.at_least(0), default=0, metavar="N", help="random seed (default: %(default)s)")
    add("--batch-statistics", action="store_true", help="normalize by each batch's statistics, not by moving averages")
    inception = "use the features of Keras' Inception (downloaded, slow); this is not FID either"
    add("--inception", action="store_true", help=inception)
    add("--out", type=Path, metavar="FILE.csv", help="also write the table to this file")
    return parser.parse_args(arguments)


def data_of(arguments) -> tuple[str, Path | None]:
    """(dataset, data_dir) to compare with: the user's, else those of the run whose folder has the first file.

    Raises InputError where the run was trained on a folder that is not known, before anything is downloaded.
    """
    run = read_run(arguments.weights[0].parent) or {}
    dataset = arguments.dataset or run.get("dataset") or "cifar10"
    if dataset not in data.DATASETS:
        raise InputError(f"run.json names the dataset {printable(str(dataset))}: choose another with --dataset")
    data_dir = arguments.data_dir
    if data_dir is None and dataset == run.get("dataset") and isinstance(run.get("data_dir"), str):
        data_dir = Path(run["data_dir"])
    if dataset == "folder" and data_dir is None:
        raise InputError("the generator was trained on a folder: name it with --data-dir, or choose a --dataset")
    return dataset, data_dir


def load(dataset: str, shape: data.Shape, data_dir: Path | None, seed: int) -> tuple[data.Dataset, data.Dataset]:
    """Training and test images. A folder has no test images, so a fifth of it, at most 10,000, is held out."""
    if dataset != "folder":
        found = (data.load(dataset, shape, data_dir=data_dir, seed=seed, split=split) for split in ("train", "test"))
        return tuple(found)
    whole = data.load(dataset, shape, data_dir=data_dir, labelled=True)
    if len(whole.images) < FEWEST:
        raise InputError(f"{data_dir} has {len(whole.images)} images; a comparison needs at least {FEWEST}")
    return split(whole, seed)


def split(dataset: data.Dataset, seed: int) -> tuple[data.Dataset, data.Dataset]:
    """All images but a random fifth of them, at most 10,000, and those."""
    order = np.random.default_rng(seed).permutation(len(dataset.images))
    parts = np.split(order, [-min(10_000, len(order) // 5)])
    return tuple(dataset._replace(images=dataset.images[rows], labels=dataset.labels[rows]) for rows in parts)


def main(arguments: list[str] | None = None) -> int:
    arguments = parse(arguments)
    for path in arguments.weights:  # before minutes of training
        if not path.is_file():
            raise InputError(f"--weights {path}: there is no such file")
    if arguments.out and not arguments.out.resolve().parent.is_dir():
        raise InputError(f"--out {arguments.out}: there is no such folder")
    if arguments.model:
        import models  # here and below: after the arguments are read, because it loads TensorFlow

        models.check_name(arguments.model)
    count, seed = arguments.samples, arguments.seed
    dataset, data_dir = data_of(arguments)

    from reproduce.features import cached_classifier, classifier_features, inception_features
    from tf1 import keras, session_config, tf

    made = (
        (path.name, step_of(path), *samples(path, arguments.model, count, seed, arguments.batch_statistics))
        for path in arguments.weights
    )
    first = next(made)
    shape = first[2].shape[1:]
    train, test = load(dataset, shape, data_dir, seed)
    seen, held_out = split(train, seed)  # the best that a generator can reach: images unknown to the classifier
    real_images = ("real, held out", None, held_out.images[:count], held_out.labels[:count])
    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        logits = None
        if arguments.inception:
            features = inception_features(sess)
        else:
            weights = cached_classifier(seen, seed)
            keras.backend.set_session(sess)
            features, logits = classifier_features(sess, weights, train)
            accuracy = (logits(test.images).argmax(axis=1) == test.labels).mean()
            print(f"the classifier classifies {accuracy:.2%} of {len(test.images)} test images correctly")
        print(f"frechet: Fréchet distance in the features of {OF_INCEPTION if arguments.inception else OF_CLASSIFIER}")
        real = features(test.images)
        radii = squared_radii(real, K)

        rows = [FIELDS]
        print(LINE.format(*FIELDS))
        for name, step, images, labels in itertools.chain([real_images, first], made):
            if images.shape[1:] != shape:
                raise InputError(f"{name} makes images of {images.shape[1:]}, the first file of {shape}")
            if labels is not None and labels.max() >= len(train.classes):
                raise InputError(f"{name} has more than the {len(train.classes)} classes of {dataset}")
            found = features(images)
            precision, recall = precision_and_recall(real, found, real_radii=radii)
            numbers = {"frechet": frechet_distance(real, found), "precision": precision, "recall": recall}
            numbers["variety"] = variety(test.images, images, test.labels, labels)
            if logits:
                classes = logits(images).argmax(axis=1)
                numbers["rarest"] = np.bincount(classes, minlength=len(train.classes)).min() / len(images)
                if labels is not None:
                    numbers["asked"] = (classes == labels).mean()
            written = (f"{numbers[field]:.4f}" if field in numbers else "" for field in FIELDS[3:])
            rows.append((name, "" if step is None else step, len(images), *written))
            print(LINE.format(*rows[-1]), flush=True)
            if arguments.out:  # after every line: the next may take minutes
                tables.write_csv(arguments.out, rows)
    return 0


if __name__ == "__main__":
    command.run(main)
