"""The demo set's man-made classes: built shapes, straight edges, repeated parts."""

from __future__ import annotations

import math

from minicnn.data_prep.demo.pen import Dice, Pen, arc, mirrored, mix, steps, taper


def boat(pen: Pen, d: Dice) -> None:
    """A hull, a mast and one or two triangular sails."""
    mast, deck = d.uniform(-0.1, 0.2), d.uniform(0.35, 0.5)
    pen.fill(taper(deck, 0.9, 0.85, 0.6))
    pen.stroke([(mast, deck), (mast, -0.98)], 0.07)
    foot = deck - 0.1
    sail = mix(pen.body, pen.accent, 0.5)
    pen.fill([(mast - 0.06, -0.9), (mast - 0.06, foot), (-0.75, foot)], sail)
    if d.chance(0.6):
        pen.fill([(mast + 0.07, -0.7), (mast + 0.07, foot), (0.75, foot)], pen.accent)


def book(pen: Pen, d: Dice) -> None:
    """Open, from above: two pages with lines of text and a spine."""
    wide, high = d.uniform(0.75, 0.92), d.uniform(0.5, 0.65)
    drop, lines = d.uniform(0.08, 0.25), d.integer(3, 5)
    for half in pen.halves():
        outer = [(wide, -high - drop), (wide, high - drop)]
        page = [(0, -high), *outer, (0, high)]
        half.at(0, 0, scale=1.1).fill(page, pen.accent)
        half.fill(page)
        for y in steps(-high + 0.2, high - 0.2, lines):
            end = d.uniform(0.65, 0.9) * wide
            half.stroke([(0.12, y - 0.05), (end, y - drop * end / wide)], 0.06)
    pen.stroke([(0, -high), (0, high)], 0.06)


def bottle(pen: Pen, d: Dice) -> None:
    """A straight body, sloping shoulders, a neck with a cap, a label."""
    wide, neck = d.uniform(0.26, 0.42), d.uniform(0.1, 0.15)
    shoulder, label = d.uniform(-0.4, -0.1), d.uniform(0.0, 0.2)
    rise = shoulder - d.uniform(0.15, 0.3)
    pen.fill(mirrored([(neck, -0.8), (neck, rise), (wide, shoulder), (wide, 0.95)]))
    pen.rect(-neck * 1.2, -0.98, neck * 1.2, -0.8, pen.line)
    pen.rect(-wide, label, wide, label + d.uniform(0.3, 0.5), pen.accent)


def brick_wall(pen: Pen, d: Dice) -> None:
    """Rows of bricks, every other row shifted by half, over the whole picture."""
    pen.rect(-2, -2, 2, 2, pen.accent)
    high, long = d.uniform(0.26, 0.4), d.uniform(0.6, 0.9)
    gap = d.uniform(0.05, 0.09)
    for row in range(round(-1.7 / high), round(1.7 / high) + 1):
        for column in range(-3, 3):
            x, y = (column + 0.5 * (row % 2)) * long, row * high
            shade = mix(pen.body, pen.line, d.uniform(0, 0.35))
            pen.rect(x, y, x + long - gap, y + high - gap, shade)


def bridge(pen: Pen, d: Dice) -> None:
    """A suspension bridge: two towers, sagging cables, hangers, a flat deck."""
    deck, tower = d.uniform(0.25, 0.45), d.uniform(0.4, 0.6)
    top = d.uniform(-0.8, -0.5)
    for half in pen.halves():
        half.rect(tower - 0.07, top, tower + 0.07, 0.9, pen.accent)
        half.stroke([(tower, top), (1.1, deck)], 0.05)
    depth = deck - 0.1 - top
    cable = [(t * tower, top + depth * (1 - t * t)) for t in steps(-1, 1, 11)]
    pen.stroke(cable, 0.05)
    for x, y in cable[1:-1]:
        pen.stroke([(x, y), (x, deck)], 0.03)
    pen.rect(-1.15, deck, 1.15, deck + 0.13)


