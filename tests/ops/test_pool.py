"""Max pooling and its gradient against the float64 oracle, PyTorch and by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.ops import pool
from minicnn.ops.pool import PoolShape
from tests.support.gradients import check_against_torch
from tests.support.helpers import (
    Array,
    Arrays,
    Draw,
    check_bf16_rounds_once,
    check_op,
    check_same_bits,
    fuzz,
    rounded,
    run_op,
)
from tests.support.reference import pool as reference

ALL = cases.POOL | cases.POOL_CAFFENET
# PyTorch allows padding up to half the window only.
WITH_TORCH = {
    name: shape
    for name, shape in cases.POOL.items()
    if all(2 * pad <= size for pad, size in zip(shape.pad, shape.window, strict=True))
}


def inputs(shape: PoolShape) -> Arrays:
    """A permutation of distinct numbers around 0, so that no window has a tie."""
    rng = np.random.default_rng(0)
    size = shape.n * shape.h * shape.w * shape.c
    x = rng.permutation(size).reshape(shape.n, shape.h, shape.w, shape.c)
    dy = rng.standard_normal((shape.n, shape.p, shape.q, shape.c))
    return {"x": x - size / 2, "dy": dy}


def run(dev: Device, x: Array, dy: Array, shape: PoolShape) -> dict[str, Any]:
    """The op, forward and backward."""
    size = shape.n, shape.p, shape.q, shape.c
    y, argmax = dev.empty(size, x.dtype), dev.empty(size, np.uint8)
    dx = dev.empty(x.shape, x.dtype)
    pool.forward(dev, x, y, argmax, shape)
    pool.backward(dev, dy, argmax, dx, shape)
    return {"y": y, "argmax": argmax, "dx": dx}


def expected(x: Array, dy: Array, shape: PoolShape) -> Arrays:
    """The oracle of `run`."""
    how = shape.window, shape.stride, shape.pad, shape.ceil
    y, argmax = reference.forward(x, *how)
    return {
        "y": y,
        "argmax": argmax,
        "dx": reference.backward(dy, argmax, x.shape, *how),
    }


def check(
    dev: Device, dtype: type, shape: PoolShape, given: Arrays | None = None
) -> None:
    """One problem on one device against the oracle."""
    given = given or inputs(shape)
    bound = partial(run, shape=shape), partial(expected, shape=shape)
    terms = {"dx": shape.window[0] * shape.window[1]}
    check_op(f"pool {shape}", dev, dtype, *bound, given, terms, {"dx": 1}, {"y": 0})


@pytest.mark.parametrize("shape", ALL.values(), ids=ALL)
def test_agrees_with_reference(typed: tuple[Device, type], shape: PoolShape) -> None:
    # Rounding to bfloat16 makes ties; the first counts.
    check(*typed, shape)
    if typed[1] == BF16:
        check_bf16_rounds_once(typed[0], partial(run, shape=shape), inputs(shape))


def problem(draw: Draw) -> PoolShape:
    """Any small pooling whose window fits the padded image."""
    window = draw(1, 4), draw(1, 4)
    pad = draw(0, window[0] - 1), draw(0, window[1] - 1)
    return PoolShape(
        n=draw(1, 3),
        h=draw(max(1, window[0] - 2 * pad[0]), 9),
        w=draw(max(1, window[1] - 2 * pad[1]), 9),
        c=draw(1, 4),
        window=window,
        stride=(draw(1, 5), draw(1, 5)),
        pad=pad,
        ceil=bool(draw(0, 1)),
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
    dev: Device, dtype: type, case: PoolShape
) -> None:
    check(dev, dtype, case)


@pytest.mark.parametrize("name", ["3/2, last window clipped", "stride 1", "pad 1"])
def test_ties_go_to_the_first(dev: Device, dtype: type, name: str) -> None:
    shape = cases.POOL[name]
    given = inputs(shape)
    given["x"] = np.round(given["x"] / given["x"].size * 4)
    check(dev, dtype, shape, given)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # Windows of 2, stride 2, on 3×3, rounding up; the last row and column are clipped:
    #    1 5 | 2        y = 7 2     argmax = 2 0     (7 is in the window's second row,
    #    7 7 | 0            4 9              1 0      first column: 1·2 + 0 = 2)
    #    ----+--
    #    3 4 | 9        dy = 10 20  puts 10 at the first 7, 20 at 2, 30 at 4, 40 at 9
    #                        30 40
    x = np.array([[1.0, 5, 2], [7, 7, 0], [3, 4, 9]]).reshape(1, 3, 3, 1)
    dy = np.array([[10.0, 20], [30, 40]]).reshape(1, 2, 2, 1)
    shape = PoolShape.of(x.shape, window=2, stride=2)
    given = rounded({"x": x, "dy": dy}, dtype)
    got = run_op(dev, partial(run, shape=shape), given)
    assert got["y"].reshape(2, 2).tolist() == [[7, 2], [4, 9]]
    assert got["argmax"].reshape(2, 2).tolist() == [[2, 0], [1, 0]]
    assert got["dx"].reshape(3, 3).tolist() == [[0, 0, 20], [10, 0, 0], [0, 30, 40]]


def test_nan_stays(dev: Device, dtype: type) -> None:
    # A window with a NaN is NaN; the places before it decide on the argmax.
    x = np.array([1, 4, np.nan, 3, 5, 2]).reshape(1, 1, 6, 1)
    shape = PoolShape.of(x.shape, window=(1, 3), stride=1)
    given = rounded({"x": x, "dy": np.ones((1, 1, 4, 1))}, dtype)
    got = run_op(dev, partial(run, shape=shape), given)
    assert np.isnan(got["y"].ravel()).tolist() == [True, True, True, False]
    assert got["y"][0, 0, 3, 0] == 5
    assert got["argmax"].ravel().tolist() == [1, 0, 0, 1]


def test_same_bits(typed: tuple[Device, type]) -> None:
    (dev, dtype), shape = typed, PoolShape(5, 27, 13, 96)
    how = inputs(shape), dtype, dtype != BF16
    check_same_bits(dev, partial(run, shape=shape), *how)


@pytest.mark.parametrize("shape", WITH_TORCH.values(), ids=WITH_TORCH)
def test_reference_agrees_with_torch(shape: PoolShape) -> None:
    def function(torch: Any, x: Any) -> Any:
        how = shape.window, shape.stride, shape.pad
        images = x.permute(0, 3, 1, 2)
        y = torch.nn.functional.max_pool2d(images, *how, ceil_mode=shape.ceil)
        return y.permute(0, 2, 3, 1)

    check_against_torch(function, partial(expected, shape=shape), inputs(shape))


@pytest.mark.parametrize(
    ("size", "window", "stride", "pad", "ceil", "count"),
    [
        # Caffenet's: ⌈(55 − 3) ÷ 2⌉ + 1, ⌈(27 − 3) ÷ 2⌉ + 1, ⌈(13 − 3) ÷ 2⌉ + 1
        (55, 3, 2, 0, True, 27),
        (27, 3, 2, 0, True, 13),
        (13, 3, 2, 0, True, 6),
        # ⌈(8 − 3) ÷ 2⌉ + 1 = 4, the last of them on rows 6 and 7 only; 3 rounded down
        (8, 3, 2, 0, True, 4),
        (8, 3, 2, 0, False, 3),
        # ⌈(3 + 2 − 2) ÷ 2⌉ + 1 = 3, but the third would start at row 3 of 0..2
        (3, 2, 2, 1, True, 2),
        # ⌈(4 − 1) ÷ 4⌉ + 1 = 2, but the second would start at row 4 of 0..3
        (4, 1, 4, 0, True, 1),
    ],
)
def test_output_sizes(
    size: int, window: int, stride: int, pad: int, ceil: bool, count: int
) -> None:
    assert reference.outputs(size, window, stride, pad, ceil) == count
    tall = PoolShape.of((1, size, 20, 1), window, stride, pad, ceil)
    wide = PoolShape.of((1, 20, size, 1), window, stride, pad, ceil)
    assert tall.p == wide.q == count


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window": 0}, r"window 0x0 stride"),
        ({"window": 17}, r"window 17x17 .* 256 places"),
        ({"stride": 0}, r"stride \(0, 0\)"),
        ({"window": (2,)}, r"window \(2,\): .* pair"),
        ({"pad": -1}, r"pad \(-1, -1\)"),
        ({"pad": 3}, r"pad \(3, 3\): .* 3x3"),
        ({"pad": (2, 3)}, r"pad \(2, 3\): .* 3x3"),
        ({"pad": (3, 2)}, r"pad \(3, 2\): .* 3x3"),
        ({"window": 9, "ceil": False}, r"window 9x9: .* 8x7"),
        ({"window": (3, 10), "ceil": False}, r"window 3x10: .* 8x7"),
        ({"window": (10, 3), "ceil": False}, r"window 10x3: .* 8x7"),
    ],
)
def test_bad_problem_is_named(how: dict, message: str) -> None:
    with pytest.raises(MinicnnError, match=message):
        PoolShape.of((2, 8, 7, 3), **how)


def test_an_image_too_large_for_kernels_is_named() -> None:
    PoolShape(9, 1 << 10, 1 << 10, 1 << 10).fields()
    with pytest.raises(MinicnnError, match=r"h=2048.*: an image is too large for the"):
        PoolShape(1, 1 << 11, 1 << 10, 1 << 10).fields()


@pytest.mark.parametrize("x_shape", [(8, 7, 3), (1, 2, 8, 7, 3), ()])
def test_axes_are_counted(x_shape: tuple[int, ...]) -> None:
    with pytest.raises(MinicnnError, match=r"^pool x \(.*\): .* \(N,H,W,C\)"):
        PoolShape.of(x_shape)
