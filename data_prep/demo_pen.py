"""What the demo set's drawings are made with: dice, curves and a pen.

Drawings live in a square with x to the right and y down, both from −1 to 1. A pen
maps that square to pixels by its own affine map, so a drawing knows nothing of its
pose. Colours are drawn without regard to what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ImageDraw

from minicnn import philox

Points = NDArray[np.float64]
Colour = tuple[int, int, int]
T = TypeVar("T")

_INDEX_BITS = 32
_BLOCK = 1024


class Dice:
    """Random numbers for one image, a pure function of (seed, class, index).

    Args:
        seed: of the whole set.
        kind: number of the class.
        index: number of the image within the class.
    """

    def __init__(self, seed: int, kind: int, index: int) -> None:
        self._seed, self._step = seed, (kind << _INDEX_BITS) | index
        self._words: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._used = self._drawn = 0

    def words(self, count: int) -> NDArray[np.uint32]:
        """The next `count` random 32-bit words."""
        if self._used + count > len(self._words):
            size = max(count, _BLOCK)
            self._words = philox.words(
                self._seed, philox.Stream.DEMO, self._step, size, start=self._drawn
            )
            self._drawn, self._used = self._drawn + size, 0
        self._used += count
        return self._words[self._used - count : self._used]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * (int(self.words(1)[0]) / 2.0**32)

    def uniforms(self, count: int, low: float = 0.0, high: float = 1.0) -> Points:
        """(count,) numbers in [low, high)."""
        return low + (high - low) * (self.words(count) / 2.0**32)

    def integer(self, low: int, high: int) -> int:
        """An integer in low .. high, both included."""
        return low + ((int(self.words(1)[0]) * (high - low + 1)) >> 32)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]

    def colour(self, dark: float, bright: float) -> Colour:
        """A colour of any hue whose brightness lies about dark .. bright."""
        grey, spread = self.uniform(dark, bright), self.uniform(0, 110)
        red, green, blue = self.uniforms(3, -spread, spread)
        shift = 0.299 * red + 0.587 * green + 0.114 * blue
        channels = (round(grey + each - shift) for each in (red, green, blue))
        red, green, blue = (min(max(each, 0), 255) for each in channels)
        return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour `share` of the way from one to the other."""
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(one, other, strict=True)
    )
    return red, green, blue


def arc(
    x: float,
    y: float,
    width: float,
    height: float,
    start: float = 0.0,
    stop: float = 360.0,
) -> Points:
    """(n, 2) points on an ellipse with the given half axes, by degrees, 0 at +x."""
    count = max(6, math.ceil(abs(stop - start) / 15)) + 1
    angle = np.radians(np.linspace(start, stop, count))
    points = np.empty((count, 2))
    points[:, 0] = x + width * np.cos(angle)
    points[:, 1] = y + height * np.sin(angle)
    return points


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """(4, 2) corners of an upright rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def taper(top: float, half: float, bottom: float, below: float) -> Points:
    """(4, 2) corners of an upright trapezium with these half widths at its ends."""
    return np.array([(-half, top), (half, top), (below, bottom), (-below, bottom)])


def mirrored(side: ArrayLike) -> Points:
    """An outline from its right side, listed from top to bottom, and its reflection."""
    right = np.asarray(side, np.float64)
    return np.vstack([right, right[::-1] * (-1, 1)])


@lru_cache
def _hermite(pieces: int) -> Points:
    """(pieces, 4) weights of two ends and the two slopes there, at even steps."""
    t = np.arange(pieces) / pieces
    weights = (
        2 * t**3 - 3 * t**2 + 1,
        3 * t**2 - 2 * t**3,
        t**3 - 2 * t**2 + t,
        t**3 - t**2,
    )
    return np.stack(weights, axis=1)


def smooth(points: ArrayLike, closed: bool = True, pieces: int = 5) -> Points:
    """A Catmull–Rom curve through the points.

    Args:
        points: (n, 2).
        closed: whether the last point is joined to the first.
        pieces: straight pieces from each point to the next.

    Returns:
        (m, 2) points on the curve.
    """
    p = np.asarray(points, np.float64)
    here = np.arange(len(p))
    before, after = here - 1, (here + 1) % len(p)
    if not closed:
        before[0], after[-1] = 0, here[-1]
    slope = (p[after] - p[before]) / 2
    ends = np.stack([p, p[after], slope, slope[after]], axis=1)
    if not closed:
        return np.vstack([(_hermite(pieces) @ ends[:-1]).reshape(-1, 2), p[-1:]])
    return (_hermite(pieces) @ ends).reshape(-1, 2)


def ribbon(spine: Points, widths: ArrayLike) -> Points:
    """The outline of a band along a spine, closed.

    Args:
        spine: (n, 2).
        widths: full width at each point of the spine, or one for all.

    Returns:
        (2n, 2), down one side and back the other.
    """
    along = np.gradient(spine, axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    half = np.broadcast_to(np.asarray(widths, np.float64), len(spine))[:, None] / 2
    return np.vstack([spine + across * half, (spine - across * half)[::-1]])


def blob(dice: Dice, radius: float) -> Points:
    """An uneven round outline about the centre; the radius varies by a quarter."""
    count = dice.integer(6, 9)
    angle = 2 * np.pi * np.arange(count) / count
    reach = radius * dice.uniforms(count, 0.75, 1.25)
    ring = np.column_stack([reach * np.cos(angle), reach * np.sin(angle)])
    return smooth(ring, pieces=4)


class Pen:
    """Draws in its own square, −1 to 1, mapped to pixels by an affine map.

    Args:
        draw: where to.
        dice: the image's random numbers.
        matrix: (2, 3) float64, pixel = matrix[:, :2] · point + matrix[:, 2].
        colours: body, accent, line: what the drawing is coloured with.
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        dice: Dice,
        matrix: Points,
        colours: tuple[Colour, Colour, Colour],
    ) -> None:
        self.draw, self.dice, self.matrix = draw, dice, matrix
        self.body, self.accent, self.line = colours

    def at(
        self, x: float, y: float, turn: float = 0.0, scale: float = 1.0, flip: int = 1
    ) -> Pen:
        """A pen whose centre lies at (x, y), turned by degrees, scaled, mirrored."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        local = scale * np.array([(c * flip, -s), (s * flip, c)])
        linear = self.matrix[:, :2]
        shift = linear @ (x, y) + self.matrix[:, 2]
        matrix = np.column_stack([linear @ local, shift])
        return Pen(self.draw, self.dice, matrix, (self.body, self.accent, self.line))

    def _pixels(self, points: ArrayLike) -> list[float]:
        p = np.asarray(points, np.float64)
        return (p @ self.matrix[:, :2].T + self.matrix[:, 2]).ravel().tolist()

    def fill(self, points: ArrayLike, colour: Colour | None = None) -> None:
        """A filled polygon, in the body's colour unless told otherwise."""
        self.draw.polygon(self._pixels(points), fill=colour or self.body)

    def stroke(
        self, points: ArrayLike, width: float, colour: Colour | None = None
    ) -> None:
        """A line through the points; width as a part of the square's unit."""
        scale = math.sqrt(abs(float(np.linalg.det(self.matrix[:, :2]))))
        pixels = max(1, round(width * scale))
        self.draw.line(self._pixels(points), colour or self.line, pixels, "curve")

    def oval(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: Colour | None = None,
    ) -> None:
        """A filled ellipse with the given half axes."""
        self.fill(arc(x, y, width, height), colour)

    def rect(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        colour: Colour | None = None,
    ) -> None:
        """A filled rectangle."""
        self.fill(box(left, top, right, bottom), colour)