def car(pen: Pen, d: Dice) -> None:
    """From the side: a body, a cabin with windows, two wheels."""
    roof, waist = d.uniform(-0.55, -0.35), d.uniform(-0.05, 0.05)
    front, back = d.uniform(0.3, 0.5), d.uniform(-0.7, -0.4)
    wheel, glass = d.uniform(0.2, 0.26), roof + 0.1
    pillars = [(back + 0.1, roof), (front - 0.2, roof)]
    pen.fill([(back - 0.1, waist), *pillars, (front, waist)])
    rear = [(back + 0.08, waist), (back + 0.17, glass), (-0.14, glass), (-0.14, waist)]
    pen.fill(rear, pen.line)
    fore = [(-0.04, waist), (-0.04, glass), (front - 0.23, glass), (front - 0.1, waist)]
    pen.fill(fore, pen.line)
    pen.fill([(-0.95, waist), (0.85, waist), (0.97, 0.18), (0.97, 0.36), (-0.95, 0.36)])
    for x in (-0.55, 0.55):
        pen.oval(x, 0.38, wheel, wheel, pen.line)
        pen.oval(x, 0.38, wheel * 0.45, wheel * 0.45, pen.accent)


def chair(pen: Pen, d: Dice) -> None:
    """From the side and a little above: a slatted back, a seat, four legs."""
    back, seat = d.uniform(-0.95, -0.7), d.uniform(0.0, 0.2)
    wide, depth = d.uniform(0.35, 0.5), d.uniform(0.2, 0.35)
    left, right = -wide - depth / 2, wide - depth / 2
    wood = mix(pen.body, pen.accent, 0.7)
    for x, foot in ((left, 0.95), (right, 0.95), (left + depth, 0.75)):
        pen.stroke([(x, seat), (x, foot)], 0.1, wood)
    pen.stroke([(right + depth, seat - 0.1), (right + depth, 0.75)], 0.1, wood)
    for x, rise in ((left, 0), (left + depth, 0.4 * depth)):
        pen.stroke([(x, seat), (x, back - rise)], 0.1, wood)
    for y in steps(back + 0.08, seat - 0.28, d.integer(2, 3)):
        pen.stroke([(left, y), (left + depth, y - 0.4 * depth)], 0.12, pen.body)
    edge = [(left - 0.05, seat + 0.1), (right, seat + 0.1)]
    pen.fill([*edge, (right + depth, seat - 0.12), (left + depth, seat - 0.12)])


def clock(pen: Pen, d: Dice) -> None:
    """A round face with marks and two hands."""
    rim = d.uniform(0.75, 0.85)
    pen.oval(0, 0, 0.95, 0.95, pen.line)
    pen.oval(0, 0, rim, rim)
    for mark in pen.around(d.choice((4, 12))):
        mark.rect(-0.04, -rim + 0.04, 0.04, -rim + 0.2, pen.line)
    for long, half in ((0.6, 0.04), (0.4, 0.055)):
        hand = pen.at(0, 0, turn=d.uniform(0, 360))
        hand.rect(-half, -long, half, 0.1, pen.line)


def cup(pen: Pen, d: Dice) -> None:
    """A tapered mug with an open top and a handle."""
    top, low, high = d.uniform(0.5, 0.62), d.uniform(0.35, 0.5), d.uniform(0.5, 0.7)
    pen.stroke(arc(top - 0.02, 0, d.uniform(0.28, 0.42), 0.36, -90, 90), 0.13, pen.body)
    pen.fill(taper(-high, top, high, low))
    pen.oval(0, high, low, 0.12)
    pen.oval(0, -high, top, 0.16, pen.accent)
    pen.oval(0, -high + 0.03, top * 0.8, 0.1, pen.line)
    if d.chance(0.5):
        band = d.uniform(-0.1, 0.2)
        pen.fill(taper(band, (top + low) / 2, band + 0.2, low), pen.accent)


