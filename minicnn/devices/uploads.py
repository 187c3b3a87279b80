"""Copies of large arrays from host memory to a GPU that run beside its work.

A copy runs by itself only from pinned memory: the system may move what is not, and the
driver then copies it first, after waiting for the GPU. It has a stream of its own and
two buffers, that take turns: copy t + 1 runs while step t computes.

    copies    copy 1   copy 2 ────┐  copy 3 ────┐
                  └──►        ┌───┴─►       ┌───┴─►
    work          crop 1, step 1    crop 2, step 2    …

A copy begins once the work that last read its buffer has ended, and work once its copy
has. The host, when it has queued that work, waits for the copy alone: then its array
may be written anew.
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


@dataclass
class _Turn:
    """A buffer of the GPU, and the event after which nobody reads it."""

    read: Any
    buffer: Any = None


class Uploads:
    """The copies to one GPU.

    Args:
        cupy: the module.
        dev: the GPU; its buffers grow where an array is larger than those before.
    """

    def __init__(self, cupy: Any, dev: Device) -> None:
        self._cupy, self._dev = cupy, dev
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._turns = deque(_Turn(self._event()) for _ in range(2))

    @contextmanager
    def streamed(self, array: NDArray[Any]) -> Iterator[Any]:
        """See `Device.streamed`."""
        here = self._cupy.cuda.get_current_stream()
        self._turns.rotate()
        turn = self._turns[0]
        if turn.buffer is None or turn.buffer.nbytes < array.nbytes:
            turn.buffer = self._dev.empty((array.nbytes,), np.uint8)
            # Its memory may be some that work still queued here is using.
            turn.read.record(here)
        buffer = turn.buffer[: array.nbytes].view(array.dtype).reshape(array.shape)
        self._stream.wait_event(turn.read)
        buffer.set(array, stream=self._stream)
        copied = self._event()
        copied.record(self._stream)
        here.wait_event(copied)
        try:
            yield buffer
        finally:
            turn.read.record(here)
            copied.synchronize()

    def _event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)
