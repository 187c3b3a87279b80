"""Figures of single runs: training curves side by side, and conv1's filters."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.experiments.plotting import QUIET, grid
from minicnn.experiments.report.checks import Check, read_tensors
from minicnn.experiments.report.contents import Contents, Entry
from minicnn.experiments.report.curves import DEPTHS
from minicnn.experiments.report.drawing import BLUE, RED
from minicnn.experiments.study.records import Net
from minicnn.results.pictures import mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = len(DEPTHS)
POINTS = 120
"""Most points of a curve: more cannot be told apart at this size."""
_WIDTH, _HEIGHT, _LEAST = 1.22, 0.98, 6.2
"""Inches: a net's place, and the width that the legend needs."""
_TITLES = {"base": "bases", "reduced": "few images", "random": "random filters"}
_LEGEND: tuple[tuple[str, dict[str, Any]], ...] = (
    ("validation top-1 (%), left axis", {"color": BLUE, "lw": 1.6}),
    ("training loss, right axis", {"color": RED, "ls": "--"}),
    ("final top-1 of the base", {"color": QUIET, "lw": 0.8, "dashes": (5, 3)}),
)
Records = list[dict[str, Any]]
Limits = tuple[float, float, float]
"""The last step, the highest top-1 in % and the highest loss, with some room."""