def fence(pen: Pen, d: Dice) -> None:
    """Pointed pickets on two rails, across the whole picture."""
    step, top = d.uniform(0.36, 0.5), d.uniform(-0.7, -0.4)
    half = step * d.uniform(0.28, 0.37)
    for y in (top + 0.35, 0.55):
        pen.rect(-2, y - 0.08, 2, y + 0.08, pen.accent)
    start = d.uniform(-2, -1.6)
    picket = mirrored([(0, top - 0.25), (half, top), (half, 0.95)])
    for number in range(10):
        pen.at(start + number * step, 0).fill(picket)


def gear(pen: Pen, d: Dice) -> None:
    """A toothed wheel with a hole."""
    teeth, root = d.integer(7, 10), d.uniform(0.64, 0.74)
    half, hole = 1.05 / teeth * d.uniform(0.7, 0.9), d.uniform(0.2, 0.32)
    pen.oval(0, 0, root, root)
    for tooth in pen.around(teeth):
        tooth.fill(taper(-0.97, half * 0.7, -root + 0.1, half))
    pen.oval(0, 0, hole + 0.1, hole + 0.1, pen.accent)
    pen.oval(0, 0, hole, hole, pen.line)


def hammer(pen: Pen, d: Dice) -> None:
    """A long handle with a head: a flat face on one side, a claw on the other."""
    thick, head, reach = d.uniform(0.07, 0.1), d.uniform(0.15, 0.2), d.uniform(0.4, 0.5)
    pen.rect(-thick, -0.7, thick, 0.98, mix(pen.body, pen.accent, 0.6))
    pen.rect(-0.25, -0.7 - head, reach, -0.7 + head)
    pen.rect(reach, -0.78 - head, reach + 0.2, -0.62 + head)
    claw = (-0.9, d.uniform(-0.5, -0.3))
    pen.fill([(-0.25, -0.7 - head), (-0.25, -0.7 + head), claw])


def house(pen: Pen, d: Dice) -> None:
    """A gabled roof on a box with a door, a window or two, perhaps a chimney."""
    wide, eave = d.uniform(0.55, 0.75), d.uniform(-0.2, 0.05)
    ridge, lean = d.uniform(-0.95, -0.7), d.uniform(-0.15, 0.15)
    if d.chance(0.5):
        pen.rect(0.25, ridge, 0.45, eave, pen.line)
    pen.rect(-wide, eave, wide, 0.9)
    pen.fill([(-wide - 0.2, eave), (lean, ridge), (wide + 0.2, eave)], pen.accent)
    door = d.uniform(-0.3, 0.1)
    pen.rect(door, 0.35, door + 0.25, 0.9, pen.line)
    for x in (-wide + 0.1, wide - 0.32):
        if not door - 0.25 < x < door + 0.27:
            pen.rect(x, eave + 0.2, x + 0.22, eave + 0.45, pen.line)


def key(pen: Pen, d: Dice) -> None:
    """A ring bow, a shaft and two or three bits."""
    bow = d.uniform(0.28, 0.38)
    pen.stroke(arc(0, -0.6, bow, bow), 0.2, pen.body)
    pen.rect(-0.09, -0.3, 0.09, 0.95)
    for number in range(d.integer(2, 3)):
        y = 0.85 - number * 0.27
        pen.rect(0, y - 0.09, d.uniform(0.28, 0.48), y + 0.09)


def ladder(pen: Pen, d: Dice) -> None:
    """Two rails with rungs."""
    top, foot = d.uniform(0.22, 0.36), d.uniform(0.32, 0.48)
    for y in steps(-0.8, 0.8, d.integer(5, 7)):
        half = top + (foot - top) * (y + 1) / 2
        pen.stroke([(-half, y), (half, y)], 0.09, pen.accent)
    for side in (-1, 1):
        pen.stroke([(side * top, -1), (side * foot, 1)], 0.12, pen.body)


