"""Pictures of samples: grids and the GIF of a run. All arrays are uint8, (number, height, width, channels)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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


def save_png(picture: Image.Image, path: Path) -> None:
    with replacing(path) as beside:
        picture.save(beside)


def save_gif(frames: Sequence[Path], path: Path, milliseconds: int = 150) -> None:
    """Make an endless GIF of the pictures in these files, in their order; the last one stays for two seconds."""
    pictures = (Image.open(frame).quantize(128) for frame in frames)
    durations = [milliseconds] * (len(frames) - 1) + [2000]
    with replacing(path) as beside:
        next(pictures).save(beside, save_all=True, append_images=pictures, duration=durations, loop=0, optimize=True)
