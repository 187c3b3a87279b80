"""Streams, events and graphs, whose work is done as late as CUDA allows."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

Work = Callable[[], object]

LOCK = threading.RLock()
"""Of all queues: the GPU does one thing at a time."""

BUSY: set[Stream] = set()
"""The streams that have work to do, or are captured."""


class CUDARuntimeError(RuntimeError):
    """CuPy's."""


class Stream:
    """A queue of work."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        if null or not non_blocking:
            raise AssertionError("no stream of the stand-in waits for Stream.null")
        self.ptr = id(self)
        self._captured: list[Work] | None = None
        self._spoilt = False
        self._todo: deque[Work] = deque()
        self._queued = self._done = 0

    def __enter__(self) -> Stream:
        _CURRENT.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _CURRENT.pop()

    def _add(self, work: Work) -> None:
        """Queues work, or captures it."""
        if self._captured is not None:
            self._captured.append(work)
        else:
            self._queue(work)

    def _queue(self, work: Work) -> None:
        """Queues work even if the stream is captured."""
        with LOCK:
            self._todo.append(work)
            self._queued += 1
            BUSY.add(self)

    def _finish(self, count: int | None = None) -> None:
        """Does the work that is queued, or the first `count` of all there ever was."""
        with LOCK:
            while self._done < (self._queued if count is None else count):
                self._done += 1
                self._todo.popleft()()
            if not self._todo and self._captured is None:
                BUSY.discard(self)

    def _refuse_waiting(self, error: str = "cudaErrorStreamCaptureUnsupported") -> None:
        """Spoils the capture and raises, if the stream is captured."""
        if self._captured is not None:
            self._spoilt = True
            raise CUDARuntimeError(
                f"{error}: operation not permitted when stream is capturing"
            )

    def _refuse_copying(self, way: str) -> None:
        """Raises if the stream is captured; way: "H2D" or "D2H"."""
        if self._captured is not None:
            raise RuntimeError(
                f"the current stream is capturing, so {way} transfers are disallowed"
            )

    def synchronize(self) -> None:
        self._refuse_waiting()
        self._finish()

    def wait_event(self, event: Event) -> None:
        if event._captured is not self._captured:
            # CUDA would capture a stream that waits for one that is captured.
            self._refuse_waiting("cudaErrorStreamCaptureIsolation")
            raise AssertionError("the stand-in captures one stream")
        if self._captured is None:
            self._add(partial(event._stream._finish, event._count))

    def begin_capture(self) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._captured, self._spoilt = [], False
        BUSY.add(self)

    def end_capture(self) -> Graph:
        if self._captured is None:
            raise CUDARuntimeError("cudaErrorIllegalState: no capture was begun")
        works, self._captured = self._captured, None
        if self._spoilt:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous "
                "error during capture"
            )
        return Graph(works)


Stream.null = Stream(non_blocking=True)
Stream.null.ptr = 0


_CURRENT = [Stream.null]


def get_current_stream() -> Stream:
    """CuPy's, but of all threads: the stand-in's stream of others is not asked for."""
    return _CURRENT[-1]


class Graph:
    """What was captured."""

    def __init__(self, works: list[Work]) -> None:
        self._works = works

    def launch(self, stream: Stream | None = None) -> None:
        held, works = weakref.ref(self), self._works

        def run() -> None:
            if held() is None:
                raise CUDARuntimeError("a graph was destroyed before it had run")
            for work in works:
                work()

        (stream or get_current_stream())._add(run)


class Event:
    """CuPy's: a place in a stream, and in the capture that is made of it."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._timed = not disable_timing
        self._stream, self._count = Stream.null, 0  # nothing comes before it yet
        self._captured: list[Work] | None = None
        self._at: float | None = None  # when the stream came by

    def record(self, stream: Stream | None = None) -> None:
        with LOCK:
            self._stream = stream or get_current_stream()
            self._captured = self._stream._captured
            self._count, self._at = self._stream._queued + 1, None
            self._stream._add(self._come_by)

    def _come_by(self) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        if self._captured is not None:
            self._stream._refuse_waiting("cudaErrorCapturedEvent")
            raise CUDARuntimeError("cudaErrorCapturedEvent: it was recorded in a graph")
        self._stream._finish(self._count)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """CuPy's: milliseconds."""
    if not (start_event._timed and end_event._timed):
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: no time was taken")
    if start_event._at is None or end_event._at is None:
        raise CUDARuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end_event._at - start_event._at)
