"""Space-to-depth in float64: block by block, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[int, int]


def blocks(x: Array, size: Pair, channels: int, stride: Pair, pad: Pair) -> Array:
    """x (N,H,W,C) as (N, *size, channels): blocks of pixels, zero beyond the image."""
    n, height, width, colours = x.shape
    y = np.zeros((n, *size, channels))
    for i, j in np.ndindex(size):
        channel = 0
        for down, right in np.ndindex(stride):
            row, column = i * stride[0] + down - pad[0], j * stride[1] + right - pad[1]
            for c in range(colours):
                if 0 <= row < height and 0 <= column < width:
                    y[:, i, j, channel] = x[:, row, column, c]
                channel += 1
    return y


def pixels(y: Array, size: Pair, colours: int, stride: Pair) -> Array:
    """The inverse, for blocks without pad: (N, *size, colours)."""
    x = np.zeros((len(y), *size, colours))
    for row, column in np.ndindex(size):
        (i, down), (j, right) = divmod(row, stride[0]), divmod(column, stride[1])
        first = (down * stride[1] + right) * colours
        x[:, row, column] = y[:, i, j, first : first + colours]
    return x
