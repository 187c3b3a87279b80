"""The paper's figures: accuracy against the number of layers kept, and its relatives.

Each function draws one figure of a study, or of the published nets; `behind` is laid
pale under it. It returns the figure and what it shows in words, or None where there are
no such nets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING

from minicnn.experiments.plotting import grid
from minicnn.experiments.report import curves, drawing
from minicnn.experiments.report.curves import SIMILAR, Unit, heights, of_family
from minicnn.experiments.report.drawing import PALE, RANDOM, TREATMENTS, Look
from minicnn.experiments.report.intervals import LEAST
from minicnn.experiments.study.records import Net

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = tuple["Figure", str]
WIDE = 6.2
"""Width of a figure, in inches."""
GUESS = 1.2
"""Multiple of chance below which a net did not train."""
# Distance between kinds, more than a marker: intervals are often smaller than one.
COMPARED = (
    (TREATMENTS["transfer"], "transfer", SIMILAR, "similar tasks", -0.15),
    (drawing.DISSIMILAR, "transfer", curves.DISSIMILAR, "natural/man-made", 0.0),
    (RANDOM, "random", None, "random filters", 0.15),
)


def _axes(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of this height in inches, and its axes, all on one scale."""
    from matplotlib.figure import Figure

    figure = Figure((WIDE, height), layout="constrained")
    return figure, figure.subplots(
        rows, columns, squeeze=False, sharey=True
    ).ravel().tolist()


