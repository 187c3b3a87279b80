"""Steps as CUDA graphs, with a stand-in for CuPy."""

from __future__ import annotations

import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.devices.device import CudaDevice
from minicnn.devices.recording import Graph, Repeated


class Captured:
    """CuPy's graph, likewise."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        weakref.finalize(self, log.append, "destroy")

    def launch(self) -> None:
        self.log.append("launch")


class Stream:
    """CuPy's stream, which writes down what is asked of it."""

    def __init__(self, log: list[str], non_blocking: bool) -> None:
        assert non_blocking  # others cannot be captured beside the default stream
        self.log, self.capturing, self.broken = log, False, False

    def __enter__(self) -> None:
        self.log.append("enter")

    def __exit__(self, *_: object) -> None:
        self.log.append("leave")

    def begin_capture(self) -> None:
        self.log.append("begin")
        self.capturing = True

    def end_capture(self) -> Any:
        self.log.append("end")
        self.capturing = False
        if self.broken:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return Captured(self.log)


class Launcher:
    """A launcher whose kernel named "synchronises" cannot be captured."""

    array = np.ndarray

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def launch(self, kernel: Any, *rest: Any) -> None:
        self.log.append(kernel.name)
        if kernel.name == "synchronises":
            raise MinicnnError("synchronises: cudaErrorStreamCaptureUnsupported")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CUDA device on a stand-in, with its log and its streams."""
    log: list[str] = []
    streams: list[Stream] = []
    cupy: Any = ModuleType("cupy")

    def stream(non_blocking: bool = False) -> Stream:
        streams.append(Stream(log, non_blocking))
        return streams[-1]

    class Device:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def synchronize(self) -> None:
            log.append("synchronise")

    cupy.cuda = SimpleNamespace(Stream=stream)
    dev = CudaDevice.__new__(CudaDevice)
    dev._cupy, dev._device, dev.launcher = cupy, Device(), Launcher(log)
    monkeypatch.delenv("MINICNN_DEBUG", raising=False)
    return SimpleNamespace(dev=dev, log=log, streams=streams)


def launching(dev: Any, *names: str) -> Any:
    """Work that launches kernels of those names."""

    def work() -> None:
        for name in names:
            dev.launcher.launch(SimpleNamespace(name=name), 1, 1, [np.zeros(1)], 0)

    return work


def test_a_graph_is_captured_once_and_launched_each_time(cuda: Any) -> None:
    repeated, work = Repeated(cuda.dev), launching(cuda.dev, "a", "b")
    launcher = cuda.dev.launcher
    repeated("key", work)
    assert cuda.log == ["a", "b"]
    cuda.log.clear()
    repeated("key", work)
    captured = ["enter", "begin", "a", "b", "end", "leave", "launch"]
    assert cuda.log == captured
    cuda.log.clear()
    for _ in range(2):
        repeated("key", work)
    assert cuda.log == ["launch"] * 2
    assert cuda.dev.launcher is launcher
    # A graph may be running when it is dropped: that must be waited for.
    cuda.log.clear()
    cuda.dev.let_go()
    repeated("key", work)
    assert cuda.log == ["synchronise", "destroy", "a", "b"]


def test_a_graph_that_is_of_no_use_is_waited_for_too(cuda: Any) -> None:
    repeated, launches, calls = Repeated(cuda.dev), launching(cuda.dev, "a"), []

    def work() -> None:
        launches()
        calls.append(1)
        if len(calls) == 2:  # as where scratch grows while the work is recorded
            cuda.dev.let_go()

    repeated("key", work)
    cuda.log.clear()
    repeated("key", work)
    captured = ["enter", "begin", "a", "end", "leave", "launch"]
    assert cuda.log == [*captured, "synchronise", "destroy"]
    # The record made next is kept.
    cuda.log.clear()
    for _ in range(2):
        repeated("key", work)
    assert cuda.log == [*captured, "launch"]


def test_a_graph_keeps_its_arrays(cuda: Any) -> None:
    graph = Graph(cuda.dev._cupy, cuda.dev, launching(cuda.dev, "a"))
    ((_, _, _, (array,), _),) = graph._launches
    assert isinstance(array, np.ndarray)


def test_what_cannot_be_captured_is_named(cuda: Any) -> None:
    launcher = cuda.dev.launcher
    with pytest.raises(MinicnnError) as refused:
        cuda.dev.record(launching(cuda.dev, "a", "synchronises", "b"))
    said = str(refused.value)
    assert "at or after synchronises: " in said
    assert "cudaErrorStreamCaptureUnsupported; MINICNN_GRAPH=0" in said
    # The stream is out of capture mode, and the device as it was.
    assert not cuda.streams[-1].capturing
    assert cuda.dev.launcher is launcher

    def waits() -> None:
        launching(cuda.dev, "a")()
        cuda.streams[-1].broken = True

    with pytest.raises(MinicnnError, match="after a: cudaErrorStreamCaptureInvalid"):
        cuda.dev.record(waits)
    with pytest.raises(KeyboardInterrupt):
        cuda.dev.record(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert not cuda.streams[-1].capturing


@pytest.mark.parametrize("variable", ["MINICNN_GRAPH", "MINICNN_DEBUG"])
def test_steps_without_a_graph(
    variable: str, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "0" if variable == "MINICNN_GRAPH" else "1")
    repeated, work = Repeated(cuda.dev), launching(cuda.dev, "a")
    for _ in range(4):
        repeated("key", work)
    assert cuda.log == ["a"] * 4
