"""What the demo set's drawings are made with: dice, curves and a pen.

Drawings live in a square with x to the right and y down, both from −1 to 1. A pen
maps that square to pixels by its own affine map, so a drawing knows nothing of its
pose. Outlines are short lists of points, in plain floats: faster than arrays at this
length, and without the last-bit differences of vectorised code between processors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from minicnn.base import philox

Point = tuple[float, float]
Points = list[Point]
Colour = tuple[int, int, int]
T = TypeVar("T")

_BLOCK = 4096  # words drawn at a time, at least


class Dice:
    """Random numbers for one picture, a pure function of seed, class and number."""

    def __init__(self, seed: int, kind: int, number: int) -> None:
        self._seed, self._step = seed, (kind << 32) | number
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

    def uniforms(self, count: int, low: float, high: float) -> NDArray[np.float64]:
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
        """A colour of any hue whose brightness (Rec. 601) is about dark .. bright."""
        grey, spread = self.uniform(dark, bright), self.uniform(0, 90)
        tints = [self.uniform(-spread, spread) for _ in range(3)]
        grey -= 0.299 * tints[0] + 0.587 * tints[1] + 0.114 * tints[2]
        red, green, blue = (min(max(round(grey + t), 0), 255) for t in tints)
        return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour `share` of the way from one to the other."""
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(one, other, strict=True)
    )
    return red, green, blue


def steps(start: float, stop: float, count: int) -> list[float]:
    """`count` numbers at even steps from start to stop, both included."""
    return [start + (stop - start) * k / (count - 1) for k in range(count)]


def polar(degrees: float, reach: float = 1.0) -> Point:
    """The point in a direction: 0 to the right, 90 down."""
    angle = math.radians(degrees)
    return reach * math.cos(angle), reach * math.sin(angle)


def arc(
    x: float,
    y: float,
    width: float,
    height: float,
    start: float = 0.0,
    stop: float = 360.0,
) -> Points:
    """Points on an ellipse with the given half axes, from one direction to another."""
    count = max(6, math.ceil(abs(stop - start) / 15)) + 1
    unit = map(polar, steps(start, stop, count))
    return [(x + width * across, y + height * down) for across, down in unit]


def taper(top: float, half: float, bottom: float, below: float) -> Points:
    """The corners of an upright trapezium with these half widths at its ends."""
    return [(-half, top), (half, top), (below, bottom), (-below, bottom)]


def mirrored(side: Points) -> Points:
    """An outline from its right side, listed from top to bottom, and its reflection."""
    return side + [(-x, y) for x, y in reversed(side)]


def smooth(points: Points, closed: bool = True, pieces: int = 5) -> Points:
    """A Catmull–Rom curve through two points or more, of so many pieces between two."""
    last = len(points) - 1
    around = [points[-1], *points, points[0], points[1]]
    if not closed:
        around[0], around[-2] = points[0], points[-1]
    curve = []
    for k in range(last + closed):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = around[k : k + 4]
        for piece in range(pieces):
            t = piece / pieces
            # Hermite's weights of the points before, at both ends of, and after this
            # stretch, the slope at a point being half the way between its neighbours.
            a, d = (2 * t - t * t - 1) * t / 2, (t - 1) * t * t / 2
            b, c = 1 + (1.5 * t - 2.5) * t * t, (0.5 + (2 - 1.5 * t) * t) * t
            x = a * ax + b * bx + c * cx + d * dx
            curve.append((x, a * ay + b * by + c * cy + d * dy))
    return curve if closed else [*curve, points[-1]]


def ribbon(spine: Points, widths: Sequence[float]) -> Points:
    """The outline of a band of these widths about its middle line, the spine."""
    one, other = [], []
    for k, ((x, y), width) in enumerate(zip(spine, widths, strict=True)):
        (ax, ay), (bx, by) = spine[max(k - 1, 0)], spine[min(k + 1, len(spine) - 1)]
        scale = width / 2 / max(math.hypot(bx - ax, by - ay), 1e-9)
        across, down = (ay - by) * scale, (bx - ax) * scale
        one.append((x + across, y + down))
        other.append((x - across, y - down))
    return one + other[::-1]


def blob(dice: Dice, radius: float) -> Points:
    """An uneven round outline about the centre; the radius varies by a quarter."""
    count = dice.integer(6, 9)
    reach = [radius * dice.uniform(0.75, 1.25) for _ in range(count)]
    ring = [polar(360 * k / count, reach[k]) for k in range(count)]
    return smooth(ring, pieces=4)


@dataclass(frozen=True)
class Pen:
    """Draws in its own square, −1 to 1, mapped to pixels by an affine map.

    Attributes:
        draw: where to.
        across, down: the pixels that one unit of x, of y goes right and down.
        centre: the pixel of the square's centre.
        body, accent, line: what the drawing is coloured with.
    """

    draw: ImageDraw.ImageDraw
    across: Point
    down: Point
    centre: Point
    body: Colour
    accent: Colour
    line: Colour

    def to_pixels(self, points: Iterable[Point]) -> Points:
        """The pixels of points of this pen's square."""
        (ax, ay), (dx, dy), (x0, y0) = self.across, self.down, self.centre
        return [(x0 + ax * x + dx * y, y0 + ay * x + dy * y) for x, y in points]

    def at(
        self, x: float, y: float, turn: float = 0.0, scale: float = 1.0, flip: int = 1
    ) -> Pen:
        """A pen whose centre lies at (x, y), turned by degrees, scaled, mirrored."""
        c, s = polar(turn, scale)
        (ax, ay), (dx, dy) = self.across, self.down
        across = ((ax * c + dx * s) * flip, (ay * c + dy * s) * flip)
        down = (dx * c - ax * s, dy * c - ay * s)
        (centre,) = self.to_pixels([(x, y)])
        return replace(self, across=across, down=down, centre=centre)

    def around(self, count: int) -> list[Pen]:
        """So many pens of the same centre, each turned further."""
        return [self.at(0, 0, turn=number * 360 / count) for number in range(count)]

    def halves(self) -> list[Pen]:
        """A pen for the left half, which draws it mirrored, and one for the right."""
        return [self.at(0, 0, flip=side) for side in (-1, 1)]

    def fill(self, points: Iterable[Point], colour: Colour | None = None) -> None:
        """A filled polygon, in the body's colour unless told otherwise."""
        self.draw.polygon(self.to_pixels(points), fill=colour or self.body)

    def stroke(
        self, points: Iterable[Point], width: float, colour: Colour | None = None
    ) -> None:
        """A line through the points, in the line's colour unless told otherwise."""
        (ax, ay), (dx, dy) = self.across, self.down
        pixels = max(1, round(width * math.sqrt(abs(ax * dy - ay * dx))))
        self.draw.line(self.to_pixels(points), colour or self.line, pixels, "curve")

    def oval(
        self, x: float, y: float, wide: float, high: float, colour: Colour | None = None
    ) -> None:
        """A filled ellipse with the given half axes."""
        self.fill(arc(x, y, wide, high), colour)

    def rect(
        self, x0: float, y0: float, x1: float, y1: float, colour: Colour | None = None
    ) -> None:
        """A filled upright rectangle between two corners."""
        self.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)
