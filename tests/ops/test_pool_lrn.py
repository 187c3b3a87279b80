"""Pooling and LRN as one op against the float64 oracle and by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import PoolLrnCase
from minicnn.ops import lrn, pool_lrn
from minicnn.ops.pool import PoolShape
from tests.ops.test_pool import problem as pool_problem
from tests.support.helpers import (
    Array,
    Arrays,
    Draw,
    check_op,
    check_same_bits,
    compare,
    fuzz,
    rounded,
    run_op,
    tolerance,
)
from tests.support.reference import lrn as lrn_reference
from tests.support.reference import pool as pool_reference

ALL = cases.POOL_LRN | cases.POOL_LRN_WIDE | cases.POOL_LRN_CAFFENET


def windows(case: PoolLrnCase) -> tuple[Any, ...]:
    """window, stride, pad and ceil."""
    return case.pool.window, case.pool.stride, case.pool.pad, case.pool.ceil


def channels(case: PoolLrnCase) -> tuple[int, float, float, float]:
    """size, alpha, beta and k."""
    return case.size, case.alpha, case.beta, case.k


def inputs(case: PoolLrnCase) -> Arrays:
    """x is a ReLU's output: distinct numbers up to 3, and a quarter of them 0, so that
    some windows have zeros alone."""
    rng, s = np.random.default_rng(0), case.pool
    size = s.n * s.h * s.w * s.c
    x = np.maximum(4 * (rng.permutation(size) + 0.5) / size - 1, 0)
    dy = rng.standard_normal((s.n, s.p, s.q, s.c))
    return {"x": x.reshape(s.n, s.h, s.w, s.c), "dy": dy}


def run(dev: Device, x: Array, dy: Array, case: PoolLrnCase) -> dict[str, Any]:
    """The op, forward and backward."""
    u, y = dev.empty(dy.shape, x.dtype), dev.empty(dy.shape, x.dtype)
    argmax, dx = dev.empty(dy.shape, np.uint8), dev.empty(x.shape, x.dtype)
    how = case.pool, lrn.Normalising(*channels(case))
    pool_lrn.forward(dev, x, u, argmax, y, *how)
    pool_lrn.backward(dev, dy, u, argmax, dx, *how)
    return {"u": u, "argmax": argmax, "y": y, "dx": dx}


def expected(x: Array, dy: Array, case: PoolLrnCase) -> Arrays:
    """The oracle of `run`: those of pooling and LRN in turn; x is a ReLU's output."""
    u, argmax = pool_reference.forward(x, *windows(case))
    y, _ = lrn_reference.forward(u, *channels(case))
    du = lrn_reference.backward(u, dy, *channels(case))
    dx = pool_reference.backward(du, argmax, x.shape, *windows(case)) * (x > 0)
    return {"u": u, "argmax": argmax, "y": y, "dx": dx}


def check(dev: Device, dtype: type, case: PoolLrnCase) -> None:
    """One problem on one device against the oracle."""
    bound = partial(run, case=case), partial(expected, case=case)
    r, s = case.pool.window
    # As for LRN, and each dx sums windows.
    terms = {"y": 4 * case.size, "dx": 16 * case.size * r * s}
    name, given = f"pool_lrn {case}", inputs(case)
    # The two terms of a number's dx may nearly cancel out; how large the first is:
    right = expected(**given, case=case)
    u, y = right["u"], right["y"]
    first = given["dy"] * np.divide(y, u, out=np.zeros_like(y), where=u > 0)
    floor = {"dx": float(np.sqrt(np.mean(np.square(first))))}
    # All in between is kept in float: one rounding, and none of a maximum.
    check_op(name, dev, dtype, *bound, given, terms, floor, stored={"u": 0})


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_agrees_with_reference(typed: tuple[Device, type], case: PoolLrnCase) -> None:
    check(*typed, case)


