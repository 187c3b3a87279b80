"""Dropout in float64, with Philox4x32-10 in plain integers.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, section 3.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Four = tuple[int, int, int, int]

WORD = 2**32


def philox(counter: Four, key: tuple[int, int]) -> Four:
    """Four random words of four counter words and two key words."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(a * 0xD2511F53, WORD)
        high1, low1 = divmod(c * 0xCD9E8D57, WORD)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return a, b, c, d


def mask(
    shape: tuple[int, ...], rate: float, seed: int, stream: int, step: int
) -> NDArray[np.bool_]:
    """True where a value is kept: where its word is at least floor(rate · 2³²)."""
    threshold = int(rate * WORD)
    key = (seed % WORD, seed // WORD)
    kept: list[bool] = []
    for block in range(-(-int(np.prod(shape)) // 4)):
        words = philox((block, stream, step % WORD, step // WORD), key)
        kept += [word >= threshold for word in words]
    return np.array(kept[: int(np.prod(shape))]).reshape(shape)


def apply(x: Array, rate: float, seed: int, stream: int, step: int) -> Array:
    """x · mask / (1 − rate), of the values and of the gradients alike."""
    return np.where(mask(x.shape, rate, seed, stream, step), x / (1 - rate), 0.0)
