"""Images of samples: grids, with numbers or names where asked, and animations (GIF).

All arrays are uint8, (number, height, width, channels).
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from command import replacing


def grid(images: np.ndarray, columns: int | None = None, scale: int = 1, gap: int = 1) -> Image.Image:
    """Lay out pictures in rows, `gap` black pixels between them, and enlarge the whole without smoothing.

    images: (number, height, width, 1 or 3) uint8. columns: as many as make the grid about square, if not given.
    """
    number, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(number)))
    rows = -(-number // columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def scale_for(height: int) -> int:
    """The whole-number enlargement that makes a tile of this height about 64 pixels high on the screen."""
    return max(1, 64 // height)


def numbered(images: np.ndarray, numbers: Sequence[int], scale: int = 1) -> np.ndarray:
    """Enlarge pictures and write each one's number below it: (number, height * scale + 12, width * scale, channels)."""
    tiles = []
    for image, number in zip(enlarged(images, scale), numbers, strict=True):
        tile = Image.fromarray(np.pad(image, ((0, 12), (0, 0), (0, 0))).squeeze(-1 if image.shape[-1] == 1 else ()))
        ImageDraw.Draw(tile).text(
            (tile.width // 2, image.shape[0]), str(number), fill="white", anchor="ma", font_size=10
        )
        tiles.append(np.asarray(tile).reshape(tile.height, tile.width, -1))
    return np.stack(tiles)


def named_rows(images: np.ndarray, names: Sequence[str], columns: int, scale: int = 1) -> Image.Image:
    """A grid whose rows have their names to the left, white on black; names are cut after 32 characters."""
    picture = grid(images, columns, scale)
    names = [name if len(name) <= 32 else f"{name[:31]}…" for name in names]
    draw = ImageDraw.Draw(picture)
    margin = 12 + int(max(draw.textlength(name, font_size=13) for name in names))
    canvas = Image.new(picture.mode, (margin + picture.width, picture.height))
    canvas.paste(picture, (margin, 0))
    draw, row = ImageDraw.Draw(canvas), (images.shape[1] + 1) * scale
    for number, name in enumerate(names):
        place = margin - 6, number * row + images.shape[1] * scale // 2
        draw.text(place, name, fill="white", anchor="rm", font_size=13)
    return canvas


def enlarged(images: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel as a square of `scale` x `scale` pixels."""
    return images.repeat(scale, axis=1).repeat(scale, axis=2)


def save_png(picture: Image.Image, path: Path, settings: dict[str, object] | None = None) -> None:
    """Save a picture; `settings`, how it was made, goes into the file as text (tEXt chunks)."""
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
