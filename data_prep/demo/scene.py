"""One picture of the demo set: a drawing in its surroundings, lit and photographed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from minicnn.data_prep.demo.manmade import MANMADE
from minicnn.data_prep.demo.natural import NATURAL
from minicnn.data_prep.demo.pen import Colour, Dice, Pen, blob, polar, smooth

SUPERSAMPLE = 4


class Sketch(NamedTuple):
    """How a class is drawn, the degrees it may be turned to either side, its group."""

    draw: Callable[[Pen, Dice], None]
    turn: int
    group: str


DRAWINGS = {
    draw.__name__.replace("_", "-"): Sketch(draw, turn, group)
    for table, group in ((NATURAL, "natural"), (MANMADE, "manmade"))
    for turn, draws in table.items()
    for draw in draws
}
CLASSES = tuple(sorted(DRAWINGS))


def render(seed: int, kind: int, number: int, size: int) -> NDArray[np.uint8]:
    """Picture `number` of class number `kind`.

    Drawn at `SUPERSAMPLE` times the size and averaged down. The colours, the place
    and the light do not depend on the class; the clutter only on its group.

    Returns:
        (size, size, 3) uint8.
    """
    dice = Dice(seed, kind, number)
    sketch = DRAWINGS[CLASSES[kind]]
    behind = dice.colour(30, 120)
    image = _background(dice, behind, size * SUPERSAMPLE)
    draw = ImageDraw.Draw(image)
    half = size * SUPERSAMPLE / 2
    page = Pen(draw, (half, 0), (0, half), (half, half), behind, behind, behind)
    for _ in range(dice.integer(1, 3)):
        _clutter(page, dice, sketch.group, dice.uniform(0.15, 0.45), least=0.0)
    sketch.draw(_posed(page, dice, sketch.turn), dice)
    for _ in range(dice.integer(0, 2)):
        _clutter(page, dice, sketch.group, dice.uniform(0.1, 0.25), least=0.35)
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


def _posed(page: Pen, dice: Dice, turn: int) -> Pen:
    """A pen placed, turned, scaled, stretched, mirrored and coloured by chance."""
    body = dice.colour(170, 245)  # all three of any hue
    accent, line = dice.colour(90, 150), dice.colour(5, 50)
    scale = dice.uniform(0.66, 1.0)
    room = 1.1 - scale
    x, y = dice.uniform(-room, room), dice.uniform(-room, room)
    angle = dice.uniform(-turn, turn)
    pen = page.at(x, y, angle, scale, flip=dice.choice((-1, 1)))
    stretch, slant = dice.uniform(0.85, 1.18), dice.uniform(-0.15, 0.15)
    (ax, ay), (dx, dy) = pen.across, pen.down
    across = (ax * stretch, ay * stretch)
    down = (dx / stretch + ax * slant, dy / stretch + ay * slant)
    return replace(pen, across=across, down=down, body=body, accent=accent, line=line)


def _clutter(page: Pen, dice: Dice, group: str, size: float, least: float) -> None:
    """A scrap that belongs to nothing: mostly curved in nature, mostly straight not.

    Args:
        least: its centre's least distance from the picture's; the most is 1.1.
    """
    x, y = polar(dice.uniform(0, 360), dice.uniform(least, 1.1))
    pen = page.at(x, y, turn=dice.uniform(0, 360), scale=size)
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
    """A colour cast, exposure, uneven light, less contrast, and grain."""
    gamma, casts = dice.uniform(0.65, 1.5), dice.uniforms(3, 0.8, 1.2).tolist()
    film = [255 * min(1, cast * v / 255) ** gamma for cast in casts for v in range(256)]
    y = np.asarray(image.point([round(v) for v in film]), np.float32)
    ramp = np.linspace(-1, 1, y.shape[0], dtype=np.float32)
    across, down = dice.uniforms(2, -0.35, 0.35).astype(np.float32)
    y = y * (1 + across * ramp[None, :, None] + down * ramp[:, None, None])
    black = dice.uniform(0, 64)
    y = np.float32(black) + y * np.float32(dice.uniform(0.7, 1.0) - black / 255)
    # Four uniform bytes sum to nearly a normal number: mean 510, deviation 147.8.
    grain = dice.words(y.size).view(np.uint8).reshape(*y.shape, 4).sum(axis=3)
    strength = dice.uniform(2.0, 11.0) / 147.8
    y += (grain.astype(np.float32) - 510) * np.float32(strength)
    return np.clip(np.rint(y), 0, 255).astype(np.uint8)
