"""How the paper's figures look: colours and markers, lines, axes and legends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minicnn.experiments.plotting import QUIET, grid
from minicnn.experiments.report import curves, intervals
from minicnn.experiments.report.curves import Heights, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYER = "layer n at which the net is cut and retrained"
ACCURACY = "top-1 accuracy (%)"
LOSS = "top-1 accuracy minus base (points)"
PALE = 0.3
"""Opacity of the published numbers behind ours."""


@dataclass(frozen=True)
class Look:
    """How one kind of nets is drawn.

    Attributes:
        colour: of Okabe and Ito's, told apart by colour-blind eyes.
        marker, dash: tell it apart in grey.
        filled: whether its markers are.
        shift: to the right, in layers, so that kinds do not hide one another.
    """

    label: str
    colour: str
    marker: str
    dash: Any = "-"
    filled: bool = True
    shift: float = 0.0

    def line(self, pale: float = 1.0) -> dict[str, Any]:
        """Keywords of a line through means."""
        fill = self.colour if self.filled else "white"
        # A square on its point looks larger than others of its size, and hides more.
        size = 5.5 * (0.82 if self.marker == "D" else 1)
        style = {"color": self.colour, "marker": self.marker, "ls": self.dash}
        return {**style, "mfc": fill, "ms": size, "alpha": pale}

    def points(self, pale: float = 1.0) -> dict[str, Any]:
        """Keywords of single nets, of which several may lie together."""
        style = self.line(0.75 * pale)
        return {**style, "ls": "none", "ms": 0.87 * style["ms"], "mew": 0.9}


BLACK, BLUE, SKY = "#000000", "#0072B2", "#56B4E9"
RED, ORANGE, GREEN, PURPLE = "#D55E00", "#E69F00", "#009E73", "#CC79A7"

BASE = Look("base", BLACK, "o", filled=False)
TREATMENTS = {
    "selffer": Look("selffer, frozen (BnB)", BLUE, "o", "-", True, -0.24),
    "selffer+": Look("selffer, fine-tuned (BnB+)", SKY, "^", "--", False, -0.08),
    "transfer": Look("transfer, frozen (AnB)", RED, "D", "-", True, 0.08),
    "transfer+": Look("transfer, fine-tuned (AnB+)", ORANGE, "s", "--", False, 0.24),
}
# Not dotted, as chance is, nor dashed, as the bases' mean is.
RANDOM = Look("random filters", GREEN, "X", (0, (7, 1.5, 1.2, 1.5, 1.2, 1.5)))
NATURAL = Look("target natural", BLUE, "^", "-.", True, 0.05)
MANMADE = Look("target man-made", PURPLE, "v", "--", True, -0.05)
DISSIMILAR = Look("natural/man-made", PURPLE, "v", "--", True, 0.06)
FEW = Look("bases on few images", BLUE, "o")


def line(
    axes: Axes,
    look: Look,
    column: Heights,
    drops: Heights,
    start: float | None,
    pale: float = 1.0,
) -> str:
    """A line through means from the base at 0; returns it in words, "" for no line.

    Args:
        column: what the means are of: accuracies in %, or `drops` themselves.
        drops: differences from the base, in points, whose intervals are the error bars.
        start: height at n = 0; None starts at the first n.
        pale: opacity; below 1 it is laid behind, without error bars.
    """
    if not column:
        return ""
    means = {n: fmean(each) for n, each in column.items()}
    # The published lie exactly behind ours, kind by kind.
    xs, behind = [n + look.shift for n in means], pale < 1
    order = 2 if behind else 3
    if start is not None:
        ends = [start, next(iter(means.values()))]
        style: dict[str, Any] = {"color": look.colour, "ls": look.dash}
        axes.plot([0, xs[0]], ends, alpha=pale, zorder=order, **style)
    label = "_" if behind else look.label
    axes.plot(xs, list(means.values()), label=label, zorder=order, **look.line(pale))
    for x, (n, mean) in zip(xs, means.items(), strict=True):
        found = intervals.of_mean(drops[n]) if drops.get(n) and not behind else None
        if found and found.low is not None and found.high is not None:
            reach = [[found.mean - found.low], [found.high - found.mean]]
            # Above the markers, caps as wide, or small intervals would not be seen.
            style = {"color": look.colour, "capsize": 4.5, "lw": 1.1, "zorder": 4}
            axes.errorbar(x, mean, reach, **style)
    unit = "points" if column is drops else "%"
    words = ", ".join(f"n = {n}: {mean:.1f}" for n, mean in means.items())
    return f"{look.label} ({unit}): {words}."


def points(axes: Axes, look: Look, column: Heights, pale: float = 1.0) -> None:
    """Every net, and the mean of each n as a short line."""
    label = "_" if pale < 1 else look.label
    for n, scores in column.items():
        # Kinds so far apart that a short line does not reach a neighbour's nets.
        x = n + 1.25 * look.shift
        # Nets of equal accuracy stay visible side by side.
        xs = [x + 0.012 * (i - (len(scores) - 1) / 2) for i in range(len(scores))]
        axes.plot(xs, scores, label=label, **look.points(pale), zorder=3)
        label, mean = "_", fmean(scores)
        style: dict[str, Any] = {"color": look.colour, "lw": 1.6, "alpha": pale}
        axes.plot([x - 0.075, x + 0.075], [mean, mean], zorder=2, **style)


def base_points(axes: Axes, units: Iterable[Unit], pale: float = 1.0) -> None:
    """The bases at 0 and, unless they lie behind, their mean across."""
    found = curves.bases(units)
    if found:
        points(axes, BASE, {0: found}, pale)
    if found and pale == 1:
        base_line(axes, fmean(found))


def base_line(axes: Axes, height: float, label: str = "mean of the bases") -> None:
    """The bases' mean across the whole axis."""
    style: dict[str, Any] = {"color": QUIET, "lw": 0.9, "ls": (0, (6, 3)), "zorder": 1}
    axes.axhline(height, label=label, **style)


def layer_axis(axes: Axes) -> None:
    """The x axis of depths, base at 0, then layers 1..7; and a grid of heights."""
    grid(axes)
    axes.set_xlim(-0.5, 7.5)
    axes.set_xticks(range(8), ["base", *map(str, range(1, 8))])
    axes.set_xlabel(LAYER)


def chance_line(axes: Axes, classes: Iterable[int]) -> None:
    """A guess's accuracy, where the axis reaches near it: call it when all is drawn.

    Args:
        classes: of the tasks shown.
    """
    low, high = axes.get_ylim()
    for chance in {100 / each for each in classes}:
        if low - chance < 0.5 * (high - low):
            axes.axhline(chance, color=QUIET, ls=":", lw=1.1, zorder=1, label="chance")


def legend(figure: Figure, axes: Iterable[Axes], behind: bool = False) -> None:
    """One legend above all axes.

    Args:
        behind: whether published numbers lie behind, which it then says.
    """
    from matplotlib.lines import Line2D

    found: dict[str, Any] = {}
    for each in axes:
        handles, labels = each.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if behind:
        style: dict[str, Any] = {"color": QUIET, "marker": "D", "alpha": PALE}
        found["pale: published, 2014"] = Line2D([], [], **style)
    # Handles so long that dashes can be told apart beside the marker.
    style = {"loc": "outside upper center", "ncols": 3, "handlelength": 3.2}
    style |= {"columnspacing": 1.0, "handletextpad": 0.5}
    figure.legend(list(found.values()), list(found), **style)
