"""The SGD update against the float64 oracle and by hand."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import SgdCase
from minicnn.ops import sgd
from tests.support.helpers import Array, Arrays, Draw, check_op, check_same_bits, fuzz
from tests.support.reference import sgd as reference


def split(array: Array, case: SgdCase) -> list[Array]:
    """The parameters in an array of all their numbers, without padding."""
    sizes = [int(np.prod(shape)) for shape in case.shapes]
    parts = np.split(array, list(accumulate(sizes))[:-1])
    return [p.reshape(shape) for p, shape in zip(parts, case.shapes, strict=True)]


def inputs(case: SgdCase) -> Arrays:
    """Normal numbers; gradient and velocity such that each term of v counts."""
    rng = np.random.default_rng(0)
    sizes = [int(np.prod(shape)) for shape in case.shapes]
    slices = sum(n * size for n, size in zip(case.counts, sizes, strict=True))
    scale = {"w": (1.0, sum(sizes)), "v": (max(case.lr, 0.01), sum(sizes))}
    drawn = {name: s * rng.standard_normal(size) for name, (s, size) in scale.items()}
    return {**drawn, "g": rng.standard_normal(slices)}


def gradients(g: Array, case: SgdCase) -> list[Array]:
    """Each parameter's slices, (slices, numbers), in an array of all of them."""
    sizes = [int(np.prod(shape)) for shape in case.shapes]
    whole = [n * size for n, size in zip(case.counts, sizes, strict=True)]
    parts = np.split(g, list(accumulate(whole))[:-1])
    return [part.reshape(n, -1) for part, n in zip(parts, case.counts, strict=True)]


def segments(dev: Device, case: SgdCase) -> sgd.Segments:
    """The parameters' places and factors."""
    rates, decays = zip(*case.factors, strict=True)
    slices = case.counts if case.slices else None
    return sgd.Segments.of(dev, case.shapes, rates, decays, slices)


def run(dev: Device, w: Array, v: Array, g: Array, case: SgdCase) -> dict[str, Any]:
    """The op on flat arrays, all padding zero before and after."""
    flats, views = [], []
    for array in (w, v):
        flat, parts = sgd.allocate(dev, case.shapes, w.dtype)
        for part, values in zip(parts, split(array, case), strict=True):
            part[...] = values
        flats.append(flat)
        views.append(parts)
    flat_g, parts = sgd.allocate_slices(dev, case.shapes, case.counts, w.dtype)
    for part, values in zip(parts, gradients(g, case), strict=True):
        part[:, : values.shape[1]] = values
    copy = dev.empty(flats[0].shape, BF16)
    lr = dev.from_host(np.array([case.lr]))
    how = segments(dev, case), lr, case.momentum, case.decay
    sgd.update(dev, flats[0], flat_g, flats[1], *how, copy)
    assert_copied(dev.to_host(copy), dev.to_host(flats[0]))
    new_w, new_v = (
        np.concatenate([dev.to_host(part).ravel() for part in parts]) for parts in views
    )
    for flat, new in zip(flats, (new_w, new_v), strict=True):
        assert np.count_nonzero(dev.to_host(flat)) == np.count_nonzero(new)
    return {"w": dev.from_host(new_w), "v": dev.from_host(new_v)}


def assert_copied(copy: Array, w: Array) -> None:
    """Asserts that it is w in bfloat16, padding too: to the nearest, ties to even."""
    bits = w.astype(np.float32).view(np.uint32).astype(np.int64)
    above = bits % (1 << 16) + (bits >> 16 & 1) > 1 << 15
    assert np.array_equal(copy.view(np.uint16), (bits >> 16) + above)


def expected(w: Array, v: Array, g: Array, case: SgdCase) -> Arrays:
    """The oracle of `run`."""
    new = [
        reference.update(
            part,
            slices.sum(axis=0).reshape(part.shape),
            speed,
            case.lr * rate,
            case.momentum,
            case.decay * decay,
        )
        for part, speed, slices, (rate, decay) in zip(
            split(w, case),
            split(v, case),
            gradients(g, case),
            case.factors,
            strict=True,
        )
    ]
    new_w, new_v = (
        np.concatenate([a.ravel() for a in x]) for x in zip(*new, strict=True)
    )
    return {"w": new_w, "v": new_v}


def check(dev: Device, dtype: type, case: SgdCase) -> None:
    """One problem on one device against the oracle."""
    bound = partial(run, case=case), partial(expected, case=case)
    # The terms of a single number's v or w may cancel out.
    floor, terms = {"w": 1, "v": case.lr}, {"v": max(case.counts)}
    check_op(f"sgd {case}", dev, dtype, *bound, inputs(case), terms, floor)


