"""One image file, decoded by Pillow to uint8 of the shape that a model needs."""

import io
import os
import sys
import warnings
import zlib
from contextlib import ExitStack, suppress
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from command import InputError, printable
from sources import Shape

MAX_PIXELS = 2**26  # to decode: 67 million, up to 0.5 GB
MAX_JPEG_PIXELS = 2**28  # in a JPEG file, of which draft mode decodes an eighth of the width and height
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners store in 16

# Formats that Pillow cannot read without a plugin, or that it hands to another program (Ghostscript).
_NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_Tile = getattr(ImageFile, "_Tile", lambda *parts: parts)  # a tuple before Pillow 11
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class TooShallow(Exception):
    """The values of a 16-bit image need more bits: the first argument, one of `DEPTHS`."""


def decode(source: str | os.PathLike | BinaryIO, shape: Shape, depth: int = 16) -> np.ndarray:
    """An image file as uint8 of `shape` (height, width, channels): its first frame, rotated as its EXIF data say, on
    white where it is transparent, cropped to the middle in the model's proportions, grey or RGB.

    depth: bits that the values of 16-bit images have; raises `TooShallow` if they have more. Raises `InputError`, whose
    text is only the reason, for what cannot be read or has over `MAX_PIXELS` pixels.
    """
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # a doubtful file is either read or refused
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = source if hasattr(source, "read") else stack.enter_context(open(source, "rb"))
            try:
                return _decode(file, shape, depth)
            except (InputError, TooShallow, *_TOO_LARGE):
                raise
            except Exception:  # Pillow's readers have no common exception
                if not (essential := _essential(file)):
                    raise
                return _decode(essential, shape, depth)
    except (InputError, TooShallow):
        raise
    except UnidentifiedImageError as error:
        raise InputError("it is not an image that Pillow can read") from error
    except _TOO_LARGE as error:
        raise InputError(f"it has more than {MAX_PIXELS} pixels") from error
    except Exception as error:
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


def _decode(file: BinaryIO, shape: Shape, depth: int) -> np.ndarray:
    image, raw = _loaded(file, shape)
    if raw.startswith(("RGB;16", "RGBX;16", "RGBA;16", "LA;16")):
        lower = np.asarray(_loaded(file, shape, swapped=True)[0])
        values = np.asarray(image).astype(np.uint16) << 8
        values |= lower[..., 1:2] if raw == "LA;16B" else lower
        image = _eight_bits(values, depth, image)
    elif image.mode.startswith(("I", "F")):
        image = _eight_bits(np.asarray(image), depth, image)
    return fit(image, shape)


def _loaded(file: BinaryIO, shape: Shape, swapped: bool = False) -> tuple[Image.Image, str]:
    """An image, its size checked, its pixels loaded and turned, and how they lie in the file, in Pillow's terms such as
    "RGB;16B". swapped: read 16-bit colours in the other byte order, which gives their lower bytes: Pillow keeps 8 of
    the 16 bits."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # it would be compared before draft mode is set
    try:
        image = Image.open(file, formats=["JPEG"])
    except UnidentifiedImageError:
        Image.MAX_IMAGE_PIXELS = limit  # some formats, such as icons, are decoded here
        image = Image.open(file, formats=formats())
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    size = f"{image.width}x{image.height} pixels are too many"
    if image.width * image.height > (MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS):
        raise InputError(size)
    image.draft(None, (2 * max(shape[:2]),) * 2)  # lets JPEG skip detail that would be lost anyway
    if image.width * image.height > MAX_PIXELS:
        raise InputError(size)
    arguments = image.tile[0][3] if image.tile else ""
    raw = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    if raw == "R" and max(image.tag_v2[258]) > 8:  # bits per sample of a TIFF; Pillow would read them as 8
        raise InputError("its channels have more than 8 bits and lie one after another, which Pillow cannot read")
    if swapped:
        big = raw[-1] == "B" or (raw[-1] == "N" and sys.byteorder == "big")
        other = "RGBA" if raw == "LA;16B" else raw[:-1] + ("L" if big else "B")  # grey and alpha, four bytes in all
        image.tile = [
            _Tile(codec, extents, offset, (other, *arguments[1:]) if isinstance(arguments, tuple) else other)
            for codec, extents, offset, arguments in image.tile
        ]
    image.load()
    with suppress(Exception):  # of EXIF data that cannot be read, or written again after the image is turned
        ImageOps.exif_transpose(image, in_place=True)
    return image, raw


def _essential(file: BinaryIO) -> BinaryIO | None:
    """A PNG or JPEG file with only what its pixels need, and its EXIF data; None for another file. Anything else may
    keep Pillow from reading it, such as a text or colour profile that is too long, too short or has a wrong CRC."""
    file.seek(0)
    essential = io.BytesIO()
    if (start := file.read(8)) == b"\x89PNG\r\n\x1a\n":
        essential.write(start)
        while len(head := file.read(8)) == 8:
            content = file.read(int.from_bytes(head[:4], "big") + 4)
            right = zlib.crc32(head[4:] + content[:-4]).to_bytes(4, "big") == content[-4:]
            if head[4:] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND") or (head[4:] == b"eXIf" and right):
                essential.write(head + content)
    elif start.startswith(b"\xff\xd8"):
        file.seek(2)
        essential.write(start[:2])
        while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:  # until the scan
            content = file.read(max(0, int.from_bytes(head[2:], "big") - 2))
            if not 0xE0 <= head[1] <= 0xEF or content.startswith((b"Exif\0", b"Adobe\0")):
                essential.write(head + content)
        essential.write(head + file.read())
    return essential if essential.tell() else None


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
