"""Work on host arrays, spread over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from minicnn.cores import available_cores


class HostThreads:
    """A loop over threads, for what works on host arrays.

    Args:
        threads: how many; None takes the processors this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        # Ours is the parallel loop; BLAS threads inside it would fight over the cores.
        threadpool_limits(1, user_api="blas")

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
        # What the caller asked of NumPy's warnings does not reach other threads.
        errors = np.geterr()

        def quiet(start: int) -> None:
            with np.errstate(**errors):
                work(start, min(start + chunk, total))

        jobs = [self._pool.submit(quiet, start) for start in starts]
        for job in jobs:
            job.result()
