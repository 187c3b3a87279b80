"""The demo set's natural classes: grown shapes, curved outlines, uneven parts."""

from __future__ import annotations

import math

from minicnn.data_prep.demo.pen import (
    Dice,
    Pen,
    arc,
    blob,
    mirrored,
    mix,
    polar,
    ribbon,
    smooth,
    steps,
    taper,
)


def bird(pen: Pen, d: Dice) -> None:
    """From the side: round body, head, beak, tail, one wing, thin legs."""
    fat, tail = d.uniform(0.4, 0.55), d.uniform(0.35, 0.55)
    for x in (-0.1, 0.15):
        pen.stroke([(x, 0.3), (x - 0.02, 0.8), (x - 0.18, 0.82)], 0.07)
    pen.fill([(0.3, -0.15), (0.45 + tail, d.uniform(-0.1, 0.45)), (0.3, 0.3)])
    beak = (-1.05, d.uniform(-0.46, -0.34))
    pen.fill([(-0.62, -0.54), beak, (-0.6, -0.22)], pen.accent)
    pen.fill(smooth([(-0.5, 0.0), (0.0, -fat), (0.55, 0.0), (0.0, fat + 0.05)]))
    pen.oval(-0.5, -0.4, 0.31, 0.3)
    low = d.uniform(0.1, 0.3)
    pen.fill(smooth([(-0.25, -0.1), (0.25, -0.2), (0.6, low), (0.0, low)]), pen.accent)
    pen.oval(-0.56, -0.44, 0.08, 0.08, pen.line)


def butterfly(pen: Pen, d: Dice) -> None:
    """From above: two pairs of mirrored wings, spotted, and a thin body."""
    upper, lower = d.uniform(0.6, 0.95), d.uniform(0.45, 0.75)
    lift, spot = d.uniform(-0.95, -0.6), d.uniform(0.08, 0.17)
    for half in pen.halves():
        half.fill(smooth([(0, 0), (0.5 * lower, 0.75), (lower, 0.5), (0.6, 0.1)]))
        half.fill(smooth([(0, 0.05), (0.25, -0.5), (upper, lift), (0.85, 0.0)]))
        half.oval(0.68 * upper, lift * 0.6, spot, spot, pen.accent)
        half.oval(0.55 * lower, 0.42, spot * 0.8, spot * 0.8, pen.accent)
        feeler = [(0, -0.4), (0.1, -0.65), (0.25, -0.85)]
        half.stroke(smooth(feeler, closed=False), 0.04)
    pen.oval(0, 0.05, 0.07, 0.5, pen.line)


def cactus(pen: Pen, d: Dice) -> None:
    """A ribbed column with one to three raised arms."""
    wide, side = d.uniform(0.16, 0.26), d.choice((-1, 1))
    for _ in range(d.integer(1, 3)):
        low, reach = d.uniform(-0.25, 0.4), d.uniform(0.5, 0.75)
        top = low - d.uniform(0.4, 0.7)
        elbow = [(0, low), (side * reach * 0.8, low), (side * reach, top)]
        pen.stroke(smooth(elbow, closed=False), wide * 1.2, pen.body)
        pen.oval(side * reach, top, wide * 0.6, wide * 0.6)
        side = -side
    pen.fill(mirrored([(0.06, -0.98), (wide, -0.75), (wide, 1)]))
    for x in (-wide / 2, wide / 2):
        pen.stroke([(x, -0.7), (x, 0.95)], 0.035, pen.accent)


def cat(pen: Pen, d: Dice) -> None:
    """A face: two pointed ears, two eyes, nose and whiskers."""
    ear, wide = d.uniform(0.75, 1.0), d.uniform(0.62, 0.8)
    eye, apart = d.uniform(0.1, 0.17), d.uniform(0.26, 0.36)
    narrow, droop = d.uniform(0.6, 1.1), d.uniform(0.0, 0.12)
    halves = pen.halves()
    for half in halves:
        half.fill([(wide * 0.95, 0.1), (wide, -ear), (0.1, -0.45)])
        inner = [(wide * 0.8, -0.2), (wide * 0.9, 0.2 - ear), (0.3, -0.4)]
        half.fill(inner, pen.accent)
    pen.fill(smooth(mirrored([(0, -0.55), (wide, 0.1), (0.3, 0.75)])))
    for half in halves:
        half.oval(apart, 0.0, eye, eye * narrow, pen.accent)
        half.oval(apart, 0.0, eye * 0.4, eye * 0.8, pen.line)
        half.stroke([(0.2, 0.35), (0.95, 0.25 + droop)], 0.03)
        half.stroke([(0.2, 0.42), (0.95, 0.5 + droop)], 0.03)
    pen.fill([(-0.12, 0.25), (0.12, 0.25), (0, 0.42)], pen.line)


