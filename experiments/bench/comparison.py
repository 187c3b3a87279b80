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

        def record(turns: Turns, **more: Any) -> dict[str, Any]:
            rate = self.batch / turns.median
            known = {"median": turns.median, "images_per_second": rate}
            return {**asdict(turns), **known, **more}

        theirs = [record(each, ratios=self.ratios(each)) for each in self.theirs]
        best = {kind: each.name for kind, each in self.best().items()}
        ours = [record(each) for each in self.ours]
        return {**asdict(self), "ours": ours, "theirs": theirs, "best": best}


def table(c: Comparison) -> str:
    """The comparison for people."""
    both = {who: " and ".join(f"{x:.6f}" for x in c.losses[who]) for who in c.losses}
    alone: list[dict[str, Any]] = []
    for tried in c.tried:
        alone.append({"PyTorch's modes, each alone": tried.mode})
        if tried.seconds:
            rate = c.batch / tried.seconds
            alone[-1] |= {"ms": tried.seconds * 1e3, "images/s": rate}
        else:
            alone[-1]["failed"] = tried.error
    turns: list[dict[str, Any]] = []
    for each in (*c.ours, *c.theirs):
        mine = each in c.ours
        name = f"minicnn {each.precision}" if mine else f"PyTorch {each.name}"
        ratios = {} if mine else c.ratios(each)
        turns.append(
            {
                f"In turns, median of {len(each.seconds)} rounds": name,
                "ms": each.median * 1e3,
                "least": min(each.seconds) * 1e3,
                "most": max(each.seconds) * 1e3,
                "images/s": c.batch / each.median,
                "ratio": ", ".join(f"{x:.2f} of {kind}" for kind, x in ratios.items()),
            }
        )
    busy = (
        f"\nOther programs kept {c.busy:.1f} processors busy: measure again when the "
        "machine is idle."
    )
    return (
        f"PyTorch {c.torch}, the same training step of {c.arch}, batch {c.batch}, on "
        f"{c.device}, {c.threads} threads.\n"
        "Losses of the same weights and batch, before and after an update: minicnn "
        f"{both['minicnn']}, PyTorch {both['torch']}.\n\n"
        f"{columns(alone)}\n\n{columns(turns)}{busy * ((c.busy or 0) > BUSY)}"
    )