def transfer(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Figure 2: every net above, the means as lines below."""
    ours, theirs = of_family(units, SIMILAR), of_family(behind, SIMILAR)
    kinds = [kind for kind in TREATMENTS if heights(ours, kind)]
    if not kinds:
        return None
    figure, (upper, lower) = _axes(7.0, 2)
    said = []
    for some, pale in ((theirs, PALE), (ours, 1.0)):
        start = drawing.base_points(upper, some, pale)
        if start is not None and some is ours:
            drawing.base_line(lower, start)
            said.append(f"Base: {start:.1f} %.")
        for kind in kinds:
            look, column = TREATMENTS[kind], heights(some, kind)
            drops = heights(some, kind, drops=True)
            drawing.points(upper, look, column, pale)
            words = drawing.line(lower, look, column, drops, start, pale)
            said += [words] * (some is ours)
    for axes in (upper, lower):
        axes.set_ylabel(drawing.ACCURACY)
        drawing.layer_axis(axes, label=axes is lower)
        drawing.chance_line(axes, [unit.classes for unit in ours])
    upper.set_title("every net; short lines: means")
    lower.set_title("means; bars: 95 % intervals of the difference from the base")
    drawing.legend(figure, [upper, lower], bool(theirs))
    return figure, "Top-1 accuracy against n. " + " ".join(said)


def _both(axes: Axes, some: list[Unit]) -> str:
    """The mean of both targets, where each has too few units for an interval.

    Its height is the mean base plus the mean drop, each net against its own base.
    """
    drops = heights(some, "transfer", drops=True)
    targets = Counter(unit.target for unit in some if unit.drops("transfer"))
    if targets.total() < LEAST or max(targets.values()) >= LEAST:
        return ""
    start = fmean(curves.bases(some))
    column = {n: [start + fmean(each)] for n, each in drops.items()}
    return drawing.line(axes, drawing.BOTH, column, drops, start)


def _panel(axes: Axes, kind: str, some: list[Unit], pale: float) -> list[str]:
    """One line for each target, or one of random filters; returns them in words."""
    targets = {"A": drawing.NATURAL, "B": drawing.MANMADE}
    looks = targets if kind == "transfer" else {"": RANDOM}
    # Under the targets' own lines.
    both = _both(axes, some) if pale == 1 and kind == "transfer" else ""
    said = []
    for target, look in looks.items():
        mine = [unit for unit in some if target in ("", unit.target)]
        column, drops = heights(mine, kind), heights(mine, kind, drops=True)
        start = drawing.base_points(axes, mine, pale)
        said.append(drawing.line(axes, look, column, drops, start, pale))
    return [each for each in (*said, both) if each]


def panels(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Figure 3, above: transfer between dissimilar tasks, and random filters."""
    apart, theirs = (of_family(x, curves.DISSIMILAR) for x in (units, behind))
    random = [unit for unit in units if ("random", 0) in unit.scores]
    whole = of_family(behind, curves.WHOLE)
    shown = [
        ("between natural and man-made", "transfer", apart, theirs),
        ("layers 1..n random and frozen", "random", random, whole),
    ]
    shown = [each for each in shown if heights(each[2], each[1])]
    if not shown:
        return None
    figure, row = _axes(3.7, columns=len(shown))
    said = []
    for axes, (title, kind, mine, theirs) in zip(row, shown, strict=True):
        _panel(axes, kind, theirs, PALE)
        said.append(f"{title}: " + " ".join(_panel(axes, kind, mine, 1.0)))
        axes.set_title(title)
        drawing.layer_axis(axes, label=False)
    for axes, (_, _, mine, _) in zip(row, shown, strict=True):
        drawing.chance_line(axes, [unit.classes for unit in mine])
    row[0].set_ylabel(drawing.ACCURACY)
    figure.supxlabel(drawing.LAYER, fontsize=9)
    drawing.legend(figure, row, any(theirs for *_, theirs in shown))
    return figure, "Top-1 accuracy against n, " + " ".join(said)


def relative(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Figure 3, below: what is lost by similar, dissimilar and random features."""
    figure, [axes] = _axes(4.0)
    said = []
    for look, kind, family, label, shift in COMPARED:
        mine, theirs = (
            heights(of_family(some, family), kind, drops=True)
            for some in (units, behind)
        )
        named = replace(look, label=label, shift=shift)
        if mine:
            drawing.line(axes, named, theirs, theirs, 0.0, PALE)
            said.append(drawing.line(axes, named, mine, mine, 0.0))
    if not said:
        return None
    drawing.base_line(axes, 0, "base")
    axes.set_ylabel(drawing.LOSS)
    drawing.layer_axis(axes)
    drawing.legend(figure, [axes], bool(behind))
    return figure, "Top-1 accuracy minus base against n. " + " ".join(said)


def preserved(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Gain from copying and training k more layers; not in the paper."""
    from minicnn.results.pictures import COLOURS, DASHES, MARKERS

    keeps: dict[str, list[int]] = {}
    for kind in ("selffer", "transfer"):
        found = {k for u in units for name, k in u.scores if name == f"{kind}-keep"}
        keeps |= {kind: [0, *sorted(found)]} if found else {}
    if not keeps:
        return None
    figure, row = _axes(3.7, columns=len(keeps))
    said = []
    for axes, kind in zip(row, keeps, strict=True):
        for place, keep in enumerate(keeps[kind]):
            more = f"{keep or 'none'}{' more layer' * (keep > 0)}{'s' * (keep > 1)}"
            at = place % len(COLOURS)
            style = COLOURS[at], MARKERS[at], DASHES[place % len(DASHES)]
            look = Look(f"{more} kept", *style, shift=0.14 * place)
            name = f"{kind}-keep" if keep else kind
            drops = heights(of_family(units, SIMILAR), name, keep, drops=True)
            said.append(f"{kind}, {drawing.line(axes, look, drops, drops, 0.0)}")
        axes.set_title(f"{kind}, frozen to n")
        drawing.base_line(axes, 0, "base")
        drawing.layer_axis(axes, label=False)
    row[0].set_ylabel(drawing.LOSS)
    figure.supxlabel(drawing.LAYER, fontsize=9)
    drawing.legend(figure, row, False)
    return figure, "Top-1 accuracy minus base against n. " + " ".join(said)


def reduced(nets: list[Net], behind: list[Net], score: str) -> Drawn | None:
    """Bases on few images of each class."""
    column, theirs = _by_images(nets, score), _by_images(behind, score)
    if not column:
        return None
    figure, [axes] = _axes(3.8)
    drawing.line(axes, drawing.FEW, theirs, theirs, None, PALE)
    drawing.line(axes, drawing.FEW, column, column, None)
    axes.set_xscale("log")
    axes.set_xticks(list(column), [f"{each:,}" for each in column], rotation=45)
    axes.minorticks_off()
    mine = [net for net in nets if net.kind == "reduced"]
    task = attrgetter("split", "seed", "target")
    tasks = {task(net) for net in mine}
    whole = [net for net in nets if net.kind == "base" and task(net) in tasks]
    if whole:
        height = fmean(100 * net.score(score) for net in whole)
        counts = sorted({net.iterations for net in whole})
        updates = " or ".join(f"{each:,}" for each in counts)
        drawing.base_line(axes, height, f"base on all images, {updates} updates")
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.12 * height))
    axes.set_xlabel("training images per class")
    axes.set_ylabel(drawing.ACCURACY)
    grid(axes)
    drawing.chance_line(axes, [net.classes for net in mine])
    _untrained(axes, mine, score)
    if theirs:
        drawing.legend(figure, [axes], True)
    said = ", ".join(
        f"{images:,}: {fmean(each):.1f}" for images, each in column.items()
    )
    return figure, f"Top-1 accuracy (%) against training images per class. {said}."


def _untrained(axes: Axes, nets: list[Net], score: str) -> None:
    """Says above their points which nets are no better than a guess."""
    lost = [net for net in nets if net.score(score) * net.classes < GUESS]
    images = sorted({round(net.images_per_class) for net in lost})
    if images:
        few = "–".join(dict.fromkeys(f"{each:,}" for each in (images[0], images[-1])))
        height = max(100 * net.score(score) for net in lost)
        words = f"{few} images: at chance, did not train"
        drawing.note(axes, (images[0], height), words, (-3, 7), "data")


def _by_images(nets: list[Net], score: str) -> curves.Heights:
    """Accuracies in % of the bases on few images, by images a class."""
    found: curves.Heights = {}
    for net in sorted(nets, key=lambda net: net.images_per_class):
        if net.kind == "reduced":
            scores = found.setdefault(round(net.images_per_class), [])
            scores.append(100 * net.score(score))
    return found


OF_UNITS = {
    "transfer": transfer,
    "panels": panels,
    "relative": relative,
    "preserved": preserved,
}