def caterpillar(pen: Pen, d: Dice) -> None:
    """A bent row of overlapping round segments on stubby legs."""
    count = d.integer(6, 8)
    radius, bend = 1.3 / count, d.uniform(-0.45, 0.45)
    waves, phase = d.uniform(1.8, 3.6), d.uniform(-0.8, 0.8)
    row = [(x, bend * math.cos(x * waves + phase)) for x in steps(0.8, -0.8, count)]
    pale = mix(pen.body, pen.accent, 0.6)
    for x, y in row:
        pen.stroke([(x, y), (x, y + radius * 1.5)], 0.09)
    for number, (x, y) in enumerate(row):
        pen.oval(x, y, radius, radius * 1.1, pale if number % 2 else pen.body)
    head = pen.at(*row[-1])
    head.stroke([(0, 0), (-0.15, -radius * 2)], 0.05)
    head.oval(-0.06, -0.05, 0.07, 0.07, pen.line)


def fern(pen: Pen, d: Dice) -> None:
    """A curved frond with paired leaflets that shrink to the tip."""
    count, bend = d.integer(6, 8), d.uniform(-0.4, 0.4)
    long, slope = d.uniform(0.5, 0.75), d.uniform(40, 65)
    stem = [(bend * t**2, 0.95 - 1.85 * t) for t in steps(0, 1, count)]
    pen.stroke(stem, 0.06, pen.body)
    for number, (x, y) in enumerate(stem):
        half = long / 2 * (1.05 - number / (count - 1)) ** 0.8
        for side in (-1, 1):
            pen.at(x, y, turn=side * slope).oval(0, -half, 0.09, half)


def fish(pen: Pen, d: Dice) -> None:
    """From the side: spindle body, forked tail, fins, an eye, some bars."""
    high, tail = d.uniform(0.3, 0.52), d.uniform(0.3, 0.5)
    fin = [(-0.3, -high * 0.7), (0.05, -high - 0.3), (0.3, -high * 0.5)]
    pen.fill(fin, pen.accent)
    pen.fill([(-0.05, high * 0.7), (0.15, high + 0.2), (0.25, high * 0.5)], pen.accent)
    pen.fill([(0.4, 0), (0.98, -tail), (0.78, 0), (0.98, tail)])
    back = [(0.55, -0.08), (0.55, 0.08)]
    pen.fill(smooth([(-0.9, 0), (-0.3, -high), *back, (-0.3, high)]))
    for number in range(d.integer(0, 3)):
        x = -0.25 + 0.25 * number
        bar = [(x, -high * 0.75), (x + 0.08, 0), (x, high * 0.75)]
        pen.stroke(smooth(bar, closed=False), 0.1, pen.accent)
    pen.oval(-0.6, -0.06, 0.09, 0.09, pen.line)


def flower(pen: Pen, d: Dice) -> None:
    """Five to nine veined petals around a disc."""
    count = d.integer(5, 9)
    wide, inner = 1.5 / count * d.uniform(0.8, 1.15), d.uniform(0.2, 0.34)
    vein = mix(pen.body, pen.line, 0.5)
    for petal in pen.around(count):
        petal.oval(0, -0.55, wide, 0.42)
        petal.stroke([(0, -0.3), (0, -0.8)], 0.04, vein)
    pen.oval(0, 0, inner, inner, pen.accent)


def jellyfish(pen: Pen, d: Dice) -> None:
    """A bell with wavy tentacles hanging below it."""
    wide, high = d.uniform(0.55, 0.8), d.uniform(0.5, 0.75)
    wave, phase = d.uniform(0.06, 0.14), d.uniform(0, 6)
    depths = steps(0, d.uniform(0.75, 1.0), 9)
    for x in steps(-wide * 0.8, wide * 0.8, d.integer(4, 7)):
        sway = [wave * math.sin(7 * y + phase + 2 * x) for y in depths]
        arm = [(x * (1 - 0.3 * y) + s, y) for s, y in zip(sway, depths, strict=True)]
        pen.stroke(arm, 0.08, pen.accent)
    pen.fill(arc(0, 0, wide, high, 180, 360))
    pen.oval(0, 0, wide, 0.12)
    pen.stroke(arc(0, 0, wide * 0.6, high * 0.65, 200, 340), 0.06, pen.accent)


