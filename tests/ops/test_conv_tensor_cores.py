"""Convolution on tensor cores, bfloat16, tf32 and tf32x3: emulated, and on a GPU.

The oracle gets the numbers that the tensor cores multiply, rounded already. Their
products are exact in float32, so what is left are the roundings of float32 sums, and
one more where the result is stored as bfloat16. Of tf32x3 it gets the float32 numbers
themselves: what their two parts lose, and the product that is left out, is as little as
a rounding of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.compile.host_compiler import sanitizing
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.experiments.proofs import problems as cases
from minicnn.ops.conv import plan as conv_plan
from minicnn.ops.conv.conv import ConvShape
from minicnn.ops.conv.plan import DATA, FORWARD, WEIGHTS, Plan
from tests.ops import test_conv
from tests.support.helpers import (
    Array,
    Arrays,
    Draw,
    compare,
    fuzz,
    rounded,
    run_op,
    tolerance,
)

BANKS = KernelFile(Path(__file__).parents[1] / "support/planted/banks.cu")
KINDS: tuple[conv_plan.Kind, ...] = (BF16, "tf32", "tf32x3")
NAMES = ["bf16", "tf32", "tf32x3"]
ORDERS = ("forward", "reverse", "shuffled:1")
# Shared memory that a block may have on sm_86, 89 and 120, the least from sm_80 on; and
# what the blocks of a multiprocessor of sm_90 share.
SHARED_BYTES, SHARED_IN_ALL = 99 << 10, 228 << 10


@pytest.fixture(scope="session")
def dev(kernel_dev: Device) -> Device:
    """Each device with kernels, with unwritten memory poisoned."""
    return kernel_dev


@pytest.fixture(scope="session", params=KINDS, ids=NAMES)
def kind(request: pytest.FixtureRequest) -> conv_plan.Kind:
    """Each type of numbers that tensor cores multiply."""
    return request.param


def tensor(kind: conv_plan.Kind) -> str | None:
    """As the ops' argument of that name."""
    return kind if isinstance(kind, str) else None


def in_tf32(array: Array) -> Array:
    """float32 rounded to 10 bits of mantissa, ties away from zero: as cvt.rna does."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def arrays(kind: conv_plan.Kind, shape: ConvShape) -> tuple[Arrays, Arrays]:
    """Inputs of `run`, and the same as tensor cores multiply them."""
    dtype = BF16 if kind == BF16 else np.float32
    given = {n: array.astype(dtype) for n, array in test_conv.inputs(shape).items()}
    if kind != "tf32" or not uses_tensor_cores(shape):
        return given, given
    in_parts = {name: in_tf32(given[name]) for name in ("x", "w", "dy")}
    return given, given | in_parts


def uses_tensor_cores(shape: ConvShape) -> bool:
    """Whether tf32 has kernels for the shape: 4 channels and 4 features at a time."""
    shape = shape.in_one_row()
    return shape.depth % 4 == shape.features % 4 == 0


def expected(
    given: Arrays, multiplied: Arrays, shape: ConvShape, relu: bool = False
) -> Arrays:
    """The oracle: of the arrays given, and as tensor cores take them."""
    operands = {name: multiplied[name] for name in given}
    wide, dy = rounded(operands, np.float64), given["dy"].astype(np.float64)
    right = test_conv.expected(**wide, shape=shape, relu=relu)
    return right | {"db": dy.sum(axis=(0, 1, 2))}


def check(
    dev: Device,
    kind: conv_plan.Kind,
    shape: ConvShape,
    relu: bool = False,
    orders: tuple[str, ...] = ORDERS,
    **kernels: tuple[str, ...],
) -> None:
    """One problem against the oracle; the same bits in each order of the threads."""
    given, multiplied = arrays(kind, shape)
    if relu:  # without bias
        del given["b"]
    right = expected(given, multiplied, shape, relu)
    terms, floor = test_conv.terms(shape), test_conv.floor(shape)
    first: Arrays = {}
    for order in in_orders(dev, orders):
        how = {"shape": shape, "relu": relu, "tensor": tensor(kind), **kernels}
        got = run_op(dev, partial(test_conv.run, **how), given)
        for name in got:
            where = f"conv {shape} on {dev.name}, {kind}, {order}: {name}"
            allowed = tolerance(got[name].dtype.type, terms[name])
            compare(where, got[name], right[name], allowed, floor[name])
            same = first.setdefault(name, got[name]).tobytes() == got[name].tobytes()
            assert same, f"{where}: other bits than in order {orders[0]}"


def in_orders(dev: Device, orders: tuple[str, ...]) -> Iterator[str]:
    """Sets the order of the kernels' threads to each, where the device has a choice."""
    if dev.name != "emulated":
        yield "its own order"
        return
    try:
        for dev.launcher.order in orders:
            yield dev.launcher.order
    finally:
        dev.launcher.order = "forward"


