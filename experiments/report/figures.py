"""The paper's figures: accuracy against the number of layers kept, and its relatives.

Each function draws one figure of a study, or of the published nets; `behind` is laid
pale under it. It returns the figure and what it shows in words, or None where there are
no such nets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING

from minicnn.experiments.plotting import grid
from minicnn.experiments.report import curves, drawing
from minicnn.experiments.report.curves import (
    DISSIMILAR,
    SIMILAR,
    Unit,
    heights,
    of_family,
)
from minicnn.experiments.report.drawing import PALE, RANDOM, TREATMENTS, Look
from minicnn.experiments.study.records import Net
from minicnn.results.pictures import COLOURS, DASHES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = tuple["Figure", str]
WIDE = 6.2
"""Width of a figure, in inches."""
PANELS = (
    (
        "between natural and man-made",
        *("transfer", DISSIMILAR, {"A": drawing.NATURAL, "B": drawing.MANMADE}),
    ),
    ("layers 1..n random and frozen", "random", None, {"": RANDOM}),
)
"""Title, kind, family of splits, and the look of each target or of any."""
# Distance between kinds, more than a marker: intervals are often smaller than one.
COMPARED = (
    (TREATMENTS["transfer"], "transfer", SIMILAR, "similar tasks", -0.15),
    (drawing.DISSIMILAR, "transfer", DISSIMILAR, "natural/man-made", 0.0),
    (RANDOM, "random", None, "random filters", 0.15),
)


def _axes(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of this height in inches, and its axes, all on one scale."""
    from matplotlib.figure import Figure

    figure = Figure((WIDE, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    return figure, axes.ravel().tolist()


def _curve(
    axes: Axes, look: Look, units: list[Unit], kind: str, pale: float = 1.0
) -> str:
    """The mean accuracies of one kind from the bases on; in words."""
    column, drops = heights(units, kind), heights(units, kind, drops=True)
    bases = curves.bases(units)
    start = fmean(bases) if bases else None
    return drawing.line(axes, look, column, drops, start, pale)


def transfer(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Figure 2: every net above, the means as lines below."""
    ours, theirs = of_family(units, SIMILAR), of_family(behind, SIMILAR)
    kinds = [kind for kind in TREATMENTS if heights(ours, kind)]
    if not kinds:
        return None
    figure, (upper, lower) = _axes(7.0, 2)
    bases = curves.bases(ours)
    said = [f"Base: {fmean(bases):.1f} %."] if bases else []
    if bases:
        drawing.base_line(lower, fmean(bases))
    for some, pale in ((theirs, PALE), (ours, 1.0)):
        drawing.base_points(upper, some, pale)
        for kind in kinds:
            look = TREATMENTS[kind]
            drawing.points(upper, look, heights(some, kind), pale)
            words = _curve(lower, look, some, kind, pale)
            said += [words] * (some is ours)
    for axes in (upper, lower):
        axes.set_ylabel(drawing.ACCURACY)
        drawing.layer_axis(axes)
        drawing.chance_line(axes, [unit.classes for unit in ours])
    upper.set_title("every net; short lines: means")
    lower.set_title("means; bars: 95 % intervals of the difference from the base")
    drawing.legend(figure, [upper, lower], bool(theirs))
    return figure, "Top-1 accuracy against n. " + " ".join(said)


def panels(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Figure 3, above: transfer between dissimilar tasks, and random filters."""
    shown = []
    for title, kind, family, looks in PANELS:
        theirs, ours = (
            [unit for unit in of_family(some, family) if (kind, 0) in unit.scores]
            for some in (behind, units)
        )
        if ours:
            shown.append((title, kind, looks, theirs, ours))
    if not shown:
        return None
    figure, row = _axes(3.7, columns=len(shown))
    said = []
    for axes, (title, kind, looks, theirs, ours) in zip(row, shown, strict=True):
        said.append(f"{title}:")
        for some, pale in ((theirs, PALE), (ours, 1.0)):
            for target, look in looks.items():
                mine = [unit for unit in some if target in ("", unit.target)]
                drawing.base_points(axes, mine, pale)
                words = _curve(axes, look, mine, kind, pale)
                said += [words] * (some is ours)
        axes.set_title(title)
        drawing.layer_axis(axes)
    for axes, (*_, ours) in zip(row, shown, strict=True):
        drawing.chance_line(axes, [unit.classes for unit in ours])
    row[0].set_ylabel(drawing.ACCURACY)
    drawing.legend(figure, row, any(theirs for *_, theirs, _ in shown))
    return figure, "Top-1 accuracy against n, " + " ".join(said)


def relative(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Figure 3, below: what is lost by similar, dissimilar and random features."""
    figure, [axes] = _axes(4.0)
    said = []
    for look, kind, family, label, shift in COMPARED:
        theirs, ours = (
            heights(of_family(some, family), kind, drops=True)
            for some in (behind, units)
        )
        named = replace(look, label=label, shift=shift)
        if ours:
            drawing.line(axes, named, theirs, theirs, 0.0, PALE)
            said.append(drawing.line(axes, named, ours, ours, 0.0))
    return _losses(figure, [axes], said, bool(behind)) if said else None


def preserved(units: list[Unit], behind: list[Unit]) -> Drawn | None:
    """Gain from copying and training k more layers; not in the paper."""
    keeps: dict[str, list[int]] = {}
    for kind in ("selffer", "transfer"):
        found = {k for u in units for name, k in u.scores if name == f"{kind}-keep"}
        keeps |= {kind: [0, *sorted(found)]} if found else {}
    if not keeps:
        return None
    figure, row = _axes(3.7, columns=len(keeps))
    said = []
    for axes, kind in zip(row, keeps, strict=True):
        styles = zip(keeps[kind], COLOURS, MARKERS, DASHES * 3, strict=False)
        for place, (keep, colour, marker, dash) in enumerate(styles):
            look = Look(f"k = {keep}", colour, marker, dash, shift=0.14 * place)
            name = f"{kind}-keep" if keep else kind
            drops = heights(of_family(units, SIMILAR), name, keep, drops=True)
            said.append(f"{kind}, {drawing.line(axes, look, drops, drops, 0.0)}")
        axes.set_title(f"{kind}, frozen to n, k more layers kept")
    return _losses(figure, row, said)


def _losses(
    figure: Figure, row: list[Axes], said: list[str], behind: bool = False
) -> Drawn:
    """Finishes a figure of differences from the base."""
    for axes in row:
        drawing.base_line(axes, 0)
        drawing.layer_axis(axes)
    row[0].set_ylabel(drawing.LOSS)
    drawing.legend(figure, row, behind)
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
        counts = sorted({net.iterations for net in whole})
        updates = " or ".join(f"{each:,}" for each in counts)
        height = fmean(100 * net.score(score) for net in whole)
        drawing.base_line(axes, height, f"base on all images, {updates} updates")
    axes.set_xlabel("training images per class")
    axes.set_ylabel(drawing.ACCURACY)
    grid(axes)
    drawing.chance_line(axes, [net.classes for net in mine])
    drawing.legend(figure, [axes], bool(theirs))
    said = ", ".join(
        f"{images:,}: {fmean(each):.1f}" for images, each in column.items()
    )
    return figure, f"Top-1 accuracy (%) against training images per class. {said}."


def _by_images(nets: list[Net], score: str) -> curves.Heights:
    """Accuracies in % of the bases on few images, by images a class."""
    found: curves.Heights = {}
    for net in sorted(nets, key=lambda net: net.images_per_class):
        if net.kind == "reduced":
            scores = found.setdefault(round(net.images_per_class), [])
            scores.append(100 * net.score(score))
    return found


OF_UNITS: dict[str, Callable[[list[Unit], list[Unit]], Drawn | None]] = {
    "transfer": transfer,
    "panels": panels,
    "relative": relative,
    "preserved": preserved,
}
