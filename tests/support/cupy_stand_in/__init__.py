"""A strict stand-in for CuPy: the launch code of cuda runs where there is no GPU.

    python -m pytest -p tests.support.cupy_stand_in -m gpu  # all of it: make rehearse

Arrays are NumPy's and kernels run in the emulator; `CudaDevice`, `CudaLauncher`, graphs
and uploads are minicnn's own. It is no GPU: it finds what CuPy and CUDA refuse, or do
later than the code believes, not what the hardware does. CuPy's own compiler is what
tests/devices/test_compile.py runs.

It has as much of CuPy as minicnn and its tests ask for, and no more: all else is an
AttributeError or a TypeError; add that as CuPy 14.2 has it. What is strict, and where
it is written (files are CuPy's, the guide is CUDA's, section "CUDA Graphs"):

- Work is queued in its stream, and done once the host waits for that stream, an event
  or the device: no sooner, as on a GPU that is busy. So it shows if a pinned array is
  written anew too early. Races between streams are tests/devices/test_uploads.py's.
- A stream that is captured does nothing: its work is the graph's, done at each launch.
  The default stream cannot be captured (stream.pyx). Meanwhile nothing is copied from
  the host or to it (memory.pyx), so an array is no bool, int or float; and waiting for
  the stream, for an event in it or for the device fails and spoils the capture (guide).
- `set` takes a NumPy array of the same dtype and shape (core.pyx), here also without
  gaps: CuPy would first copy it on the host. Pinned memory is read in the stream's
  turn, other memory before `set` returns (CUDA: "API synchronization behavior").
- No array becomes NumPy's by itself (core.pyx, `__array__`). NumPy's are refused in
  arithmetic (_kernel.pyx) and where something is assigned (core.pyx, `fill`); also as
  an index, which CuPy would copy to the GPU unasked.
- A new array is NaN, and so is memory that nobody holds any longer, in the turn of the
  stream it was asked for in: CuPy's pool then gives it to others (memory.pyx).
- A kernel takes arrays of the GPU, and single values (function.pyx). Blocks, threads
  and shared memory are within the card's limits, more than 48 KiB of it asked for
  before (guide, "Compute Capabilities"); arrays begin at multiples of 16 bytes, which
  minicnn's kernels read as one, and a GPU faults elsewhere.
- A graph must not be destroyed before it has run: minicnn waits, see `RecordedStep`.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.compile import host_compiler
from minicnn.devices import device
from tests.support.cupy_stand_in import arrays, kernels, streams

# An H100's, but for its memory.
PROPERTIES = {
    "name": b"no GPU: tests/support/cupy_stand_in",
    "sharedMemPerBlockOptin": kernels.SHARED,
    "totalGlobalMem": arrays.TOTAL,
    "multiProcessorCount": 132,
    "major": 9,
    "minor": 0,
}


def _absent(name: str) -> Any:
    """CuPy's modules of libraries that may be absent are looked for at first use."""
    if name == "cublas":
        raise ImportError("the stand-in has no libcublas")
    raise AttributeError(f"module 'cupy.cuda' has no attribute {name!r}")


def modules() -> dict[str, ModuleType]:
    """CuPy's modules by name, as they are to stand in sys.modules."""
    names = "cupy", "cupy.cuda", "cupyx"
    cupy, cuda, cupyx = made = [ModuleType(name) for name in names]
    for name, module in zip(names, made, strict=True):
        module.__spec__ = ModuleSpec(name, None)
    vars(cupy).update(
        __version__="14.2.0+stand.in",
        cuda=cuda,
        RawModule=kernels.RawModule,
        asarray=arrays.asarray,
        asnumpy=arrays.asnumpy,
        copyto=arrays.copyto,
        empty=arrays.empty,
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
        ndarray=arrays.ndarray,
        split=arrays.split,
    )
    vars(cuda).update(
        __getattr__=_absent,
        Device=arrays.Device,
        Event=streams.Event,
        Stream=streams.Stream,
        get_current_stream=streams.get_current_stream,
        get_elapsed_time=streams.get_elapsed_time,
        compiler=SimpleNamespace(CompileException=kernels.CompileException),
        driver=SimpleNamespace(CUDADriverError=kernels.CUDADriverError),
        memory=SimpleNamespace(OutOfMemoryError=arrays.OutOfMemoryError),
        nvrtc=SimpleNamespace(
            getVersion=lambda: (13, 0), getSupportedArchs=lambda: (80, 90, 100, 120)
        ),
        runtime=SimpleNamespace(
            CUDARuntimeError=streams.CUDARuntimeError,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda device: dict(PROPERTIES),
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
        ),
    )
    vars(cupyx).update(empty_pinned=arrays.empty_pinned)
    return dict(zip(names, made, strict=True))


def pytest_configure() -> None:
    """As pytest's plugin, takes CuPy's place; refuses where CuPy has a GPU.

    Raises:
        UsageError: so it is, or there is no C++ compiler.
    """
    if device.cuda_count():
        raise pytest.UsageError(
            "tests.support.cupy_stand_in: a GPU answers; leave it out"
        )
    try:
        host_compiler.compiler()
    except MinicnnError as error:
        raise pytest.UsageError(f"tests.support.cupy_stand_in: {error}") from None
    sys.modules.update(modules())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Does what a test leaves queued, so that it fails if that does."""
    result = yield
    arrays.Device().synchronize()
    return result