@pytest.mark.parametrize("case", cases.SGD.values(), ids=cases.SGD)
def test_agrees_with_reference(dev: Device, dtype: type, case: SgdCase) -> None:
    check(dev, dtype, case)


def problem(draw: Draw) -> SgdCase:
    """Any few small tensors and numbers."""
    shapes = tuple(
        tuple(draw(1, 5) for _ in range(draw(1, 4))) for _ in range(draw(1, 4))
    )
    return SgdCase(
        shapes=shapes,
        slices=tuple(draw(1, 4) for _ in range(draw(0, len(shapes)))),
        lr=draw(0, 100) / 100,
        momentum=draw(0, 99) / 100,
        decay=draw(0, 100) / 100,
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_shapes(
    dev: Device, dtype: type, case: SgdCase
) -> None:
    check(dev, dtype, case)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # One weight of 1 under a constant gradient of 2; momentum 0.5, decay 0.25. The rate
    # drops from 0.5 to 0.125 after two steps. It is inside v, so the drop leaves the
    # velocity as it is (PyTorch's form, w ← w − lr·v, would shrink it with the rate).
    #   v1 = 0.5·0      + 0.5·(2 + 0.25·1)           = 1.125      w1 = −0.125
    #   v2 = 0.5·1.125  + 0.5·(2 − 0.25·0.125)       = 1.546875   w2 = −1.671875
    #   v3 = 0.5·v2     + 0.125·(2 − 0.25·1.671875)  = 0.97119140625
    #   w3 = w2 − v3    = −2.64306640625
    (w, (weight,)), (g, (slope,)), (v, (speed,)) = (
        sgd.allocate(dev, [(1,)], dtype) for _ in range(3)
    )
    weight[...], slope[...] = 1, 2
    one = segments(dev, SgdCase(((1,),)))
    rate = dev.zeros((1,), np.float64)
    seen = []
    for lr in (0.5, 0.5, 0.125):
        rate[...] = lr
        sgd.update(dev, w, g, v, one, rate, momentum=0.5, decay=0.25)
        seen.append((float(dev.to_host(speed)[0]), float(dev.to_host(weight)[0])))
    assert seen == [
        (1.125, -0.125),
        (1.546875, -1.671875),
        (0.97119140625, -2.64306640625),
    ]


def test_tensors_lie_apart_in_whole_cache_lines() -> None:
    assert sgd.layout([(3,), (4, 4, 4), (5, 13), ()]) == [0, 64, 128, 256, 320]


def test_slices_lie_apart_in_whole_cache_lines(dev: Device) -> None:
    flat, (one, two) = sgd.allocate_slices(dev, [(3, 5), (65,)], [3, 2], np.float32)
    assert (flat.size, one.shape, two.shape) == (3 * 64 + 2 * 128, (3, 64), (2, 128))
    two[...] = 1
    assert not dev.to_host(flat)[: 3 * 64].any()


@pytest.mark.parametrize("count", [2, 7])
def test_slices_are_added_in_order(dev: Device, dtype: type, count: int) -> None:
    # The same bits as adding them first: no matter which sum is larger, no order but
    # theirs gives them.
    shape, rng = (67,), np.random.default_rng(0)
    slices = (
        rng.standard_normal((count, 67)) * 10.0 ** rng.integers(-6, 6, 67)
    ).astype(dtype)
    total = slices[0].copy()
    for part in slices[1:]:
        total += part
    results = []
    for rows in (slices, total[None]):
        g, (view,) = sgd.allocate_slices(dev, [shape], [len(rows)], dtype)
        view[:, :67] = dev.from_host(rows)
        (w, _), (v, _) = (sgd.allocate(dev, [shape], dtype) for _ in range(2))
        table = sgd.Segments.of(dev, [shape], [1.0], [1.0], [len(rows)])
        sgd.update(dev, w, g, v, table, dev.from_host(np.array([0.1])), 0.9, 0.1)
        results.append(dev.to_host(v).tobytes())
    assert results[0] == results[1]


def test_nothing_to_update(dev: Device, dtype: type) -> None:
    # As in a network whose every layer is frozen.
    flat, views = sgd.allocate(dev, [], dtype)
    assert (flat.size, views) == (0, [])
    none = sgd.Segments.of(dev, [], [], [])
    sgd.update(dev, flat, flat, flat, none, dev.zeros((1,), np.float64), 0.9, 0.1)


def test_same_bits(dev: Device, dtype: type) -> None:
    case = SgdCase(((200_001,), (3,), (100_000,)), (1, 1, 3))
    check_same_bits(dev, partial(run, case=case), inputs(case), dtype)
