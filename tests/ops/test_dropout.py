"""Dropout against the float64 oracle, published random words and by hand."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import DropoutCase
from minicnn.ops import dropout
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
from tests.support.reference import dropout as reference


def key(case: DropoutCase) -> dict[str, Any]:
    """rate, seed, stream and step, as a number."""
    return {name: value for name, value in asdict(case).items() if name != "shape"}


def inputs(case: DropoutCase) -> Arrays:
    """Normal numbers, none of them 0."""
    return {"x": np.random.default_rng(0).standard_normal(case.shape)}


def run(dev: Device, x: Array, case: DropoutCase) -> dict[str, Any]:
    """The op, into another array and in place."""
    y, in_place = dev.empty(x.shape, x.dtype), x.copy()
    how = key(case) | {"step": dev.from_host(np.array([case.step], np.int64))}
    dropout.apply(dev, x, y, **how)
    dropout.apply(dev, in_place, in_place, **how)
    return {"y": y, "in place": in_place}


def expected(x: Array, case: DropoutCase) -> Arrays:
    """The oracle of `run`."""
    y = reference.apply(x, **key(case))
    return {"y": y, "in place": y}


def check(dev: Device, dtype: type, case: DropoutCase) -> None:
    """One problem on one device against the oracle."""
    bound = partial(run, case=case), partial(expected, case=case)
    check_op(f"dropout {case}", dev, dtype, *bound, inputs(case))


@pytest.mark.parametrize("case", cases.DROPOUT.values(), ids=cases.DROPOUT)
def test_agrees_with_reference(typed: tuple[Device, type], case: DropoutCase) -> None:
    check(*typed, case)
    if typed[1] == BF16:
        check_bf16_rounds_once(typed[0], partial(run, case=case), inputs(case))


def problem(draw: Draw) -> DropoutCase:
    """Any small tensor, rate below 1 and key."""
    return DropoutCase(
        shape=(draw(1, 3), draw(1, 30)),
        rate=draw(0, 63) / 64,
        seed=draw(0, 2**64 - 1),
        stream=draw(0, 2**32 - 1),
        step=draw(0, 2**63 - 1),
    )


@fuzz(problem)
def test_agrees_with_reference_on_any_key(
    dev: Device, dtype: type, case: DropoutCase
) -> None:
    check(dev, dtype, case)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # Seed, stream and step 0 give the published words of counter 0, key 0, see
    # test_philox.py. As shares of 2³² they are 0.399, 0.881, 0.736, 0.605. At rate 0.75
    # the second alone is kept, and times 1 ÷ (1 − 0.75) = 4; at rate 0.5 all but the
    # first, times 2.
    x = rounded({"x": np.array([1.0, 2, 3, 4])}, dtype)
    for rate, kept in [(0.75, [0, 8, 0, 0]), (0.5, [0, 4, 6, 8])]:
        case = DropoutCase((4,), rate, seed=0, stream=0, step=0)
        got = run_op(dev, partial(run, case=case), x)
        assert got["y"].tolist() == kept
    # A word that equals rate·2³² is kept: below it lie exactly that share of all words.
    case = DropoutCase((4,), 0x6627E8D5 / 2**32, seed=0, stream=0, step=0)
    assert np.all(run_op(dev, partial(run, case=case), x)["y"] > 0)


def test_same_bits(typed: tuple[Device, type]) -> None:
    (dev, dtype), case = typed, DropoutCase((7, 30_001))
    how = inputs(case), dtype, dtype != BF16
    check_same_bits(dev, partial(run, case=case), *how)
