"""Patches of images as the rows of a matrix: what the NumPy convolution multiplies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicnn.device import Device

Pair = tuple[int, int]
Array = NDArray[np.floating]


def patches(
    dev: Device, x: Array, outputs: Pair, window: Pair, stride: Pair, pad: Pair
) -> Array:
    """The windows of x (N,H,W,C) within zeros, as rows (N·P·Q, R·S·C), in scratch.

    Args:
        outputs: P and Q.
        window: R and S.
        stride, pad: vertical and horizontal.
    """
    top, left = pad
    if top or left:
        images, height, width, depth = x.shape
        padded = (images, height + 2 * top, width + 2 * left, depth)
        room = dev.scratch("padded", padded, x.dtype)
        room[:, :top] = room[:, top + height :] = 0
        room[:, :, :left] = room[:, :, left + width :] = 0
        room[:, top : top + height, left : left + width] = x
        x = room
    return windows(dev, x, outputs, window, stride)


def windows(dev: Device, x: Array, outputs: Pair, window: Pair, stride: Pair) -> Array:
    """Every window of x (N,H,W,C) as a row, (N·P·Q, R·S·C), copied to scratch."""
    size = (len(x), *outputs, *window, x.shape[-1])
    step = x.strides
    strides = (step[0], step[1] * stride[0], step[2] * stride[1], *step[1:])
    view = np.lib.stride_tricks.as_strided(x, size, strides, writeable=False)
    cols = dev.scratch("cols", size, x.dtype)
    np.copyto(cols, view)
    return cols.reshape(len(x) * outputs[0] * outputs[1], -1)


def spread(count: int, stride: int, offset: int, length: int) -> tuple[slice, slice]:
    """Which of `count` outputs land in a strip of that length, and where.

    Output i lies at i·stride + offset; padding beyond the filter puts some outside.
    """
    first = max(0, -(offset // stride))
    last = min(count - 1, (length - 1 - offset) // stride)
    start = first * stride + offset
    return slice(first, last + 1), slice(start, last * stride + offset + 1, stride)
