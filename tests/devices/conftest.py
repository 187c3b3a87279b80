"""The stand-in for CuPy, for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minicnn.devices.cuda import CudaDevice
from minicnn.ops import softmax
from tests.support import cupy_stand_in
from tests.support.cupy_stand_in import arrays


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, in place of CuPy."""
    for name, module in cupy_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("MINICNN_DEBUG", raising=False)
    yield sys.modules["cupy"]
    arrays.Device().synchronize()


class Adding:
    """A device, and work that adds 4 to each of three sums by a kernel of minicnn's.

    Attributes:
        called: how often the work was.
    """

    def __init__(self) -> None:
        self.dev = CudaDevice()
        self.scores = self.dev.from_host(np.ones((3, 4)))
        self.total = self.dev.zeros((3,), np.float64)
        self.kernel = softmax.KERNELS.get("add_scores")
        self.called = 0

    def __call__(self) -> None:
        self.called += 1
        self.kernel(self.dev, 3, 128, (self.scores, self.total, 4))


@pytest.fixture
def adding(cupy: Any, compiler: None) -> Adding:
    return Adding()
