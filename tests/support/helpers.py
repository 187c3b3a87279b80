"""What the op tests share: run an op on a device, and hold it against its oracle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16, accumulator
from minicnn.devices import device, nvrtc
from minicnn.experiments.proofs.gradcheck import (
    ROUNDINGS,
    relative_error,
)
from minicnn.ops import sgd
from minicnn.ops.conv import conv

Array = NDArray[Any]
Arrays = dict[str, Array]
Draw = Callable[[int, int], int]

# A bfloat16 output is a float32 sum rounded once, to 8 significant bits: half a unit of
# the last is 2⁻⁹ to 2⁻⁸ of the number, to which come the float32 sum's own roundings.
STORED = 2.0**-8
# Shapes that Hypothesis draws for each op, device and dtype.
FUZZ_EXAMPLES = int(os.environ.get("MINICNN_FUZZ_EXAMPLES", "300"))


def _no_nvrtc() -> bool:
    try:
        nvrtc.version()
    except MinicnnError:
        return True
    return False


needs_nvrtc = pytest.mark.skipif(
    _no_nvrtc(), reason="NVRTC absent: pip install minicnn-transfer[test]"
)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a floating-point type, bfloat16 too."""
    return dtype.kind == "f" or dtype == BF16


class Worst(NamedTuple):
    """The largest error seen of one output of one op, and the case it was in."""

    error: float
    tolerance: float
    case: str


# (op, device, dtype, output) → Worst; `pytest --worst-errors` prints it.
WORST: dict[tuple[str, str, str, str], Worst] = {}


def poisoned(dev: device.Device) -> device.Device:
    """The device, handing out unwritten memory as NaN (255 in bytes).

    So an output that an op leaves unwritten, or scratch that it reads before writing,
    shows at once.
    """

    def poison(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any) -> Any:
            array = make(*args)
            array.reshape(-1).view(np.uint8)[...] = 255
            return array

        return made

    for name in ("empty", "scratch"):
        setattr(dev, name, poison(getattr(dev, name)))
    return dev


def in_numpy() -> device.Device:
    """The cpu device with its ops in their NumPy forms, poisoned."""
    dev = device.CpuDevice()
    dev.native = False
    return poisoned(dev)


def tolerance(dtype: type, terms: float = 1, stored: float = 1) -> float:
    """The relative error allowed of a sum of that many terms.

    Args:
        stored: in bfloat16, how many roundings of stored numbers it carries, its own
            among them.
    """
    if dtype == BF16:
        return stored * STORED + tolerance(np.float32, terms)
    return ROUNDINGS * float(np.finfo(dtype).eps) * float(np.sqrt(terms))


