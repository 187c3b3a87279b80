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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import FP32, FP64, Precision
from minicnn.devices.device import CpuDevice, Device
from minicnn.experiments.printing import columns
from minicnn.experiments.proofs.cases import CASES, Arrays, Case
from minicnn.nn.architectures import (
    LRN,
    Architecture,
    Conv,
    Dropout,
    FullyConnected,
    Pool,
)
from minicnn.nn.layers import Context, Parameter
from minicnn.nn.network import Network

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

FROZEN = (0, 2, 5, 7)
OUTPUTS, BATCH = 5, 3
LABELS = np.array([4, 0, 2], np.int32)
KEY = 11, 3  # dropout's seed and step
# A whole parameter tensor is moved along random directions. The smaller step keeps
# ReLUs and maxima from switching between the two points; eight layers add their errors.
NETWORK_STEP, DIRECTIONS = 1e-6, 2
NETWORK_DIFFERENCES = 1e-6
# Slopes by this step and by half of it differ by more where one did switch: there the
# loss has no derivative, and another direction is drawn, at most so often.
KINK, DRAWS = 1e-7, 10
# Roundings through eight layers and back, as multiples of the type's own.
NETWORK_ROUNDINGS = 300


def miniature(
    name: str = "gradcheck", widths: tuple[int, int, int] = (8, 12, 16)
) -> Architecture:
    """All eight layers with every convention, small enough for central differences.

    Stride, groups, padding, pools that hang over the edge (16→8→4→2), LRNs that
    matter, dropout.

    Args:
        widths: features of layers 1, 3 and 6; multiples of 4 allow vector loads.
    """
    one, three, six = widths
    return Architecture(
        name,
        size=24,
        crop=20,
        layers=(
            Conv(1, one, 5, std=0.16, bias=0.1),
            Pool(1),
            LRN(1, alpha=0.8),
            Conv(2, 8, 5, std=0.16, pad=2, groups=2, bias=0.1),
            Pool(2),
            LRN(2, alpha=0.8),
            Conv(3, three, 3, std=0.17, pad=1),
            Conv(4, 8, 3, std=0.21, pad=1, groups=2, bias=0.1),
            Conv(5, 6, 3, std=0.24, pad=1, groups=2, bias=0.1),
            Pool(5),
            FullyConnected(6, six, std=0.29, bias=0.1),
            Dropout(6),
            FullyConnected(7, 12, std=0.38, bias=0.1),
            Dropout(7),
            FullyConnected(8, 0, std=0.3, relu=False),
        ),
    )


MINIATURE = miniature()
NETWORK = "network"
OPS = (*CASES, NETWORK)


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


Checker = Callable[[Device], list[Check]]


class Error(NamedTuple):
    """The worst relative error, where it is, and what is allowed."""

    error: float
    where: str
    limit: float

    @property
    def share(self) -> float:
        """Part of the limit that the error fills."""
        return self.error / self.limit if self.limit else self.error


def plan(ops: Sequence[str] = ()) -> list[tuple[str, Checker]]:
    """What there is to check: a name, and what checks it on a device.

    Args:
        ops: names of `OPS`; none takes all.

    Raises:
        MinicnnError: an op has no such name.
    """
    for name in ops:
        if name not in OPS:
            raise MinicnnError(f"--op {name}: unknown; choose from {', '.join(OPS)}")
    planned: list[tuple[str, Checker]] = []
    for name in ops or OPS:
        for case in CASES[name]() if name in CASES else ():
            planned.append((f"{name}, {case.name}", functools.partial(_check_op, case)))
        if name == NETWORK:
            for frozen in FROZEN:
                planned.append((name, functools.partial(_check_network, frozen)))
    return planned


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


def _relative(name: str, actual: Array, expected: Array, limit: float) -> Error:
    """The largest relative error of an output."""
    error = relative_error(actual, expected)
    at = np.unravel_index(np.argmax(error), error.shape)
    return Error(float(error[at]), place(name, at), limit)


def place(name: str, at: Sequence[Any]) -> str:
    """Such as "dw[2,0,1,3]"; the name alone for a single number."""
    return f"{name}[{','.join(map(str, at))}]" if len(at) else name


def _worst(errors: Iterable[Error]) -> Error:
    return max(errors, key=lambda each: each.share)


@functools.cache
def _reference(threads: int) -> CpuDevice:
    dev = CpuDevice(threads)
    dev.native = False
    return dev


def _reference_dtypes(dev: Device) -> tuple[type, ...]:
    itself = not (dev.has_kernels or dev.native)
    return (np.float32,) if itself else (np.float64, np.float32)


def _check_op(case: Case, dev: Device) -> list[Check]:
    checks = []

    def add(against: str, dtype: DTypeLike, errors: Iterator[Error]) -> None:
        worst, kind = _worst(errors), np.dtype(dtype).name
        checks.append(Check(case.op, case.name, against, kind, *worst))

    # What is off may well be infinite; the table says so, warnings need not.
    with np.errstate(all="ignore"):
        if case.small and case.backward:
            add("differences", np.float64, _differences(dev, case))
        for dtype in _reference_dtypes(dev):
            add("reference", dtype, _against_reference(dev, case, dtype))
    return checks


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


def _against_reference(dev: Device, case: Case, dtype: type) -> Iterator[Error]:
    """The errors of every output against the cpu device's in float64."""
    inputs = _cast(case.inputs, dtype)
    actual = _run(dev, case, inputs)
    # Rounded first, so that both see the same numbers.
    expected = _run(_reference(dev.threads), case, _cast(inputs, np.float64))
    for name, values in expected.items():
        exact = values.dtype.kind != "f"
        terms = case.terms.get(name, 1)
        rounding = ROUNDINGS * float(np.finfo(dtype).eps)
        limit = 0.0 if exact else rounding * float(np.sqrt(terms))
        yield _relative(name, actual[name], values, limit)


