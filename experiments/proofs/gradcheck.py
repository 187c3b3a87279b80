"""Proves every op's arithmetic and gradients, and those of whole networks, on a device.

Two kinds of check, for each op and for a small network of all eight layers, whole and
with its first 2, 5 and 7 layers frozen:

- differences: what the backward pass writes, against central differences of the
  forward pass, (f(x + h) − f(x − h)) / 2h, both on the device, in float64;
- reference: every output, in float64 and float32, against the cpu device's NumPy form
  in float64, which the test suite holds to plain loops. On the cpu device itself the
  check in float64 is left out: it would compare a function with itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.errors import MinicnnError
from minicnn.devices.device import CpuDevice, Device
from minicnn.experiments.printing import columns
from minicnn.experiments.proofs.cases import CASES, Arrays, Case

Array = NDArray[Any]

# The step of a central difference in float64: its truncation (step²) and its rounding
# (2⁻⁵² ÷ step) are each near 1e-10; the ops' third derivatives add a factor of 100.
STEP = 1e-5
DIFFERENCES = 1e-8
# Numbers of each input that are moved, drawn at random where there are more.
MOVED = 60
# An op may be off by this many roundings of the largest term it adds up, times the
# square root of the number of terms: rounding errors of random sign grow so. The worst
# seen is a third of it, most are under a tenth; a lost term, a swapped index or a
# float32 constant in a float64 op is thousands of times more.
ROUNDINGS = 16

# A whole tensor is moved along random directions. The smaller step keeps ReLUs and
# maxima from switching between the two points; eight layers add their errors.
NETWORK_STEP = 1e-6
NETWORK_DIFFERENCES = 1e-6
# Slopes by this step and by half of it differ by more where one did switch: there the
# loss has no derivative, and another direction is drawn, at most so often.
KINK, DRAWS = 1e-7, 10

OPS = tuple(CASES)


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        op, case: what was run.
        against: "differences" or "reference".
        dtype: of the numbers.
        error: relative error; of several outputs, the one nearest its limit.
        where: the output's name and index, such as "dw[2,0,1,3]".
        limit: largest error that passes; NaN never does.
    """

    op: str
    case: str
    against: str
    dtype: str
    error: float
    where: str
    limit: float

    @property
    def ok(self) -> bool:
        """Whether it passed."""
        return self.error <= self.limit

    @property
    def share(self) -> float:
        """Part of the limit that the error fills."""
        return self.error / self.limit if self.limit else self.error


def plan(ops: Sequence[str] = ()) -> list[tuple[str, Callable[[Device], list[Check]]]]:
    """What there is to check: a name, and what checks it on a device.

    Args:
        ops: names of `OPS`; none takes all.

    Raises:
        MinicnnError: an op has no such name.
    """
    for name in ops:
        if name not in OPS:
            raise MinicnnError(f"--op {name}: unknown; choose from {', '.join(OPS)}")
    cases = [case for name in ops or OPS for case in CASES[name]()]
    return [(f"{c.op}, {c.name}", functools.partial(_check, c)) for c in cases]


def gradcheck(dev: Device, ops: Sequence[str] = ()) -> list[Check]:
    """All checks of these ops on a device; see `plan`."""
    return [check for _, run in plan(ops) for check in run(dev)]


