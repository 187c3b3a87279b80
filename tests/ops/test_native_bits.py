"""Compiled forms of ops give the NumPy forms' bits, special numbers included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.base import philox
from minicnn.compile import native
from minicnn.devices import device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import DropoutCase
from minicnn.ops.conv import conv
from tests.ops import (
    test_augment,
    test_dropout,
    test_lrn,
    test_pool,
    test_pool_lrn,
    test_sgd,
)
from tests.support.helpers import (
    Arrays,
    fuzz,
    in_numpy,
    is_float,
    poisoned,
    rounded,
    run_op,
)

Run = Callable[..., dict[str, Any]]
# Numbers that floats are replaced by, one in so many.
SPECIAL = ((np.nan, np.inf, -np.inf, 0.0, -0.0), 9), ((0.0, -0.0), 2)
# A rate whose threshold is one of the words.
RATE = float(philox.words(1, 0x100, 0, 9)[8]) / 2**32
DROPOUT = cases.DROPOUT | {"at the threshold": DropoutCase((4, 64), rate=RATE)}


@pytest.fixture(scope="module")
def devices() -> tuple[device.Device, device.Device]:
    """The cpu device with compiled code, and in NumPy."""
    compiled = device.get("cpu", 2)
    if not compiled.native:
        pytest.skip(f"ops run in NumPy: {native.missing()}")
    return poisoned(compiled), in_numpy()


def spoiled(inputs: Arrays, special: tuple[float, ...], rare: int) -> Arrays:
    """The inputs, of whose floats one in `rare` is special."""
    rng = np.random.default_rng(1)
    made = {}
    for name, array in inputs.items():
        made[name] = array = array.copy()
        if is_float(array.dtype):
            where = rng.integers(0, rare, array.shape) == 0
            array[where] = rng.choice(special, np.count_nonzero(where))
    return made


def check(
    devices: tuple[device.Device, device.Device],
    run: Run,
    inputs: Arrays,
    dtype: type,
) -> None:
    """Runs the op both ways, on ordinary and on special numbers."""
    with np.errstate(all="ignore"):
        for given in inputs, *(spoiled(inputs, *how) for how in SPECIAL):
            compiled, numpy = (
                run_op(dev, run, rounded(given, dtype)) for dev in devices
            )
            for name, expected in numpy.items():
                actual = compiled[name]
                assert actual.dtype == expected.dtype
                np.testing.assert_array_equal(actual, expected, name)
                # 0 and −0 differ; any NaN is as good as another.
                number = ~np.isnan(expected)
                signs = (np.signbit(each[number]) for each in (actual, expected))
                np.testing.assert_array_equal(*signs, name)


def without_minus_zero(run: Run, **how: Any) -> Run:
    """Of 0 and −0 NumPy's maximum is either, from processor to processor."""
    return lambda dev, x, dy: run(dev, x + 0, dy, **how)


def pool_run(shape: Any) -> tuple[Run, Arrays]:
    return without_minus_zero(test_pool.run, shape=shape), test_pool.inputs(shape)


def lrn_run(case: Any) -> tuple[Run, Arrays]:
    case = replace(case, beta=0.75)  # others are left to NumPy
    return partial(test_lrn.run, case=case), test_lrn.inputs(case)


def pool_lrn_run(case: Any) -> tuple[Run, Arrays]:
    case = replace(case, beta=0.75)
    return without_minus_zero(test_pool_lrn.run, case=case), test_pool_lrn.inputs(case)


def sgd_run(case: Any) -> tuple[Run, Arrays]:
    return partial(test_sgd.run, case=case), test_sgd.inputs(case)


def dropout_run(case: Any) -> tuple[Run, Arrays]:
    return partial(test_dropout.run, case=case), test_dropout.inputs(case)


def augment_run(case: Any) -> tuple[Run, Arrays]:
    def run(dev: device.Device, mean: Any, **given: Any) -> dict[str, Any]:
        how = {"crop": case.crop, "scale": case.scale, "dtype": mean.dtype}
        return test_augment.run(dev, mean=mean, **given, **how)

    return run, test_augment.inputs(case)


def relu_run(shape: tuple[int, ...]) -> tuple[Run, Arrays]:
    def run(dev: device.Device, y: Any, dy: Any) -> dict[str, Any]:
        dx = dy.copy()
        conv.relu_backward(dev, y, dx)
        return {"dx": dx}

    rng = np.random.default_rng(0)
    return run, {"y": rng.standard_normal(shape), "dy": rng.standard_normal(shape)}


# Op → its problems, what makes a run of one, and what draws others.
OPS: dict[str, tuple[dict[str, Any], Callable[[Any], tuple[Run, Arrays]], Any]] = {
    "pool": (test_pool.ALL, pool_run, test_pool.problem),
    "lrn": (test_lrn.ALL, lrn_run, test_lrn.problem),
    "pool_lrn": (test_pool_lrn.ALL, pool_lrn_run, test_pool_lrn.problem),
    "augment": (cases.AUGMENT, augment_run, test_augment.problem),
    "dropout": (DROPOUT, dropout_run, test_dropout.problem),
    "relu": ({"odd": (3, 17, 9, 151)}, relu_run, lambda draw: (draw(1, 99),)),
    "sgd": (cases.SGD, sgd_run, test_sgd.problem),
}
EACH = [
    pytest.param(make, case, id=f"{op}: {name}")
    for op, (problems, make, _) in OPS.items()
    for name, case in problems.items()
]


@pytest.mark.parametrize(("make", "case"), EACH)
def test_same_bits_as_in_numpy(
    devices: Any, make: Callable[[Any], tuple[Run, Arrays]], case: Any, dtype: type
) -> None:
    check(devices, *make(case), dtype)


def any_problem(draw: Callable[[int, int], int]) -> tuple[Run, Arrays]:
    """Any problem of any op."""
    _, make, problem = list(OPS.values())[draw(0, len(OPS) - 1)]
    return make(problem(draw))


@fuzz(any_problem)
def test_same_bits_as_in_numpy_on_any_shape(
    devices: Any, dtype: type, case: tuple[Run, Arrays]
) -> None:
    check(devices, *case, dtype)