def _differences(dev: Device, case: Case) -> Iterator[Error]:
    """The errors of every gradient against central differences on the device."""
    inputs = case.inputs
    given = {name: dev.from_host(array.copy()) for name, array in inputs.items()}
    analytic = case.run(dev, given)
    rng = np.random.default_rng(0)

    def value(name: str, at: tuple[Any, ...], step: float) -> float:
        """Σ y·dy with one number of an input moved."""
        moved = inputs[name].copy()
        moved[at] += step
        y = case.forward(dev, {**given, name: dev.from_host(moved)})["y"]
        return float(np.sum(dev.to_host(y) * inputs["dy"]))

    for name, array in inputs.items():
        if f"d{name}" not in analytic:
            continue
        gradient = dev.to_host(analytic[f"d{name}"])
        places = np.sort(rng.permutation(array.size)[:MOVED])
        index = [np.unravel_index(place, array.shape) for place in places]
        slopes = [
            (value(name, at, STEP) - value(name, at, -STEP)) / (2 * STEP)
            for at in index
        ]
        picked = gradient.reshape(-1)[places]
        error = _relative("", picked, np.array(slopes), DIFFERENCES)
        at = index[int(error.where.strip("[]"))]
        yield error._replace(where=place(f"d{name}", at))


def make_network(
    dev: Device, frozen: int, precision: Precision
) -> tuple[Network, Array, Any]:
    """The small network, every bias random so that none hides; its input and labels.

    Weights, input and masks are the same numbers on every device.
    """
    network = Network(MINIATURE, OUTPUTS, dev, 5, precision)
    rng = np.random.default_rng(8)
    weights = network.tensors()
    for name, values in weights.items():
        if name.endswith(".b"):
            weights[name] = values + rng.normal(0, 0.1, values.shape)
    network.load(_cast(weights, np.float32))
    network.freeze(frozen)
    crop = MINIATURE.crop
    x = rng.normal(0, 1, (BATCH, crop, crop, 3)).astype(np.float32)
    x = x.astype(precision.activations)
    return network, dev.from_host(x), dev.from_host(LABELS.copy())


def _network_outputs(
    dev: Device, frozen: int, precision: Precision
) -> dict[str, Array]:
    """Logits, mean loss and every trainable parameter's gradient, on the host."""
    network, x, labels = make_network(dev, frozen, precision)
    network.forward(x, Context.training(dev, *KEY))
    loss = network.scored(labels, gradient=True).loss / BATCH
    network.backward()
    gradients = {f"d{p.name}": network.gradient(p) for p in network.trainable}
    logits = dev.to_host(network.logits)
    return {"logits": logits, "loss": np.array(loss), **gradients}


def _check_network(frozen: int, dev: Device) -> list[Check]:
    case = f"layers 1-{frozen} frozen" if frozen else "all layers trained"
    with np.errstate(all="ignore"):
        worst = _worst(_network_differences(dev, frozen))
        checks = [Check(NETWORK, case, "differences", "float64", *worst)]
        expected = _network_outputs(_reference(dev.threads), frozen, FP64)
        for dtype in _reference_dtypes(dev):
            limit = NETWORK_ROUNDINGS * float(np.finfo(dtype).eps)
            precision = FP64 if dtype is np.float64 else FP32
            actual = _network_outputs(dev, frozen, precision)
            errors = [_relative(k, actual[k], v, limit) for k, v in expected.items()]
            kind = np.dtype(dtype).name
            checks.append(Check(NETWORK, case, "reference", kind, *_worst(errors)))
    return checks


def _network_differences(dev: Device, frozen: int) -> Iterator[Error]:
    """The error of each trainable tensor's slope along random directions."""
    network, x, labels = make_network(dev, frozen, FP64)
    network.forward(x, Context.training(dev, *KEY))
    network.scored(labels, gradient=True)
    network.backward()
    gradients = {p.name: network.gradient(p) for p in network.trainable}
    rng = np.random.default_rng(1)

    def loss(p: Parameter, values: Array) -> float:
        p.value[...] = dev.from_host(values)
        network.forward(x, Context.training(dev, *KEY))
        return network.scored(labels).loss / BATCH

    for p in network.trainable:
        gradient, values = gradients[p.name], dev.to_host(p.value).copy()
        # A slope along normal directions is about as large as this.
        size = float(np.linalg.norm(gradient))
        for number in range(DIRECTIONS):
            direction, slope = _smooth(functools.partial(loss, p), values, size, rng)
            exact = float(np.sum(gradient * direction))
            error = abs(exact - slope) / max(abs(slope), size, np.finfo(float).tiny)
            where = f"d{p.name}, direction {number}"
            yield Error(error, where, NETWORK_DIFFERENCES)
        p.value[...] = dev.from_host(values)


def _smooth(
    loss: Callable[[Array], float], at: Array, size: float, rng: np.random.Generator
) -> tuple[Array, float]:
    """A direction along which the loss is smooth, and its slope there.

    Args:
        loss: of the numbers at a place.
        at: the place.
        size: of a typical slope.
    """
    for _ in range(DRAWS):
        direction = rng.standard_normal(at.shape)
        slopes = []
        for step in (NETWORK_STEP, NETWORK_STEP / 2):
            rise = loss(at + step * direction) - loss(at - step * direction)
            slopes.append(rise / (2 * step))
        if abs(slopes[0] - slopes[1]) <= KINK * max(abs(slopes[1]), size):
            break
    return direction, slopes[1]


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