def relative_error(
    actual: Array, expected: Array, floor: float = 0
) -> NDArray[np.float64]:
    """|actual − expected| over the largest of |expected|, its mean size and the floor.

    The root mean square is there for numbers that nearly cancelled out: their rounding
    errors are as large as their neighbours'; the floor, for where all of them did.
    """
    difference = np.abs(np.subtract(actual, expected, dtype=np.float64))
    size = max(floor, np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    if size == 0:
        return np.where(difference == 0, 0.0, np.inf)
    error = np.divide(difference, np.maximum(np.abs(expected), size))
    return np.where(np.isnan(error), np.inf, error)


def _place(name: str, at: Sequence[Any]) -> str:
    return f"{name}[{','.join(map(str, at))}]"


@functools.cache
def _reference(threads: int) -> CpuDevice:
    dev = CpuDevice(threads)
    dev.native = False
    return dev


def _check(case: Case, dev: Device) -> list[Check]:
    """The worst of each kind of check."""
    itself = not (dev.has_kernels or dev.native)
    dtypes = (np.float32,) if itself else (np.float64, np.float32)
    kinds = [_against_reference(dev, case, dtype) for dtype in dtypes]
    if case.differentiable:
        kinds.insert(0, _differences(dev, case))
    # What is off may well be infinite; the table says so, warnings need not.
    with np.errstate(all="ignore"):
        return [max(checks, key=lambda each: each.share) for checks in kinds]


def _cast(inputs: Mapping[str, Array], dtype: DTypeLike) -> Arrays:
    """The inputs, floats as `dtype`."""
    return {
        name: array.astype(dtype) if array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }


def _run(dev: Device, case: Case, inputs: Arrays) -> Arrays:
    given = {name: dev.from_host(array.copy()) for name, array in inputs.items()}
    outputs = case.run(dev, given)
    return {name: dev.to_host(array) for name, array in outputs.items()}


def _against_reference(dev: Device, case: Case, dtype: type) -> Iterator[Check]:
    """Every output beside the cpu device's in float64."""
    inputs = _cast(case.inputs, dtype)
    actual = _run(dev, case, inputs)
    # Rounded first, so that both see the same numbers.
    expected = _run(_reference(dev.threads), case, _cast(inputs, np.float64))
    for name, values in expected.items():
        terms = case.terms.get(name, 1)
        rounding = ROUNDINGS * float(np.finfo(dtype).eps)
        limit = rounding * float(np.sqrt(terms)) if values.dtype.kind == "f" else 0.0
        error = relative_error(actual[name], values)
        at = np.unravel_index(np.argmax(error), error.shape)
        about = case.op, case.name, "reference", np.dtype(dtype).name
        yield Check(*about, float(error[at]), _place(name, at), limit)


def _differences(dev: Device, case: Case) -> Iterator[Check]:
    """Every gradient beside central differences on the device."""
    given = {name: dev.from_host(array.copy()) for name, array in case.inputs.items()}
    gradients = {name: dev.to_host(a) for name, a in case.run(dev, given).items()}
    rng = np.random.default_rng(0)
    about = case.op, case.name, "differences", "float64"
    for name, array in case.inputs.items():
        if f"d{name}" not in gradients:
            continue
        gradient = gradients[f"d{name}"]

        def value(moved: Array, name: str = name) -> float:
            """Σ y·dy with other numbers of an input."""
            inputs = {**given, name: dev.from_host(moved)}
            y = next(case.passes(dev, **inputs))["y"]
            return float(np.sum(dev.to_host(y) * case.inputs["dy"]))

        for number in range(case.directions):
            error = _along_direction(value, array, gradient, rng)
            where = f"d{name}, direction {number}"
            yield Check(*about, error, where, NETWORK_DIFFERENCES)
        if not case.directions:
            error, at = _one_by_one(value, array, gradient, rng)
            yield Check(*about, error, _place(f"d{name}", at), DIFFERENCES)


def _one_by_one(
    value: Callable[[Array], float],
    array: Array,
    gradient: Array,
    rng: np.random.Generator,
) -> tuple[float, Sequence[Any]]:
    """A gradient's worst error at some numbers, each moved alone, and its place."""
    places = np.sort(rng.permutation(array.size)[:MOVED])
    slopes = []
    for place in places:
        step = np.zeros(array.shape)
        step.flat[place] = STEP
        slopes.append((value(array + step) - value(array - step)) / (2 * STEP))
    error = relative_error(gradient.reshape(-1)[places], np.array(slopes))
    worst = np.argmax(error)
    return float(error[worst]), np.unravel_index(places[worst], array.shape)


def _along_direction(
    value: Callable[[Array], float],
    array: Array,
    gradient: Array,
    rng: np.random.Generator,
) -> float:
    """The error of a gradient's slope along a random direction that has no kink."""
    # A slope along normal directions is about as large as this.
    size = float(np.linalg.norm(gradient))
    for _ in range(DRAWS):
        direction = rng.standard_normal(array.shape)
        slopes = []
        for step in (NETWORK_STEP, NETWORK_STEP / 2):
            rise = value(array + step * direction) - value(array - step * direction)
            slopes.append(rise / (2 * step))
        if abs(slopes[0] - slopes[1]) <= KINK * max(abs(slopes[1]), size):
            break
    exact = float(np.sum(gradient * direction))
    return abs(exact - slopes[1]) / max(abs(slopes[1]), size, np.finfo(float).tiny)


def table(checks: Sequence[Check]) -> str:
    """The checks for people."""
    return columns(
        [
            {
                "op": each.op,
                "case": each.case,
                "against": each.against,
                "dtype": each.dtype,
                "worst error": f"{each.error:.1e}",
                "where": each.where if each.error else "",
                "limit": f"{each.limit:.1e}",
                "": "ok" if each.ok else "FAILED",
            }
            for each in checks
        ]
    )
