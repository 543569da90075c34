"""One image file, decoded by Pillow to uint8 of the shape that a model needs."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from command import InputError, printable
from sources import Shape

MAX_PIXELS = 2**26  # to decode: 67 million, up to 0.5 GB
MAX_JPEG_PIXELS = 2**28  # in a JPEG file, of which draft mode decodes an eighth of the width and height
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners store in 16

# Formats that Pillow cannot read without a plugin, or that it hands to another program (Ghostscript).
_NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # bytes: Pillow refuses a PNG whose colour profile has more than 1 MiB


class TooShallow(Exception):
    """The values of a 16-bit image need more bits: the first argument, one of `DEPTHS`."""


def decode(source: str | os.PathLike | BinaryIO, shape: Shape, depth: int = 16) -> np.ndarray:
    """An image file as uint8 of `shape` (height, width, channels): its first frame, rotated as its EXIF data say, on
    white where it is transparent, cropped to the middle in the model's proportions, grey or RGB.

    depth: bits that the values of 16-bit images have; raises `TooShallow` if they have more. Raises `InputError`, whose
    text is only the reason, for what cannot be read or has over `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful file is either read or refused
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(source, shape) as (image, raw):
                if raw.startswith(("RGB;16", "RGBA;16", "LA;16")):
                    with _opened(source, shape, swapped=True) as (lower, _):
                        values = np.asarray(image).astype(np.uint16) << 8
                        values |= np.asarray(lower)[..., 1:2] if raw == "LA;16B" else np.asarray(lower)
                    image = _eight_bits(values, depth, image)
                elif image.mode.startswith(("I", "F")):
                    image = _eight_bits(np.asarray(image), depth, image)
                return fit(image, shape)
    except (InputError, TooShallow):
        raise
    except UnidentifiedImageError as error:
        raise InputError("it is not an image that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"it has more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's readers have no common exception
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(printable(reason)) from error


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_IMAGES)


@cache
def extensions() -> frozenset[str]:
    """The endings of their files in lower case, with the dot. MPO is opened as JPEG."""
    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, name in endings if name in (*formats(), "MPO"))


@contextmanager
def _opened(
    source: str | os.PathLike | BinaryIO, shape: Shape, swapped: bool = False
) -> Iterator[tuple[Image.Image, str]]:
    """An image file, its size checked, its pixels loaded and turned, and how they lie in the file, in Pillow's terms
    such as "RGB;16B". swapped: read 16-bit colours in the other byte order, which gives their lower bytes: Pillow keeps
    8 of the 16 bits."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # it would be compared before draft mode is set
    try:
        image = Image.open(source, formats=["JPEG"])
    except UnidentifiedImageError:
        Image.MAX_IMAGE_PIXELS = limit
        image = Image.open(source, formats=formats())
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        size = f"{image.width}x{image.height} pixels are too many"
        if image.width * image.height > (MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS):
            raise InputError(size)
        image.draft(None, (2 * max(shape[:2]),) * 2)  # lets JPEG skip detail that would be lost anyway
        if image.width * image.height > MAX_PIXELS:
            raise InputError(size)
        raw = _raw_mode(image.tile)
        if swapped:
            big = raw[-1] == "B" or (raw[-1] == "N" and sys.byteorder == "big")
            other = "RGBA" if raw == "LA;16B" else raw[:-1] + ("L" if big else "B")  # grey and alpha, four bytes in all
            image.tile = [
                (codec, extents, offset, (other, *arguments[1:]) if isinstance(arguments, tuple) else other)
                for codec, extents, offset, arguments in image.tile
            ]
        image.load()
        with suppress(Exception):  # of EXIF data that cannot be read, or written again after the image is turned
            ImageOps.exif_transpose(image, in_place=True)
        yield image, raw


def _raw_mode(tiles: list) -> str:
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _eight_bits(values: np.ndarray, depth: int, image: Image.Image) -> Image.Image:
    """An image of more than 8 bits, or of floats from 0 to 1, with 8 bits per channel. Pillow would clip greys."""
    colours = values[..., :3] if values.ndim == 3 else values
    low, high = colours.min(), colours.max()
    white = 1 if image.mode == "F" else 2**depth - 1
    if image.mode != "F" and white < high < 2**16:
        raise TooShallow(next(bits for bits in DEPTHS if high < 2**bits))
    if not (low >= 0 and high <= white):  # refuses NaN as well
        raise InputError("its pixels are neither 8 nor 16 bits nor from 0 to 1")
    scaled = np.rint(colours.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    if image.mode == "RGBA":
        scaled = np.concatenate([scaled, np.asarray(image)[..., 3:]], axis=-1)
    return Image.fromarray(scaled)


def fit(image: Image.Image, shape: Shape) -> np.ndarray:
    """The middle of an 8-bit image, resized to `shape`, as uint8."""
    height, width, channels = shape
    target = "L" if channels == 1 else "RGB"
    mode = "RGBA" if image.has_transparency_data else target
    if image.mode != mode:  # a copy, which may be a large one
        image = image.convert(mode)
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(target)
    return np.asarray(image).reshape(shape)


class Resized:
    """Images (n, height, width, channels) uint8 as (n, *shape), each of them as `fit` makes it when it is indexed."""

    def __init__(self, images: np.ndarray, shape: Shape):
        self.images, self.shape = images, (len(images), *shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        chosen, shape = self.images[index], self.shape[1:]
        if chosen.ndim == 3:
            return fit(Image.fromarray(chosen[..., 0] if chosen.shape[-1] == 1 else chosen), shape)
        return np.array([self[i] for i in np.arange(len(self))[index]], np.uint8).reshape(-1, *shape)
