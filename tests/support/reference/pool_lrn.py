"""Max pooling of a ReLU's output, then LRN, in float64: the two oracles in turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.reference import lrn, pool

Array = NDArray[np.float64]
Pair = tuple[int, int]


def forward(
    x: Array,
    windows: tuple[Pair, Pair, Pair, bool],
    channels: tuple[int, float, float, float],
) -> tuple[Array, NDArray[np.int64], Array]:
    """u, argmax and y (N,P,Q,C) of x (N,H,W,C).

    Args:
        windows: window, stride, pad and ceil of the pooling.
        channels: size, alpha, beta and k of the LRN.
    """
    u, argmax = pool.forward(x, *windows)
    y, _ = lrn.forward(u, *channels)
    return u, argmax, y


def backward(
    x: Array,
    dy: Array,
    windows: tuple[Pair, Pair, Pair, bool],
    channels: tuple[int, float, float, float],
) -> Array:
    """dx (N,H,W,C), the gradient of what the ReLU whose output is x was given."""
    u, argmax = pool.forward(x, *windows)
    du = lrn.backward(u, dy, *channels)
    return pool.backward(du, argmax, x.shape, *windows) * (x > 0)