def thinned(records: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: means over equal stretches; the last point stays."""
    if len(records) <= POINTS:
        return list(records)
    body = np.array_split(np.asarray(records[:-1]), POINTS - 1)
    return [*(tuple(part.mean(axis=0).tolist()) for part in body), records[-1]]


def sheets(contents: Contents) -> dict[tuple[str, int], list[Entry]]:
    """The nets of each (split, seed), whose curves make one figure."""
    found: dict[tuple[str, int], list[Entry]] = {}
    for entry in contents.entries:
        found.setdefault((entry.net.split, entry.net.seed), []).append(entry)
    return found


def _row_of(net: Net) -> str:
    """The title of a net's row."""
    title = _TITLES.get(net.kind, f"{net.kind} {net.source}→{net.target}")
    title += f" {net.target}" if net.kind == "random" else ""
    return title + (f" (+{net.keep})" if net.keep else "")


def _rows(entries: list[Entry]) -> list[tuple[str, list[tuple[int, Entry]]]]:
    """Rows of a sheet, in the plan's order: title, and each net with its column.

    A column is a depth, where a net has one.
    """
    depths = sorted({entry.net.n for entry in entries} - {0})
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(_row_of(entry.net), []).append(entry)
    rows = []
    for title, members in found.items():
        if members[0].net.n:
            rows.append((title, [(depths.index(each.net.n), each) for each in members]))
            continue
        members.sort(key=lambda each: (each.net.images_per_class, each.id))
        for start in range(0, len(members), COLUMNS):
            rows.append((title, list(enumerate(members[start : start + COLUMNS]))))
    return rows


def curves(entries: list[Entry]) -> tuple[Figure, str] | None:
    """Every net's training loss and validation top-1, all on the same axes."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    metrics = {entry.id: entry.run.metrics() for entry in entries}
    limits = _limits([record for each in metrics.values() for record in each])
    if not limits:
        return None
    rows = _rows(entries)
    lowest = {column: row for row, (_, line) in enumerate(rows) for column, _ in line}
    width = max(_LEAST, 1.6 + len(lowest) * _WIDTH)
    height = 1.0 + len(rows) * _HEIGHT
    figure = Figure((width, height))
    # In inches: room for the rows' titles, the axes' numbers and the legend.
    margins = {"left": 1.25 / width, "right": 1 - 0.35 / width, "wspace": 0.08}
    margins |= {"top": 1 - 0.55 / height, "bottom": 0.45 / height, "hspace": 0.28}
    places = figure.add_gridspec(len(rows), len(lowest), **margins)
    bases = {e.net.target: e.result["top1"] for e in entries if e.net.kind == "base"}
    for row, (title, line) in enumerate(rows):
        columns = [column for column, _ in line]
        for column, entry in line:
            axes = figure.add_subplot(places[row, column])
            base = bases.get(entry.net.target) if entry.net.n else None
            loss = _cell(axes, metrics[entry.id], base, limits)
            few = f"{entry.net.images_per_class:,.0f} a class"
            name = few if entry.net.kind == "reduced" else entry.net.name
            axes.set_title(name, fontsize=7, pad=2.5)
            left, bottom = column == min(columns), row == lowest[column]
            axes.tick_params(labelleft=left, labelbottom=bottom)
            loss.tick_params(labelright=column == max(columns))
        spot = places[row, 0].get_position(figure)
        middle, words = (spot.y0 + spot.y1) / 2, title.replace(" ", "\n")
        figure.text(0.06 / width, middle, words, va="center", size=8)
    handles = [Line2D([], [], label=label, **style) for label, style in _LEGEND]
    figure.legend(handles=handles, loc="upper center", ncols=3)
    figure.supxlabel("update", fontsize=9, y=0.06 / height)
    scores = ", ".join(f"{e.net.name} {e.result['top1']:.1%}" for e in entries)
    words = f"Training loss and validation top-1 of {len(entries)} nets: {scores}."
    return figure, words


def _limits(records: Records) -> Limits | None:
    if not records:
        return None
    top1 = [100 * r["val_top1"] for r in records if "val_top1" in r]
    losses = [r["loss"] for r in records if "loss" in r]
    last = max(r["step"] for r in records)
    return last, 1.08 * max(top1, default=1), 1.05 * max(losses, default=1)


def _cell(axes: Axes, records: Records, base: float | None, limits: Limits) -> Axes:
    """One net: top-1 on the left axis, loss on the right one, which it returns."""
    loss, (last, most, worst) = axes.twinx(), limits
    scored = [(r["step"], 100 * r["val_top1"]) for r in records if "val_top1" in r]
    trained = [(r["step"], r["loss"]) for r in records if "loss" in r]
    if base is not None:
        axes.axhline(100 * base, color=QUIET, lw=0.7, dashes=(5, 3))
    dashed: dict[str, Any] = {"color": RED, "lw": 0.9, "ls": (0, (3, 1.2))}
    for at, points, top, style in (
        (loss, trained, worst, dashed),
        (axes, scored, most, {"color": BLUE, "lw": 1.3}),
    ):
        if points:
            at.plot(*zip(*thinned(points), strict=True), **style)
        at.set_ylim(0, top)
        at.locator_params(axis="y", nbins=4)
        at.tick_params(labelsize=6.5, length=2)
        at.tick_params(axis="y", colors=style["color"])
    end = f"{last / 1000:g}k" if last >= 10_000 else f"{last:g}"
    axes.set_xlim(0, last)
    axes.set_xticks([0, last], ["0", end])
    # A panel's last number would run into its neighbour's first.
    first, final = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    final.set_horizontalalignment("right")
    grid(axes)
    return loss


def filters(
    base: Entry, contents: Contents, checks: list[Check]
) -> tuple[Figure, str] | None:
    """conv1's filters of a base, of a net with them frozen, and of one trained on."""
    from matplotlib.figure import Figure

    drawn = []
    for title, entry in [(base.net.name, base), *_heirs(base, contents, checks)]:
        if tensors := read_tensors(entry, ["conv1.w"]):
            drawn.append((title, tensors["conv1.w"]))
    if not drawn:
        return None
    pictures = [mosaic(w, pixels=4) for _, w in drawn]
    height, width = pictures[0].shape[:2]
    size = (3.1 * len(drawn) + 0.1, 3.1 * height / width + 0.5)
    figure = Figure(size, layout="constrained")
    row = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (title, _), picture in zip(row, drawn, pictures, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, fontsize=8)
    words = "; ".join(title.replace("\n", ": ") for title, _ in drawn)
    return figure, f"The {len(drawn[0][1])} filters of conv1, as colours. {words}."


def _heirs(
    base: Entry, contents: Contents, checks: list[Check]
) -> list[tuple[str, Entry]]:
    """One net with the base's filters frozen, and the one that moved them most."""
    moved = {each.id: each.conv1_moved for each in checks}
    heirs = [
        (part, each)
        for each in contents.entries
        if (part := moved.get(each.id)) is not None and contents.base_of(each) is base
    ]
    frozen = [(part, each) for part, each in heirs if each.result["frozen_layers"]]
    tuned = [(part, each) for part, each in heirs if not each.result["frozen_layers"]]
    shown = []
    if frozen:
        equal = sum(part == 0 for part, _ in frozen)
        text = f"{equal} of {len(frozen)} frozen nets equal the base"
        shown.append((f"{frozen[0][1].net.name}, frozen\n{text}", frozen[0][1]))
    if tuned:
        most, far = max(tuned, key=lambda pair: pair[0])
        average = fmean(part for part, _ in tuned)
        text = (
            f"{far.net.name}, fine-tuned: moved by {100 * most:.3g} %, the most\n"
            f"of {len(tuned)} such nets; {100 * average:.3g} % on average"
        )
        shown.append((text, far))
    return shown
