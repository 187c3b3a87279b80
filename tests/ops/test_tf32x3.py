"""float32 multiplied on tensor cores as sums of two tf32: where, and how exactly."""

from __future__ import annotations

from functools import partial

import numpy as np

from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems as cases
from minicnn.ops.conv import conv
from minicnn.ops.conv.conv import ConvShape
from tests.ops.test_conv_tensor_cores import CAFFENET, arrays, expected, run
from tests.support.helpers import run_op


def test_without_four_channels_float32_is_multiplied_as_it_is(
    kernel_dev: Device,
) -> None:
    shape = cases.CONV["two groups"]
    given, _ = arrays("tf32", shape)
    exact, *others = (
        run_op(kernel_dev, partial(run, shape=shape, relu=False, tensor=each), given)
        for each in (None, "tf32", "tf32x3")
    )
    for got in others:
        assert all(got[name].tobytes() == exact[name].tobytes() for name in exact)


def test_two_parts_hold_a_float32(kernel_dev: Device) -> None:
    # Products that cancel but for their last bits: one of tf32 would be 1, not 2⁻²⁰.
    shape = ConvShape(1, 1, 1, 4, 4, 1, 1)
    x, w = np.ones((2, 4, 1, 1, 4), np.float32)
    x[0, 0, 0] = 1 + 2.0**-20, -1, 0, 0
    y = kernel_dev.empty((1, 1, 1, 4), np.float32)
    operands = kernel_dev.from_host(x[:1].copy()), kernel_dev.from_host(w)
    conv.forward(kernel_dev, *operands, None, y, shape, tensor="tf32x3")
    assert kernel_dev.to_host(y).ravel().tolist() == [2.0**-20] * 4
    conv.forward(kernel_dev, *operands, None, y, shape, tensor="tf32")
    assert kernel_dev.to_host(y).ravel().tolist() == [0.0] * 4


def test_two_parts_are_as_exact_as_float32(kernel_dev: Device) -> None:
    shape = CAFFENET["conv3"]
    given, _ = arrays("tf32x3", shape)
    right = expected(given, given, shape)

    def errors(kind: str | None) -> dict[str, float]:
        got = run_op(
            kernel_dev, partial(run, shape=shape, relu=False, tensor=kind), given
        )
        return {
            name: float(np.linalg.norm(got[name] - right[name]))
            / float(np.linalg.norm(right[name]))
            for name in ("y", "dx", "dw")
        }

    single, split, rounded = errors(None), errors("tf32x3"), errors("tf32")
    print(f"\n{shape}: fp32 {single}, tf32x3 {split}, tf32 {rounded}")
    for name in single:
        # It rounds a sum once in 16 products; a product of tf32 is off by 2⁻¹¹.
        assert split[name] < 1.5 * single[name]
        assert rounded[name] > 100 * split[name]
