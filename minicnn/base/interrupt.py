"""Ctrl-C and SIGTERM: a flag that work looks at between safe points, or `Stopped`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from minicnn.base.errors import Stopped

SIGNALS = {"SIGINT": 130, "SIGTERM": 143}
"""What is caught, and the exit status of a command that it stops: 128 + number."""


class Interrupt:
    """Context manager: the first Ctrl-C or SIGTERM sets `requested`.

    A second one falls through to Python's own handling, so that work that hangs can
    still be stopped. Outside the main thread signals cannot be caught and the flag
    stays false.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._restore = lambda: None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.signal_name = signal.Signals(number).name
        self._restore()

    def __enter__(self) -> Interrupt:
        self._restore = _catch(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()


@contextmanager
def raising() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Stopped` at once: for work with nothing to save.

    Outside the main thread signals cannot be caught and nothing changes.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    restore = _catch(stop)
    try:
        yield
    finally:
        restore()


def _catch(handler: Callable[[int, FrameType | None], None]) -> Callable[[], None]:
    """Has the signals call a handler; what puts the earlier ones back."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    numbers = [signal.Signals[name] for name in SIGNALS]
    before: dict[int, Any] = {each: signal.signal(each, handler) for each in numbers}

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        before.clear()

    return restore
