"""Patches of images as the rows of a matrix: what the NumPy convolution multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minicnn.devices.device import Device

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


@dataclass(frozen=True)
class Phase:
    """The pixels of one direction with the same place modulo the stride.

    Attributes:
        pixels, count: their slice of dx, and how many there are.
        taps, window: the slice of the filter's taps that meet them, and its length.
        outputs: the slice of dy that they gather from.
        inside: its place in a strip of zeros, count + window − 1 long.
    """

    pixels: slice
    count: int
    taps: slice
    window: int
    outputs: slice
    inside: slice


def phases(size: int, outputs: int, window: int, stride: int, pad: int) -> list[Phase]:
    """The phases of one direction: which outputs each pixel gathers from.

    Pixel first + i·stride meets tap phase + t·stride at output base + i − t.
    """
    found = []
    for phase in range(stride):
        first = (phase - pad) % stride
        count = -(-(size - first) // stride)
        if count < 1:
            continue
        taps = max(0, -(-(window - phase) // stride))
        # The strip's place j is output lowest + j: with taps turned, a plain window.
        lowest = (first + pad - phase) // stride - (taps - 1)
        start = max(0, lowest)
        stop = max(start, min(outputs, lowest + count + taps - 1))
        found.append(
            Phase(
                slice(first, None, stride),
                count,
                slice(phase, None, stride),
                taps,
                slice(start, stop),
                slice(start - lowest, stop - lowest),
            )
        )
    return found
