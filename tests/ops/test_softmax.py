"""Softmax cross-entropy against the float64 oracle, PyTorch and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import SoftmaxCase
from minicnn.ops import softmax
from tests.support.helpers import (
    Array,
    Arrays,
    Draw,
    check_bf16_rounds_once,
    check_op,
    check_same_bits,
    compare,
    fuzz,
    rounded,
    run_op,
    tolerance,
)
from tests.support.reference import softmax as reference


def inputs(case: SoftmaxCase) -> Arrays:
    """Normal logits of that spread; int32 labels, some of them −1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, case.k, case.n, dtype=np.int32)
    labels[list(case.ignored)] = -1
    return {
        "logits": case.spread * rng.standard_normal((case.n, case.k)),
        "labels": labels,
    }


def score(dev: Device, logits: Array, labels: Array, dlogits: Array | None) -> Array:
    """What the op adds to its totals, on the host."""
    totals = dev.from_host(np.array([10.0, 20, 30]))
    softmax.cross_entropy(dev, logits, labels, dlogits, totals)
    return dev.to_host(totals) - [10, 20, 30]


def run(dev: Device, logits: Array, labels: Array) -> dict[str, Any]:
    """The op."""
    dlogits = dev.empty(logits.shape, logits.dtype)
    totals = score(dev, logits, labels, dlogits)
    # Without a gradient it sums the same.
    assert np.array_equal(score(dev, logits, labels, None), totals, equal_nan=True)
    return {
        "loss": float(totals[0]),
        "top1": int(totals[1]),
        "top5": int(totals[2]),
        "dlogits": dlogits,
    }


def expected(logits: Array, labels: Array) -> Arrays:
    """The oracle of `run`."""
    loss, top1, top5, dlogits = reference.cross_entropy(logits, labels)
    counts = {"top1": np.asarray(top1), "top5": np.asarray(top5)}
    return {"loss": np.asarray(loss), **counts, "dlogits": dlogits}


def check(
    dev: Device, dtype: type, case: SoftmaxCase, given: Arrays | None = None
) -> None:
    """One problem on one device against the oracle."""
    given = given or inputs(case)
    terms = {"loss": case.n + case.k, "dlogits": case.k}
    # Of a class that is certain, ln 1 and 1 − 1 are left with the roundings of the 1.
    floor = {"loss": 1, "dlogits": 1 / case.n}
    stored = {"loss": 0}
    name = f"softmax {case}"
    check_op(name, dev, dtype, run, expected, given, terms, floor, stored)


@pytest.mark.parametrize("case", cases.SOFTMAX.values(), ids=cases.SOFTMAX)
def test_agrees_with_reference(typed: tuple[Device, type], case: SoftmaxCase) -> None:
    check(*typed, case)
    if typed[1] == BF16:
        check_bf16_rounds_once(typed[0], run, inputs(case))


def problem(draw: Draw) -> SoftmaxCase:
    """Any small batch; a spread of 0 makes all logits equal."""
    n = draw(1, 6)
    ignored = tuple(row for row in range(n) if draw(0, 3) == 0)
    return SoftmaxCase(n, k=draw(1, 40), spread=draw(0, 60) / 3, ignored=ignored)


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
    dev: Device, dtype: type, case: SoftmaxCase
) -> None:
    check(dev, dtype, case)


def test_ties_go_to_the_smaller_class(dev: Device, dtype: type) -> None:
    # Logits of 0, 1 and 2 only: every label is in ties on both sides of it.
    rng = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int32) % 12
    given = {"logits": rng.integers(0, 3, (24, 12)).astype(float), "labels": labels}
    check(dev, dtype, SoftmaxCase(24, 12), given)


