"""A training step takes no memory and waits for nothing: it could be a CUDA graph."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn.compile import host_compiler, native
from minicnn.compile.arguments import _packed
from minicnn.devices import device
from minicnn.devices.device import EmulatedDevice
from minicnn.experiments.bench.ops import Step


class Watched(EmulatedDevice):
    """An emulated device that notes each call."""

    def __init__(self) -> None:
        super().__init__(1)
        self.calls: list[str] = []
        for name in ("empty", "zeros", "from_host", "to_host", "synchronize"):
            setattr(self, name, self._noting(name))

    def _noting(self, name: str) -> Callable[..., Any]:
        method = getattr(self, name)

        def noted(*args: Any) -> Any:
            self.calls.append(name)
            return method(*args)

        return noted

    def upload(self, slot: str, array: Any) -> Any:
        """Not noted: CuPy queues it."""
        noted, self.calls = self.calls, []
        buffer = super().upload(slot, array)
        self.calls = noted
        return buffer


def test_a_step_neither_allocates_nor_waits() -> None:
    dev = Watched()
    step = Step(dev, "miniature", 4)
    step.whole()
    assert "empty" in dev.calls
    dev.calls.clear()
    before = dev.to_host(step.totals).copy()
    for _ in range(2):
        step.whole()
    assert dev.calls == ["to_host"]  # this test's own, above
    # And the loss was added up meanwhile.
    assert np.isclose(step.totals[0], 3 * before[0])


def count_allocations() -> None:
    """What a child process does, which has allocations.cpp loaded: prints counts.

    The first is of the steps that find the memory; then of some steps, and of an array.
    """
    counter = ctypes.CDLL(None).allocations
    counter.restype = ctypes.c_long
    step = Step(device.get("cpu", 1), "caffenet64", 4)
    counts = [counter()]
    for work in step.whole, step.whole, lambda: np.empty(4096, np.uint8):
        for _ in range(2):
            work()
        counts.append(counter())
    print(*np.diff(counts))


def test_a_step_on_the_cpu_device_allocates_nothing() -> None:
    if why := native.missing():
        pytest.skip(f"ops run in NumPy: {why}")
    if platform.libc_ver()[0] != "glibc" or host_compiler.sanitizing():
        pytest.skip("needs glibc's own allocator")
    text = Path(__file__).parents[1].joinpath("support/allocations.cpp").read_text()
    library = host_compiler.compile_library("allocations", text)
    code = "from tests.nn import test_step; test_step.count_allocations()"
    env = os.environ | {"LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, later, known = map(int, done.stdout.split())
    assert first > 0
    assert later == 0
    assert known == 2


def test_steps_pack_the_same_structs() -> None:
    step = Step(device.get("cpu", 1), "miniature", 4)
    packed = []
    for number in range(4):
        step.context.step[0] = number  # dropout draws another mask
        step.whole()
        packed.append(_packed.cache_info().misses)
    assert packed[1:] == [packed[0]] * 3