def compare(
    label: str, actual: Array, expected: Array, allowed: float, floor: float = 0
) -> float:
    """Asserts that the arrays agree; returns the worst relative error.

    Integers must be equal; floats may differ by the `relative_error` allowed.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (
        f"{label} has shape {actual.shape}, the reference {expected.shape}"
    )
    if actual.size == 0:
        return 0.0
    error = relative_error(actual, expected, floor)
    if expected.dtype.kind in "iub":
        allowed = 0.0
    place = np.unravel_index(np.argmax(error), error.shape)
    worst = float(error[place])
    assert worst <= allowed, (
        f"{label}{list(map(int, place))} is {actual[place]}, the reference "
        f"{expected[place]}: relative error {worst:.1e}, allowed {allowed:.1e}; "
        f"{np.count_nonzero(error > allowed)} of {error.size} numbers are off"
    )
    return worst


def rounded(inputs: Mapping[str, Array], dtype: type) -> Arrays:
    """The inputs, floats as `dtype`; others keep theirs."""
    return {
        name: array.astype(dtype) if is_float(array.dtype) else array
        for name, array in inputs.items()
    }


def run_op(
    dev: device.Device, run: Callable[..., dict[str, Any]], inputs: Arrays
) -> Arrays:
    """run(dev, **inputs) with arrays of the device; its outputs, on the host.

    Asserts that the op left its inputs alone; what it works on in place, `run` copies.
    """
    given = {name: dev.from_host(array.copy()) for name, array in inputs.items()}
    outputs = run(dev, **given)
    for name, array in inputs.items():
        left = dev.to_host(given[name])
        assert left.tobytes() == array.tobytes(), f"the op wrote to its input {name}"
    return {
        name: np.asarray(output if np.isscalar(output) else dev.to_host(output))
        for name, output in outputs.items()
    }


def run_weights(
    dev: device.Device,
    x: Array,
    dy: Array,
    shape: conv.ConvShape,
    tensor: str | None = None,
    bias: bool = True,
) -> Arrays:
    """`conv.backward_weights` in its slices, and their sums; what is between is NaN."""
    dtype = accumulator(x.dtype)
    tensors = (shape.k, shape.r, shape.s, shape.depth), (shape.k,)
    counts = conv.gradient_slices(dev, x.dtype, shape, tensor)
    _, (dw, db) = sgd.allocate_slices(dev, tensors, counts, dtype)
    dw[...] = db[...] = np.nan
    conv.backward_weights(dev, x, dy, dw, db if bias else None, shape, tensor)
    sums = {
        name: slices[:, : int(np.prod(tensor))].sum(axis=0).reshape(tensor)
        for name, slices, tensor in zip(("dw", "db"), (dw, db), tensors, strict=True)
    }
    return sums if bias else {"dw": sums["dw"]}


def check_op(
    label: str,
    dev: device.Device,
    dtype: type,
    run: Callable[..., dict[str, Any]],
    reference: Callable[..., Arrays],
    inputs: Arrays,
    terms: Mapping[str, float] | None = None,
    floor: Mapping[str, float] | None = None,
    stored: Mapping[str, float] | None = None,
) -> None:
    """Runs an op and its oracle on the same numbers and compares every output.

    Args:
        label: the op's name, then the case's.
        run: run(dev, **inputs) → outputs by name, in arrays of the device.
        reference: reference(**inputs) → the same in float64.
        inputs: by name, floats in float64; they are rounded to `dtype` first, so that
            op and oracle see the same numbers.
        terms: how many terms each output sums, where that is more than a few.
        floor: how large one term of each output is, where all may cancel out.
        stored: how many roundings to bfloat16 each output carries, where not one.
    """
    inputs = rounded(inputs, dtype)
    actual = run_op(dev, run, inputs)
    expected = reference(**rounded(inputs, np.float64))
    assert actual.keys() == expected.keys()
    op, _, case = label.partition(" ")
    for name, values in expected.items():
        floats = is_float(actual[name].dtype) and actual[name].ndim > 0
        kinds = dtype, accumulator(np.dtype(dtype))
        assert not floats or actual[name].dtype in kinds
        roundings = (stored or {}).get(name, 1)
        allowed = tolerance(dtype, (terms or {}).get(name, 1), roundings)
        where = f"{label} on {dev.name}, {np.dtype(dtype).name}: {name}"
        size = (floor or {}).get(name, 0)
        error = compare(where, actual[name], values, allowed, size)
        key = (op, dev.name, np.dtype(dtype).name, name)
        if (
            key not in WORST
            or error / allowed > WORST[key].error / WORST[key].tolerance
        ):
            WORST[key] = Worst(error, allowed, case)


def check_same_bits(
    dev: device.Device,
    run: Callable[..., dict[str, Any]],
    inputs: Arrays,
    dtype: type,
    as_cpu: bool = False,
) -> None:
    """Asserts that runs on 1, 2 or 3 threads give the same bits.

    And in another order of the kernels' threads each, where the device has a choice.

    Args:
        as_cpu: the bits are also NumPy's: nothing is left to rounding.
    """
    inputs = rounded(inputs, dtype)
    first = run_op(in_numpy() if as_cpu else dev, run, inputs)
    for threads, order in (1, "reverse"), (2, "shuffled:1"), (3, "shuffled:2"):
        other_dev = poisoned(device.get(dev.name, threads))
        if not dev.native:
            other_dev.native = False
        if hasattr(other_dev.launcher, "order"):
            other_dev.launcher.order = order
        other = run_op(other_dev, run, inputs)
        for name, array in first.items():
            assert other[name].tobytes() == array.tobytes(), (
                f"{name} differs on {threads} threads, {order}"
            )


def check_bf16_rounds_once(
    dev: device.Device, run: Callable[..., dict[str, Any]], inputs: Arrays
) -> None:
    """Asserts that bfloat16 outputs are float32's on the same numbers, rounded.

    For ops whose float32 form adds up in the order in which the bfloat16 form does.
    """
    inputs = rounded(inputs, BF16.type)
    narrow = run_op(dev, run, inputs)
    wide = run_op(dev, run, rounded(inputs, np.float32))
    for name, array in wide.items():
        expected = array.astype(BF16) if array.ndim and is_float(array.dtype) else array
        assert narrow[name].tobytes() == expected.tobytes(), f"{name} differs"


def fuzz(problem: Callable[[Draw], Any]) -> Callable[[Callable], Any]:
    """Runs a test(…, case) on problem(draw) for many draws; skipped without Hypothesis.

    draw(low, high) is an integer between the two, both included. The draws are the same
    in every run; MINICNN_FUZZ_EXAMPLES sets how many there are.
    """
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError:
        return pytest.mark.skip(reason="needs hypothesis (extra: test)")

    @strategies.composite
    def drawn(draw: Callable[..., int]) -> Any:
        return problem(lambda low, high: draw(strategies.integers(low, high)))

    def decorate(test: Callable) -> Callable:
        settings = hypothesis.settings(
            max_examples=FUZZ_EXAMPLES, deadline=None, derandomize=True, database=None
        )
        return settings(hypothesis.given(case=drawn())(test))

    return decorate
