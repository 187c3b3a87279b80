"""Crop, subtract the mean, mirror: in float64, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def crop_mirror(
    images: NDArray[np.uint8],
    mean: NDArray[np.float64],
    size: tuple[int, int],
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    mirror: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """y (N,h,w,3): the crop less the mean of the same pixels, then mirrored."""
    h, w = size
    y = np.zeros((len(images), h, w, 3))
    for n in range(len(images)):
        for i in range(h):
            for j in range(w):
                row, column = top[n] + i, left[n] + j
                pixel = images[n, row, column] - mean[row, column]
                y[n, i, w - 1 - j if mirror[n] else j] = pixel
    return y
