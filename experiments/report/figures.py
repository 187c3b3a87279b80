"""The paper's figures: accuracy against the number of layers kept, and its relatives.

Each function draws one figure of the units of a study, or of the published ones; where
`behind` is given, those are laid pale under it. It returns the figure and what it shows
in words, or None where there are no such nets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from minicnn.experiments.report import drawing, marks
from minicnn.experiments.report.drawing import (
    ACCURACY,
    BASE,
    BOTH,
    DISSIMILAR,
    LOSS,
    MANMADE,
    NATURAL,
    PALE,
    RANDOM,
    TREATMENTS,
    Look,
)
from minicnn.experiments.report.intervals import LEAST
from minicnn.experiments.report.units import DISSIMILAR as NATURAL_MANMADE
from minicnn.experiments.report.units import SIMILAR, WHOLE, Unit, value
from minicnn.experiments.study.records import Net

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 6.2
GUESS = 1.2
"""A net that scores less than so many times chance has not left it."""


def transfer(units: list[Unit], behind: list[Unit]) -> tuple[Figure, str] | None:
    """Figure 2: every net above, the means as lines below."""
    from matplotlib.figure import Figure

    ours, theirs = marks.of(units, SIMILAR), marks.of(behind, SIMILAR)
    if not marks.has(ours, TREATMENTS):
        return None
    figure = Figure((WIDE, 7.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharey=True)
    bases = marks.bases(ours)
    said = []
    for some, pale in ((theirs, PALE), (ours, 1.0)):
        heights = marks.bases(some)
        marks.points(upper, BASE, {0: heights} if heights else {}, pale)
        start = fmean(heights) if heights else None
        for kind, look in TREATMENTS.items():
            if not marks.has(ours, [kind]):
                continue
            column = marks.column(some, kind)
            marks.points(upper, look, column, pale)
            marks.line(
                lower, look, marks.means(column), marks.drops(some, kind), start, pale
            )
            if some is ours and column:
                said.append(marks.said(look.label, marks.means(column), "%"))
    for axes in (upper, lower):
        if bases:
            drawing.base_line(axes, fmean(bases))
        axes.set_ylabel(ACCURACY)
        drawing.grid(axes)
        drawing.layer_axis(axes, label=axes is lower)
        drawing.chance_line(axes, [unit.classes for unit in ours])
    upper.set_title("every net; short lines: means")
    lower.set_title("means; bars: 95 % intervals of the difference from the base")
    marks.legend(figure, [upper, lower], bool(theirs))
    base = f"Base: {fmean(bases):.1f} %. " if bases else ""
    return figure, "Top-1 accuracy against n. " + base + " ".join(said)


def _dissimilar(axes: Axes, some: list[Unit], pale: float) -> list[str]:
    """One line for each target."""
    # Under the targets' own lines.
    both = [] if pale < 1 else _both(axes, some)
    said = []
    for look, target in ((NATURAL, "A"), (MANMADE, "B")):
        mine = [unit for unit in some if unit.target == target]
        column, heights = marks.column(mine, "transfer"), marks.bases(mine)
        start = _bases(axes, heights, pale)
        marks.line(
            axes, look, marks.means(column), marks.drops(mine, "transfer"), start, pale
        )
        if column:
            said.append(marks.said(f"{look.label}", marks.means(column), "%"))
    return said + both


def _both(axes: Axes, some: list[Unit]) -> list[str]:
    """The mean of both targets, where only together they have an interval.

    It lies below the mean base by the mean drop, each net's below its own base.
    """
    drops = marks.drops(some, "transfer")
    targets = Counter(unit.target for unit in some if unit.drops("transfer"))
    if targets.total() < LEAST or max(targets.values()) >= LEAST:
        return []
    start = fmean(marks.bases(some))
    heights = {n: start + fmean(each) for n, each in drops.items()}
    marks.line(axes, BOTH, heights, drops, start)
    return [marks.said(BOTH.label, heights, "%")]


def _bases(axes: Axes, heights: list[float], pale: float) -> float | None:
    """Bases at 0 and, where they are not behind, their mean across; returns it."""
    if not heights:
        return None
    marks.points(axes, BASE, {0: heights}, pale)
    if pale == 1:
        drawing.base_line(axes, fmean(heights))
    return fmean(heights)


def _random(axes: Axes, some: list[Unit], pale: float) -> list[str]:
    """One line through the means of all units with random filters."""
    column, heights = marks.column(some, "random"), marks.bases(some)
    start = _bases(axes, heights, pale)
    marks.line(
        axes, RANDOM, marks.means(column), marks.drops(some, "random"), start, pale
    )
    return [marks.said(RANDOM.label, marks.means(column), "%")] if column else []


Panel = Callable[["Axes", list[Unit], float], list[str]]


def panels(units: list[Unit], behind: list[Unit]) -> tuple[Figure, str] | None:
    """Figure 3, above: transfer between dissimilar tasks, and random filters."""
    from matplotlib.figure import Figure

    shown: list[tuple[str, Panel, list[Unit], list[Unit]]] = []
    if marks.has(marks.of(units, NATURAL_MANMADE), ["transfer"]):
        mine, theirs = (marks.of(each, NATURAL_MANMADE) for each in (units, behind))
        shown.append(("between natural and man-made", _dissimilar, mine, theirs))
    if marks.has(units, ["random"]):
        mine = [unit for unit in units if marks.has([unit], ["random"])]
        theirs = marks.of(behind, WHOLE)
        shown.append(("layers 1..n random and frozen", _random, mine, theirs))
    if not shown:
        return None
    figure = Figure((WIDE, 3.7), layout="constrained")
    said = []
    # On one scale, for its two losses are what is compared.
    row = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, draw, mine, theirs) in zip(row, shown, strict=True):
        draw(axes, theirs, PALE)
        said.append(f"{title}: " + " ".join(draw(axes, mine, 1.0)))
        axes.set_title(title)
        drawing.grid(axes)
        drawing.layer_axis(axes, label=False)
    for axes, (_, _, mine, _) in zip(row, shown, strict=True):
        drawing.chance_line(axes, [unit.classes for unit in mine])
    row[0].set_ylabel(ACCURACY)
    figure.supxlabel(drawing.LAYER, fontsize=9)
    marks.legend(figure, list(row), any(theirs for *_, theirs in shown))
    return figure, "Top-1 accuracy against n, " + " ".join(said)


# Apart by more than the width of a marker, for the intervals are often smaller.
COMPARED = (
    (TREATMENTS["transfer"], "transfer", SIMILAR, "similar tasks", -0.15),
    (DISSIMILAR, "transfer", NATURAL_MANMADE, "natural/man-made", 0.0),
    (RANDOM, "random", None, "random filters", 0.15),
)


def relative(units: list[Unit], behind: list[Unit]) -> tuple[Figure, str] | None:
    """Figure 3, below: what is lost by similar, dissimilar and random features."""
    from matplotlib.figure import Figure

    figure = Figure((WIDE, 4.0), layout="constrained")
    axes = figure.subplots()
    said = []
    for look, kind, family, label, shift in COMPARED:
        mine, theirs = (
            marks.drops(marks.of(some, family), kind) for some in (units, behind)
        )
        if not mine:
            continue
        named = replace(look, label=label, shift=shift)
        marks.line(axes, named, marks.means(theirs), theirs, 0.0, PALE)
        marks.line(axes, named, marks.means(mine), mine, 0.0)
        said.append(marks.said(label, marks.means(mine), "points"))
    if not said:
        return None
    drawing.base_line(axes, 0)
    axes.set_ylabel(LOSS)
    drawing.grid(axes)
    drawing.layer_axis(axes)
    drawing.line_label(axes, 0, "base")
    marks.legend(figure, [axes], bool(behind))
    return figure, "Top-1 accuracy minus base against n. " + " ".join(said)


def preserved(units: list[Unit], behind: list[Unit]) -> tuple[Figure, str] | None:
    """What copying k more layers, and training on them, gains; it was not published."""
    from matplotlib.figure import Figure

    shown = [kind for kind in ("selffer", "transfer") if _keeps(units, kind)]
    if not shown:
        return None
    figure = Figure((WIDE, 3.7), layout="constrained")
    said = []
    row = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, kind in zip(row, shown, strict=True):
        similar = marks.of(units, SIMILAR)
        for number, keep in enumerate([0, *_keeps(units, kind)]):
            name = f"{kind}-keep" if keep else kind
            drops = marks.drops(similar, name, keep)
            look = _kept_look(keep, number)
            marks.line(axes, look, marks.means(drops), drops, 0.0)
            said.append(
                marks.said(f"{kind}, {look.label}", marks.means(drops), "points")
            )
        axes.set_title(f"{kind}, frozen to n")
        drawing.base_line(axes, 0)
        drawing.grid(axes)
        drawing.layer_axis(axes, label=False)
        drawing.line_label(axes, 0, "base")
    row[0].set_ylabel(LOSS)
    figure.supxlabel(drawing.LAYER, fontsize=9)
    marks.legend(figure, list(row), False)
    return figure, "Top-1 accuracy minus base against n. " + " ".join(said)


def _keeps(units: Iterable[Unit], kind: str) -> list[int]:
    found = {keep for unit in units for k, keep in unit.scores if k == f"{kind}-keep"}
    return sorted(found)


def _kept_look(keep: int, number: int) -> Look:
    from minicnn.results.pictures import COLOURS, DASHES, MARKERS

    more = "1 more layer" if keep == 1 else f"{keep} more layers"
    label = f"{more} kept" if keep else "none kept"
    dash = DASHES[number % len(DASHES)]
    at = number % len(COLOURS)
    return Look(label, COLOURS[at], MARKERS[at], dash, True, 0.14 * number)


def reduced(
    nets: list[Net], behind: list[Net], score: str
) -> tuple[Figure, str] | None:
    """Bases on few images of each class."""
    from matplotlib.figure import Figure

    mine = [net for net in nets if net.kind == "reduced"]
    if not mine:
        return None
    figure = Figure((WIDE, 3.8), layout="constrained")
    axes = figure.subplots()
    theirs, column = _by_images(behind, score), _by_images(nets, score)
    means = marks.means(column)
    marks.line(axes, drawing.FEW, marks.means(theirs), theirs, None, PALE)
    marks.line(axes, drawing.FEW, means, column, None)
    marks.image_axis(axes, list(means))
    tasks = {(net.split, net.seed, net.target) for net in mine}
    whole = [
        net
        for net in nets
        if net.kind == "base" and (net.split, net.seed, net.target) in tasks
    ]
    if whole:
        height = fmean(100 * value(net, score) for net in whole)
        drawing.base_line(axes, height)
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.12 * height))
        counts = sorted({net.iterations for net in whole})
        updates = " or ".join(f"{each:,}" for each in counts)
        drawing.line_label(axes, height, f"base on all images, {updates} updates")
    axes.set_xlabel("training images per class")
    axes.set_ylabel(ACCURACY)
    drawing.grid(axes)
    drawing.chance_line(axes, [net.classes for net in mine])
    _untrained(axes, mine, score)
    if theirs:
        marks.legend(figure, [axes], True)
    said = ", ".join(f"{images:,}: {mean:.1f}" for images, mean in means.items())
    return figure, f"Top-1 accuracy (%) against training images per class. {said}."


def _untrained(axes: Axes, nets: list[Net], score: str) -> None:
    """Says above their points which nets are no better than a guess."""
    lost = [net for net in nets if value(net, score) * net.classes < GUESS]
    images = sorted({round(net.images_per_class) for net in lost})
    if not images:
        return
    few = "–".join(dict.fromkeys(f"{each:,}" for each in (images[0], images[-1])))
    height = max(100 * value(net, score) for net in lost)
    words = f"{few} images: at chance, did not train"
    drawing.note(axes, images[0], height, words)


def _by_images(nets: list[Net], score: str) -> dict[int, list[float]]:
    """Accuracies in % of the bases on few images, by images a class."""
    found: dict[int, list[float]] = {}
    for net in sorted(nets, key=lambda net: net.images_per_class):
        if net.kind == "reduced":
            scores = found.setdefault(round(net.images_per_class), [])
            scores.append(100 * value(net, score))
    return found
