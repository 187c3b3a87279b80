"""Work on host arrays, spread over threads."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

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
        # A pool of concurrent.futures takes twice as long to hand over a task.
        self._tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._handing_out = Lock()
        for _ in range(self.threads - 1):
            Thread(target=_help, args=(self._tasks,), daemon=True).start()
            weakref.finalize(self, self._tasks.put, _leave)
        # Ours is the parallel loop; BLAS threads inside it would fight over the cores.
        threadpool_limits(1, user_api="blas")

    def for_chunks(
        self, work: Callable[[int, int], object], total: int, chunk: int
    ) -> None:
        """Calls work(start, stop) for [0, total) cut into chunks, on the threads.

        The chunks must not write to the same memory. An exception in one is raised. The
        calling thread takes part, so that little waits for the others to wake.
        """
        starts = range(0, total, chunk)
        left = iter(starts)  # whoever is free takes the next

        def take() -> None:
            for start in left:
                work(start, min(start + chunk, total))

        helpers = min(self.threads, len(starts)) - 1
        if helpers < 1:
            take()
            return
        # What the caller asked of NumPy's warnings does not reach other threads.
        asked = np.geterr()
        ended: SimpleQueue[BaseException | None] = SimpleQueue()

        def help_out() -> None:
            error = None
            try:
                with np.errstate(**asked):
                    take()
            except BaseException as raised:  # the caller's to raise
                error = raised
            ended.put(error)

        self.hand_out(help_out, helpers)
        try:
            take()
        finally:
            errors = [ended.get() for _ in range(helpers)]
        for error in filter(None, errors):
            raise error

    def hand_out(self, task: Callable[[], object], helpers: int) -> None:
        """Has so many of the other threads call a task, which must not raise."""
        with self._handing_out:  # tasks that wait for each other must not mix
            for _ in range(helpers):
                self._tasks.put(task)


def _help(tasks: SimpleQueue[Callable[[], object]]) -> None:
    while (task := tasks.get()) is not _leave:
        task()
        del task  # it holds the loop's arrays, perhaps the device


def _leave() -> None:
    """A helper's last task."""
