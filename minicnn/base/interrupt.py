"""Ctrl-C and SIGTERM: a flag that work looks at between safe points, or `Stopped`."""

from __future__ import annotations

import signal
import threading
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
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.signal_name = signal.Signals(number).name
        self.__exit__()

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in [signal.Signals[name] for name in SIGNALS]:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class raising(Interrupt):
    """Ctrl-C and SIGTERM raise `Stopped` at once: for work with nothing to save."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)
