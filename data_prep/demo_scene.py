"""One picture of the demo set: a drawing in its surroundings, lit and photographed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from minicnn.data_prep.demo_manmade import MANMADE
from minicnn.data_prep.demo_natural import NATURAL
from minicnn.data_prep.demo_pen import Colour, Dice, Pen, blob, smooth
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SUPERSAMPLE = 4


class Sketch(NamedTuple):
    """How a class is drawn, the degrees it may be turned to either side, its group."""

    draw: Callable[[Pen], None]
    turn: int
    group: str


DRAWINGS = {
    draw.__name__.replace("_", "-"): Sketch(draw, turn, group)
    for table, group in ((NATURAL, "natural"), (MANMADE, "manmade"))
    for draw, turn in table.items()
}
CLASSES = tuple(sorted(DRAWINGS))


def render(seed: int, kind: int, index: int, size: int) -> NDArray[np.uint8]:
    """Picture number `index` of class number `kind`.

    Drawn at `SUPERSAMPLE` times the size and averaged down. The colours, the place
    and the light do not depend on the class; the clutter only on its group.

    Returns:
        (size, size, 3) uint8.
    """
    dice = Dice(seed, kind, index)
    sketch = DRAWINGS[CLASSES[kind]]
    behind = dice.colour(30, 120)
    image = _background(dice, behind, size * SUPERSAMPLE)
    draw = ImageDraw.Draw(image)
    centre = size * SUPERSAMPLE / 2
    whole = np.array([(centre, 0.0, centre), (0.0, centre, centre)])
    page = Pen(draw, dice, whole, (behind, behind, behind))
    for _ in range(dice.integer(1, 4)):
        _clutter(page, sketch.group, dice.uniform(0.15, 0.45), _away(dice, 0.0))
    sketch.draw(_posed(page, sketch.turn, _palette(dice)))
    for _ in range(dice.integer(0, 2)):
        _clutter(page, sketch.group, dice.uniform(0.1, 0.25), _away(dice, 0.35))
    return _photograph(dice, image.reduce(SUPERSAMPLE))


def _background(dice: Dice, colour: Colour, side: int) -> Image.Image:
    """Soft random patches about one colour; the finer, the fainter."""
    cells = dice.integer(2, 9)
    spread = dice.uniform(10, 90) / math.sqrt(cells)
    noise = dice.uniforms(cells * cells, -spread, spread).reshape(cells, cells, 1)
    tint = dice.uniforms(cells * cells * 3, -spread / 2, spread / 2)
    grid = np.array(colour) + noise + tint.reshape(cells, cells, 3)
    small = Image.fromarray(np.clip(np.rint(grid), 0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def _palette(dice: Dice) -> tuple[Colour, Colour, Colour]:
    """Body, accent and line colours: bright, middling and dark, of any hue."""
    return dice.colour(170, 245), dice.colour(90, 150), dice.colour(5, 50)


def _posed(page: Pen, turn: int, colours: tuple[Colour, Colour, Colour]) -> Pen:
    """A pen placed, turned, scaled, stretched and mirrored by chance."""
    dice = page.dice
    scale = dice.uniform(0.62, 1.0)
    room = 1.1 - scale
    x, y = dice.uniform(-room, room), dice.uniform(-room, room)
    angle = dice.uniform(-turn, turn)
    pen = page.at(x, y, angle, scale, flip=dice.choice((-1, 1)))
    stretch, slant = dice.uniform(0.85, 1.18), dice.uniform(-0.15, 0.15)
    pen.matrix[:, :2] = pen.matrix[:, :2] @ [(stretch, slant), (0.0, 1 / stretch)]
    pen.body, pen.accent, pen.line = colours
    return pen


def _away(dice: Dice, least: float) -> tuple[float, float]:
    """A point of the picture at least `least` and at most 1.1 from its centre."""
    angle, reach = dice.uniform(0, 2 * math.pi), dice.uniform(least, 1.1)
    return reach * math.cos(angle), reach * math.sin(angle)


def _clutter(page: Pen, group: str, size: float, place: tuple[float, float]) -> None:
    """A scrap that belongs to nothing: mostly curved in nature, mostly straight not."""
    dice = page.dice
    pen = page.at(*place, turn=dice.uniform(0, 360), scale=size)
    curved = dice.chance(0.75) == (group == "natural")
    thin, colour = dice.chance(0.5), dice.colour(10, 245)
    wide, bow = dice.uniform(0.1, 0.3), dice.uniform(-0.8, 0.8)
    if curved and thin:
        blade = smooth([(-1.5, 0), (0, bow), (1.5, 0)], closed=False)
        pen.stroke(blade, wide, colour)
    elif curved:
        pen.fill(blob(dice, 0.9), colour)
    elif thin:
        pen.rect(-1.5, -wide / 2, 1.5, wide / 2, colour)
    else:
        pen.fill([(-0.9, -0.7), (0.9, -0.7 + bow / 3), (0.9, 0.7), (-0.9, 0.7)], colour)


def _photograph(dice: Dice, image: Image.Image) -> NDArray[np.uint8]:
    """Uneven light, exposure, a colour cast, less contrast, and grain."""
    y = np.asarray(image, np.float32) / 255
    size = y.shape[0]
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    across, down = dice.uniforms(2, -0.35, 0.35).astype(np.float32)
    light = 1 + across * ramp[None, :, None] + down * ramp[:, None, None]
    cast = dice.uniforms(3, 0.8, 1.2).astype(np.float32)
    y = np.clip(y * light * cast, 0, 1) ** np.float32(dice.uniform(0.65, 1.5))
    low = dice.uniform(0, 0.25)
    y = np.float32(low) + y * np.float32(dice.uniform(0.7, 1.0) - low)
    grain = dice.words(y.size).view(np.uint8).reshape(*y.shape, 4).sum(axis=3)
    # Four uniform bytes sum to nearly a normal number: mean 510, deviation 147.8.
    y += (grain.astype(np.float32) - 510) * np.float32(dice.uniform(0.01, 0.05) / 147.8)
    return np.clip(np.rint(y * 255), 0, 255).astype(np.uint8)