def problem(draw: Draw) -> PoolLrnCase:
    """Any small pooling, any odd window of channels, any parameters but tame ones."""
    return PoolLrnCase(
        pool_problem(draw),
        size=2 * draw(0, 3) + 1,
        alpha=draw(1, 100) / 50,
        beta=draw(1, 8) / 4,
        k=draw(1, 20) / 5,
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
    dev: Device, dtype: type, case: PoolLrnCase
) -> None:
    check(dev, dtype, case)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize(
    "name", ["3/2, clipped", "pad 1", "stride 1", "rectangular", "windows in the pad"]
)
def test_every_tile(
    kernel_dev: Device,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    rows: int,
    columns: int,
) -> None:
    case = cases.POOL_LRN[name]
    down, across = -(-case.pool.p // rows), -(-case.pool.q // columns)
    of = pool_lrn.Tile.of(case.pool, 4)
    tile = of._replace(rows=rows, columns=columns, down=down, across=across)
    monkeypatch.setattr(pool_lrn.Tile, "of", lambda *_: tile)
    check(kernel_dev, np.float32, case)


def test_tiles_of_caffenet() -> None:
    # At batch 256, 528 blocks' worth of tiles: two of an image, as wide as the image.
    assert pool_lrn.Tile.of(PoolShape(256, 55, 55, 96), 4) == (14, 27, 2, 1, 2, 1)
    assert pool_lrn.Tile.of(PoolShape(256, 27, 27, 256), 4) == (7, 13, 2, 1, 2, 1)


def test_too_many_channels_are_named() -> None:
    # Three rows of two windows of doubles take 48 kB at 1024 channels.
    assert pool_lrn.Tile.of(PoolShape(1, 5, 5, 1024), 8).columns == 1
    with pytest.raises(MinicnnError, match=r"LRN of 1025 channels after .*--device"):
        pool_lrn.Tile.of(PoolShape(1, 5, 5, 1025), 8)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # One window of 2×2 over three channels, size 3, α 3, β 1, k 1.
    #   channel 0: 1 0   channel 1: 0 2   channel 2: 0 0
    #              0 0              0 0              0 0
    # u = 1 2 0; scale = 1+1+4 = 6, 1+1+4+0 = 6, 1+4+0 = 5; y = 1/6, 1/3, 0.
    # dy = 6 0 5, slope 2: du_0 = 6/6 − 2·1·(6·(1/6)/6) = 2/3, du_1 = 0 − 2·2/6 = −2/3,
    # and du_2 would be 5/5 = 1, but its ReLU gave 0.
    case = PoolLrnCase(PoolShape(1, 2, 2, 3, (2, 2), (2, 2)), 3, 3.0, 1.0, 1.0)
    x = np.zeros((1, 2, 2, 3))
    x[0, 0, 0, 0], x[0, 0, 1, 1] = 1, 2
    given = rounded({"x": x, "dy": np.array([6.0, 0, 5]).reshape(1, 1, 1, 3)}, dtype)
    got = run_op(dev, partial(run, case=case), given)
    assert got["u"].ravel().tolist() == [1, 2, 0]
    assert got["argmax"].ravel().tolist() == [0, 1, 0]
    compare("y", got["y"].ravel(), np.array([1 / 6, 1 / 3, 0]), tolerance(dtype))
    dx = np.zeros((1, 2, 2, 3))
    dx[0, 0, 0, 0], dx[0, 0, 1, 1] = 2 / 3, -2 / 3
    compare("dx", got["dx"], dx, tolerance(dtype, 4))


@pytest.mark.parametrize("processors", [1, 132], ids=["high tiles", "low tiles"])
@pytest.mark.parametrize("shape", [PoolShape(3, 27, 13, 96), PoolShape(2, 9, 50, 200)])
def test_same_bits(
    typed: tuple[Device, type],
    shape: PoolShape,
    processors: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_lrn, "PROCESSORS", processors)
    (dev, dtype), case = typed, PoolLrnCase(shape)
    check_same_bits(dev, partial(run, case=case), inputs(case), dtype)