def test_diverged_logits_are_no_hit(dev: Device, dtype: type) -> None:
    # NaN compares false with everything: counting the classes ahead would find none.
    logits = rounded({"logits": np.array([[np.nan, 1, 2], [0, 0, np.inf]])}, dtype)
    labels = np.array([0, 0], np.int32)
    dlogits = dev.empty((2, 3), dtype)
    with np.errstate(invalid="ignore"):
        loss, top1, top5 = score(
            dev, dev.from_host(logits["logits"]), dev.from_host(labels), dlogits
        )
    assert math.isnan(loss)
    assert (top1, top5) == (0, 0)


def test_ranks_are_of_the_logits_themselves(dev: Device, dtype: type) -> None:
    # Less the largest logit, the 1 and the 2s would be the same number in any float.
    logits = rounded({"logits": np.array([[1, 2, 2, 2, 2, 1e17]])}, dtype)["logits"]
    on_dev = dev.from_host(logits), dev.from_host(np.zeros(1, np.int32))
    _, top1, top5 = score(dev, *on_dev, None)
    assert (top1, top5) == (0, 0)


def test_a_label_beyond_the_classes_spoils_the_loss(dev: Device, dtype: type) -> None:
    for label in 3, 2**31 - 1:
        logits, labels = np.zeros((2, 3), dtype), np.array([0, label], np.int32)
        on_dev = dev.from_host(logits), dev.from_host(labels)
        dlogits = dev.empty((2, 3), dtype)
        loss, top1, top5 = score(dev, *on_dev, dlogits)
        assert math.isnan(loss)
        assert (top1, top5) == (1, 1)
        # No class is the right one: (1, 1, 1) ÷ 3, halved for two rows.
        gradient = dev.to_host(dlogits).astype(float)
        assert np.allclose(gradient, [[-1 / 3, 1 / 6, 1 / 6], [1 / 6] * 3], rtol=0.01)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # Row 0: z = (0, ln 2, ln 5), so softmax = (1, 2, 5) ÷ 8; label 1, the second best:
    #   loss ln 4, gradient (1, 2 − 8, 5) ÷ 8.
    # Row 1 is ignored. Row 2: z = (ln 3, 0, 0), softmax = (3, 1, 1) ÷ 5; label 0, the
    # best: loss ln 5/3, gradient (3 − 5, 1, 1) ÷ 5. Two rows count, so both are halved.
    given = {
        "logits": np.log([[1.0, 2, 5], [4, 4, 4], [3, 1, 1]]),
        "labels": np.array([1, -1, 0], np.int32),
    }
    got = run_op(dev, run, rounded(given, dtype))
    gradient = [[1 / 16, -6 / 16, 5 / 16], [0, 0, 0], [-2 / 10, 1 / 10, 1 / 10]]
    # The logits themselves are rounded, hence a few terms more than one.
    compare("loss", got["loss"], np.log(4 * 5 / 3), tolerance(dtype, 3))
    compare("dlogits", got["dlogits"], np.array(gradient), tolerance(dtype, 3))
    assert got["top1"] == 1
    assert got["top5"] == 2


def test_same_bits(typed: tuple[Device, type]) -> None:
    dev, dtype = typed
    check_same_bits(dev, run, inputs(SoftmaxCase(150, 1000)), dtype)


@pytest.mark.parametrize(
    "case",
    [case for case in cases.SOFTMAX.values() if len(case.ignored) < case.n],
    ids=[name for name in cases.SOFTMAX if name != "only ignored rows"],
)
def test_reference_agrees_with_torch(case: SoftmaxCase) -> None:
    torch = pytest.importorskip("torch")
    given = inputs(case)
    logits = torch.tensor(given["logits"], requires_grad=True)
    labels = torch.tensor(given["labels"].astype(np.int64))
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
    loss.backward()
    got = expected(**given)
    allowed = tolerance(np.float64, case.n + case.k)
    counted = case.n - len(case.ignored)
    compare("loss", got["loss"] / counted, loss.detach().numpy(), allowed)
    compare("dlogits", got["dlogits"], logits.grad.numpy(), allowed)
