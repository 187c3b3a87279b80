"""Steps as CUDA graphs, on the stand-in for CuPy.

It raises where a graph is destroyed before it has run, where one is captured that
cannot be, and where memory is read that nobody holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.devices.cuda import CudaDevice
from minicnn.devices.recording import RecordedStep
from minicnn.ops import softmax


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


def test_a_graph_is_captured_once_and_launched_each_time(adding: Any) -> None:
    repeated, launcher = RecordedStep(adding.dev), adding.dev.launcher
    for step in range(1, 6):
        repeated("key", adding)
        assert adding.total.get().tolist() == [4 * step] * 3
    assert adding.called == 2  # run, then captured
    assert adding.dev.launcher is launcher
    # A graph may be running when it is dropped: that must be waited for.
    repeated("key", adding)
    adding.dev.outdate_records()
    repeated("key", adding)
    assert adding.called == 3
    assert adding.total.get().tolist() == [28] * 3


def test_a_graph_that_is_of_no_use_is_waited_for_too(adding: Any) -> None:
    repeated = RecordedStep(adding.dev)

    def work() -> None:
        adding()
        if adding.called == 2:  # as where scratch grows while the work is recorded
            adding.dev.outdate_records()

    for _ in range(5):
        repeated("key", work)
    assert adding.called == 3  # run, captured in vain, captured
    assert adding.total.get().tolist() == [20] * 3


def test_what_cannot_be_captured_is_named(cupy: Any, adding: Any) -> None:
    dev, launcher = adding.dev, adding.dev.launcher

    def waits() -> None:
        adding()
        cupy.cuda.get_current_stream().synchronize()

    def hides_it() -> None:
        with pytest.raises(RuntimeError):
            waits()

    with pytest.raises(MinicnnError, match=r"before any kernel: .*H2D.*CNN_GRAPH=0"):
        dev.record(lambda: dev.from_host(np.ones(3)))
    with pytest.raises(MinicnnError, match=r"after add_scores: .*CaptureUnsupported"):
        dev.record(waits)
    with pytest.raises(MinicnnError, match=r"after add_scores: .*CaptureInvalidated"):
        dev.record(hides_it)
    with pytest.raises(KeyboardInterrupt):
        dev.record(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    # No stream is captured any more, and the device is as it was.
    dev.synchronize()
    assert dev.launcher is launcher
    assert adding.total.get().tolist() == [0] * 3


@pytest.mark.parametrize("variable", ["MINICNN_GRAPH", "MINICNN_DEBUG"])
def test_steps_without_a_graph(
    variable: str, adding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "0" if variable == "MINICNN_GRAPH" else "1")
    repeated = RecordedStep(adding.dev)
    for _ in range(4):
        repeated("key", adding)
    assert adding.called == 4
