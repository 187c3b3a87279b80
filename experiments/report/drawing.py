"""How the paper's figures look: colours and markers, lines, axes and legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minicnn.experiments.plotting import QUIET, grid
from minicnn.experiments.report import curves, intervals
from minicnn.experiments.report.curves import Heights, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYER = "layer n at which the network is cut and retrained"
ACCURACY = "top-1 accuracy (%)"
LOSS = "top-1 accuracy minus base (points)"
BASE_DASHES = (0, (6, 3))
PALE = 0.3
"""Opacity of the published numbers behind ours."""
_NOTE: dict[str, Any] = {"color": QUIET, "fontsize": 8}


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
BOTH = Look("mean of both targets", QUIET, ".")
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


def base_points(axes: Axes, units: Iterable[Unit], pale: float = 1.0) -> float | None:
    """The bases at 0 and, unless they lie behind, their mean across; returns it."""
    found = curves.bases(units)
    if not found:
        return None
    points(axes, BASE, {0: found}, pale)
    if pale == 1:
        base_line(axes, fmean(found))
    return fmean(found)


def base_line(axes: Axes, height: float, text: str = "") -> None:
    """The bases' mean across the whole axis, and words above its left end."""
    axes.axhline(height, color=QUIET, lw=0.9, ls=BASE_DASHES, zorder=1)
    if text:
        note(axes, (0, height), text, (4, 2.5), ("axes fraction", "data"))


def note(
    axes: Axes, at: tuple[float, float], text: str, shift: tuple[float, float], xy: Any
) -> None:
    """Words at a point of coordinates `xy`, shifted by so many points."""
    style = {**_NOTE, "va": "bottom", "xycoords": xy, "textcoords": "offset points"}
    axes.annotate(text, at, xytext=shift, **style)


def layer_axis(axes: Axes, label: bool = True) -> None:
    """The x axis of depths, base at 0, then layers 1..7; and a grid of heights."""
    grid(axes)
    axes.set_xlim(-0.5, 7.5)
    axes.set_xticks(range(8), ["base", *map(str, range(1, 8))])
    axes.set_xlabel(LAYER if label else "")


def chance_line(axes: Axes, classes: Iterable[int]) -> None:
    """A guess's accuracy, where the axis reaches near it, and its words.

    The words stand below all that is drawn, in nothing's way. Call it when all else is
    drawn: it looks at the limits of the axes.

    Args:
        classes: of the tasks shown.
    """
    chances = sorted({100 / each for each in classes})
    if not chances:
        return
    low, high = axes.get_ylim()
    text = f"chance {chances[0]:.2g} %"
    if chances[-1] - chances[0] > 0.05 * chances[0]:
        text = f"chance {chances[0]:.2g} to {chances[-1]:.2g} %"
    lowest = axes.dataLim.y0
    # An axis that starts close above is drawn down to it.
    if low - chances[0] > 0.5 * (high - low):
        text += ": below this axis"
    else:
        lowest = min(lowest, chances[0])
        for chance in chances:
            axes.axhline(chance, color=QUIET, ls=":", lw=1.1, zorder=1)
    # The words, and what keeps them apart, take 13 % of the axis's height.
    axes.set_ylim(min(low, lowest - 0.13 * (high - lowest)), high)
    box = {"facecolor": "white", "lw": 0, "pad": 0.5}
    axes.text(0.01, 0.015, text, bbox=box, transform=axes.transAxes, **_NOTE)


def legend(figure: Figure, axes: Sequence[Axes], behind: bool) -> None:
    """One legend above all axes, in as many columns as there is room for.

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
    if found.pop(BASE.label, None):
        style = BASE.line() | {"color": QUIET, "mec": BASE.colour, "ls": BASE_DASHES}
        # First, as on the axis.
        found = {f"{BASE.label}; dashed: mean": Line2D([], [], lw=0.9, **style)} | found
    # 16 letters an inch; a marker and a gap are as wide as 6.
    longest = max(map(len, found), default=0) + 6
    columns = max(1, int(figure.get_figwidth() * 16 / longest))
    # Handles so long that dashes can be told apart beside the marker.
    style = {"handlelength": 3.2, "columnspacing": 1.0, "handletextpad": 0.5}
    style |= {"loc": "outside upper center", "ncols": columns}
    figure.legend(list(found.values()), list(found), **style)
