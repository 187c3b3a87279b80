"""Convolution with groups, in float64: every output position, one at a time.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, i, j, g·C/groups + c] · w[k,r,s,c],
    i = p·stride + r − pad, j = q·stride + s − pad, and g the group of filter k.

Output (p, q) sees one patch of the zero-padded input. The forward pass multiplies that
patch by the filters; the gradients send the same product back to its two factors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[int, int]


def _padded(x: Array, pad: Pair) -> Array:
    """x (N,H,W,C) with `pad` rows and columns of zeros on every side."""
    return np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1]), (0, 0)))


def _places(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    groups: int,
) -> Iterator[tuple[tuple, tuple, slice]]:
    """For each output position and group: its patch in the padded input, its place in
    y, and its filters."""
    (_, h, w, _), (k, r, s, depth) = x_shape, w_shape
    for p in range((h + 2 * pad[0] - r) // stride[0] + 1):
        for q in range((w + 2 * pad[1] - s) // stride[1] + 1):
            top, left = p * stride[0], q * stride[1]
            for g in range(groups):
                channels = slice(g * depth, (g + 1) * depth)
                filters = slice(g * k // groups, (g + 1) * k // groups)
                patch = (..., slice(top, top + r), slice(left, left + s), channels)
                yield patch, (slice(None), p, q, filters), filters


def forward(
    x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, groups: int
) -> Array:
    """y (N,P,Q,K) of x (N,H,W,C), w (K,R,S,C/groups) and b (K,) or None."""
    p = (x.shape[1] + 2 * pad[0] - w.shape[1]) // stride[0] + 1
    q = (x.shape[2] + 2 * pad[1] - w.shape[2]) // stride[1] + 1
    y = np.zeros((len(x), p, q, len(w)))
    padded = _padded(x, pad)
    for patch, out, filters in _places(x.shape, w.shape, stride, pad, groups):
        y[out] = np.tensordot(padded[patch], w[filters], axes=([1, 2, 3], [1, 2, 3]))
    return y if b is None else y + b


def backward_data(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, pad: Pair, groups: int
) -> Array:
    """dx (N,H,W,C) of dy (N,P,Q,K) and w."""
    dx = _padded(np.zeros(x_shape), pad)
    for patch, out, filters in _places(x_shape, w.shape, stride, pad, groups):
        dx[patch] += np.tensordot(dy[out], w[filters], axes=1)
    return dx[:, pad[0] : pad[0] + x_shape[1], pad[1] : pad[1] + x_shape[2]]


def backward_weights(
    x: Array, dy: Array, w_shape: tuple[int, ...], stride: Pair, pad: Pair, groups: int
) -> tuple[Array, Array]:
    """dw (K,R,S,C/groups) and db (K,) of x and dy."""
    dw, db = np.zeros(w_shape), np.zeros(w_shape[0])
    padded = _padded(x, pad)
    for patch, out, filters in _places(x.shape, w_shape, stride, pad, groups):
        dw[filters] += np.tensordot(dy[out], padded[patch], axes=(0, 0))
        db[filters] += dy[out].sum(axis=0)
    return dw, db


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.where(x > 0, x, 0.0)


def relu_backward(y: Array, dy: Array) -> Array:
    """dx of dy and the ReLU's output y; the slope at 0 is 0."""
    return np.where(y > 0, dy, 0.0)