def lamp(pen: Pen, d: Dice) -> None:
    """A table lamp: a flared shade, a stem, a foot."""
    top, low, edge = d.uniform(0.2, 0.4), d.uniform(0.55, 0.8), d.uniform(-0.2, 0.1)
    pen.rect(-0.06, edge, 0.06, 0.85, pen.accent)
    pen.fill(taper(0.78, 0.3, 0.95, 0.42), pen.accent)
    pen.fill(taper(-0.92, top, edge, low))
    pen.stroke([(-low, edge), (low, edge)], 0.08)


def scissors(pen: Pen, d: Dice) -> None:
    """Two crossed blades with ring handles, opened to some angle."""
    angle, ring = d.uniform(16, 32), d.uniform(0.2, 0.27)
    handle = mix(pen.body, pen.accent, 0.6)
    for side, colour in ((-1, pen.body), (1, mix(pen.body, pen.line, 0.25))):
        arm = pen.at(0, 0.15, turn=side * angle)
        arm.fill([(-0.15, 0), (0, -1.15), (0.15, 0)], colour)
        arm.rect(-0.08, 0, 0.08, 0.4, colour)
        arm.stroke(arc(0, 0.4 + ring, ring, ring * 1.1), 0.16, handle)
    pen.oval(0, 0.15, 0.06, 0.06, pen.line)


def tartan(pen: Pen, d: Dice) -> None:
    """Cloth woven of crossing bands, over the whole picture."""
    pen.rect(-2, -2, 2, 2)
    step, thin = d.uniform(0.5, 0.75), d.uniform(0.06, 0.1)
    band = step * d.uniform(0.35, 0.55)
    starts = [-1.8 + step * k for k in range(8)]
    half = mix(pen.body, pen.accent, 0.5)
    for start in starts:
        pen.rect(start, -2, start + band, 2, half)
    for y in starts:
        pen.rect(-2, y, 2, y + band, half)
        for x in starts:
            pen.rect(x, y, x + band, y + band, pen.accent)
    for start in starts:
        middle = start + (step + band) / 2
        pen.stroke([(middle, -2), (middle, 2)], thin)
        pen.stroke([(-2, middle), (2, middle)], thin)


def umbrella(pen: Pen, d: Dice) -> None:
    """A canopy of coloured gores with a scalloped edge and a hooked handle."""
    gores, high = d.choice((4, 6)), d.uniform(0.6, 0.8)
    pen.stroke([(0, -0.2), (0, 0.75)], 0.09)
    pen.stroke(arc(d.choice((-0.13, 0.13)), 0.75, 0.13, 0.17, 0, 180), 0.09)
    edge = steps(-0.95, 0.95, gores + 1)
    for number in range(gores):
        left, right = edge[number], edge[number + 1]
        across, wide = steps(left, right, 5), right - left
        rim = [(x, -0.1 - (x - left) * (right - x) / wide / 2) for x in across]
        dome = [(x, -0.1 - high * math.sqrt(1 - x * x)) for x in reversed(across)]
        pen.fill(rim + dome, pen.accent if number % 2 else pen.body)


def window(pen: Pen, d: Dice) -> None:
    """A frame with panes in a grid and a sill."""
    wide, high, bar = d.uniform(0.5, 0.75), d.uniform(0.65, 0.85), d.uniform(0.06, 0.1)
    columns, rows = d.integer(2, 3), d.integer(2, 4)
    pen.rect(-wide, -high, wide, high)
    pen.rect(-wide - 0.15, high, wide + 0.15, high + 0.14, pen.line)
    across, down = 2 * wide / columns, 2 * high / rows
    for column in range(columns):
        for row in range(rows):
            shade = mix(pen.accent, pen.line, d.uniform(0.2, 0.8))
            pane = pen.at(column * across - wide, row * down - high)
            pane.rect(bar, bar, across - bar, down - bar, shade)


MANMADE = {
    8: (bridge, fence),
    10: (house,),
    12: (car, window),
    15: (boat, chair, lamp),
    20: (brick_wall, cup),
    30: (clock, umbrella),
    40: (book, bottle),
    45: (ladder, tartan),
    90: (hammer, key, scissors),
    180: (gear,),
}
"""Degrees that drawings may be turned to either side, and the drawings."""
