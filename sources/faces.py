"""Cartoon faces, drawn on the spot at any size. The ten classes are ten kinds of hair or headgear.

The same seed gives the same bytes on every processor: the drawing uses whole-number coordinates, and it calls neither
trigonometric functions nor floating-point image filters.
"""

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from sources import Dataset, Shape

CLASSES = ["bald", "short hair", "long hair", "curls", "mohawk", "buns", "cap", "beanie", "top hat", "crown"]
VERSION = 1  # of the drawing; changes whenever it makes other bytes
MAX_BYTES = 2**29  # of all images: 10,000 up to 128x128, 4,473 at 200x200
DRAWS = 64  # random numbers per face

SKIN = [(255, 226, 200), (247, 206, 160), (231, 178, 124), (205, 145, 92), (166, 108, 64), (120, 76, 46)]
SKIN += [(255, 214, 64)]
HAIR = [(32, 26, 30), (78, 48, 28), (136, 80, 36), (222, 178, 84), (190, 70, 34), (150, 150, 160), (52, 96, 214)]
HAIR += [(232, 84, 164), (46, 160, 118)]
CLOTHES = [(214, 58, 58), (240, 140, 40), (246, 202, 60), (70, 168, 84), (44, 150, 170), (58, 92, 200), (130, 78, 190)]
CLOTHES += [(230, 110, 160), (244, 240, 232), (52, 56, 70)]
BACKGROUND = [(150, 206, 240), (246, 196, 170), (178, 226, 178), (222, 190, 240), (250, 228, 150), (158, 220, 214)]
BACKGROUND += [(240, 170, 190), (190, 196, 214), (126, 150, 210), (230, 214, 190)]
IRIS = [(84, 54, 30), (58, 112, 190), (70, 140, 80), (40, 40, 46)]
WHITE, INK, GOLD = (252, 252, 250), (36, 30, 34), (250, 200, 40)
# Where curls are around a head, in half widths and half heights of it, with y downwards.
CURLS = [(-1.0, 0.15), (-1.02, -0.25), (-0.85, -0.62), (-0.5, -0.92), (0, -1.04), (0.5, -0.92), (0.85, -0.62)]
CURLS += [(1.02, -0.25), (1.0, 0.15)]


