"""Copies from host memory to a GPU that run beside its work.

A copy runs by itself only from pinned memory: the system may move what is not, and the
driver then copies it first, after waiting for the GPU. Two kinds of copies:

- small ones (labels, corners of crops) go through pinned memory of their own into one
  fixed buffer each, in the order of the GPU's work: nothing waits, for they are short;
- large ones (a batch of images) have a stream of their own and two buffers each, that
  take turns: copy t + 1 runs while step t computes.

    copies    copy 1   copy 2 ────┐  copy 3 ────┐
                  └──►        ┌───┴─►       ┌───┴─►
    work          crop 1, step 1    crop 2, step 2    …

A large copy begins once the work that last read its buffer has ended, and work once its
copy has. The host, when it has queued that work, waits for the copy alone: then its
array may be written anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.devices.protocol import Device

# Pinned copies of a small array: the host may be so many steps ahead of the GPU.
AHEAD = 2


@dataclass
class _Slot:
    """A buffer of the GPU, and the event after which nobody reads it."""

    buffer: Any
    read: Any


class Uploads:
    """The copies to one GPU.

    Args:
        cupy: the module.
        dev: the GPU; its buffers grow where an array is larger than those before.
    """

    def __init__(self, cupy: Any, dev: Device) -> None:
        self._cupy, self._dev = cupy, dev
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._staged: dict[str, deque[tuple[NDArray[np.uint8], Any]]] = {}
        self._slots: dict[str, deque[_Slot]] = {}

    def small(self, slot: str, array: NDArray[Any]) -> Any:
        """See `Device.upload`."""
        here = self._cupy.cuda.get_current_stream()
        buffer = self._dev.scratch(f"upload {slot}", array.shape, array.dtype)
        ring = self._staged.setdefault(slot, deque())
        stage, copied = ring.popleft() if len(ring) == AHEAD else (None, self._event())
        if stage is not None:
            copied.synchronize()
        if stage is None or stage.nbytes < array.nbytes:
            stage = self._dev.host_empty((array.nbytes,), np.uint8)
        source = stage[: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(source, array)
        buffer.set(source, stream=here)
        copied.record(here)
        ring.append((stage, copied))
        return buffer

    @contextmanager
    def large(self, slot: str, array: NDArray[Any]) -> Iterator[Any]:
        """See `Device.streamed`."""
        here, array = self._cupy.cuda.get_current_stream(), np.ascontiguousarray(array)
        held = self._turn(slot, array.nbytes, here)
        buffer = held.buffer[: array.nbytes].view(array.dtype).reshape(array.shape)
        self._stream.wait_event(held.read)
        buffer.set(array, stream=self._stream)
        copied = self._event()
        copied.record(self._stream)
        here.wait_event(copied)
        try:
            yield buffer
        finally:
            held.read.record(here)
            copied.synchronize()

    def _turn(self, name: str, size: int, here: Any) -> _Slot:
        """The buffer whose turn it is, of at least so many bytes."""
        slots = self._slots.setdefault(name, deque())
        if len(slots) == 2 and slots[0].buffer.nbytes >= size:
            slots.rotate(-1)
            return slots[-1]
        if len(slots) == 2:
            slots.popleft()
        slot = _Slot(self._dev.empty((size,), np.uint8), self._event())
        # Its memory may be some that work still queued here is using.
        slot.read.record(here)
        slots.append(slot)
        return slot

    def _event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)
