"""Figures of single runs: training curves of a split and seed, and conv1's filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from minicnn.experiments.plotting import QUIET, grid
from minicnn.experiments.report.contents import Entry
from minicnn.experiments.report.figures import WIDE, Drawn
from minicnn.experiments.study.records import Net
from minicnn.results.pictures import mosaic

POINTS = 120
"""Most points of a curve: more cannot be told apart at this size."""
ROW = 1.6
"""Height of a treatment's curves, in inches."""
COLUMNS = 3
"""Bases whose filters stand side by side."""


def thinned(records: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: means over equal stretches; the last point stays."""
    if len(records) <= POINTS:
        return list(records)
    body = np.array_split(np.asarray(records[:-1]), POINTS - 1)
    return [*(tuple(part.mean(axis=0).tolist()) for part in body), records[-1]]


def _title(net: Net) -> str:
    """The title of a net's row."""
    more = f" (+{net.keep})" if net.keep else ""
    return f"{net.kind} {net.source}→{net.target}{more}" if net.n else net.kind


def curves(entries: Sequence[Entry]) -> Drawn | None:
    """Training loss and validation top-1: a row a treatment, a line a net.

    None without metrics: records may have been kept without them.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows: dict[str, list[Entry]] = {}
    bases = {e.net.target: e.result["top1"] for e in entries if e.net.kind == "base"}
    entries = [entry for entry in entries if entry.run.metrics()]
    if not entries:
        return None
    for entry in entries:
        rows.setdefault(_title(entry.net), []).append(entry)
    figure = Figure((WIDE, ROW * len(rows) + 0.8), layout="constrained")
    places = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey="col")
    for (top1, loss), (title, members) in zip(places, rows.items(), strict=True):
        colours = colormaps["viridis"](np.linspace(0, 0.9, len(members)))
        for entry, colour in zip(members, colours, strict=True):
            net, records = entry.net, entry.run.metrics()
            few = f"{net.images_per_class:,.0f} a class"
            label = few if net.kind == "reduced" else net.name
            for axes, key, scale in ((top1, "val_top1", 100), (loss, "loss", 1)):
                points = [(r["step"], scale * r[key]) for r in records if key in r]
                drawn = np.array(thinned(points)).reshape(-1, 2)
                axes.plot(*drawn.T, color=colour, lw=1.1, label=label)
        base = bases.get(members[0].net.target)
        if base is not None and members[0].net.n:
            top1.axhline(100 * base, color=QUIET, lw=0.8, ls="--")
        top1.set_ylabel(title)
        loss.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6.5)
        grid(top1)
        grid(loss)
    places[0, 0].set_title("top-1 (%); dashed: its base")
    places[0, 1].set_title("training loss")
    figure.supxlabel("update", fontsize=9)
    scores = ", ".join(f"{e.net.name} {e.result['top1']:.1%}" for e in entries)
    words = f"Training loss and validation top-1 of {len(entries)} nets: {scores}."
    return figure, words


def _conv1(run: Path) -> np.ndarray | None:
    """The conv1 weights of a run's newest checkpoint; None where it cannot be read."""
    paths = sorted(run.glob("checkpoints/step-*.safetensors"))
    try:
        with safe_open(paths[-1], "np") as file:
            return file.get_tensor("conv1.w")
    except (IndexError, OSError, SafetensorError):
        return None


def filters(bases: Sequence[Entry]) -> Drawn | None:
    """conv1's filters of every base, as colours; see `mosaic`."""
    from matplotlib.figure import Figure

    found = {base.id: _conv1(base.run.folder) for base in bases}
    pictures = {name: mosaic(w, 4) for name, w in found.items() if w is not None}
    if not pictures:
        return None
    rows = -(-len(pictures) // COLUMNS)
    figure = Figure((WIDE, 1.8 * rows), layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, (name, picture) in zip(places, pictures.items(), strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(name, fontsize=7)
    return figure, f"The filters of conv1, as colours: {', '.join(pictures)}."
