"""How an op is called: which form runs, and what it sees of bfloat16 arrays."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.devices import device
from minicnn.devices.device import CpuDevice, Device
from minicnn.experiments.bench.ops import Step
from minicnn.ops import Forms, op

Array = np.ndarray


@op(writes=("y",), updates=("z",))
def shifted(dev: Device, x: Array, y: Array, z: Array | None = None) -> Forms:
    """y = x + 1, and z −= 1 in place."""

    def numpy() -> None:
        assert {x.dtype, y.dtype} == {np.dtype(np.float32)}
        np.add(x, 1, out=y)
        if z is not None:
            z[...] -= 1

    return Forms(numpy, numpy)


@pytest.fixture
def dev() -> CpuDevice:
    return CpuDevice(1)


def of(*values: float) -> Array:
    return np.array(values, BF16)


def locked(array: Array) -> Array:
    """The array, which nobody may write to."""
    array.flags.writeable = False
    return array


def test_bf16_outputs_are_rounded_and_inputs_left_alone(dev: CpuDevice) -> None:
    # 1 + 2⁻⁸ lies between two numbers of 8 bits, and goes to the even one.
    x, y, z = locked(of(2.0**-8, 3.0)), of(0, 0), of(1, 2)
    shifted(dev, x, y, z=z)
    assert y.tolist() == [1, 4]
    assert z.tolist() == [0, 1]


def test_an_array_given_twice_stays_one(dev: CpuDevice) -> None:
    x = of(1, 2)
    shifted(dev, x, x)
    assert x.tolist() == [2, 3]


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F81, 0xFFFF, 0x8000], ids=hex)
def test_an_input_keeps_its_very_bits(dev: CpuDevice, bits: int) -> None:
    # NaN of any payload, and −0: rounding them again need not give the same bits.
    x = locked(np.full(2, bits, np.uint16).view(BF16))
    with np.errstate(invalid="ignore"):
        shifted(dev, x, of(0, 0))
    assert (x.view(np.uint16) == bits).all()


def test_an_output_must_be_writeable(dev: CpuDevice) -> None:
    with pytest.raises(ValueError, match="read-only"):
        shifted(dev, of(1), locked(of(0)))


@pytest.mark.parametrize("name", ["cpu", "cpu in NumPy", "emulated"])
def test_ops_write_what_they_declare_alone(name: str) -> None:
    dev = device.get(name.split()[0], 1)
    dev.native = dev.native and name == "cpu"
    step = Step(dev, "miniature", 2, "bf16", lr=0.01)
    step.solver.set_rate(0)
    for call in step.recorded():
        arrays = {k: v for k, v in call.arguments.items() if isinstance(v, Array)}
        for written in call.op.writes:
            arrays[written].view(np.uint8)[...] = 0x55
        before = {k: v.tobytes() for k, v in arrays.items()}
        call.op(dev, **call.arguments)
        changed = {k for k, v in arrays.items() if v.tobytes() != before[k]}
        declared = [arrays[k] for k in call.op.writes + call.op.updates]
        # The same array may have another name too.
        assert changed == {
            k for k, v in arrays.items() if any(v is each for each in declared)
        }, call.name
