"""Max pooling in float64: every window, one at a time.

The size rule is that of Caffe's pooling layer: with `ceil` the number of windows rounds
up, but a last window that would start beyond the image's last row or column is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[int, int]


def outputs(size: int, window: int, stride: int, pad: int, ceil: bool) -> int:
    """How many windows there are along an axis, counted one by one."""
    count = 1
    while True:
        start = count * stride - pad
        if ceil:  # as long as it starts in the image and the last one left a rest
            another = start < size and start - stride + window < size + pad
        else:
            another = start + window <= size + pad
        if not another:
            return count
        count += 1


def _windows(
    x_shape: tuple[int, ...], window: Pair, stride: Pair, pad: Pair, ceil: bool
) -> Iterator[tuple[int, int, int, int]]:
    """For each window: its place (p, q) in y and its first row and column in x."""
    for p in range(outputs(x_shape[1], window[0], stride[0], pad[0], ceil)):
        for q in range(outputs(x_shape[2], window[1], stride[1], pad[1], ceil)):
            yield p, q, p * stride[0] - pad[0], q * stride[1] - pad[1]


def forward(
    x: Array, window: Pair, stride: Pair, pad: Pair, ceil: bool
) -> tuple[Array, NDArray[np.int64]]:
    """y and argmax (N,P,Q,C) of x (N,H,W,C); argmax is r·S + s, the first maximum's."""
    n, h, w, c = x.shape
    p_count = outputs(h, window[0], stride[0], pad[0], ceil)
    q_count = outputs(w, window[1], stride[1], pad[1], ceil)
    y = np.full((n, p_count, q_count, c), -np.inf)
    argmax = np.full(y.shape, -1)
    for p, q, top, left in _windows(x.shape, window, stride, pad, ceil):
        for r in range(window[0]):
            for s in range(window[1]):
                if 0 <= top + r < h and 0 <= left + s < w:
                    value = x[:, top + r, left + s]
                    better = value > y[:, p, q]
                    y[:, p, q][better] = value[better]
                    argmax[:, p, q][better] = r * window[1] + s
    return y, argmax


def backward(
    dy: Array,
    argmax: NDArray[np.int64],
    x_shape: tuple[int, ...],
    window: Pair,
    stride: Pair,
    pad: Pair,
    ceil: bool,
) -> Array:
    """dx (N,H,W,C) of dy and argmax (N,P,Q,C)."""
    dx = np.zeros(x_shape)
    n, c = np.indices((x_shape[0], x_shape[3]))
    for p, q, top, left in _windows(x_shape, window, stride, pad, ceil):
        r, s = np.divmod(argmax[:, p, q], window[1])
        dx[n, top + r, left + s, c] += dy[:, p, q]
    return dx
