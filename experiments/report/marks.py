"""Lines, points and legends that the figures share, and the numbers they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minicnn.experiments.report import intervals
from minicnn.experiments.report.drawing import BASE, BASE_DASHES, PALE, QUIET, Look
from minicnn.experiments.report.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEHIND = "published, 2014"
_TICK, _SPREAD = 0.075, 1.25
"""Half the width of a mean's short line, in layers; how far kinds of single nets are
apart, in shifts, for such lines not to reach a neighbour's nets."""
_CAP = 4.5
"""Half the width of an interval's ends, in points."""
_ROOM = 1.45
"""Numbers this many times apart have room for their words side by side."""
_LETTERS, _HANDLE = 16, 6
"""Of a legend: letters an inch, and the width of a marker and a gap in letters."""


def of(units: Iterable[Unit], family: str | None) -> list[Unit]:
    """The units of a family of splits; None takes all."""
    return [unit for unit in units if family in (None, unit.family)]


def has(units: Iterable[Unit], kinds: Iterable[str], keep: int = 0) -> bool:
    """Whether there is any net of these kinds."""
    kinds = list(kinds)
    return any((kind, keep) in unit.scores for unit in units for kind in kinds)


def column(units: Iterable[Unit], kind: str, keep: int = 0) -> dict[int, list[float]]:
    """By n, the accuracies in %."""
    found: dict[int, list[float]] = {}
    for unit in units:
        for n, score in unit.scores.get((kind, keep), {}).items():
            found.setdefault(n, []).append(100 * score)
    return dict(sorted(found.items()))


def drops(units: Iterable[Unit], kind: str, keep: int = 0) -> dict[int, list[float]]:
    """By n, the accuracies minus the bases' of the same units, in points."""
    found: dict[int, list[float]] = {}
    for unit in units:
        for n, drop in unit.drops(kind, keep).items():
            found.setdefault(n, []).append(100 * drop)
    return dict(sorted(found.items()))


def bases(units: Iterable[Unit]) -> list[float]:
    """The bases' accuracies in %."""
    return [100 * unit.base for unit in units if unit.base is not None]


def line(
    axes: Axes,
    look: Look,
    means: dict[int, float],
    drops: dict[int, list[float]],
    start: float | None,
    pale: float = 1.0,
) -> None:
    """A line through means from the base at 0, with the intervals of the drops.

    Args:
        drops: differences from the base, whose intervals are the error bars.
        start: height at n = 0; None starts at the first n.
        pale: opacity; below 1 it is laid behind, without error bars.
    """
    if not means:
        return
    behind = pale < 1
    label = "_" if behind else look.label
    # The published lie exactly behind ours, kind by kind.
    xs = [n + look.shift for n in means]
    style = look.line(pale) | {"zorder": 2 if behind else 3}
    if start is not None:
        axes.plot(
            [0, xs[0]],
            [start, next(iter(means.values()))],
            color=look.colour,
            ls=look.dash,
            alpha=pale,
            zorder=style["zorder"],
        )
    axes.plot(xs, list(means.values()), label=label, **style)
    if behind:
        return
    for x, (n, mean) in zip(xs, means.items(), strict=True):
        found = intervals.of_mean(drops[n]) if drops.get(n) else None
        if found is None or found.low is None or found.high is None:
            continue
        reach = [[found.mean - found.low], [found.high - found.mean]]
        # Above the markers, with caps as wide, or small intervals would not be seen.
        style = {"color": look.colour, "capsize": _CAP, "lw": 1.1, "zorder": 4}
        axes.errorbar(x, mean, reach, **style)


def points(
    axes: Axes, look: Look, column: dict[int, list[float]], pale: float = 1.0
) -> None:
    """Every net, and the mean of each n as a short line."""
    label = "_" if pale < 1 else look.label
    for n, scores in column.items():
        x = n + _SPREAD * look.shift
        # Nets of equal accuracy stay visible side by side.
        xs = [x + 0.012 * (i - (len(scores) - 1) / 2) for i in range(len(scores))]
        axes.plot(xs, scores, label=label, **look.points(pale), zorder=3)
        label = "_"
        mean = fmean(scores)
        style = {"color": look.colour, "lw": 1.6, "alpha": pale, "zorder": 2}
        axes.plot([x - _TICK, x + _TICK], [mean, mean], **style)


def means(column: dict[int, list[float]]) -> dict[int, float]:
    """The mean of each n."""
    return {n: fmean(scores) for n, scores in column.items()}


def legend(figure: Figure, axes: Sequence[Axes], behind: bool) -> None:
    """One legend above all axes, in as many columns as there is room for.

    Args:
        behind: whether published numbers lie behind, which it then says.
    """
    from matplotlib.lines import Line2D

    found: dict[str, Any] = {}
    for each in axes:
        handles, labels = each.get_legend_handles_labels()
        found |= {label: h for h, label in zip(handles, labels, strict=True)}
    if behind:
        found[f"pale: {BEHIND}"] = Line2D([], [], color=QUIET, marker="D", alpha=PALE)
    if BASE.label in found:
        style = BASE.line() | {"color": QUIET, "mec": BASE.colour, "ls": BASE_DASHES}
        named = Line2D([], [], lw=0.9, **style)
        del found[BASE.label]
        # First, as on the axis.
        found = {f"{BASE.label}; dashed: mean": named} | found
    longest = max(map(len, found), default=0) + _HANDLE
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside upper center",
        # So long that dashes can be told apart beside the marker.
        handlelength=3.2,
        columnspacing=1.0,
        handletextpad=0.5,
        ncols=max(1, int(figure.get_figwidth() * _LETTERS / longest)),
    )


def said(label: str, values: dict[int, float], unit: str) -> str:
    """A curve in words."""
    numbers = ", ".join(f"n = {n}: {value:.1f}" for n, value in values.items())
    return f"{label} ({unit}): {numbers}."


def image_axis(axes: Axes, images: list[int] | list[float]) -> None:
    """A logarithmic axis with a tick at each number, their words in two rows.

    Whole numbers are written out, others to two digits.
    """
    labels: list[str] = []
    last = [float("inf")] * 2
    for each in sorted(images, reverse=True):
        rows = [row for row in range(2) if last[row] / each > _ROOM]
        word = f"{each:,}" if isinstance(each, int) else f"{each:.2g}"
        labels.append("\n" * rows[0] + word if rows else "")
        if rows:
            last[rows[0]] = each
    axes.set_xscale("log")
    axes.set_xticks(sorted(images), labels[::-1])
    axes.minorticks_off()
