"""Windows that move over an image, of convolutions and of pooling."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from minicnn.base.errors import MinicnnError

Pair = tuple[int, int]
Shape = tuple[int, ...]
# Which images, rows and columns.
Region = tuple[slice, slice, slice]


def pair(argument: str, value: int | Pair) -> Pair:
    """An int or a pair as a pair (vertical, horizontal).

    Args:
        argument: what an error calls it, such as "conv stride".

    Raises:
        MinicnnError: it is neither.
    """
    both = (value, value) if isinstance(value, int | np.integer) else tuple(value)
    if len(both) != 2:
        raise MinicnnError(f"{argument} {value}: must be a number or a pair of them")
    return int(both[0]), int(both[1])


def four(argument: str, shape: Shape, axes: str) -> tuple[int, int, int, int]:
    """The four sizes of an array.

    Args:
        argument: what an error calls it, such as "conv x".
        axes: what they are, such as "N,H,W,C".

    Raises:
        MinicnnError: it has another number of axes.
    """
    if len(shape) != 4:
        raise MinicnnError(
            f"{argument} {tuple(shape)}: must have the four axes ({axes})"
        )
    a, b, c, d = shape
    return a, b, c, d


def taps(
    image: Pair, outputs: Pair, window: Pair, stride: Pair, pad: Pair
) -> Iterator[tuple[int, int, Region, Region]]:
    """Each tap (r, s) of the window, the outputs (N,P,Q) that it brings a pixel to, and
    these pixels (N,H,W).

    Args:
        image: H and W.
        outputs: P and Q.
        window: R and S.
    """

    def span(axis: int, tap: int) -> tuple[slice, slice]:
        # Output i meets pixel i·step + shift.
        step, shift = stride[axis], tap - pad[axis]
        first = max(0, -(shift // step))
        last = min(outputs[axis] - 1, (image[axis] - 1 - shift) // step)
        count, start = max(0, last + 1 - first), first * step + shift
        return slice(first, first + count), slice(start, start + count * step, step)

    for r, s in product(*map(range, window)):
        (ps, hs), (qs, ws) = span(0, r), span(1, s)
        yield r, s, (slice(None), ps, qs), (slice(None), hs, ws)
