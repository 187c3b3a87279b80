"""How long work takes on a device, and how fast the machine could do it.

Roofline: an op can take no less than operations ÷ peak and bytes ÷ bandwidth. Its share
is the larger of the two over the time it took. Both ceilings are measured in the same
run: a copy of arrays far larger than any cache, and one large product by the vendor's
library, in the step's precision: cuBLAS in float32 without TF32, in TF32 (for tf32x3
a third of it), or in bfloat16; on a host, which has no others, BLAS in float32 or
float64.
Source: Williams, Waterman, Patterson, CACM 52(4), 2009.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.base.precision import BF16, FP32, Precision

SECONDS = 0.3  # that a median may take
WARM_UP = 2
ROWS = 4096  # of the array that empties a cache, each summed by a block of threads


@dataclass(frozen=True)
class Cost:
    """One call's floating-point operations, and bytes read and written."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Ceilings:
    """Peak rates of the machine.

    Attributes:
        flops: operations a second; infinity where they could not be measured.
        bytes: bytes a second.
        precision: the precision that `flops` were measured in.
    """

    flops: float
    bytes: float
    precision: str

    def share(self, cost: Cost, seconds: float) -> float:
        """Share of the roofline: least seconds for the cost, over seconds taken."""
        return max(cost.flops / self.flops, cost.bytes / self.bytes) / seconds


def _repeats(first: float, least: int, most: int) -> int:
    """Number of calls to time for a median; `first`: seconds of one call."""
    return int(min(max(SECONDS / max(first, 1e-9), least), most))


class HostMeter:
    """Wall-clock time of work on the host; its caches stay as they are.

    Args:
        dev: whose threads measure the ceilings.
        size: bytes of the arrays that are copied.
        side: of the square matrices that are multiplied.
    """

    def __init__(self, dev: Any, size: int = 1 << 27, side: int = 1536) -> None:
        self.dev, self.size, self.side = dev, size, side

    def seconds(self, work: Callable[[], object], cold: bool = True) -> float:
        """The median time of one call; long work is its own warm-up.

        Args:
            cold: see `CudaMeter.seconds`; nothing is flushed here.
        """

        def once() -> float:
            began = time.perf_counter()
            work()
            return time.perf_counter() - began

        first = once()
        times = [once() for _ in range(_repeats(first, 1, 20))]
        return statistics.median([first, *times] if first > SECONDS else times)

    def ceilings(self, precision: Precision) -> Ceilings:
        """The peak rates for a step in that precision, on all threads, in chunks."""
        count, side = self.size // 4, self.side
        source, target = np.ones((2, count), np.float32)
        # The host multiplies in float32 for TF32 and bfloat16 too.
        dtype = precision.values
        a, c = np.ones((side, side), dtype), np.zeros((side, side), dtype)

        def copy(start: int, stop: int) -> None:
            np.copyto(target[start:stop], source[start:stop])

        def product(start: int, stop: int) -> None:
            np.matmul(a[start:stop], a, out=c[start:stop])

        rows = -(-side // self.dev.threads)
        chunk = -(-count // self.dev.threads)
        copying = self.seconds(lambda: self.dev.for_chunks(copy, count, chunk))
        multiplying = self.seconds(lambda: self.dev.for_chunks(product, side, rows))
        name = FP32.name if dtype == np.float32 else precision.name
        return Ceilings(2 * side**3 / multiplying, 2 * target.nbytes / copying, name)


# By precision: the matrices' dtype, its number in CUDA (cudaDataType_t), the type to
# compute in (cublasComputeType_t: CUBLAS_COMPUTE_32F, 32F_FAST_TF32, 64F), and how many
# such products one of ours takes.
_CUBLAS: dict[str, tuple[np.dtype, int, int, int]] = {
    "fp32": (np.dtype(np.float32), 0, 68, 1),
    "tf32": (np.dtype(np.float32), 0, 77, 1),
    "tf32x3": (np.dtype(np.float32), 0, 77, 3),
    "bf16": (BF16, 14, 68, 1),
    "fp64": (np.dtype(np.float64), 1, 70, 1),
}


class CudaMeter:
    """Time between CUDA events on the current stream.

    Args:
        cupy: the module.
        device: its cupy.cuda.Device.
        side: of the square matrices that are multiplied.
    """

    def __init__(self, cupy: Any, device: Any, side: int = 8192) -> None:
        self.cupy, self.device, self.side = cupy, device, side
        cache = int(device.attributes.get("L2CacheSize", 0))
        free = device.mem_info[0] + cupy.get_default_memory_pool().free_bytes()
        # Reading this array empties the level-2 cache, and leaves no lines to write
        # back. It is much larger than the cache: the GPU still reads it while Python
        # queues the timed launches, so that Python's time is not counted.
        size = max(2 * cache, min(1 << 31, free // 8))
        self._flush = cupy.empty((ROWS, size // ROWS // 4), np.float32)

    def seconds(self, work: Callable[[], object], cold: bool = True) -> float:
        """The median time of one call, after a warm-up.

        Args:
            cold: whether what the call reads has left the caches before; where False,
                calls follow each other without a gap.
        """
        for _ in range(WARM_UP):
            work()
        self.device.synchronize()
        (first,) = self._times(work, cold, 1)
        times = self._times(work, cold, _repeats(first, 5, 50))
        return statistics.median(times)

    def _times(self, work: Callable[[], object], cold: bool, count: int) -> list[float]:
        """Seconds of each of `count` calls; all are queued before the first ends."""
        cuda = self.cupy.cuda
        marks = [(cuda.Event(), cuda.Event()) for _ in range(count)]
        for begin, end in marks:
            if cold:
                self._flush.sum(axis=1)
            begin.record()
            work()
            end.record()
        marks[-1][1].synchronize()
        # From milliseconds.
        return [cuda.get_elapsed_time(*pair) / 1e3 for pair in marks]

    def ceilings(self, precision: Precision) -> Ceilings:
        """The peak rates for a step in that precision; the product is by cuBLAS, which
        training never calls."""
        source, target = self._flush[: ROWS // 2], self._flush[ROWS // 2 :]
        copying = self.seconds(lambda: self.cupy.copyto(target, source), cold=False)
        try:
            flops = self._flops(precision)
        except ImportError:  # no cuBLAS: only this ceiling needs it
            flops = math.inf
        return Ceilings(flops, 2 * source.nbytes / copying, precision.name)

    def _flops(self, precision: Precision) -> float:
        """Of one product of square matrices, a second."""
        cupy, side = self.cupy, self.side
        dtype, kind, compute, products = _CUBLAS[precision.name]
        # Random numbers: constant ones draw less power and would flatter the clock.
        drawn = np.random.default_rng(0).standard_normal((side, side), np.float32)
        # As bytes: what type they are of is cuBLAS's affair alone.
        a = cupy.asarray(drawn.astype(dtype).view(np.uint8))
        c = cupy.empty(a.shape, np.uint8)
        cublas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
        scale = np.array([1, 0], dtype if dtype == np.float64 else np.float32)
        one = scale.ctypes.data
        zero = one + scale.itemsize
        matrix = a.data.ptr, kind, side

        def product() -> None:
            # Neither transposed; the last: cuBLAS chooses how.
            cublas.gemmEx(
                handle, 0, 0, side, side, side, one, *matrix, *matrix, zero,
                c.data.ptr, kind, side, compute, -1,
            )  # fmt: skip

        return 2 * side**3 / self.seconds(product, cold=False) / products


Meter = HostMeter | CudaMeter
