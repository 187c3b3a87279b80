"""The SGD update against the float64 oracle and by hand."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.device import Device
from minicnn.ops import sgd
from tests import cases
from tests.cases import SgdCase
from tests.helpers import Array, Arrays, Draw, check_op, check_same_bits, fuzz, rounded
from tests.reference import sgd as reference


def parameters(case: SgdCase) -> dict[str, Any]:
    """lr, momentum and decay."""
    return {name: value for name, value in asdict(case).items() if name != "shape"}


def inputs(case: SgdCase) -> Arrays:
    """Normal numbers; gradient and velocity such that each term of v counts."""
    rng = np.random.default_rng(0)
    scale = {"w": 1.0, "g": 1.0, "v": max(case.lr, 0.01)}
    return {name: s * rng.standard_normal(case.shape) for name, s in scale.items()}


def run(dev: Device, w: Array, g: Array, v: Array, case: SgdCase) -> dict[str, Any]:
    """The op."""
    new = {"w": w.copy(), "v": v.copy()}
    sgd.update(dev, new["w"], g, new["v"], **parameters(case))
    return new


def expected(w: Array, g: Array, v: Array, case: SgdCase) -> Arrays:
    """The oracle of `run`."""
    new_w, new_v = reference.update(w, g, v, **parameters(case))
    return {"w": new_w, "v": new_v}


def check(dev: Device, dtype: type, case: SgdCase) -> None:
    """One problem on one device against the oracle."""
    bound = partial(run, case=case), partial(expected, case=case)
    # The terms of a single number's v or w may cancel out.
    floor = {"w": 1, "v": case.lr}
    check_op(f"sgd {case}", dev, dtype, *bound, inputs(case), floor=floor)


@pytest.mark.parametrize("case", cases.SGD.values(), ids=cases.SGD)
def test_agrees_with_reference(dev: Device, dtype: type, case: SgdCase) -> None:
    check(dev, dtype, case)


def problem(draw: Draw) -> SgdCase:
    """Any small tensor and parameters."""
    return SgdCase(
        shape=tuple(draw(1, 5) for _ in range(draw(1, 4))),
        lr=draw(0, 100) / 100,
        momentum=draw(0, 99) / 100,
        decay=draw(0, 100) / 100,
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
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
    host = rounded({"w": np.ones(1), "g": np.full(1, 2.0), "v": np.zeros(1)}, dtype)
    w, g, v = (dev.from_host(host[name]) for name in "wgv")
    seen = []
    for lr in (0.5, 0.5, 0.125):
        sgd.update(dev, w, g, v, lr, momentum=0.5, decay=0.25)
        seen.append((float(dev.to_host(v)[0]), float(dev.to_host(w)[0])))
    assert seen == [
        (1.125, -0.125),
        (1.546875, -1.671875),
        (0.97119140625, -2.64306640625),
    ]


def test_same_bits(dev: Device, dtype: type) -> None:
    case = SgdCase((300_001,))
    check_same_bits(dev, partial(run, case=case), inputs(case), dtype)
