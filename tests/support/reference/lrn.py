"""Local response normalisation across channels, in float64: channel by channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _window(channel: int, size: int, channels: int) -> range:
    """The `size` channels centred on one, those that exist."""
    half = (size - 1) // 2
    return range(max(channel - half, 0), min(channel + half + 1, channels))


def forward(
    x: Array, size: int, alpha: float, beta: float, k: float
) -> tuple[Array, Array]:
    """y and scale (N,H,W,C): scale_i = k + α/size · Σ x_j², y_i = x_i · scale_i^−β."""
    channels = x.shape[-1]
    scale = np.full(x.shape, float(k))
    for i in range(channels):
        for j in _window(i, size, channels):
            scale[..., i] += alpha / size * x[..., j] ** 2
    return x * scale**-beta, scale


def backward(
    x: Array, dy: Array, size: int, alpha: float, beta: float, k: float
) -> Array:
    """dx_j = Σ_i dy_i · ∂y_i/∂x_j, one pair of channels at a time.

    ∂y_i/∂x_j = [i = j] · scale_i^−β − β · x_i · scale_i^(−β−1) · 2α/size · x_j
    """
    channels = x.shape[-1]
    _, scale = forward(x, size, alpha, beta, k)
    dx = np.zeros(x.shape)
    for i in range(channels):
        s, dy_i = scale[..., i], dy[..., i]
        dx[..., i] += dy_i * s**-beta
        slope = -beta * x[..., i] * s ** (-beta - 1) * 2 * alpha / size
        for j in _window(i, size, channels):
            dx[..., j] += dy_i * slope * x[..., j]
    return dx
