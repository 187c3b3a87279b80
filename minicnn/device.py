"""Where the arithmetic runs: the array module, its buffers and its threads.

One place decides: `get`. Everything else is handed a Device and asks it nothing but
what it offers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

from minicnn.errors import MinicnnError

NAMES = ("auto", "cpu")


class CpuDevice:
    """NumPy, with the batch cut into chunks that run on threads.

    Each chunk calls BLAS on one thread: the work on an image then stays in one core's
    cache from the im2col matrix to the bias, and the chunks, hence the order of every
    sum, depend on the problem alone. So results do not depend on the thread count.

    Args:
        threads: how many threads; None takes the processors this process may use.
    """

    name = "cpu"
    has_kernels = False

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._local = threading.local()
        # Ours is the parallel loop; BLAS threads inside it would fight over the cores.
        threadpool_limits(1, user_api="blas")

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of unspecified content."""
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros."""
        return np.zeros(shape, dtype)

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """A NumPy array as an array of this device (here: itself)."""
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of this device as a NumPy array (here: itself)."""
        return array

    def upload(self, slot: str, array: NDArray[Any]) -> NDArray[Any]:
        """A host array on this device, until the slot's next upload (here: itself)."""
        return array

    def for_chunks(
        self, work: Callable[[int, int], object], total: int, chunk: int
    ) -> None:
        """Calls work(start, stop) for [0, total) cut into chunks, on the threads.

        The chunks must not write to the same memory. The first exception is raised.
        """
        starts = range(0, total, chunk)
        if self._pool is None or len(starts) == 1:
            for start in starts:
                work(start, min(start + chunk, total))
            return
        jobs = [
            self._pool.submit(work, start, min(start + chunk, total))
            for start in starts
        ]
        for job in jobs:
            job.result()

    def scratch(
        self, key: str, shape: tuple[int, ...], dtype: DTypeLike
    ) -> NDArray[Any]:
        """This thread's reused buffer of that name, of unspecified content."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        held = getattr(self._local, key, None)
        if held is None or held.nbytes < size:
            held = np.empty(size, np.uint8)
            setattr(self._local, key, held)
        return held[:size].view(dtype).reshape(shape)


Device = CpuDevice


def available_cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get(name: str = "auto", threads: int | None = None) -> Device:
    """The device of that name.

    Args:
        name: "cpu", or "auto" for the best there is.
        threads: CPU threads; None takes what this process may use.

    Raises:
        MinicnnError: no such device.
    """
    if name not in NAMES:
        raise MinicnnError(
            f"--device {name}: unknown; choose one of {', '.join(NAMES)}"
        )
    if threads is not None and threads < 1:
        raise MinicnnError(f"--threads {threads}: must be at least 1")
    return CpuDevice(threads)
