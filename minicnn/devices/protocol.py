"""What every device offers: arrays, copies, threads of the host, and launches.

Everything above this room is handed a `Device` and asks it for nothing else.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.threads import HostThreads
from minicnn.compile.host_compiler import sanitizing

if TYPE_CHECKING:
    from minicnn.devices.meter import Meter

Work = Callable[[], object]


class Device(HostThreads, ABC):
    """Where arrays lie and ops run.

    An array is NumPy's or CuPy's, in C order. Work on a GPU is queued: only `to_host`
    and `synchronize` wait for it.

    Attributes:
        name: as `device.get` takes it.
        threads: of the host.
        has_kernels: whether ops launch kernels, through `launcher`.
        launcher: offers what `EmulatedLauncher` does, or None.
        native: whether ops run in their compiled forms, where they have no kernels.
        on_host: whether its arrays are the host's, and host memory needs no copy.
        on_gpu: whether it is a GPU; the emulated device is neither.
        shared_bytes: most shared memory of a block, in bytes; an H100's, unless the
            device has another limit.
        generation: counts `outdate_records`.
    """

    name: str
    has_kernels: bool
    launcher: Any = None
    native: bool = False
    on_host = False
    on_gpu = False
    shared_bytes = 227 << 10
    generation = 0

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self._scratch = threading.local()
        self._uploads: dict[Any, Any] = {}

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """An array of unspecified content.

        Raises:
            MinicnnError: the memory is full.
        """

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """An array of zeros, whose memory is taken now; raises as `empty` does."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def scratch(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """The thread's reused buffer of that name, of unspecified content.

        Under the sanitizers a new one, so that its end shows.
        """
        if sanitizing():
            return self.empty(shape, dtype)
        size, buffers = math.prod(shape) * np.dtype(dtype).itemsize, vars(self._scratch)
        if key not in buffers or buffers[key].nbytes < size:
            buffers[key] = self.empty((size,), np.uint8)
            self.outdate_records()
        return buffers[key][:size].view(dtype).reshape(shape)

    @abstractmethod
    def from_host(self, array: NDArray[Any]) -> Any:
        """A NumPy array on this device; a copy where kernels need one."""

    @abstractmethod
    def to_host(self, array: Any) -> NDArray[Any]:
        """A device array as a NumPy array; waits for the device."""

    def host_empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A host array of unspecified content, in the fastest memory to copy from."""
        return np.empty(shape, dtype)

    def upload(self, slot: str, array: NDArray[Any]) -> Any:
        """A small host array on this device, until the slot's next upload.

        It lies where others of that slot, shape and dtype did: recorded steps read it.
        """
        key = slot, array.shape, array.dtype
        if key not in self._uploads:
            self._uploads[key] = self.empty(array.shape, array.dtype)
        self._uploads[key][...] = self.from_host(array)
        return self._uploads[key]

    @abstractmethod
    def streamed(self, array: NDArray[Any]) -> AbstractContextManager[Any]:
        """A large host array on this device for a block's length, then free to change.

        It is copied while earlier work runs, best from `host_empty`.
        """

    @abstractmethod
    def has_room(self, size: int) -> bool:
        """Whether `size` bytes of images fit in half of the free memory."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Memory left for new buffers, or None where the system does not say."""

    @abstractmethod
    def record(self, work: Work) -> Work | None:
        """Runs the work; returns a function that repeats it, or None."""

    def once(self, work: Work) -> None:
        """Runs work on the host, which a record repeats as a whole."""
        work()

    def synchronize(self) -> None:
        """Waits until all work is done."""

    @abstractmethod
    def meter(self) -> Meter:
        """What times work on this device."""

    def details(self) -> dict[str, Any]:
        """What else a record of a run says of the device."""
        return {}

    def outdate_records(self) -> None:
        """Makes records void, after a buffer they use was dropped; see `recording`."""
        self.generation += 1
