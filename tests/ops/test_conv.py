"""Convolution and its gradients against the float64 oracle, PyTorch and by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.compile.host_compiler import sanitizing
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.ops.conv import conv
from minicnn.ops.conv import plan as conv_plan
from minicnn.ops.conv.conv import ConvShape
from minicnn.ops.conv.plan import DATA, FORWARD, WEIGHTS
from tests.support.gradients import check_against_torch
from tests.support.helpers import (
    Array,
    Arrays,
    Draw,
    check_op,
    check_same_bits,
    fuzz,
    rounded,
    run_op,
    run_weights,
)
from tests.support.reference import conv as reference

SMALL = pytest.mark.parametrize("shape", cases.CONV.values(), ids=cases.CONV)
LARGE = pytest.mark.parametrize(
    "shape", cases.CONV_CAFFENET.values(), ids=cases.CONV_CAFFENET
)
# test_conv_tensor_cores.py has the others. All three kernels have the same.
TILES = [
    (dtype, tile)
    for dtype in (conv_plan.FLOAT, conv_plan.DOUBLE)
    for tile in conv_plan.TILES[dtype][conv_plan.FORWARD]
]


def inputs(shape: ConvShape) -> Arrays:
    """Normal numbers; the filters scaled so that y is near 1."""
    rng = np.random.default_rng(0)
    taps = shape.r * shape.s * shape.c // shape.groups
    filters = (shape.k, shape.r, shape.s, shape.c // shape.groups)
    return {
        "x": rng.standard_normal((shape.n, shape.h, shape.w, shape.c)),
        "w": rng.standard_normal(filters) / np.sqrt(taps),
        "b": rng.standard_normal(shape.k),
        "dy": rng.standard_normal((shape.n, shape.p, shape.q, shape.k)),
    }


def run(
    dev: Device,
    x: Array,
    w: Array,
    dy: Array,
    b: Array | None = None,
    *,
    shape: ConvShape,
    relu: bool = False,
    tensor: str | None = None,
    kernels: tuple[str, ...] = (FORWARD, DATA, WEIGHTS),
) -> dict[str, Any]:
    """Both passes; with ReLU dx as if x were a ReLU's output; without b no db."""
    made: dict[str, Any] = {}
    if FORWARD in kernels:
        made["y"] = y = dev.empty(dy.shape, dy.dtype)
        conv.forward(dev, x, w, b, y, shape, relu, tensor)
    if DATA in kernels:
        made["dx"] = dx = dev.empty(x.shape, x.dtype)
        conv.backward_data(dev, dy, w, dx, shape, x if relu else None, tensor)
    if WEIGHTS in kernels:
        made |= run_weights(dev, x, dy, shape, tensor, bias=b is not None)
    return made


def expected(
    x: Array,
    w: Array,
    dy: Array,
    b: Array | None = None,
    *,
    shape: ConvShape,
    relu: bool = False,
) -> Arrays:
    """The oracle of `run`."""
    how = shape.stride, shape.pad, shape.groups
    y, dx = (
        reference.forward(x, w, b, *how),
        reference.backward_data(dy, w, x.shape, *how),
    )
    if relu:
        y, dx = reference.relu(y), reference.relu_backward(x, dx)
    dw, db = reference.backward_weights(x, dy, w.shape, *how)
    return {"y": y, "dx": dx, "dw": dw} | ({} if b is None else {"db": db})


def terms(shape: ConvShape) -> dict[str, float]:
    """How many each output sums."""
    taps, pixels = shape.r * shape.s, shape.n * shape.p * shape.q
    sums = {"y": taps * shape.depth, "dx": taps * shape.features}
    return {**sums, "dw": pixels, "db": pixels}


def floor(shape: ConvShape) -> dict[str, float]:
    """How large a term of each output is."""
    return {"y": 1, "dx": 1 / np.sqrt(shape.taps), "dw": 1, "db": 1}


def check(
    dev: Device,
    dtype: type,
    shape: ConvShape,
    given: Arrays | None = None,
    relu: bool = False,
) -> None:
    """One problem on one device against the oracle."""
    how = {"shape": shape, "relu": relu}
    bound = partial(run, **how), partial(expected, **how), given or inputs(shape)
    check_op(f"conv {shape}", dev, dtype, *bound, terms(shape), floor(shape))


@SMALL
def test_agrees_with_reference(dev: Device, dtype: type, shape: ConvShape) -> None:
    check(dev, dtype, shape)