def load(shape: Shape, seed: int | list[int], count: int = 10_000) -> Dataset:
    """At most `count` faces of `shape`, as many as fit into 512 MiB, the ten classes in turn, drawn from `seed`."""
    height, width, channels = shape
    count = min(count, MAX_BYTES // math.prod(shape))
    labels = np.arange(count) % len(CLASSES)
    random = np.random.default_rng(seed).random((count, DRAWS))
    scale = 3 if min(height, width) <= 96 else 2  # drawn larger, then averaged
    images = np.empty((count, *shape), np.uint8)
    for image, label, column, numbers in zip(images, labels, _columns(random, height * scale), random, strict=True):
        canvas = Image.fromarray(column).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        _Face(canvas, iter(numbers.tolist())).draw(CLASSES[label])
        small = canvas.reduce(scale)
        image[:] = np.asarray(small if channels == 3 else small.convert("L")).reshape(shape)
    return Dataset("faces", images, labels, CLASSES, f"faces {VERSION} from {seed}")


def _columns(random: np.ndarray, height: int) -> np.ndarray:
    """(n, height, 1, 3) uint8: backgrounds, in which a colour becomes another from top to bottom."""
    colours = np.array(BACKGROUND)
    upper, lower = (colours[(column * len(colours)).astype(int)][:, np.newaxis] for column in random.T[-2:])
    rows = np.arange(height)[:, np.newaxis]
    return ((upper * (height - rows) + lower * rows) // height).astype(np.uint8)[:, :, np.newaxis]


def _mix(a: tuple, b: tuple, share: float) -> tuple[int, int, int]:
    """The colour `a` with a share (0 to 1) of `b`."""
    return tuple([int(one + (other - one) * share) for one, other in zip(a, b, strict=True)])


class _Face:
    """One face on a canvas of height x width pixels. `random` gives numbers in [0, 1).

    Positions and lengths are fractions of the shorter side; (0, 0) is the top left of the middle square.
    """

    def __init__(self, image: Image.Image, random: Iterator[float]):
        self.random, self.pen, (width, height) = random, ImageDraw.Draw(image), image.size
        self.side = min(height, width)
        self.left, self.top = (width - self.side) // 2, (height - self.side) // 2

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self.random)

    def chance(self, share: float) -> bool:
        return next(self.random) < share

    def choice(self, options: list):
        return options[int(next(self.random) * len(options))]

    def at(self, x: float, y: float) -> tuple[int, int]:
        return self.left + round(x * self.side), self.top + round(y * self.side)

    def ellipse(self, x, y, rx, ry, fill, ink=None, thickness=0):
        width = max(1, round(thickness * self.side))
        self.pen.ellipse([self.at(x - rx, y - ry), self.at(x + rx, y + ry)], fill, ink, width)

    def box(self, left, top, right, bottom, fill):
        self.pen.rectangle([self.at(left, top), self.at(right, bottom)], fill)

    def polygon(self, fill, *points):
        self.pen.polygon([self.at(*point) for point in points], fill)

    def draw(self, kind: str) -> None:
        self.skin = _mix(self.choice(SKIN), self.choice(SKIN), self.between(0, 0.35))
        self.shade = _mix(self.skin, (120, 30, 20), 0.28)
        self.hair = _mix(self.choice(HAIR), INK, self.between(0, 0.25))
        self.x, self.y = 0.5 + self.between(-0.035, 0.035), 0.57 + self.between(-0.025, 0.025)
        self.w, self.h = self.between(0.23, 0.28), self.between(0.27, 0.31)
        # the fabric of hats: bright, and never the colour of the background
        self.cloth, self.trim = self.choice(CLOTHES), self.choice(CLOTHES)
        if self.chance(0.4):  # a large disc behind the head
            self.ellipse(0.5, 0.5, 0.45, 0.45, _mix(self.choice(BACKGROUND), WHITE, 0.45))
        self.behind(kind)
        self.body()
        self.head()
        self.features(kind)
        self.front(kind)
        self.glasses()

    def behind(self, kind: str) -> None:
        """The hair behind the head."""
        x, y, w, h = self.x, self.y, self.w, self.h
        if kind == "long hair":
            length = self.between(0.28, 0.42)
            self.ellipse(x, y - 0.05, w + 0.075, h + 0.03, self.hair)
            self.box(x - w - 0.075, y - 0.05, x + w + 0.075, y + length, self.hair)
            self.ellipse(x - w, y + length, 0.075, 0.05, self.hair)
            self.ellipse(x + w, y + length, 0.075, 0.05, self.hair)
        elif kind == "curls":
            size = self.between(0.11, 0.135)
            self.ellipse(x, y - 0.08, w + 0.05, h + 0.02, self.hair)
            for right, down in CURLS:
                self.ellipse(x + right * (w + 0.04), y - 0.02 + down * (h + 0.02), size, size, self.hair)
        elif kind == "buns":
            apart, size = self.between(0.19, 0.23), self.between(0.095, 0.115)
            for side in (-1, 1):
                self.ellipse(x + side * apart, y - h - 0.045, size, size, self.hair)
                self.ellipse(x + side * (apart - 0.07), y - h + 0.03, 0.05, 0.03, self.trim)
        elif kind == "mohawk":
            tall, wide = self.between(0.13, 0.18), self.between(0.09, 0.11)
            crown = y - h
            for place in (-0.9, 0, 0.9):  # three spikes
                middle, tip = x + place * wide, crown - tall * (1 if not place else 0.8)
                base = crown + 0.09
                self.polygon(self.hair, (middle - wide, base), (middle + place * 0.06, tip), (middle + wide, base))
        elif self.chance(0.3) and kind in ("cap", "beanie", "top hat", "crown"):
            self.ellipse(x, y + 0.02, w + 0.05, h * 0.9, self.hair)
            self.box(x - w - 0.05, y, x + w + 0.05, y + 0.26, self.hair)

    def body(self) -> None:
        x, wide = self.x, self.between(0.37, 0.44)
        shirt, second = self.choice(CLOTHES), self.choice(CLOTHES)
        bottom = 1 + self.top / self.side  # on tall canvases the square ends above the edge
        self.box(x - self.w * 0.42, self.y, x + self.w * 0.42, 1, self.shade)
        self.ellipse(x, 1.1, wide, 0.235, shirt)
        if bottom > 1:
            self.box(x - wide, 1.1, x + wide, bottom, shirt)
        match self.choice(["plain", "collar", "neck", "stripe", "buttons"]):
            case "collar":
                for side in (-1, 1):
                    self.polygon(second, (x, 0.99), (x + side * 0.13, 0.86), (x + side * 0.17, 0.95))
            case "neck":
                self.polygon(self.skin, (x - 0.1, 0.86), (x + 0.1, 0.86), (x, 0.98))
            case "stripe":
                self.box(x - 0.33, 0.94, x + 0.33, 0.975, second)
            case "buttons":
                self.ellipse(x, 0.93, 0.016, 0.016, second)
                self.ellipse(x, 0.985, 0.016, 0.016, second)

    def head(self) -> None:
        x, y, w, h = self.x, self.y, self.w, self.h
        jaw = self.between(0.72, 0.92)
        for side in (-1, 1):
            self.ellipse(x + side * w, y + 0.03, 0.045, 0.06, self.shade)
            self.ellipse(x + side * w, y + 0.03, 0.032, 0.045, self.skin)
        self.ellipse(x, y + 0.008, w + 0.004, h + 0.004, self.shade)
        self.ellipse(x, y + h * 0.3, w * jaw + 0.006, h * 0.72 + 0.004, self.shade)
        self.ellipse(x, y, w, h, self.skin)
        self.ellipse(x, y + h * 0.3, w * jaw, h * 0.72 - 0.006, self.skin)

    def features(self, kind: str) -> None:
        x, y, w, h = self.x, self.y, self.w, self.h
        self.eye_x, self.eye_y = w * self.between(0.4, 0.5), y - self.between(0, 0.035)
        self.eye = self.between(0.055, 0.072)
        lips = _mix((176, 44, 52), self.shade, 0.25)
        mouth_y, mouth = y + h * 0.55, self.between(0.08, 0.12)
        if self.chance(0.35):
            for side in (-1, 1):
                self.ellipse(x + side * w * 0.62, y + h * 0.3, 0.045, 0.034, _mix(self.skin, (250, 84, 84), 0.4))
        beard, moustache = self.chance(0.17) and kind not in ("long hair", "buns"), self.chance(0.1)
        around = self.skin
        if beard:
            around = self.hair
            self.ellipse(x, y + h * 0.46, w * 0.86, h * 0.6, self.hair)
            self.ellipse(x, y + h * 0.02, w * 0.84, h * 0.42, self.skin)
        match self.choice(["smile", "smile", "laugh", "grin", "flat", "surprise"]):
            case "smile":  # an ellipse of which another leaves the lower edge
                self.ellipse(x, mouth_y, mouth, 0.055, lips)
                self.ellipse(x, mouth_y - 0.026, mouth + 0.004, 0.055, around)
            case "laugh":
                self.ellipse(x, mouth_y, mouth, 0.075, (120, 22, 34))
                self.ellipse(x, mouth_y + 0.055, mouth * 0.55, 0.03, (236, 110, 110))
                self.box(x - mouth, mouth_y - 0.08, x + mouth, mouth_y - 0.022, around)
                self.box(x - mouth * 0.8, mouth_y - 0.022, x + mouth * 0.8, mouth_y, WHITE)
            case "grin":
                self.ellipse(x, mouth_y, mouth, 0.042, lips)
                self.box(x - mouth * 0.72, mouth_y - 0.017, x + mouth * 0.72, mouth_y + 0.015, WHITE)
            case "flat":
                self.box(x - mouth * 0.8, mouth_y - 0.01, x + mouth * 0.8, mouth_y + 0.012, lips)
            case "surprise":
                self.ellipse(x, mouth_y + 0.01, 0.045, 0.055, lips)
                self.ellipse(x, mouth_y + 0.012, 0.028, 0.036, (110, 20, 30))
        if moustache or (beard and self.chance(0.6)):
            for side in (-1, 1):
                self.ellipse(x + side * 0.05, mouth_y - 0.062, 0.062, 0.026, self.hair)
        wide, long = self.between(0.026, 0.042), self.between(0.03, 0.05)
        self.ellipse(x, y + 0.075, wide, long, self.shade)
        self.ellipse(x, y + 0.066, wide * 0.8, long * 0.85, _mix(self.skin, WHITE, 0.12))
        look_x, look_y = self.between(-0.3, 0.3), self.between(-0.2, 0.25)
        iris = self.choice(IRIS)
        lid = self.choice([0, 0, 0, 0.45])
        tilt, raised = self.between(-0.022, 0.022), self.between(0.028, 0.05)
        brow = _mix(self.hair, INK, 0.4)
        thick = self.between(0.014, 0.026)
        for side in (-1, 1):
            ex, ey, size = x + side * self.eye_x, self.eye_y, self.eye
            self.ellipse(ex, ey, size + 0.01, size + 0.01, _mix(self.shade, INK, 0.5))
            self.ellipse(ex, ey, size, size, WHITE)
            self.ellipse(ex + look_x * size, ey + look_y * size, size * 0.58, size * 0.58, iris)
            self.ellipse(ex + look_x * size, ey + look_y * size, size * 0.32, size * 0.32, INK)
            self.ellipse(ex + (look_x + 0.2) * size, ey + (look_y - 0.22) * size, size * 0.17, size * 0.17, WHITE)
            if lid:
                self.box(ex - size - 0.012, ey - size - 0.012, ex + size + 0.012, ey - size * lid, self.skin)
                self.box(ex - size, ey - size * lid, ex + size, ey - size * lid + 0.012, self.shade)
            outer, inner = ex + side * (size + 0.016), ex - side * (size + 0.004)
            top = ey - size - raised
            self.polygon(
                brow, (outer, top + tilt), (inner, top - tilt), (inner, top - tilt + thick), (outer, top + tilt + thick)
            )

    def front(self, kind: str) -> None:
        """Hair over the forehead, or what is worn on the head. The brow line is the lowest that either comes."""
        x, w = self.x, self.w
        crown, line = self.y - self.h, self.eye_y - self.eye - 0.045
        match kind:
            case "bald":
                self.ellipse(x - w * 0.35, crown + 0.09, 0.06, 0.032, _mix(self.skin, WHITE, 0.45))
            case "short hair" | "long hair" | "buns" | "curls":
                self.fringe(line, 0.03 if kind != "short hair" else self.between(0.03, 0.06))
            case "mohawk":
                self.polygon(self.hair, (x - 0.1, crown + 0.02), (x + 0.1, crown + 0.02), (x, line))
            case "cap":
                self.cut_ellipse(x, crown - 0.035, line - 0.02, w + 0.015, self.cloth)
                side = self.choice([-1, 1])
                self.ellipse(x + side * w * 0.75, line - 0.02, w * 1.0, 0.04, _mix(self.cloth, INK, 0.3))
                self.ellipse(x, crown - 0.035, 0.028, 0.02, self.trim)
            case "beanie":
                self.ellipse(x, crown - 0.075, 0.075, 0.07, self.trim)
                self.cut_ellipse(x, crown - 0.045, line - 0.03, w + 0.015, self.cloth)
                self.box(x - w - 0.015, line - 0.085, x + w + 0.015, line - 0.015, _mix(self.cloth, WHITE, 0.35))
            case "top hat":
                tall, wide = self.between(0.2, 0.26), w * self.between(0.72, 0.85)
                felt = _mix(self.cloth, INK, 0.6)
                base = crown + 0.075
                self.box(x - wide, base - tall, x + wide, base, felt)
                self.box(x - wide, base - 0.075, x + wide, base - 0.025, self.trim)
                self.ellipse(x, base, w + 0.07, 0.035, felt)
            case "crown":
                base, tall = crown + 0.09, self.between(0.16, 0.21)
                wide, peak = w * 0.86, w * 1.02
                points = [(x - wide, base), (x - peak, base - tall), (x - wide * 0.5, base - tall * 0.45)]
                points += [(x, base - tall * 1.08), (x + wide * 0.5, base - tall * 0.45), (x + peak, base - tall)]
                self.polygon(GOLD, *points, (x + wide, base))
                self.box(x - wide, base - 0.045, x + wide, base + 0.012, _mix(GOLD, (190, 110, 20), 0.4))
                for place in (-0.55, 0, 0.55):
                    self.ellipse(x + wide * place, base - 0.016, 0.02, 0.02, self.trim)
                for place, rise in ((-peak, 1), (0, 1.08), (peak, 1)):
                    self.ellipse(x + place, base - tall * rise, 0.026, 0.026, self.trim)

    def fringe(self, line: float, beyond: float) -> None:
        """Hair from the crown to a hairline above `line`: straight, parted at a side, or in the middle."""
        x, w, crown = self.x, self.w, self.y - self.h
        top, low = crown - beyond, line + 0.005
        self.cut_ellipse(x, top, low, w + beyond, self.hair)
        for side in (-1, 1):  # sideburns
            self.box(x + side * w - 0.03, low - 0.02, x + side * w + 0.03, low + 0.1, self.hair)
        middle = x + self.choice([-0.5, 0, 0.5]) * w
        if self.chance(0.7):
            self.polygon(self.skin, (middle - 0.09, low), (middle + 0.09, low), (middle, low - 0.1))

    def cut_ellipse(self, x: float, top: float, bottom: float, rx: float, fill: tuple) -> None:
        """The upper half of an ellipse, as a polygon."""
        ry = bottom - top
        edge = [(place, math.sqrt(1 - place * place)) for place in (-1, -0.97, -0.88, -0.74, -0.56, -0.35, -0.12)]
        edge += [(-place, rise) for place, rise in reversed(edge)]
        self.polygon(fill, *((x + place * rx, bottom - rise * ry) for place, rise in edge))

    def glasses(self) -> None:
        kind = next(self.random)
        if kind > 0.3:
            return
        frame = self.choice([INK, (150, 40, 40), (60, 60, 150), GOLD])
        x, y, apart, size = self.x, self.eye_y, self.eye_x, self.eye + 0.028
        for side in (-1, 1):
            ex = x + side * apart
            if kind < 0.07:
                self.ellipse(ex, y, size, size, INK)
                self.ellipse(ex - size * 0.3, y - size * 0.35, size * 0.28, size * 0.18, (110, 116, 140))
            self.ellipse(ex, y, size, size, None, frame, 0.016)
        self.box(x - apart + size - 0.01, y - 0.012, x + apart - size + 0.01, y + 0.004, frame)
