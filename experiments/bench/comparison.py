"""What a comparison with PyTorch found: losses, times, and their table."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from minicnn.experiments.printing import columns

# minicnn's precisions that are as exact as one of PyTorch's, if not that one alone.
AS_EXACT = {"fp32": ("fp32", "tf32x3")}
BUSY = 0.2  # processors that others may use before the table says so


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
        losses: of one batch, before and after an update, by whose; float32, without
            dropout.
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
    losses: dict[str, list[float]]
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


def table(c: Comparison) -> str:
    """The comparison for people."""
    both = {who: " and ".join(f"{x:.6f}" for x in c.losses[who]) for who in c.losses}
    alone: list[dict[str, Any]] = [
        {"PyTorch's modes, each alone": each.mode}
        | (
            {"ms": each.seconds * 1e3, "images/s": c.batch / each.seconds}
            if each.seconds
            else {"failed": each.error}
        )
        for each in c.tried
    ]
    head = f"In turns, median of {len(c.ours[0].seconds)} rounds"
    turns: list[dict[str, Any]] = []
    for each in (*c.ours, *c.theirs):
        mine = each in c.ours
        taken = (each.median, min(each.seconds), max(each.seconds))
        ms = zip(("ms", "least", "most"), (x * 1e3 for x in taken), strict=True)
        row: dict[str, Any] = {
            head: f"minicnn {each.precision}" if mine else f"PyTorch {each.name}"
        }
        row |= {**dict(ms), "images/s": c.batch / each.median}
        ratios = {} if mine else c.ratios(each)
        row["ratio"] = ", ".join(f"{x:.2f} of {name}" for name, x in ratios.items())
        turns.append(row)
    parts = [
        f"PyTorch {c.torch}, the same training step of {c.arch}, batch {c.batch}, on "
        f"{c.device}, {c.threads} threads.\n"
        "Losses of the same weights and batch, before and after an update: minicnn "
        f"{both['minicnn']}, PyTorch {both['torch']}.",
        columns(alone),
        columns(turns),
    ]
    said = "\n\n".join(parts)
    if (c.busy or 0) > BUSY:
        said += (
            f"\nOther programs kept {c.busy:.1f} processors busy: measure again when "
            "the machine is idle."
        )
    return said
