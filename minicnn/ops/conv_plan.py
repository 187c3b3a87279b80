"""Which tile a convolution kernel runs with, and in how many slices.

The choice depends on the problem alone, not on the card: the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Multiprocessors to keep busy (an H100 or H200 has as many), with two blocks each.
PROCESSORS = 132
# Products that a tile adds to each of its sums before its next barrier: BK.
STEP = 8
# A slice of fewer steps would spend its time on writing its partial sums.
LEAST_STEPS = 32
# (rows, columns, numbers read as one) of each tile that kernels/conv.cu offers, and its
# speed beside the first: a guess from its reads of shared memory for each product.
TILES = {
    np.dtype(np.float32): {
        (128, 128, 4): 1.0,
        (128, 64, 4): 0.85,
        (128, 32, 4): 0.7,
        (128, 64, 1): 0.85,
        (128, 32, 1): 0.7,
    },
    np.dtype(np.float64): {(64, 64, 2): 1.0, (64, 32, 1): 1.0},
}


@dataclass(frozen=True)
class Plan:
    """How one kernel computes C[M×N] = A[M×K]·B[K×N].

    Attributes:
        tile: rows, columns, and numbers read as one.
        tiles: how many cover C.
        steps: steps of K that a block takes.
        slices: into which K is cut; each has partial sums of its own.
    """

    tile: tuple[int, int, int]
    tiles: int
    steps: int
    slices: int = 1


def plan(
    dtype: np.dtype,
    size: tuple[int, int, int],
    products: int,
    vectors: bool,
    sliced: bool = False,
) -> Plan:
    """The plan that keeps the busiest multiprocessor busy for the shortest time.

    Args:
        dtype: float32 or float64.
        size: M, N and K of one product.
        products: how many of that size there are: groups, times phases.
        vectors: whether 16 bytes may be read as one.
        sliced: whether K may be cut into slices.
    """
    m, n, k = size
    speeds = TILES[dtype]
    steps = ceil_div(k, STEP)
    plans = []
    for tile in speeds:
        if (tile[2] > 1) != vectors:
            continue
        tiles = ceil_div(m, tile[0]) * ceil_div(n, tile[1])
        slices = 1
        if sliced:
            wanted = 2 * PROCESSORS // (tiles * products)
            slices = max(1, min(wanted, steps // LEAST_STEPS))
        each = ceil_div(steps, slices)
        plans.append(Plan(tile, tiles, each, ceil_div(steps, each)))

    def time(p: Plan) -> float:
        rounds = ceil_div(p.tiles * p.slices * products, PROCESSORS)
        return rounds * p.tile[0] * p.tile[1] * p.steps / speeds[p.tile]

    return min(plans, key=time)


def ceil_div(a: int, b: int) -> int:
    """a ÷ b, rounded up."""
    return -(-a // b)
