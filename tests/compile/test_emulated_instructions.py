"""The emulator computes what a GPU does: shuffles, products, roundings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.compile.emulator import EmulatedLauncher, poisoned
from tests.support.emulated import F32, F64, ORDERS, in_every_order, kernel


def test_warp_collectives(dev: Any) -> None:
    x = np.random.default_rng(1).permutation(100)[:32].astype(np.int32)
    lane, ballot = np.arange(32), sum(1 << i for i in range(32) if x[i] % 3 == 0)
    down, up = lane + 3, lane - 2
    expected = [
        np.full(32, x[3]),
        x[lane // 8 * 8 + lane // 2 % 8],
        x[np.where(up < 0, lane, up)],
        x[np.where(down // 16 != lane // 16, lane, down)],
        x[lane ^ 5],
        np.full(32, np.uint32(ballot).view(np.int32)),
        np.ones(32),
        np.zeros(32),
        x[np.where(lane < 16, 15, 16)],
        np.full(32, np.count_nonzero(x % 3 == 0)),
    ]
    for _ in in_every_order(dev):
        out = poisoned((10, 32), np.int32)
        kernel("primitives.cu", "warp_words")(dev, 1, 32, (x, out))
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("threads", [32, 20])
def test_lanes_that_are_gone_are_not_waited_for(dev: Any, threads: int) -> None:
    x = np.arange(100, 132, dtype=np.int32)
    for _ in in_every_order(dev):
        y = np.zeros(32, np.int32)
        kernel("primitives.cu", "early_return")(dev, 1, threads, (x, y, 20))
        assert np.array_equal(y, np.r_[x[np.arange(20) ^ 1], np.zeros(12)])


def test_orders_are_what_they_are_called() -> None:
    dev = SimpleNamespace(launcher=EmulatedLauncher(workers=1))
    seen = {}
    for order in (*in_every_order(dev), "shuffled:1"):
        dev.launcher.order = order
        out, counter = np.zeros(7 * 80, np.int32), np.zeros(1, np.int32)
        kernel("primitives.cu", "running_order")(dev, 7, 80, (out, counter))
        assert np.array_equal(np.sort(out), np.arange(7 * 80))
        assert np.array_equal(seen.setdefault(order, out), out)  # again the same
    assert np.array_equal(seen["forward"], np.arange(7 * 80))
    assert np.array_equal(seen["reverse"], np.arange(7 * 80)[::-1])
    assert len({out.tobytes() for out in seen.values()}) == len(ORDERS)
    blocks = seen["shuffled:1"].reshape(7, 80) // 80
    assert np.array_equal(blocks, blocks[:, :1].repeat(80, 1))
    assert not np.array_equal(blocks[:, 0], np.arange(7))
    assert np.any(np.diff(seen["shuffled:1"][:16]) != 1)  # lanes within a warp too


@pytest.mark.parametrize("dtype", ["float", "int"])
def test_warps_run_ahead_of_their_block(dev: Any, dtype: str) -> None:
    x = np.arange(6 * 1024).reshape(6, 1024) % 97
    x = x.astype(F32 if dtype == "float" else np.int32)
    for _ in in_every_order(dev):
        total = poisoned((6,), x.dtype)
        kernel("primitives.cu", "block_sum", x.dtype)(dev, 6, 1024, (x, total))
        assert np.array_equal(total, x.sum(axis=1))  # whole numbers: exact in any order


def test_places_cover_grid_and_block(dev: Any) -> None:
    grid, block = (3, 2, 4), (5, 3, 2)
    expected = [
        (bx, by, bz, tx, ty, tz)
        for bz, by, bx in np.ndindex(grid[::-1])
        for tz, ty, tx in np.ndindex(block[::-1])
    ]
    for _ in in_every_order(dev):
        where = poisoned((24 * 30, 6), np.int32)
        kernel("primitives.cu", "places")(dev, grid, block, (where,))
        assert np.array_equal(where, expected)


# Kernel, template arguments, dtype, size of k, whether b is stored by its columns.
PRODUCTS = {
    "bf16": ("mma_bf16", (False,), BF16, 16, True),
    "bf16, transposed": ("mma_bf16", (True,), BF16, 16, False),
    "tf32": ("mma_tf32", (), np.dtype(F32), 8, False),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_mma_is_the_matrix_product(dev: Any, name: str) -> None:
    instruction, template, dtype, k, by_columns = PRODUCTS[name]
    a, b = (np.random.default_rng(2).integers(-9, 10, s) for s in ((16, k), (k, 8)))
    stored = np.ascontiguousarray(b.T) if by_columns else b
    for _ in in_every_order(dev):
        c = poisoned((16, 8), F32)
        args = a.astype(dtype), stored.astype(dtype), c
        kernel("primitives.cu", instruction, *template)(dev, 1, 32, args)
        assert np.array_equal(c, a @ b)


def test_mma_cuts_off_what_a_sum_has_no_place_for(dev: Any) -> None:
    # 1 + 1.5 · 2⁻²⁴ would round up.
    a, b = np.zeros((16, 8), F32), np.zeros((8, 8), F32)
    a[:, :2], b[:2] = [1, 2**-12], [[1], [1.5 * 2**-12]]
    c = poisoned((16, 8), F32)
    for sign in (1, -1):
        kernel("primitives.cu", "mma_tf32")(dev, 1, 32, (sign * a, b, c))
        assert np.all(c == sign)


def test_the_larger_or_nan(dev: Any) -> None:
    values = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan], F32)
    a, b = (each.ravel().copy() for each in np.meshgrid(values, values))
    found = poisoned(a.shape, F32)
    kernel("primitives.cu", "larger")(dev, 1, 32, (a, b, found, a.size))
    assert np.array_equal(found, np.maximum(a, b), equal_nan=True)
    zeros = (a == 0) & (b == 0)
    assert np.array_equal(np.signbit(found[zeros]), np.signbit(a[zeros] + b[zeros]))


def test_bf16_half_and_tf32_round_to_nearest_even(dev: Any) -> None:
    rng = np.random.default_rng(4)
    patterns = rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = np.arange(0, 1 << 16, dtype=np.uint32) << np.uint32(16)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(F64)
    between = ((halves[1:] + halves[:-1]) / 2).astype(F32)
    special = np.array(
        [65519.99, 65520, -65520, 1e-8, 2**-25, 0.0, -0.0, np.inf, -np.inf]
    )
    x = np.concatenate(
        [patterns.view(F32), (ties | 0x8000).view(F32), between, special.astype(F32)]
    )
    b, h, t = (poisoned(x.shape, d) for d in (np.uint16, np.uint16, F32))
    kernel("primitives.cu", "narrow")(dev, 100, 64, (x, b, h, t, x.size))
    nan = np.isnan(x)
    for bits, narrow in (h, np.dtype(np.float16)), (b, BF16):
        with np.errstate(all="ignore"):
            expected = x.astype(narrow).view(np.uint16)
        assert np.array_equal(np.isnan(bits.view(narrow)), nan)
        assert np.array_equal(bits[~nan], expected[~nan])
    # tf32 (cvt.rna): at most half of the last place off, the last 13 bits zero.
    normal = np.isfinite(x) & (np.abs(x) > 1e-37) & (np.abs(x) < 1e38)
    unit = np.ldexp(1.0, np.frexp(x[normal].astype(F64))[1] - 11)
    assert np.all(np.abs(t[normal] - x[normal].astype(F64)) <= unit / 2)
    assert not np.any(t[normal].view(np.uint32) & 0x1FFF)


def test_bf16_and_half_widen_exactly(dev: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    from_b, from_h = poisoned((1 << 16,), F32), poisoned((1 << 16,), F32)
    args = (bits.view(BF16), bits.view(np.float16), from_b, from_h, 1 << 16)
    kernel("primitives.cu", "widen")(dev, 64, 128, args)
    assert np.array_equal(from_b.view(np.uint32), bits.astype(np.uint32) << 16)
    assert np.array_equal(from_h, bits.view(np.float16).astype(F32), equal_nan=True)


def test_structs_and_numbers_arrive_whole(dev: Any) -> None:
    out = poisoned((12,), F64)
    shape = {"n": 3, "c": -4, "scale": 0.5, "far": 1 << 40, "pad": (6, 7)}
    args = (out, shape, -8, 0.25, 1 / 3, True, 1 << 50, None)
    kernel("primitives.cu", "see")(dev, 1, 1, args)
    assert out.tolist() == [3, -4, 0.5, 1 << 40, 6, 7, -8, 0.25, 1 / 3, 1, 1 << 50, 1]
