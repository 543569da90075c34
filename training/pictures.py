"""Images of samples: grids, with numbers or names where asked, and animations (GIF).

All arrays are uint8, (number, height, width, channels).
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from command import replacing


def image_of(pixels: np.ndarray) -> Image.Image:
    """pixels: (height, width, 1 or 3) uint8."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def grid(images: np.ndarray, columns: int | None = None, scale: int = 1) -> Image.Image:
    """Lay out images in rows, a black pixel between them, and enlarge the whole without smoothing.

    images: (number, height, width, 1 or 3) uint8. columns: as many as make the grid about square, if not given.
    """
    number = len(images)
    columns = columns or math.ceil(math.sqrt(number))
    tiles = np.pad(images, ((0, -number % columns), (0, 1), (0, 1), (0, 0)))
    _, height, width, channels = tiles.shape
    canvas = tiles.reshape(-1, columns, height, width, channels).swapaxes(1, 2).reshape(-1, columns * width, channels)
    return image_of(enlarged(canvas[:-1, :-1], scale))


def enlarged(images: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel of images (..., height, width, channels) as a square of `scale` x `scale` pixels."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2)


def scale_for(height: int) -> int:
    """The whole-number enlargement that makes a tile of this height about 64 pixels high on the screen."""
    return max(1, 64 // height)


def numbered(images: np.ndarray, numbers: Sequence[int], scale: int = 1) -> np.ndarray:
    """Enlarge images and write each one's number below it: (number, height * scale + 12, width * scale, channels)."""
    tiles = np.pad(enlarged(images, scale), ((0, 0), (0, 12), (0, 0), (0, 0)))
    for tile, number in zip(tiles, numbers, strict=True):
        image = image_of(tile)
        place = tile.shape[1] // 2, len(tile) - 12
        ImageDraw.Draw(image).text(place, str(number), fill="white", anchor="ma", font_size=10)
        tile[:] = np.asarray(image).reshape(tile.shape)
    return tiles


def named_rows(images: np.ndarray, names: Sequence[str], columns: int, scale: int = 1) -> Image.Image:
    """A grid whose rows have their names to the left, white on black; names are cut after 32 characters."""
    picture, font = grid(images, columns, scale), ImageFont.load_default(13)
    names = [name if len(name) <= 32 else f"{name[:31]}…" for name in names]
    margin = 12 + int(max(map(font.getlength, names)))
    canvas = Image.new(picture.mode, (margin + picture.width, picture.height))
    canvas.paste(picture, (margin, 0))
    draw, height = ImageDraw.Draw(canvas), images.shape[1]
    for row, name in enumerate(names):
        middle = row * (height + 1) * scale + height * scale // 2
        draw.text((margin - 6, middle), name, fill="white", anchor="rm", font=font)
    return canvas


def save_png(picture: Image.Image, path: Path, settings: dict[str, object] | None = None) -> None:
    """Save an image; `settings`, how it was made, goes into the file as text (tEXt chunks)."""
    text = PngInfo()
    for name, value in (settings or {}).items():
        text.add_text(name, str(value))
    with replacing(path) as beside:
        picture.save(beside, pnginfo=text)


def save_gif(frames: Iterable[Path | Image.Image], path: Path, milliseconds: int = 150, last: int = 2000) -> None:
    """Write an endless GIF of these images, or of those in these files, in their order; the last one stays longer.

    Frames are taken one at a time; in memory each is a byte per pixel. All have the size of the first; there is at
    least one.
    """

    def timed():
        for frame, following in itertools.pairwise(itertools.chain(frames, [None])):
            image = (frame if isinstance(frame, Image.Image) else Image.open(frame)).quantize(128)
            image.info["duration"] = last if following is None else milliseconds
            yield image

    images = timed()
    with replacing(path) as beside:
        next(images).save(beside, "GIF", save_all=True, append_images=images, loop=0)
