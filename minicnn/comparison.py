"""What a comparison with PyTorch found: losses, times, and their table."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

BUSY = 0.2  # processors that others may use before the table says so


@dataclass(frozen=True)
class Losses:
    """Of one batch, before and after an update; float32, without dropout."""

    minicnn: tuple[float, float]
    torch: tuple[float, float]


@dataclass(frozen=True)
class Tried:
    """A mode of PyTorch, timed alone.

    Attributes:
        seconds: of a step; None where it failed.
        error: why, in one line.
    """

    mode: str
    precision: str
    seconds: float | None
    error: str = ""


@dataclass(frozen=True)
class Turns:
    """Seconds of a step in each round."""

    name: str
    precision: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """What `against_torch.compare` measured.

    Attributes:
        torch: PyTorch's version.
        busy: processors that other programs used when it began; None if unknown.
        tried: each mode alone.
        ours: minicnn's turns, in each precision that PyTorch was tried in.
        theirs: those of PyTorch's fastest modes of each precision.
    """

    arch: str
    batch: int
    device: str
    threads: int
    torch: str
    busy: float | None
    losses: Losses
    tried: list[Tried]
    ours: list[Turns]
    theirs: list[Turns]

    def ratio(self, turns: Turns) -> float:
        """Over minicnn's time in the same precision: above 1, minicnn is faster."""
        ours = {each.precision: each.median for each in self.ours}
        return turns.median / ours[turns.precision]

    def best(self) -> dict[str, Turns]:
        """PyTorch's fastest mode in turns, by precision."""
        ordered = sorted(self.theirs, key=lambda each: -each.median)
        return {each.precision: each for each in ordered}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all of it, medians, rates, and PyTorch's time over minicnn's."""

        def record(turns: Turns) -> dict[str, Any]:
            rate = self.batch / turns.median
            more = {"median": turns.median, "images_per_second": rate}
            return {**asdict(turns), **more, "ratio": self.ratio(turns)}

        return {
            **asdict(self),
            "ours": [record(each) for each in self.ours],
            "theirs": [record(each) for each in self.theirs],
            "best": {kind: each.name for kind, each in self.best().items()},
        }


def table(comparison: Comparison) -> str:
    """The comparison for people."""
    c = comparison

    def losses(pair: tuple[float, float]) -> str:
        return " and ".join(f"{loss:.6f}" for loss in pair)

    def line(name: str, *cells: str) -> str:
        return f"{name:40}" + "".join(f"{cell:>12}" for cell in cells)

    lines = [
        f"PyTorch {c.torch}, the same training step of {c.arch}, batch {c.batch}, on "
        f"{c.device}, {c.threads} threads.",
        "Losses of the same weights and batch, before and after an update: minicnn "
        f"{losses(c.losses.minicnn)}, PyTorch {losses(c.losses.torch)}.",
        "",
        line("PyTorch's modes, each alone", "ms", "images/s"),
    ]
    for each in c.tried:
        if each.seconds is None:
            lines.append(f"{each.mode:40}failed: {each.error}")
            continue
        rate = f"{c.batch / each.seconds:,.1f}"
        lines.append(line(each.mode, f"{each.seconds * 1e3:.3f}", rate))
    head = f"In turns, median of {len(c.ours[0].seconds)} rounds"
    lines += ["", line(head, "ms", "least", "most", "images/s", "ratio")]
    for turns in (*c.ours, *c.theirs):
        taken = turns.median, min(turns.seconds), max(turns.seconds)
        cells = [f"{seconds * 1e3:.3f}" for seconds in taken]
        cells.append(f"{c.batch / turns.median:,.1f}")
        name = f"minicnn {turns.precision}"
        if turns not in c.ours:
            name = f"PyTorch {turns.name}"
            cells.append(f"{c.ratio(turns):.2f}")
        lines.append(line(name, *cells))
    if (c.busy or 0) > BUSY:
        lines.append(
            f"Other programs kept {c.busy:.1f} processors busy: measure again when the "
            "machine is idle."
        )
    return "\n".join(lines)
