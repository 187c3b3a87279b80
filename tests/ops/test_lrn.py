"""LRN and its gradient against the float64 oracle, PyTorch and by hand."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base.precision import accumulator
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import LrnCase
from minicnn.ops import lrn
from tests.support.gradients import check_against_torch
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
from tests.support.reference import lrn as reference

ALL = cases.LRN | cases.LRN_WIDE | cases.LRN_CAFFENET
SMALL = pytest.mark.parametrize("case", cases.LRN.values(), ids=cases.LRN)


def parameters(case: LrnCase) -> dict[str, Any]:
    """size, alpha, beta and k."""
    return {name: value for name, value in asdict(case).items() if name != "shape"}


def inputs(case: LrnCase) -> Arrays:
    """Normal numbers of spread 2: the squares matter."""
    rng = np.random.default_rng(0)
    return {
        "x": 2 * rng.standard_normal(case.shape),
        "dy": rng.standard_normal(case.shape),
    }


def run(dev: Device, x: Array, dy: Array, case: LrnCase) -> dict[str, Any]:
    """The op, forward and backward."""
    y, dx = (dev.empty(x.shape, x.dtype) for _ in range(2))
    scale = dev.empty(x.shape, accumulator(x.dtype))
    how = lrn.Normalising(**parameters(case))
    lrn.forward(dev, x, y, scale, how)
    lrn.backward(dev, x, y, scale, dy, dx, how)
    return {"y": y, "scale": scale, "dx": dx}


def expected(x: Array, dy: Array, case: LrnCase) -> Arrays:
    """The oracle of `run`."""
    y, scale = reference.forward(x, **parameters(case))
    dx = reference.backward(x, dy, **parameters(case))
    return {"y": y, "scale": scale, "dx": dx}


def check(dev: Device, dtype: type, case: LrnCase) -> None:
    """One problem on one device against the oracle."""
    bound = partial(run, case=case), partial(expected, case=case)
    # A rounding of scale counts β times in y, and in dx through three factors.
    terms = {"scale": case.size, "y": 4 * case.size, "dx": 16 * case.size}
    stored = {"scale": 0}
    check_op(f"lrn {case}", dev, dtype, *bound, inputs(case), terms, stored=stored)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_agrees_with_reference(typed: tuple[Device, type], case: LrnCase) -> None:
    check(*typed, case)


def problem(draw: Draw) -> LrnCase:
    """Any small tensor, any odd window, any parameters but tame ones."""
    return LrnCase(
        shape=(draw(1, 3), draw(1, 4), draw(1, 4), draw(1, 12)),
        size=2 * draw(0, 5) + 1,
        alpha=draw(1, 100) / 50,
        beta=draw(1, 8) / 4,
        k=draw(1, 20) / 5,
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
    dev: Device, dtype: type, case: LrnCase
) -> None:
    check(dev, dtype, case)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # size 3, α 3, β 1, k 1: scale_i = 1 + the squares of i and its neighbours.
    #   x     = 1  2  0  3
    #   scale = 1+1+4=6   1+1+4+0=6   1+4+0+9=14   1+0+9=10
    #   y     = 1/6       1/3         0            3/10
    # For dy = (1, 0, 0, 0): dx_0 = 1/6 − 1·1·2·1/36 = 1/9,
    #                        dx_1 = −1·x_0·2·x_1/36 = −1/9, and the rest is 0.
    case = LrnCase((1, 1, 1, 4), size=3, alpha=3.0, beta=1.0, k=1.0)
    x = np.array([1.0, 2, 0, 3]).reshape(case.shape)
    dy = np.array([1.0, 0, 0, 0]).reshape(case.shape)
    given = rounded({"x": x, "dy": dy}, dtype)
    got = {
        name: a.ravel()
        for name, a in run_op(dev, partial(run, case=case), given).items()
    }
    assert got["scale"].tolist() == [6, 6, 14, 10]
    compare("y", got["y"], np.array([1 / 6, 1 / 3, 0, 3 / 10]), tolerance(dtype))
    compare("dx", got["dx"], np.array([1 / 9, -1 / 9, 0, 0]), tolerance(dtype))


def test_same_bits(typed: tuple[Device, type]) -> None:
    (dev, dtype), case = typed, LrnCase((5, 13, 13, 256))
    check_same_bits(dev, partial(run, case=case), inputs(case), dtype)


@SMALL
def test_reference_agrees_with_torch(case: LrnCase) -> None:
    def function(torch: Any, x: Any) -> Any:
        images = x.permute(0, 3, 1, 2)
        y = torch.nn.functional.local_response_norm(images, **parameters(case))
        return y.permute(0, 2, 3, 1)

    check_against_torch(function, partial(expected, case=case), inputs(case))