@LARGE
def test_agrees_with_reference_on_caffenet(dev: Device, shape: ConvShape) -> None:
    if dev.name == "emulated":
        shape = shrunk(shape)
    elif dev.name == "cpu":  # the oracle of 4096 features takes seconds
        shape = replace(shape, k=min(shape.k, 500))
    check(dev, np.float32, shape)


def shrunk(shape: ConvShape) -> ConvShape:
    """One image, a few rows of outputs, and no thousands of features."""
    height = min(shape.h, 4 * shape.stride[0] + shape.r)
    return replace(shape, n=1, h=height, k=shape.k if shape.k < 1000 else shape.k // 8)


@pytest.mark.parametrize(
    ("tile_dtype", "tile"), TILES, ids=[f"{d}-{t}" for d, t in TILES]
)
def test_every_tile(
    dev: Device,
    tile_dtype: np.dtype,
    tile: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not dev.has_kernels:
        pytest.skip("NumPy has no tiles")
    only = {kernel: {tile: 1.0} for kernel in conv_plan.TILES[tile_dtype]}
    monkeypatch.setitem(conv_plan.TILES, tile_dtype, only)
    monkeypatch.setattr(conv_plan, "LEAST_PRODUCTS", 24)
    rows, columns, vector = tile
    # The M and N of each product are more than one tile.
    c, k = 2 * (columns + 3 * vector), 2 * (rows + 3 * vector)
    large = ConvShape(2, 13, 12, c, k, 3, 2, (2, 1), (1, 1), groups=2)
    assert rows < min(large.n * large.p * large.q, 2 * 7 * 12)
    if not sanitizing():
        check(dev, tile_dtype.type, large)
    # And less: what the tile has too much lies close beyond the end of w.
    small = ConvShape(1, 5, 9, vector, columns * 5 // 8, 1, 1)
    check(dev, tile_dtype.type, small)


def problem(draw: Draw) -> ConvShape:
    """Any small convolution whose output is not empty."""
    groups, r, s = draw(1, 3), draw(1, 4), draw(1, 4)
    pad = draw(0, 3), draw(0, 3)
    vector = draw(0, 1) * 3 + 1  # kernels read 4 neighbours as one where they can
    return ConvShape(
        n=draw(1, 3),
        h=draw(max(1, r - 2 * pad[0]), 8),
        w=draw(max(1, s - 2 * pad[1]), 8),
        c=groups * draw(1, 3) * vector,
        k=groups * draw(1, 3) * vector,
        r=r,
        s=s,
        stride=(draw(1, 4), draw(1, 4)),
        pad=pad,
        groups=groups,
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
    dev: Device, dtype: type, case: ConvShape
) -> None:
    check(dev, dtype, case, relu=case.h % 2 == 1)


def test_without_bias(dev: Device, dtype: type) -> None:
    shape = cases.CONV["two groups"]
    given = inputs(shape)
    del given["b"]
    check(dev, dtype, shape, given)


@pytest.mark.parametrize(
    "name", ["stride 2", "two groups", "fully connected", "11x11/4"]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_with_relu(dev: Device, dtype: type, name: str, with_bias: bool) -> None:
    shape = cases.CONV[name]
    given = inputs(shape)
    # A ReLU's output, whose zeros are what must not pass.
    given["x"] = np.maximum(given["x"], 0)
    if not with_bias:
        del given["b"]
    assert 0.2 < np.mean(expected(**given, shape=shape)["y"] > 0) < 0.8
    check(dev, dtype, shape, given, relu=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 151])
def test_relu_backward(typed: tuple[Device, type], channels: int) -> None:
    # Numbers that 16 bytes divide and do not; the last are more than a chunk holds.
    shape, rng = (3, 17, 9, channels), np.random.default_rng(0)
    # Half of them zero, as a ReLU's output is.
    y = np.maximum(rng.standard_normal(shape), 0)
    y[-1, -1, -1, -3:] = 0  # beyond the last whole 16 bytes

    def op(dev: Device, y: Array, dy: Array) -> dict[str, Any]:
        dx = dy.copy()
        conv.relu_backward(dev, y, dx)
        return {"dx": dx}

    def oracle(y: Array, dy: Array) -> Arrays:
        return {"dx": reference.relu_backward(y, dy)}

    given = {"y": y, "dy": rng.standard_normal(y.shape)}
    check_op(f"relu {shape}", *typed, op, oracle, given)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # A 1×3 image of two channels, a 1×2 filter, pad 1 left and right, stride 2:
    #   x = [1 10] [2 20] [3 30]       w = [1 3] [2 4]      b = 5
    # The two windows are (pad, x0) and (x1, x2).
    #   y0 = 5 + 2·1 + 4·10           = 47
    #   y1 = 5 + 1·2 + 3·20 + 2·3 + 4·30 = 193
    # With dy = (1, −1):
    #   dx0 = 1·w1 = (2, 4)    dx1 = −1·w0 = (−1, −3)    dx2 = −1·w1 = (−2, −4)
    #   dw0 = 1·0 − 1·x1 = (−2, −20)      dw1 = 1·x0 − 1·x2 = (−2, −20)    db = 0
    given = {
        "x": np.array([[[[1.0, 10], [2, 20], [3, 30]]]]),
        "w": np.array([[[[1.0, 3], [2, 4]]]]),
        "b": np.array([5.0]),
        "dy": np.array([[[[1.0], [-1]]]]),
    }
    shape = ConvShape.of(given["x"].shape, given["w"].shape, (1, 2), (0, 1))
    got = run_op(dev, partial(run, shape=shape), rounded(given, dtype))
    assert got["y"].ravel().tolist() == [47, 193]
    assert got["dx"].reshape(3, 2).tolist() == [[2, 4], [-1, -3], [-2, -4]]
    assert got["dw"].reshape(2, 2).tolist() == [[-2, -20], [-2, -20]]
    assert got["db"].tolist() == [0]


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(24, 9, 8, 6, 8, 3, 3, (2, 2), (1, 1), groups=2),
        ConvShape(16, 31, 31, 3, 16, 11, 11, (4, 4)),
        ConvShape(9, 2, 3, 50, 1100, 2, 3),
        ConvShape(8, 12, 12, 16, 24, 3, 2, (1, 1), (1, 1), groups=2),
        # Blocks of features that differ in width: threads begin within one.
        ConvShape(2, 15, 14, 16, 84, 3, 3, pad=(1, 1)),
    ],
    ids=["grouped", "11x11/4", "fully connected", "read as vectors", "uneven blocks"],
)
def test_same_bits(dev: Device, dtype: type, shape: ConvShape) -> None:
    check_same_bits(dev, partial(run, shape=shape), inputs(shape), dtype)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", ["odd sizes", "two groups", "stride 2", "11x11/4"])
def test_infinity_stays_within_its_patches(dev: Device, dtype: type, name: str) -> None:
    # A kernel that multiplied what lies beyond a patch by zero would make it NaN.
    shape, given = cases.CONV[name], rounded(inputs(cases.CONV[name]), dtype)
    given["x"][0, 1, 2, 0] = given["dy"][-1, 0, 1, 0] = np.inf
    got = run_op(dev, partial(run, shape=shape), given)
    right = expected(**rounded(given, np.float64), shape=shape)
    for part in "y", "dx":
        assert 0 < np.isinf(right[part]).mean() < 1
        assert np.array_equal(np.isfinite(got[part]), np.isfinite(right[part]))


@SMALL
def test_reference_agrees_with_torch(shape: ConvShape) -> None:
    def function(torch: Any, x: Any, w: Any, b: Any) -> Any:
        images, filters = x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)
        how = {"stride": shape.stride, "padding": shape.pad, "groups": shape.groups}
        y = torch.nn.functional.conv2d(images, filters, b, **how)
        return y.permute(0, 2, 3, 1)

    check_against_torch(function, partial(expected, shape=shape), inputs(shape))