def leaf(pen: Pen, d: Dice) -> None:
    """One pointed blade with a midrib, side veins and a stalk."""
    wide, belly = d.uniform(0.4, 0.65), d.uniform(-0.1, 0.3)
    pen.stroke([(0, 0.5), (d.uniform(-0.15, 0.15), 1.0)], 0.08)
    side = [(0, -0.95), (wide * 0.65, belly - 0.5), (wide, belly), (0, 0.75)]
    pen.fill(mirrored(smooth(side, closed=False)))
    pen.stroke([(0, -0.8), (0, 0.75)], 0.05)
    for y in steps(-0.35, 0.5, d.integer(3, 5)):
        for end in (-wide * 0.6, wide * 0.6):
            pen.stroke([(0, y), (end, y - 0.25)], 0.035)


def leopard(pen: Pen, d: Dice) -> None:
    """A fur of dark rosettes over the whole picture."""
    pen.rect(-2, -2, 2, 2)
    step = d.uniform(0.45, 0.6)
    for row in range(-3, 4):
        for column in range(-3, 4):
            x = (column + 0.5 * (row % 2) + d.uniform(-0.25, 0.25)) * step
            y = (row + d.uniform(-0.25, 0.25)) * step
            ring, spot = blob(d, step * d.uniform(0.28, 0.44)), pen.at(x, y)
            spot.fill(ring, pen.line)
            spot.at(0, 0, scale=0.5).fill(ring, pen.accent)


def mountain(pen: Pen, d: Dice) -> None:
    """Two or three jagged peaks with snow on top."""
    count = d.integer(2, 3)
    for number in range(count):
        x = -0.6 + 1.2 * (number + d.uniform(-0.2, 0.2)) / (count - 1)
        top, wide = d.uniform(-0.85, -0.2), d.uniform(0.6, 0.9)
        rise, fall = d.uniform(-0.1, 0.2), d.uniform(-0.1, 0.2)
        slope = [(x - wide, 0.7), (x - wide * 0.45, rise), (x, top)]
        shade = mix(pen.body, pen.line, 0.25 * number)
        pen.fill([*slope, (x + wide * 0.5, fall), (x + wide, 0.7)], shade)
        low = top + d.uniform(0.25, 0.4)
        snow = [(x, top), (x + 0.2, low), (x + 0.07, low - 0.1), (x - 0.05, low + 0.05)]
        pen.fill([*snow, (x - 0.16, low - 0.08)], pen.accent)


def mushroom(pen: Pen, d: Dice) -> None:
    """A domed cap with spots on a stem that widens below."""
    wide, high = d.uniform(0.6, 0.95), d.uniform(0.5, 0.9)
    stem = d.uniform(0.13, 0.25)
    pen.fill(taper(-0.1, stem, 0.9, stem * 1.5), pen.accent)
    pen.fill(arc(0, 0, wide, high, 180, 360))
    pen.oval(0, 0, wide, 0.12, mix(pen.body, pen.line, 0.4))
    for _ in range(d.integer(2, 5)):
        x, size = d.uniform(-0.6, 0.6) * wide, d.uniform(0.06, 0.13)
        pen.oval(x, -high * d.uniform(0.25, 0.65), size, size, pen.accent)


def pine(pen: Pen, d: Dice) -> None:
    """A conifer: three or four stacked, drooping tiers on a short trunk."""
    tiers, wide = d.integer(3, 4), d.uniform(0.55, 0.8)
    pen.rect(-0.09, 0.6, 0.09, 1.0, pen.line)
    tall = 1.6 / tiers
    for number in reversed(range(tiers)):
        top = -0.95 + number * tall * 0.9
        half = wide * (number + 1.2) / (tiers + 0.2)
        low = top + tall * 1.25
        shade = mix(pen.body, pen.accent, 0.3 * (number % 2))
        pen.fill(mirrored([(0, top), (half, low), (half * 0.4, low - 0.1)]), shade)


def snail(pen: Pen, d: Dice) -> None:
    """A spiral shell on a long foot with two stalked eyes."""
    size, turns = d.uniform(0.48, 0.62), d.uniform(1.8, 2.6)
    head = [(-0.7, 0.75), (-0.95, 0.15), (-0.75, -0.1), (-0.55, 0.45)]
    pen.fill(smooth([*head, (0.9, 0.62), (0.6, 0.75)]), pen.accent)
    for x in (-0.98, -0.72):
        pen.stroke([(-0.8, 0.1), (x, -0.45)], 0.05)
        pen.oval(x, -0.45, 0.06, 0.06, pen.line)
    shell = pen.at(0.15, 0.05)
    shell.oval(0, 0, size, size)
    inward = steps(1, 0.05, 28)
    shell.stroke([polar(360 * turns * t, size * 0.92 * t) for t in inward], 0.08)


