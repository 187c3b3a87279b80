"""The tensor cores' kernel with mistakes that a GPU hides on most days: each shows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from minicnn.base.precision import BF16
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops.conv import conv
from minicnn.ops.conv import plan as conv_plan
from minicnn.ops.conv.conv import ConvShape
from minicnn.ops.conv.plan import FORWARD, WEIGHTS
from tests.ops.test_conv_tensor_cores import ORDERS, arrays, expected, in_orders
from tests.support.helpers import (
    Array,
    compare,
    poisoned,
    run_op,
    run_weights,
    tolerance,
)

# name: kernel, its text, and what it is replaced by
MISTAKES = {
    "no wait for the copies": (FORWARD, r"cp_async_wait<STAGES - 2>\(\);", ""),
    "a wait for one group less": (
        FORWARD,
        r"cp_async_wait<STAGES - 2>",
        "cp_async_wait<STAGES - 1>",
    ),
    "no barrier between stages": (
        FORWARD,
        r"(cp_async_wait<STAGES - 2>\(\);)\s*__syncthreads\(\);",
        r"\1",
    ),
    "a copy to the wrong stage": (
        FORWARD,
        r"copy\(now\)",
        "copy(next)",
    ),
    "a fragment's halves swapped": (
        FORWARD,
        r"(\{b\[j / 2\]\[j % 2 \* 2)(\], b\[j / 2\]\[j % 2 \* 2) \+ 1\]",
        r"\1 + 1\2]",
    ),
    "A's blocks in the order of B's": (FORWARD, "SIDE == Side::A", "SIDE == Side::B"),
    "a fragment not transposed": (WEIGHTS, "ldmatrix_x4_trans", "ldmatrix_x4"),
    "a copy one number short": (FORWARD, r"from \? 16 : 0", "from ? 14 : 0"),
    "a row beyond the image's edge": (
        FORWARD,
        r"(< )(\(unsigned\)patches\.height\) &\s*\(\(unsigned\)\(x\[i\])",
        r"<= \2",
    ),
    "neighbours' sums exchanged the wrong way": (
        FORWARD,
        "odd \\? first : second",
        "odd ? second : first",
    ),
}
# Where K is cut into slices.
IN_SLICES = {
    "every slice the first": (FORWARD, r"first = blockIdx\.z", "first = 0"),
    "all slices in one place": (FORWARD, r"partial \+ blockIdx\.z", "partial + 0"),
    "the bias added to each slice": (FORWARD, r"AsTheyAre\(\)\)", "finish)"),
    "a slice not added": (FORWARD, "slice = 1", "slice = 2"),
}


def with_mistake(expression: str, right: str, wrong: str) -> KernelFile:
    """conv.cu with the mistake; only that kernel and add_slices are compiled."""
    source = conv.KERNELS.source
    start = source.text.index("struct Stage")  # past the PTX wrappers
    where = source.text.index("struct PatchLines") if "patches" in right else start
    text, count = re.subn(right, wrong, source.text[where:], count=1)
    assert count == 1, right
    file = KernelFile(source.path)
    file.source = replace(
        source,
        text=source.text[:where] + text,
        instances={e: source.instances[e] for e in (expression, "add_slices<bf16>")},
    )
    return file


def check_one(dev: Device, kernel: str, channels: int = 40) -> None:
    """A bf16 problem of a few tiles, only that kernel run, in each order."""
    shape = ConvShape(1, 9, 11, channels, 72, 3, 3, (1, 1), (1, 1))
    given, _ = arrays(BF16, shape)
    right = expected(given, given, shape)

    def op(dev: Device, x: Array, w: Array, b: Array, dy: Array) -> dict[str, Any]:
        if kernel == WEIGHTS:
            return run_weights(dev, x, dy, shape, bias=False)
        y = dev.empty(dy.shape, dy.dtype)
        conv.forward(dev, x, w, b, y, shape)
        return {"y": y}

    for order in in_orders(dev, ORDERS):
        for name, array in run_op(dev, op, given).items():
            allowed = tolerance(BF16.type, shape.taps)
            compare(f"{name}, {order}", array, right[name], allowed)


@pytest.mark.parametrize("name", ["nothing", *MISTAKES, *IN_SLICES])
def test_mistake_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = FORWARD, "struct Stage", "struct Stage"
    kernel, right, wrong = (MISTAKES | IN_SLICES).get(name, nothing)
    tile = (128, 64, 8)
    monkeypatch.setitem(conv_plan.TILES, BF16, {kernel: {tile: 1.0}})
    expression = f"{kernel}<bf16, {', '.join(map(str, tile))}>"
    monkeypatch.setattr(conv, "KERNELS", with_mistake(expression, right, wrong))
    dev = poisoned(device.get("emulated"))  # that has not compiled the right kernel
    if name == "nothing":
        check_one(dev, kernel)
        check_one(dev, kernel, 120)
    else:
        with pytest.raises(AssertionError, match="numbers are off"):
            check_one(dev, kernel, 120 if name in IN_SLICES else 40)


def run_forward(dev: Device) -> None:
    """What a child process of test_sanitizers.py does, with another mistake."""
    check_one(dev, FORWARD)
