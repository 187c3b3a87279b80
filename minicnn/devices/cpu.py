"""The cpu device: NumPy, with BLAS for the products."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.cores import memory_bytes
from minicnn.compile import native
from minicnn.compile.host_compiler import sanitizing
from minicnn.devices.protocol import Device, Work

if TYPE_CHECKING:
    from minicnn.devices.meter import Meter

LOOPS = native.NativeFile("loops.cpp")
# Bytes of a cache line, and of the widest vector: one read at such an address is of one
# line, elsewhere of two.
LINE = 64
# So many threads have arrived that none waits for others, or takes a chunk, any more.
ALL = 1 << 62


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of unspecified content that begins a cache line.

    Under the sanitizers one without room to spare, so that they see where it ends.
    """
    if sanitizing():
        return np.empty(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    whole = np.empty(size + LINE, np.uint8)
    first = -whole.ctypes.data % LINE
    return whole[first : first + size].view(dtype).reshape(shape)


class Loops(list[tuple[native.Bound, int, int]]):
    """Loops of compiled code that a record repeats: function, items, chunk of each.

    All threads run through them together, and wait for each other in compiled code: to
    hand over each loop by a queue would take some 15 µs.
    """

    def __init__(self, dev: CpuDevice) -> None:
        super().__init__()
        self.dev = dev

    @cached_property
    def table(self) -> NDArray[np.uint64]:
        """As `run_loops` reads them."""
        loops = [
            (work.address, ctypes.addressof(work.slots), total, chunk)
            for work, total, chunk in self
        ]
        return np.array(loops, np.uint64)

    def __call__(self) -> None:
        """Runs them."""
        count, threads = len(self), self.dev.threads
        state = np.zeros(1 + count, np.int64)
        run = LOOPS.get("run_loops").bind((self.table, state, threads), {})

        def work() -> None:
            run(0, len(self))  # keeps the loops for a thread that still leaves

        try:
            self.dev.hand_out(work, threads - 1)
            work()  # to the end of the last loop, on whichever thread
        except BaseException:  # Ctrl-C, perhaps before all of them have begun
            state[0] = ALL
            raise


class CpuDevice(Device):
    """NumPy, with the batch cut into chunks that run on threads.

    Each chunk calls BLAS on one thread: the work on an image then stays in one core's
    cache from the first tap to the bias, and the chunks, hence the order of every
    sum, depend on the problem alone. So results do not depend on the thread count.
    """

    name = "cpu"
    has_kernels = False
    on_host = True

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self._record: list[Work] | None = None

    @cached_property
    def native(self) -> bool:  # type: ignore[override]
        """Whether ops run in their compiled forms; may be set to False."""
        return not native.missing()

    def details(self) -> dict[str, Any]:
        """Whether ops run in their compiled forms."""
        return {"native": self.native}

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        return aligned(shape, dtype)

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def streamed(self, array: NDArray[Any]) -> AbstractContextManager[NDArray[Any]]:
        """The array itself."""
        return nullcontext(array)

    def has_room(self, size: int) -> bool:
        # A control group's limit holds for the pages of files, too.
        free, most = self.free_bytes(), memory_bytes()
        return size <= (most if free is None else min(free, most)) // 2

    def record(self, work: Work) -> Work:
        """Runs the work; returns what repeats its loops over threads, see `once`."""
        record: list[Work] = []
        self._record = record
        try:
            work()
        finally:
            self._record = None

        def again() -> None:
            for each in record:
                each()

        return again

    def for_chunks(
        self, work: Callable[[int, int], object], total: int, chunk: int
    ) -> None:
        """See `HostThreads`."""
        if (record := self._record) is not None:
            if isinstance(work, native.Bound):
                last = record[-1] if record else None
                if not isinstance(last, Loops):
                    record.append(last := Loops(self))
                last.append((work, total, chunk))
            else:
                record.append(partial(super().for_chunks, work, total, chunk))
        super().for_chunks(work, total, chunk)

    def once(self, work: Work) -> None:
        """See `Device`."""
        record, self._record = self._record, None
        try:
            work()
        finally:
            self._record = record
        if record is not None:
            record.append(work)

    def free_bytes(self) -> int | None:
        try:
            with open("/proc/meminfo", encoding="ascii") as file:
                lines = dict(line.split(":") for line in file)
            return int(lines["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return None

    def meter(self) -> Meter:
        from minicnn.devices.meter import HostMeter

        return HostMeter(self)
