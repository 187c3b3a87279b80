"""Philox4x32-10, the counter-based generator behind every random decision.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, section 3.3. The key is the seed; the counter is (index, stream, step), so
that weights, sample order, crops, mirrors and dropout are pure functions of the seed
and the step: nothing has to be saved to resume, and every device agrees bit for bit.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK, _HALF = 0xFFFFFFFF, np.uint64(32)
_ROUNDS = 10


class Stream(enum.IntEnum):
    """What the numbers are for; streams never overlap.

    DROPOUT and WEIGHTS are bases: the layer's place in the network is added.
    """

    ORDER = 1
    CROP = 2
    MIRROR = 3
    SUBSET = 4
    DEMO = 5
    DROPOUT = 0x100
    WEIGHTS = 0x200


def philox4x32(counter: U32, key: tuple[int, int]) -> U32:
    """The bijection itself, of counters (4,n), one a column, under two 32-bit words.

    Returns:
        (4,n), four random words for each counter.
    """
    c0, c1, c2, c3 = counter.astype(np.uint64)
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (product0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & np.uint64(_MASK), product0 & np.uint64(_MASK)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def words(seed: int, stream: int, step: int, count: int, start: int = 0) -> U32:
    """Words (count,) of (seed, stream, step), from number `start` on.

    Word i is word i mod 4 of the block whose counter is (i div 4, stream, step low,
    step high) under the key (seed low, seed high).

    Args:
        seed: 0 ≤ seed < 2⁶⁴.
        stream: 0 ≤ stream < 2³²; see `Stream`.
        step: 0 ≤ step < 2⁶⁴, the training step or the epoch.
        start: the first word's index; start + count ≤ 2³⁴.
    """
    first, last = start // 4, -(-(start + count) // 4)
    counter = np.empty((4, last - first), np.uint32)
    counter[0] = np.arange(first, last, dtype=np.uint64)
    counter[1] = stream
    counter[2] = step & _MASK
    counter[3] = step >> 32
    blocks = philox4x32(counter, (seed & _MASK, seed >> 32))
    return blocks.T.reshape(-1)[start - 4 * first : start - 4 * first + count]


def integers(
    seed: int, stream: int, step: int, count: int, below: int, start: int = 0
) -> NDArray[np.int64]:
    """Integers (count,) in [0, below) by multiply-shift: (word · below) div 2³².

    The bias is under below / 2³², far beneath what a crop or a mirror can show.
    """
    drawn = words(seed, stream, step, count, start).astype(np.uint64)
    return ((drawn * np.uint64(below)) >> _HALF).astype(np.int64)


def permutation(seed: int, stream: int, step: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0 .. count − 1: the stable order of 64-bit random keys."""
    pairs = words(seed, stream, step, 2 * count).reshape(count, 2).astype(np.uint64)
    return np.argsort((pairs[:, 0] << _HALF) | pairs[:, 1], kind="stable")


def normal(seed: int, stream: int, count: int, start: int = 0) -> NDArray[np.float64]:
    """Standard normal numbers (count,) by the Box–Muller transform.

    Each pair of words (a, b) gives two: r·cos θ and r·sin θ with
    r = sqrt(−2 ln((a + 1) / 2³²)) and θ = 2π b / 2³². The largest is 6.66. `start`, the
    first number's index, is even.
    """
    pairs = words(seed, stream, 0, count + count % 2, start).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((pairs[:, 0] + 1.0) / 2.0**32))
    angle = (2.0 * np.pi / 2.0**32) * pairs[:, 1]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return both.reshape(-1)[:count]