def widened(shape: ConvShape) -> ConvShape:
    """Eight times the channels and features: kernels copy 16 bytes of them as one."""
    return replace(shape, c=8 * shape.c, k=8 * shape.k)


# Also widened; without what takes the emulator long.
CASES = {
    f"{name}{suffix}": shape
    for name, narrow in cases.CONV.items()
    for suffix, shape in (("", narrow), (", wide", widened(narrow)))
    if shape.flops < 2e7
}


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_matches_reference(dev: Device, kind: conv_plan.Kind, shape: ConvShape) -> None:
    check(dev, kind, shape)


def problem(draw: Draw) -> ConvShape:
    """Any small convolution, half of them with channels and features by eights."""
    shape = test_conv.problem(draw)
    return widened(shape) if draw(0, 1) else shape


@pytest.mark.parametrize("tile_kind", KINDS[:2], ids=NAMES[:2])  # tf32x3 is as tf32
@fuzz(problem)
def test_matches_reference_on_any_shape(
    dev: Device, tile_kind: conv_plan.Kind, case: ConvShape
) -> None:
    check(dev, tile_kind, case, relu=True, orders=("forward",))


# One image, in fully connected layers few features, and of conv1 what space-to-depth
# makes of it.
CAFFENET = {
    name: replace(small, k=small.k if small.k < 400 else 40)
    for name, shape in cases.CONV_CAFFENET.items()
    for small in [test_conv.shrunk(shape)]
} | {"conv1": ConvShape(1, 7, 57, 48, 96, 3, 3)}


@pytest.mark.parametrize("shape", CAFFENET.values(), ids=CAFFENET)
@pytest.mark.parametrize("tile_kind", KINDS[:2], ids=NAMES[:2])  # tf32x3 is as tf32
def test_matches_reference_on_caffenet(
    dev: Device, tile_kind: conv_plan.Kind, shape: ConvShape
) -> None:
    check(dev, tile_kind, shape, orders=("forward",))


TILES = [
    (kind, kernel, tile)
    for kind in KINDS
    for kernel, tiles in conv_plan.TILES[kind].items()
    for tile in tiles
]


