"""What a comparison with PyTorch found: losses, times, and their table."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

# minicnn's precisions that are as exact as one of PyTorch's, if not that one alone.
AS_EXACT = {"fp32": ("fp32", "tf32x3")}
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
        ours: minicnn's turns, in each precision that PyTorch was tried in, and those
            that are as exact.
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

    def ratios(self, turns: Turns) -> dict[str, float]:
        """Over minicnn's time, in each precision that is as exact."""
        names = AS_EXACT.get(turns.precision, (turns.precision,))
        ours = {each.precision: each.median for each in self.ours}
        return {name: turns.median / ours[name] for name in names if name in ours}

    def best(self) -> dict[str, Turns]:
        """PyTorch's fastest mode in turns, by precision."""
        ordered = sorted(self.theirs, key=lambda each: -each.median)
        return {each.precision: each for each in ordered}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all of it, medians, rates, and PyTorch's time over minicnn's."""

        def record(turns: Turns) -> dict[str, Any]:
            rate = self.batch / turns.median
            more = {"median": turns.median, "images_per_second": rate}
            return {**asdict(turns), **more}

        return {
            **asdict(self),
            "ours": [record(each) for each in self.ours],
            "theirs": [
                {**record(each), "ratios": self.ratios(each)} for each in self.theirs
            ],
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
        name, more = f"minicnn {turns.precision}", ""
        if turns not in c.ours:
            name = f"PyTorch {turns.name}"
            same, *others = c.ratios(turns).items()
            cells.append(f"{same[1]:.2f}")
            more = "".join(f", {ratio:.2f} of {other}" for other, ratio in others)
        lines.append(line(name, *cells) + more)
    if (c.busy or 0) > BUSY:
        lines.append(
            f"Other programs kept {c.busy:.1f} processors busy: measure again when the "
            "machine is idle."
        )
    return "\n".join(lines)