def snake(pen: Pen, d: Dice) -> None:
    """A banded, winding, tapered body with a head."""
    swing, phase, waves = d.uniform(0.25, 0.42), d.uniform(0, 6.3), d.uniform(3.5, 5.2)
    spine = [(x, swing * math.sin(waves * x + phase)) for x in steps(-0.9, 0.9, 40)]
    thick = d.uniform(0.2, 0.3)
    width = [thick * min(1, 0.65 - x / 1.8) for x, _ in spine]
    pen.fill(ribbon(spine, width))
    for k in range(3, 36, d.integer(4, 6)):
        pen.fill(ribbon(spine[k : k + 3], width[k : k + 3]), pen.accent)
    head = pen.at(*spine[0])
    head.oval(0, 0, 0.2, 0.16)
    head.oval(-0.06, -0.05, 0.06, 0.06, pen.line)


def starfish(pen: Pen, d: Dice) -> None:
    """Five rounded arms, dotted along their middle."""
    inner = d.uniform(0.28, 0.42)
    reach = [(inner if k % 2 else 0.95) * d.uniform(0.9, 1.1) for k in range(10)]
    pen.fill(smooth([polar(36 * k - 90, reach[k]) for k in range(10)]))
    for k in range(0, 10, 2):
        for along in (0.25, 0.45, 0.65):
            x, y = polar(36 * k - 90, reach[k] * along)
            pen.oval(x, y, 0.055, 0.055, pen.accent)


def tree(pen: Pen, d: Dice) -> None:
    """A broadleaf tree: a forked trunk under a lumpy crown."""
    trunk, low = d.uniform(0.08, 0.16), d.uniform(-0.05, 0.2)
    pen.fill(taper(low, trunk, 1, trunk * 1.6), pen.line)
    for _ in range(d.integer(5, 8)):
        x, y = d.uniform(-0.5, 0.5), d.uniform(-0.65, low)
        shade = mix(pen.body, pen.accent, d.uniform(0, 0.45))
        pen.at(x, y).fill(blob(d, d.uniform(0.25, 0.42)), shade)
    pen.stroke([(0, low + 0.25), (d.uniform(-0.4, 0.4), low - 0.3)], 0.07)


def turtle(pen: Pen, d: Dice) -> None:
    """From above: a plated oval shell, a head and four flippers."""
    wide, long = d.uniform(0.48, 0.62), d.uniform(0.6, 0.72)
    skin = mix(pen.body, pen.accent, 0.6)
    pen.oval(0, -0.84, 0.17, 0.2, skin)
    pen.fill([(-0.07, 0.6), (0.07, 0.6), (0, 0.98)], skin)
    fore, hind = d.uniform(35, 70), d.uniform(100, 135)
    for side in (-1, 1):
        for y, turn in ((-0.45, fore), (0.5, hind)):
            pen.at(side * 0.35, y, turn=side * turn).oval(0, -0.34, 0.15, 0.34, skin)
    pen.oval(0, 0, wide, long)
    plate = arc(0, 0, wide * 0.5, long * 0.5)[:-1:4]  # six corners
    for x, y in plate:
        pen.stroke([(x, y), (1.9 * x, 1.9 * y)], 0.05)
    pen.fill(plate, mix(pen.body, pen.line, 0.6))


def zebra(pen: Pen, d: Dice) -> None:
    """A hide of uneven, waving, ending stripes over the whole picture."""
    pen.rect(-2, -2, 2, 2)
    count = d.integer(7, 10)
    wave, phase = d.uniform(0.08, 0.2), d.uniform(0, 6)

    def bend(y: float) -> float:
        return wave * math.sin(2.2 * y + phase) + 0.1 * math.cos(5 * y + phase)

    for x in steps(-1.7, 1.7, count):
        spine = [(x + bend(y + x / 2), y) for y in steps(d.uniform(-1.6, 0), 1.6, 12)]
        thick = 3.4 / count * d.uniform(0.35, 0.6)
        width = [thick * d.uniform(0.65, 1.35) for _ in spine]
        pen.fill(ribbon(spine, [0, *width[1:]]), pen.line)


NATURAL = {
    10: (mountain,),
    15: (pine, tree),
    20: (cactus, snail),
    25: (bird, cat, mushroom),
    30: (caterpillar, fish, jellyfish),
    60: (butterfly, fern, snake),
    180: (flower, leaf, leopard, starfish, turtle, zebra),
}
"""Degrees that drawings may be turned to either side, and the drawings."""