@pytest.mark.parametrize(("tile_kind", "kernel", "tile"), TILES, ids=str)
@pytest.mark.parametrize("alone", [True, False])
def test_every_tile(
    dev: Device,
    tile_kind: conv_plan.Kind,
    kernel: str,
    tile: conv_plan.Tile,
    alone: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered = conv_plan.TILES[tile_kind] | {kernel: {tile: 1.0}}
    monkeypatch.setitem(conv_plan.TILES, tile_kind, offered)
    monkeypatch.setattr(conv_plan, "LEAST_PRODUCTS", 100)
    if alone:  # what the tile has too much lies close beyond the ends
        rows = 3 * tile[2]
        shape = ConvShape(1, 5, 4, rows, rows, 2, 3)
        check(dev, tile_kind, shape, orders=ORDERS[1:2], kernels=(kernel,))
    elif not sanitizing():
        check(dev, tile_kind, several(kernel, tile), kernels=(kernel,))


def several(kernel: str, tile: conv_plan.Tile) -> ConvShape:
    """A problem of more than one tile in each direction, none of them full."""
    rows, columns, vector = tile
    features, depth = {
        FORWARD: (columns + vector, 3 * vector),
        DATA: (3 * vector, columns + vector),
        WEIGHTS: (rows + vector, (columns // (6 * vector) + 1) * vector),
    }[kernel]
    image = 2, 12, 13, 2 * depth
    shape = ConvShape(*image, 2 * features, 3, 2, (1, 1), (1, 1), groups=2)
    m, n = {
        FORWARD: (shape.n * shape.p * shape.q, features),
        DATA: (shape.n * shape.h * shape.w, depth),
        WEIGHTS: (features, shape.taps),
    }[kernel]
    assert m > rows
    assert n > columns
    return shape


@pytest.mark.parametrize("name", ["odd sizes", "two groups", "stride 2"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinity_stays_within_its_patches(
    dev: Device, kind: conv_plan.Kind, name: str, wide: bool
) -> None:
    shape = widened(cases.CONV[name]) if wide else cases.CONV[name]
    given, _ = arrays(kind, shape)
    given["x"][0, 1, 2, 0] = given["dy"][-1, 0, 1, 0] = np.inf
    run = partial(test_conv.run, shape=shape, tensor=tensor(kind))
    got = run_op(dev, run, given)
    right = expected(given, given, shape)
    for part in "y", "dx":
        assert 0 < np.isinf(right[part]).mean() < 1
        finite = np.isfinite(got[part].astype(np.float32))
        assert np.array_equal(finite, np.isfinite(right[part]))


# --- banks of shared memory -----------------------------------------------------


@pytest.mark.parametrize("width", [48, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("tile_kind", KINDS[:2], ids=NAMES[:2])  # tf32x3 is as tf32
def test_no_two_lanes_meet_in_a_bank(tile_kind: conv_plan.Kind, width: int) -> None:
    dev = device.get("emulated")
    numbers = 8 if tile_kind == BF16 else 4  # in 16 bytes
    for along in (True, False) if width == 64 else (False,):
        *read, copied = (np.zeros(32, np.int32) for _ in range(3))
        kernel = BANKS.get("places", tile_kind, width, along)
        kernel(dev, 1, 32, (*read, copied))
        # Copies too are made 8 at a time. Where a row across K ends among them, no
        # multiple of 128 bytes, two of the 8 meet.
        meet = max(
            np.bincount(row).max() for row in copied.reshape(4, 8) // numbers % 8
        )
        assert meet == (1 if along or width % (8 * numbers) == 0 else 2)
        for place in read:
            if tile_kind == BF16 or along:
                # ldmatrix: 8 lanes at a time, 16 bytes each of the 128 that the banks
                # have: none twice.
                assert not np.any(place % numbers)
                groups = np.sort(place.reshape(4, 8) // numbers % 8, axis=1)
                assert np.array_equal(groups, np.tile(np.arange(8), (4, 1)))
            else:  # one number each: all the banks
                assert np.array_equal(np.sort(place % 32), np.arange(32))


# --- shared memory and exactness ------------------------------------------------


def test_shared_memory_of_a_block() -> None:
    def block(kernel: str, kind: conv_plan.Kind, *tile: int) -> tuple[int, int]:
        how = Plan(kernel, kind, tile, 1, 1)
        return how.threads, how.shared_bytes

    # 256 × 128 lines of 64 bytes in rows of 80, in 3 stages.
    assert block(FORWARD, BF16, 256, 128, 8) == (256, 3 * 384 * 80)
    # dy's lines lie along K, w's across it: 32 rows of 48 + 8 numbers.
    assert block(DATA, BF16, 256, 48, 8) == (128, 3 * (256 * 80 + 32 * 56 * 2))
    assert block(WEIGHTS, BF16, 128, 256, 8) == (256, 3 * 32 * (136 + 264) * 2)
    # tf32: 16 numbers of K a step, and as many bytes.
    assert block(WEIGHTS, "tf32", 128, 256, 4) == (256, 3 * 16 * (136 + 264) * 4)


@pytest.mark.parametrize("tile_kind", KINDS, ids=NAMES)
def test_stages_fit_shared_memory(tile_kind: conv_plan.Kind) -> None:
    for kernel, tiles in conv_plan.TILES[tile_kind].items():
        for tile in tiles:
            how = Plan(kernel, tile_kind, tile, 1, 1)
            rows = how.threads // (tile[0] // tile[2])  # of float, for the sums of db
            needed = how.shared_bytes + (kernel == WEIGHTS) * rows * tile[0] * 4
            assert needed <= SHARED_BYTES, how
            # As many blocks as there are registers for; CUDA takes 1 KiB of each.
            assert 256 // how.threads * (needed + 1024) <= SHARED_IN_ALL, how


def test_tf32x3_is_as_exact_as_float32(dev: Device) -> None:
    shape = CAFFENET["conv3"]
    given, _ = arrays("tf32x3", shape)
    right = expected(given, given, shape)

    def errors(kind: str | None) -> dict[str, float]:
        got = run_op(dev, partial(test_conv.run, shape=shape, tensor=kind), given)
        return {
            name: float(np.linalg.norm(got[name] - right[name]))
            / float(np.linalg.norm(right[name]))
            for name in ("y", "dx", "dw")
        }

    single, split, coarse = errors(None), errors("tf32x3"), errors("tf32")
    for name in single:
        # It rounds a sum once in 16 products; a product of tf32 is off by 2⁻¹¹.
        assert split[name] < 1.5 * single[name]
        assert coarse[name] > 100 * split[name]
