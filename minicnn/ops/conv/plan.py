"""Which tile a convolution kernel runs with, and in how many slices.

The choice depends on the problem alone: the same bits on all cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from minicnn.base.precision import BF16

# A kernel's first template argument: its arrays' dtype, or "tf32" or "tf32x3" for
# float32 arrays that tensor cores multiply.
Kind = np.dtype | str
# Rows, columns, and numbers read as one.
Tile = tuple[int, int, int]

FORWARD, DATA, WEIGHTS = "conv_forward", "conv_backward_data", "conv_backward_weights"
FLOAT, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Multiprocessors to keep busy (an H100 or H200 has as many).
PROCESSORS = 132
# BK: products that a tile adds to each output between two barriers.
STEP: dict[Kind, int] = {FLOAT: 8, DOUBLE: 8, "tf32": 16, "tf32x3": 16, BF16: 32}
# Steps in shared memory: all tiles fit the 99 KiB that sm_86, 89 and 120 give a block.
STAGES = 3
# Least products per output in a slice; shorter ones mostly write partial sums.
LEAST_PRODUCTS = 256
# Fixed cost of a block, in multiply-adds per output. Tensor cores multiply faster than
# memory takes the outputs, so theirs counts for more.
OVERHEAD: dict[Kind, int] = {
    FLOAT: 64,
    DOUBLE: 64,
    "tf32": 256,
    "tf32x3": 96,
    BF16: 512,
}
# Least products per number read with which tensor cores do not wait for the level-2
# cache: 790 TFLOP/s · 63 % ÷ 2 over 5.5 TB/s ÷ 2 bytes.
PAIRS_A_LINE = 90


def _tensor_tiles(vector: int) -> dict[str, dict[Tile, float]]:
    """The tiles of MmaTile that each kernel offers, and their speed: 1 is the best.

    Those of 256 × 96 and 256 × 48 are for 96, 192 or 48 columns; weight gradients have
    fewer rows, a group's features, than columns.
    """
    high, flat, narrow = (256, 128), (256, 96), (256, 48)
    wide, square, small = (128, 256), (128, 128), (128, 64)
    offered = {
        FORWARD: (high, flat, small),
        DATA: (high, flat, narrow, small),
        WEIGHTS: (wide, (192, 128), square, small),
    }
    return {
        kernel: {
            (m, n, vector): min(1.0, m * n / (m + n) / PAIRS_A_LINE) for m, n in sizes
        }
        for kernel, sizes in offered.items()
    }


# Each tile that kernels/conv.cu offers, and its speed beside the first: without tensor
# cores a guess from its reads of shared memory for each product.
_FLOAT_TILES: dict[Tile, float] = {
    (128, 128, 4): 1.0,
    (128, 64, 4): 0.85,
    (128, 32, 4): 0.7,
    (128, 64, 1): 0.85,
    (128, 32, 1): 0.7,
}
_DOUBLE_TILES: dict[Tile, float] = {(64, 64, 2): 1.0, (64, 32, 1): 1.0}
# Three products where tf32 makes one: no tile waits for the cache. Larger ones would
# want more registers than there are.
_SPLIT_TILES: dict[str, dict[Tile, float]] = {
    FORWARD: {(128, 96, 4): 1.0, (128, 64, 4): 1.0},
    DATA: {(128, 96, 4): 1.0, (128, 48, 4): 1.0, (128, 64, 4): 1.0},
    WEIGHTS: {(96, 64, 4): 1.0, (128, 64, 4): 1.0},
}
# Tiles that copy numbers one by one, which is slow.
_SINGLE: dict[Tile, float] = {(32, 64, 1): 0.05}
TILES: dict[Kind, dict[str, dict[Tile, float]]] = {
    FLOAT: dict.fromkeys((FORWARD, DATA, WEIGHTS), _FLOAT_TILES),
    DOUBLE: dict.fromkeys((FORWARD, DATA, WEIGHTS), _DOUBLE_TILES),
    "tf32": _tensor_tiles(4),
    "tf32x3": _SPLIT_TILES,
    BF16: {kernel: tiles | _SINGLE for kernel, tiles in _tensor_tiles(8).items()},
}


@dataclass(frozen=True)
class Plan:
    """How one kernel computes C[M×N] = A[M×K]·B[K×N].

    Attributes:
        kernel: FORWARD, DATA or WEIGHTS.
        kind: its first template argument.
        tile: the others.
        tiles: how many cover C.
        steps: steps of K that a block takes.
        slices: into which K is cut; each has partial sums of its own.
    """

    kernel: str
    kind: Kind
    tile: Tile
    tiles: int
    steps: int
    slices: int = 1

    @cached_property
    def on_tensor_cores(self) -> bool:
        """Whether MmaTile multiplies, and not Tile."""
        return STEP[self.kind] > 8

    @cached_property
    def threads(self) -> int:
        """Threads of a block."""
        if self.kind == "tf32x3":  # a warp has 32 rows, and 32 or 48 columns
            return self.tile[0] * self.tile[1] // (32 if self.tile[1] % 48 else 48)
        large = self.tile[0] * self.tile[1] > 128 * 128
        return 256 if large or not self.on_tensor_cores else 128

    @cached_property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: MmaTile's stages."""
        if not self.on_tensor_cores:
            return 0
        itemsize = 64 // STEP[self.kind]
        # Operands along K: 64 bytes and 16 of padding a line. Across K: a row of lines,
        # and 8 of padding, for each place of K.
        along = {FORWARD: self.tile[:2], DATA: self.tile[:1], WEIGHTS: ()}[self.kernel]
        across = self.tile[len(along) : 2]
        rows = sum(lines + 8 for lines in across) * itemsize * STEP[self.kind]
        return STAGES * (sum(along) * 80 + rows)


