"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass


@dataclass
class Progress:
    """Counts `total` units of work; use as a context manager.

    On a terminal it is a tqdm bar on standard error. Elsewhere it prints one plain
    line at most every `every` seconds, and one at the end.

    Attributes:
        total: units in all.
        unit: the plural word for one unit in rates, such as "images".
        label: what is being done.
        initial: units already done before now; they do not count in the rate.
        every: seconds between plain lines.
        passing: a part of longer work: its bar, under that one's, goes when it ends,
            and a part that is over before its first plain line has none.
    """

    total: int
    unit: str
    label: str
    initial: int = 0
    every: float = 10.0
    passing: bool = False

    def __post_init__(self) -> None:
        self.done, self.note = self.initial, ""
        self._began = self._spoke = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total,
                initial=self.initial,
                desc=self.label,
                unit=" " + self.unit,
                dynamic_ncols=True,
                smoothing=0.1,
                leave=not self.passing,
            )

    def update(self, count: int, note: str = "") -> None:
        """Adds `count` units; `note` is a short text such as "loss 2.31"."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._spoke >= self.every:
            self._speak()

    def message(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self.initial) / max(time.monotonic() - self._began, 1e-9)

    def _speak(self) -> None:
        rate = self.rate()
        left = (self.total - self.done) / rate if rate > 0 else math.inf
        note = f", {self.note}" if self.note else ""
        self.message(
            f"{self.label}: {self.done}/{self.total}, {rate:,.0f} {self.unit}/s, "
            f"{duration(left)} left{note}"
        )
        self._spoke = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.done > self.initial and not (
            self.passing and self._spoke == self._began
        ):
            self._speak()


def duration(seconds: float) -> str:
    """Seconds as a short text: 42 s, 3 min 05 s, 2 h 10 min, 4 d 03 h."""
    if not math.isfinite(seconds):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
