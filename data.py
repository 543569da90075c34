"""What every dataset shares: uint8 images in, scaled batches out.

Input from outside is checked by readers that build nothing but numbers: no foreign code runs, memory is bounded, and
errors are one line, an `InputError`.
"""

import math
import os
import zlib
from collections.abc import Iterator

import numpy as np

from command import InputError, printable
from sources import Dataset, Shape, arrays, cifar10, faces, folder, mnist
from sources.image_file import Resized

DATASETS = ("cifar10", "mnist", "folder", "arrays", "faces")
IN_MEMORY = 2**30  # bytes of resized images; more are resized batch by batch


def load(
    name: str,
    shape: Shape,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike | None = None,
    split: str = "train",
    check_cache: bool = False,
    labelled: bool = False,
    out: str | os.PathLike | None = None,
) -> Dataset:
    """The dataset `name`, one of `DATASETS`, as images of `shape`, the model's (height, width, channels).

    data_dir: where the images are: a folder, or a file for "arrays". "folder" and "arrays" need it; "cifar10" and
    "mnist" are downloaded without it and never touch the network with it. seed: 0 or more, draws "faces". skip_bad:
    leave out the images of a folder that cannot be read. cache_dir: of a folder's decoded images, by default
    `sources.cache_home()`. split: "train" or "test"; the official one of "cifar10" and "mnist", other draws of "faces",
    while "folder" and "arrays" have no "test". check_cache: decode a folder anew. labelled: refuse a folder or arrays
    without classes. out: the folder of the run, which is left out of a folder of images.

    Raises `InputError`, also for an option that the dataset does not use.
    """
    shape = tuple(shape)
    if name not in DATASETS:
        raise InputError(f"there is no dataset {printable(name)}; choose one of {', '.join(DATASETS)}")
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InputError(f"the model makes images of {shape}; datasets have (height, width, 1) or (height, width, 3)")
    if split not in ("train", "test"):
        raise InputError(f"there is no split {printable(split)}; choose train or test")
    if name == "faces" and data_dir is not None:
        raise InputError("--data-dir is not for --dataset faces, whose images are drawn")
    for option, given in {"--skip-bad": skip_bad, "--check-cache": check_cache}.items():
        if given and name != "folder":
            raise InputError(f"{option} is for --dataset folder, not for {name}")
    if name in ("folder", "arrays") and split == "test":
        raise InputError(f"--dataset {name} has no test images; choose another dataset")
    if name == "faces":
        return faces.load(shape, seed if split == "train" else [seed, 1])
    if name == "folder":
        return folder.load(data_dir, shape, skip_bad, cache_dir, check_cache, labelled, out)
    if name == "arrays":
        dataset = arrays.load(data_dir, labelled)
    else:
        dataset = (cifar10 if name == "cifar10" else mnist).load(data_dir, split)
    if dataset.images.shape[1:] == shape:
        return dataset
    images = Resized(dataset.images, shape)
    return dataset._replace(images=images[:] if math.prod(images.shape) <= IN_MEMORY else images)


def checksum(dataset: Dataset) -> str:
    """Eight hex digits that tell one dataset from another: the CRC-32 of shape, labels and images, or, where images are
    drawn, of what they are drawn from: their bytes may depend on the processor.

    Images of more than 256 MiB are sampled evenly, so that it takes a fraction of a second.
    """
    images = dataset.images
    source = images.images if isinstance(images, Resized) else images
    crc = zlib.crc32(repr(images.shape).encode())
    if dataset.labels is not None:
        crc = zlib.crc32(dataset.labels.tobytes(), crc)
    if dataset.identity is not None:
        crc = zlib.crc32(dataset.identity.encode(), crc)
    else:
        for k in range(0, len(source), -(-math.prod(source.shape) // 2**28)):
            crc = zlib.crc32(source[k].tobytes(), crc)
    return f"{crc:08x}"


def scale(images: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    """uint8 images as float32 between `pixels` = (low, high); (-0.5, 0.5) is the article's `images / 255 - 0.5`."""
    low, high = pixels
    return images.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)


def unscale(images: np.ndarray, pixels: tuple[float, float]) -> np.ndarray:
    """The inverse of `scale`: floats between `pixels` = (low, high) as uint8, rounded; what lies outside is clipped."""
    low, high = pixels
    return np.rint((np.asarray(images, np.float32) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def batches_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """How many full batches an epoch has. Raises `InputError` when there are fewer images than one batch."""
    if len(dataset.images) < batch_size:
        raise InputError(
            f"{dataset.name} has {len(dataset.images)} images, fewer than a batch of {batch_size}; "
            "add images or choose a smaller --batch-size"
        )
    return len(dataset.images) // batch_size


def batches(
    dataset: Dataset,
    batch_size: int,
    pixels: tuple[float, float],
    seed: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    flip: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Endless batches of (images, labels): (batch_size, height, width, channels) float32 as `scale` makes them, and
    (batch_size,) int64 or None.

    Every epoch has an order of its own, drawn from `seed` and the epoch's number only, so that a run resumed after
    `start` batches sees the same batches as one that was not interrupted. As in the article's program, the remainder
    of an epoch that does not fill a batch is dropped. Raises `InputError` when there are fewer images than one batch.

    part: (i, n) gives the i-th of n equal parts of every batch, batch_size / n rows, and reads only these. flip: each
    image of a batch is mirrored left to right with a chance of a half, by `seed` and the number of the batch.
    """
    per_epoch = batches_per_epoch(dataset, batch_size)  # here, not in the generator, so that it raises at once
    index, rows = part[0], batch_size // part[1]

    def endless() -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        epoch, first = divmod(start, per_epoch)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(len(dataset.images))
            for i in range(first, per_epoch):
                chosen = order[i * batch_size + index * rows :][:rows]
                images = dataset.images[chosen]  # a copy
                if flip:
                    random = np.random.default_rng([seed, epoch * per_epoch + i, 3])
                    mirrored = random.random(batch_size)[index * rows :][:rows] < 0.5
                    images[mirrored] = images[mirrored, :, ::-1]
                yield scale(images, pixels), None if dataset.labels is None else dataset.labels[chosen]
            epoch, first = epoch + 1, 0

    return endless()
