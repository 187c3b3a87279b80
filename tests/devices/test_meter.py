"""Times and ceilings: a host's, and CUDA's with a stand-in for CuPy."""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base import precision
from minicnn.devices import device
from minicnn.devices.meter import Ceilings, Cost, CudaMeter, HostMeter


class FakeArray(np.ndarray):
    """CuPy's array, as bytes, whose sum empties a cache."""

    cupy: FakeCupy
    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))  # type: ignore

    def sum(self, axis: int) -> None:  # type: ignore[override]
        FakeArray.cupy.log.append("flush")
        FakeArray.cupy.now += 5.0  # must not count


class FakeCupy:
    """As much of CuPy as `CudaMeter` asks for, with a clock that work moves on."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = 0.0
        self.products: list[tuple[Any, ...]] = []
        self.sent: list[int] = []  # bytes
        fake = FakeArray.cupy = self

        class Event:
            def record(self) -> None:
                fake.log.append("mark")
                self.at = fake.now

            def synchronize(self) -> None:
                fake.log.append("wait")

        self.cuda = SimpleNamespace(
            Event=Event,
            get_elapsed_time=lambda a, b: 1e3 * (b.at - a.at),
            cublas=SimpleNamespace(gemmEx=self.product),
            device=SimpleNamespace(get_cublas_handle=lambda: 17),
        )
        free = SimpleNamespace(free_bytes=lambda: 0)
        self.get_default_memory_pool = lambda: free

    def empty(self, shape: Any, dtype: type) -> FakeArray:
        return np.empty(shape, dtype).view(FakeArray)

    def asarray(self, array: np.ndarray) -> FakeArray:
        assert array.dtype == np.uint8
        self.sent.append(array.nbytes)
        return array.view(FakeArray)

    def copyto(self, target: Any, source: Any) -> None:
        self.now += source.nbytes / 1e12

    def product(self, *args: Any) -> None:
        self.now += 1e-3
        scalar = ctypes.c_double if args[-2] == 70 else ctypes.c_float
        assert [scalar.from_address(args[at]).value for at in (6, 13)] == [1, 0]
        self.products.append(args)


def fake_gpu(cupy: FakeCupy) -> Any:
    return SimpleNamespace(
        attributes={"L2CacheSize": 50 << 20},
        mem_info=(4 << 30, 8 << 30),
        synchronize=lambda: cupy.log.append("all done"),
    )


def test_cuda_times_are_between_events_after_a_flush() -> None:
    cupy = FakeCupy()
    meter = CudaMeter(cupy, fake_gpu(cupy))
    assert meter._flush.nbytes == 512 << 20  # an eighth of what is free

    def work() -> None:
        cupy.log.append("work")
        cupy.now += 0.1

    assert meter.seconds(work) == pytest.approx(0.1)
    once = ["flush", "mark", "work", "mark"]
    assert cupy.log == ["work"] * 2 + ["all done", *once, "wait", *once * 5, "wait"]
    cupy.log.clear()
    assert meter.seconds(work, cold=False) == pytest.approx(0.1)
    assert "flush" not in cupy.log


@pytest.mark.parametrize(
    ("name", "itemsize", "kind", "compute", "products"),
    [
        # CUDA_R_32F, CUDA_R_16BF, CUDA_R_64F of library_types.h; CUBLAS_COMPUTE_32F,
        # _32F_FAST_TF32 and _64F of cublas_api.h.
        ("fp32", 4, 0, 68, 1),
        ("tf32", 4, 0, 77, 1),
        ("tf32x3", 4, 0, 77, 3),
        ("bf16", 2, 14, 68, 1),
        ("fp64", 8, 1, 70, 1),
    ],
)
def test_cuda_multiplies_in_the_steps_precision(
    name: str, itemsize: int, kind: int, compute: int, products: int
) -> None:
    cupy, side = FakeCupy(), 16
    meter = CudaMeter(cupy, fake_gpu(cupy), side)
    ceilings = meter.ceilings(precision.get(name))
    assert ceilings.precision == name
    assert ceilings.flops == pytest.approx(2 * side**3 / 1e-3 / products)
    assert ceilings.bytes == pytest.approx(2e12)  # a copy reads and writes
    args = cupy.products[-1]
    assert args[:6] == (17, 0, 0, side, side, side)
    assert (args[8], args[11], args[15]) == (kind,) * 3
    assert (args[9], args[12], args[16]) == (side,) * 3
    assert args[17:] == (compute, -1)
    assert cupy.sent == [side * side * itemsize]


def test_without_cublas_only_that_ceiling_is_unknown() -> None:
    cupy = FakeCupy()

    def absent() -> int:
        raise ImportError("libcublas.so.12")

    cupy.cuda.device.get_cublas_handle = absent
    ceilings = CudaMeter(cupy, fake_gpu(cupy), 16).ceilings(precision.get("bf16"))
    assert ceilings == Ceilings(math.inf, pytest.approx(2e12), "bf16")


def test_the_roofline_is_the_tighter_ceiling() -> None:
    ceilings = Ceilings(flops=100.0, bytes=10.0, precision="fp32")
    assert ceilings.share(Cost(50, 1), 1.0) == 0.5
    assert ceilings.share(Cost(50, 8), 1.0) == 0.8
    assert Ceilings(math.inf, 10.0, "fp32").share(Cost(50, 8), 2.0) == 0.4


@pytest.mark.parametrize(
    ("calls", "median"),
    [
        # 0.3 s allow three calls like the first, which is only a warm-up.
        ([0.09, 0.001, 0.002, 0.003], 0.002),
        # What takes longer than that is called once more, and both count.
        ([1.0, 2.0], 1.5),
    ],
)
def test_host_times(
    calls: list[float], median: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, clock = iter(calls), [0.0]

    def work() -> None:
        clock[0] += next(left)

    meter = HostMeter(device.get("cpu"))
    fake = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("minicnn.devices.meter.time", fake)
    assert meter.seconds(work) == pytest.approx(median)
    assert next(left, None) is None


@pytest.mark.parametrize(
    ("name", "measured"), [("bf16", "fp32"), ("tf32", "fp32"), ("fp64", "fp64")]
)
def test_a_host_multiplies_what_it_stores(
    name: str, measured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minicnn.devices.meter.SECONDS", 0.001)
    dtypes, matmul = set(), np.matmul
    monkeypatch.setattr(
        "numpy.matmul", lambda a, b, out: dtypes.add(out.dtype) or matmul(a, b, out=out)
    )
    meter = HostMeter(device.get("cpu"), 1 << 12, 16)
    assert meter.ceilings(precision.get(name)).precision == measured
    assert dtypes == {np.dtype("f8" if measured == "fp64" else "f4")}
