"""Filters in blocks against the oracle and by hand; convolutions stay the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.ops import sgd
from minicnn.ops import space_to_depth as op
from minicnn.ops.conv import conv
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.space_to_depth import Blocks
from tests.support.helpers import (
    Array,
    Arrays,
    check_op,
    check_same_bits,
    compare,
    run_weights,
)
from tests.support.reference import space_to_depth as reference

EACH = pytest.mark.parametrize("shape", cases.BLOCKS.values(), ids=cases.BLOCKS)
SLICES = 3
# Of sums of the same float64 products in another order: 1e-16 for each of hundreds.
EXACT = 1e-12


def inputs(shape: ConvShape) -> Arrays:
    """Filters, and partial gradients of the filters in blocks."""
    rng = np.random.default_rng(0)
    whole = Blocks(shape).filters
    return {
        "w": rng.standard_normal((shape.k, shape.r, shape.s, shape.c)),
        "dblocked": rng.standard_normal((SLICES, *whole)),
    }


def run_filters(dev: Device, w: Array, shape: ConvShape) -> dict[str, Any]:
    """`block_filters`."""
    blocked = dev.empty(Blocks(shape).filters, w.dtype)
    op.block_filters(dev, w, blocked, Blocks(shape))
    return {"blocked": blocked}


def expected_filters(w: Array, shape: ConvShape) -> Arrays:
    """The oracle of `run_filters`: a filter is an image without padding."""
    _, r, s, channels = Blocks(shape).filters
    blocked = reference.blocks(w, (r, s), channels, shape.stride, (0, 0))
    return {"blocked": blocked}


def run_gradient(dev: Device, dblocked: Array, shape: ConvShape) -> dict[str, Any]:
    """`unblock_gradient`, of slices as the solver has them; what is between is NaN."""
    whole = Blocks(shape).filters
    _, (slices,) = sgd.allocate_slices(dev, [whole], [SLICES], dblocked.dtype)
    slices[...] = np.nan
    slices[:, : int(np.prod(whole))] = dblocked.reshape(SLICES, -1)
    dw = dev.empty((shape.k, shape.r, shape.s, shape.c), dblocked.dtype)
    op.unblock_gradient(dev, slices, dw, Blocks(shape))
    return {"dw": dw}


def expected_gradient(dblocked: Array, shape: ConvShape) -> Arrays:
    """The oracle of `run_gradient`."""
    size = shape.r, shape.s
    total = dblocked.sum(axis=0)
    return {"dw": reference.pixels(total, size, shape.c, shape.stride)}


def check(dev: Device, dtype: type, shape: ConvShape) -> None:
    """One problem on one device against the oracle."""
    given, name = inputs(shape), f"space_to_depth {shape}"
    pair = partial(run_filters, shape=shape), partial(expected_filters, shape=shape)
    check_op(name, dev, dtype, *pair, {"w": given["w"]}, stored={"blocked": 0})
    if dtype != BF16:  # a gradient is kept in float
        pair = (
            partial(run_gradient, shape=shape),
            partial(expected_gradient, shape=shape),
        )
        check_op(name, dev, dtype, *pair, {"dblocked": given["dblocked"]})


@EACH
def test_agrees_with_reference(typed: tuple[Device, type], shape: ConvShape) -> None:
    check(*typed, shape)


@EACH
def test_the_convolution_stays_the_same(shape: ConvShape) -> None:
    dev, blocks = device.get("cpu"), Blocks(shape)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((shape.n, shape.h, shape.w, shape.c))
    w = inputs(shape)["w"]
    over = blocks.conv
    size = over.h, over.w
    blocked_x = reference.blocks(x, size, over.c, shape.stride, shape.pad)
    blocked_w = run_filters(dev, w, shape)["blocked"]

    y, blocked_y = np.empty((2, shape.n, shape.p, shape.q, shape.k))
    conv.forward(dev, x, w, None, y, shape)
    conv.forward(dev, blocked_x, blocked_w, None, blocked_y, over)
    compare("y", blocked_y, y, EXACT)

    dy = rng.standard_normal(y.shape)
    dw, dblocked = (
        run_weights(dev, images, dy, each, bias=False)["dw"]
        for images, each in ((x, shape), (blocked_x, over))
    )
    unblocked = np.empty_like(w)
    op.unblock_gradient(dev, dblocked.reshape(1, -1), unblocked, blocks)
    compare("dw", unblocked, dw, EXACT)


def test_conv1_of_caffenet() -> None:
    blocks = Blocks(ConvShape(9, 227, 227, 3, 96, 11, 11, (4, 4)))
    assert blocks.filters == (96, 3, 3, 48)
    # 3·11·11 of the 48·3·3 products of each output are of the filter.
    assert blocks.conv == ConvShape(9, 57, 57, 48, 96, 3, 3, needed=363)
    assert blocks.batch(5).conv == ConvShape(5, 57, 57, 48, 96, 3, 3, needed=363)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # A filter of 3×3, one colour, stride 2: four blocks of 2×2 pixels, filled up to
    # eight channels.
    #   1 2 | 3      1 2 4 5 | 3 0 6 0
    #   4 5 | 6  →   --------+--------
    #   ----+--      7 8 0 0 | 9 0 0 0
    #   7 8 | 9
    shape = ConvShape(1, 5, 5, 1, 1, 3, 3, (2, 2))
    w = dev.from_host(np.arange(1, 10, dtype=dtype).reshape(1, 3, 3, 1))
    there = run_filters(dev, w, shape)["blocked"]
    blocked = dev.to_host(there)
    assert blocked.shape == (1, 2, 2, 8)
    assert blocked[..., :4].reshape(4, 4).tolist() == [
        [1, 2, 4, 5], [3, 0, 6, 0], [7, 8, 0, 0], [9, 0, 0, 0],
    ]  # fmt: skip
    assert not blocked[..., 4:].any()
    again = dev.empty(w.shape, dtype)
    op.unblock_gradient(dev, there.reshape(1, -1), again, Blocks(shape))
    assert dev.to_host(again).ravel().tolist() == list(range(1, 10))


def test_same_bits(dev: Device, dtype: type) -> None:
    shape = ConvShape(1, 51, 51, 3, 24, 11, 11, (4, 4))
    given = inputs(shape)
    for name, run in (("w", run_filters), ("dblocked", run_gradient)):
        check_same_bits(dev, partial(run, shape=shape), {name: given[name]}, dtype)


def test_groups_are_refused() -> None:
    with pytest.raises(MinicnnError, match=r"conv groups 2: space-to-depth takes one"):
        Blocks(ConvShape(1, 9, 9, 4, 4, 3, 3, (2, 2), groups=2))
