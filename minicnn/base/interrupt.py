"""Ctrl-C and SIGTERM: a flag that work looks at between safe points, or `Stopped`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from minicnn.base.errors import Stopped

SIGNALS = {"SIGINT": 130, "SIGTERM": 143}
"""What is caught, and the exit status of a command that it stops: 128 + number."""


class Interrupt:
    """Context manager: the first Ctrl-C or SIGTERM sets `requested`.

    A second one falls through to Python's own handling, so that work that hangs can
    still be stopped. Outside the main thread signals cannot be caught and the flag
    stays false.
    """

    signals = tuple(signal.Signals[name] for name in SIGNALS)

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._before: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()


@contextmanager
def raising() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Stopped` at once: for work with nothing to save.

    Outside the main thread signals cannot be caught and nothing changes.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, stop) for each in Interrupt.signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
