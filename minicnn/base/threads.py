"""Work on host arrays, spread over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from threadpoolctl import threadpool_limits

from minicnn.base.cores import available_cores


class HostThreads:
    """A loop over threads, for what works on host arrays.

    Args:
        threads: how many; None takes the processors this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        helpers = self.threads - 1
        self._pool = ThreadPoolExecutor(helpers) if helpers else None
        # Ours is the parallel loop; BLAS threads inside it would fight over the cores.
        threadpool_limits(1, user_api="blas")

    def for_chunks(
        self, work: Callable[[int, int], object], total: int, chunk: int
    ) -> None:
        """Calls work(start, stop) for [0, total) cut into chunks, on the threads.

        The chunks must not write to the same memory. An exception in one is raised.
        The calling thread is one of the threads, so that little waits for the others
        to wake.
        """
        starts = range(0, total, chunk)
        left = iter(starts)  # whoever is free takes the next

        def take() -> None:
            for start in left:
                work(start, min(start + chunk, total))

        helpers = min(self.threads, len(starts)) - 1
        if self._pool is None or helpers < 1:
            return take()
        # What the caller asked of NumPy's warnings does not reach other threads.
        errors = np.geterr()

        def quiet() -> None:
            with np.errstate(**errors):
                take()

        jobs = [self._pool.submit(quiet) for _ in range(helpers)]
        try:
            take()
        finally:
            wait(jobs)
        for job in jobs:
            job.result()