def test_shape_of_normalises() -> None:
    shape = ConvShape.of((2, 27, 26, 96), (256, 5, 5, 48), stride=2, pad=2, groups=2)
    assert shape == ConvShape(2, 27, 26, 96, 256, 5, 5, (2, 2), (2, 2), 2)
    # (27 + 4 − 5) ÷ 2 + 1 = 14; (26 + 4 − 5) ÷ 2 + 1 = 13.5, rounded down
    assert (shape.p, shape.q) == (14, 13)
    # 2 × (2 images · 14·13 places · 256 filters · 5·5·48 taps)
    assert shape.flops == 2 * 2 * 14 * 13 * 256 * 1200


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "how", "message"),
    [
        ((8, 8, 6), (4, 3, 3, 6), {}, r"conv x \(8, 8, 6\): .* \(N,H,W,C\)"),
        ((1, 8, 8, 6), (4, 54), {}, r"conv w \(4, 54\): .* \(K,R,S,C/groups\)"),
        ((1, 8, 8, 6), (4, 3, 3, 2), {"groups": 4}, r"groups 4: .* 6 input"),
        ((1, 8, 8, 6), (4, 3, 3, 2), {"groups": 3}, r"groups 3: .* 4 output"),
        ((1, 8, 8, 6), (4, 3, 3, 6), {"groups": 0}, r"groups 0"),
        ((1, 8, 8, 6), (4, 3, 3, 6), {"groups": 2}, r"w \(4, 3, 3, 6\): .*6 channels"),
        ((1, 8, 8, 3), (4, 3, 3, 4), {}, r"w \(4, 3, 3, 4\): .*3 channels"),
        ((1, 8, 8, 3), (4, 3, 3, 3), {"stride": 0}, r"stride \(0, 0\)"),
        ((1, 8, 8, 3), (4, 3, 3, 3), {"stride": (1, -1)}, r"stride \(1, -1\)"),
        (
            (1, 8, 8, 3),
            (4, 3, 3, 3),
            {"stride": (1, 2, 3)},
            r"stride \(1, 2, 3\): .* pair",
        ),
        ((1, 8, 8, 3), (4, 3, 3, 3), {"pad": -1}, r"pad \(-1, -1\)"),
        ((1, 8, 5, 3), (4, 3, 6, 3), {}, r"filter 3x6: .* 8x5"),
        ((1, 2, 8, 3), (4, 5, 3, 3), {"pad": 1}, r"filter 5x3: .* 2x8 .*pad \(1, 1\)"),
    ],
)
def test_bad_problem_is_named(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], how: dict, message: str
) -> None:
    with pytest.raises(MinicnnError, match=message):
        ConvShape.of(x_shape, w_shape, **how)