def offered(kernel: str, kind: Kind, vectors: bool) -> list[Tile]:
    """The tiles of a kernel.

    Args:
        vectors: whether 16 bytes may be read as one.
    """
    return [tile for tile in TILES[kind][kernel] if (tile[2] > 1) == vectors]


def plan(
    kernel: str,
    kind: Kind,
    size: tuple[int, int, int],
    products: int,
    vectors: bool,
    slices: int | None = None,
) -> Plan:
    """The plan that keeps the busiest multiprocessor busy for the shortest time.

    Args:
        kernel: FORWARD, DATA or WEIGHTS.
        kind: the kernel's first template argument.
        size: M, N and K of one product.
        products: how many of that size there are: groups, times phases.
        vectors: whether 16 bytes may be read as one.
        slices: into which K is cut, the last of them perhaps empty; None for as many
            as are best.
    """
    speeds = tuple((t, TILES[kind][kernel][t]) for t in offered(kernel, kind, vectors))
    return _best((kernel, kind, size, products, slices), speeds, LEAST_PRODUCTS)


@cache
def _best(
    problem: tuple[str, Kind, tuple[int, int, int], int, int | None],
    tile_speeds: tuple[tuple[Tile, float], ...],
    least_products: int,
) -> Plan:
    """See `plan`; kept for what is asked for at every step."""
    kernel, kind, (m, n, k), products, slices = problem
    speeds, step = dict(tile_speeds), STEP[kind]
    steps = ceil_div(k, step)
    plans = []
    for tile in speeds:
        tiles = ceil_div(m, tile[0]) * ceil_div(n, tile[1])
        # Slices that fill one to four rounds of blocks; fewer where K is short.
        fits = [rounds * PROCESSORS // (tiles * products) for rounds in range(1, 5)]
        # Slices in y or dx need add_slices: 16 bytes a read, and a pass of its own.
        fills = tiles * products >= PROCESSORS or tile[2] == 1
        most = 1 if fills and kernel != WEIGHTS else steps * step // least_products
        best = {max(1, min(fit, most)) for fit in fits}
        for count in best if slices is None else {slices}:
            each = ceil_div(steps, count)
            count = slices or ceil_div(steps, each)
            plans.append(Plan(kernel, kind, tile, tiles, each, count))

    def time(p: Plan) -> float:
        rounds = ceil_div(p.tiles * p.slices * products, PROCESSORS)
        # add_slices takes about as long as a block's start and end.
        passes = 1 if kernel == WEIGHTS or p.slices == 1 else 2
        length = p.steps * step + passes * OVERHEAD[kind]
        return rounds * p.tile[0] * p.tile[1] * length / speeds[p.tile]

    return min(plans, key=time)


def ceil_div(a: int, b: int) -> int:
    """a ÷ b, rounded up."""
    return -(-a // b)
