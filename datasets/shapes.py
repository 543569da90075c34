"""Ten kinds of shapes, drawn on the spot at any size: large, upright and bright on a dark ground, so that the article's
networks learn to draw them within minutes."""

import math

import numpy as np

from datasets import Dataset, Shape

CLASSES = ["circle", "ring", "square", "triangle", "hexagon", "star", "diamond", "cross", "heart", "crescent"]


def load(shape: Shape, seed: int | list[int]) -> Dataset:
    """10,000 pictures of `shape`, or as many as fit into 128 MiB, of ten kinds in turn, drawn from `seed`."""
    count = min(10_000, 2**27 // math.prod(shape))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = np.empty((count, *shape), np.uint8)
    for kind in range(len(CLASSES)):
        of_kind = np.flatnonzero(labels == kind)
        for chosen in np.array_split(of_kind, -(-len(of_kind) * math.prod(shape[:2]) // 2**18) or 1):
            images[chosen] = _draw(kind, len(chosen), shape, rng)
    return Dataset("shapes", images, labels, CLASSES)


def _draw(kind: int, count: int, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """`count` pictures of the class `kind`, (count, *shape) uint8."""
    height, width, channels = shape

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    # Positions in the picture: -1 to 1 along the shorter side.
    pixel = 2 / min(height, width)
    y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) * pixel)[:, np.newaxis]
    x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) * pixel)[np.newaxis, :]

    # The shape's outline as a signed distance: 0 on the edge, negative inside; a pixel on the edge is partly covered.
    size, turn = draw(0.68, 0.86), draw(-0.12, 0.12)
    right, down = x - draw(-1, 1) * (0.95 - size), y - draw(-1, 1) * (0.95 - size)
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    distance = _distance(CLASSES[kind], right * cos + down * sin, down * cos - right * sin) * size
    cover = np.clip(0.5 - distance / np.float32(pixel), 0, 1)[..., np.newaxis]
    shadow = 1 - 0.3 * np.exp(-6 * np.maximum(distance, 0))[..., np.newaxis]

    # A dark, graded background, and a bright shape of a contrasting hue, a little lighter towards its top.
    hue, angle = draw(0, 1), draw(0, 2 * math.pi)
    grade = np.clip(0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)[..., np.newaxis]
    dark = _rgb(hue, draw(0.3, 0.8), draw(0.05, 0.25))
    light = _rgb(hue + draw(-0.12, 0.12), draw(0.2, 0.6), draw(0.35, 0.55))
    ground = (dark + (light - dark) * grade) * shadow
    colour = _rgb(hue + draw(0.3, 0.7), draw(0.55, 1), draw(0.9, 1)) * (0.9 - 0.2 * (down / size))[..., np.newaxis]
    rgb = np.clip(ground + (colour - ground) * cover, 0, 1)
    if channels == 1:
        rgb = rgb.max(axis=-1, keepdims=True)  # not luma: a blue shape would sink into a yellow ground
    return np.rint(rgb * 255).astype(np.uint8)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV, (n, 1, 1) each and hue in turns, to RGB (n, 1, 1, 3)."""
    k = (np.array([5, 3, 1], np.float32) + 6 * hue[..., np.newaxis]) % 6
    return value[..., np.newaxis] * (1 - saturation[..., np.newaxis] * np.clip(np.minimum(k, 4 - k), 0, 1))


def _distance(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance of the points (x, y), y downwards, from the edge of the shape `name` of about unit radius."""
    radius = np.hypot(x, y)

    def star(points: int, inner: float, squeeze: float = 1) -> np.ndarray:
        """A star whose inner corners lie at the radius `inner`; at cos(pi / points), a regular polygon."""
        half = math.pi / points
        angle = np.abs((np.arctan2(x / squeeze, -y) + half) % (2 * half) - half)
        reach = np.hypot(x / squeeze, y)
        edge_x, edge_y = inner * math.cos(half) - 1, inner * math.sin(half)
        normal = math.hypot(edge_x, edge_y)
        return ((reach * np.cos(angle) - 1) * edge_y - reach * np.sin(angle) * edge_x) / normal * squeeze

    def box(half_width: float, half_height: float) -> np.ndarray:
        return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)

    match name:
        case "circle":
            return radius - 0.9
        case "ring":
            return np.abs(radius - 0.72) - 0.22
        case "square":
            return box(0.78, 0.78)
        case "triangle":
            return star(3, 0.5)
        case "hexagon":
            return star(6, math.cos(math.pi / 6))
        case "star":
            return star(5, 0.45)
        case "diamond":
            return star(4, math.cos(math.pi / 4), 0.6)
        case "cross":
            return np.minimum(box(0.92, 0.3), box(0.3, 0.92))
        case "heart":  # a square that stands on its tip, and a disc over each of its upper sides
            side, up = np.abs(x) * 0.62, 0.56 - y * 0.62
            square = np.maximum(np.abs(up + side - 0.5), np.abs(up - side - 0.5)) - 0.5
            disc = np.hypot(side - 0.25, up - 0.75) - math.sqrt(2) / 4
            return np.minimum(square / math.sqrt(2), disc) / 0.62
        case "crescent":
            return np.maximum(radius - 0.95, 0.78 - np.hypot(x - 0.42, y))
    raise ValueError(name)