def test_too_large_for_32_bits_is_named() -> None:
    shape = ConvShape(2, 30_000, 30_000, 3, 4, 3, 3)
    with pytest.raises(MinicnnError, match=r"30000.* use a smaller batch"):
        replace(shape, n=3).fields()
    assert shape.fields()["h"] == 30_000
    # One pixel of each image: the 256 patches of a tile lie in as many images.
    with pytest.raises(MinicnnError, match=r"3000.* use a smaller batch"):
        ConvShape(300, 3000, 3000, 3, 4, 3, 3, (3000, 3000)).fields()


CONV2, FC6 = (128, 1200, 186_624), (256, 4096, 9216)


@pytest.mark.parametrize(
    ("kernel", "kind", "size", "groups", "tile", "tiles", "slices"),
    [
        # conv2 of caffenet, batch 256: dw is 128 × 1200 in each of 2 groups; 264 blocks
        # ÷ 20 tiles make 13 slices of the 256·27·27 pixels.
        (WEIGHTS, conv_plan.FLOAT, CONV2, 2, (128, 128, 4), 10, 13),
        (WEIGHTS, BF16, CONV2, 2, (128, 256, 8), 5, 13),
        (FORWARD, BF16, (186_624, 128, 1200), 2, (256, 128, 8), 729, 1),
        # dx has 48 channels a group: no tile that is half empty.
        (DATA, BF16, (186_624, 48, 3200), 2, (256, 48, 8), 729, 1),
        # fc6 has 2 · 32 tiles of 128 × 128, too few for 132 processors: two slices.
        (FORWARD, conv_plan.FLOAT, FC6, 1, (128, 128, 4), 64, 2),
        # With a K as short as a layer of 48 channels has, that would not pay.
        (FORWARD, conv_plan.FLOAT, (256, 4096, 432), 1, (128, 64, 4), 128, 1),
    ],
)
def test_plan_fills_the_card(
    kernel: str,
    kind: conv_plan.Kind,
    size: tuple[int, int, int],
    groups: int,
    tile: conv_plan.Tile,
    tiles: int,
    slices: int,
) -> None:
    how = conv_plan.plan(kernel, kind, size, groups, True)
    assert (how.tile, how.tiles, how.slices) == (tile, tiles, slices)
    # The slices take every step of K once.
    steps = size[2] / conv_plan.STEP[kind]
    assert (slices - 1) * how.steps < steps <= slices * how.steps


def test_what_copies_numbers_one_by_one_is_not_cut() -> None:
    assert conv_plan.plan(DATA, conv_plan.FLOAT, FC6, 1, False).slices == 1
