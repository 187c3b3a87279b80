"""One picture for each analysis, drawn from its summary; its title and explanation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.experiments import plotting
from minicnn.experiments.report import drawing
from minicnn.experiments.report.curves import DISSIMILAR, SIMILAR, WHOLE
from minicnn.experiments.report.drawing import BLUE, GREEN, ORANGE, RED
from minicnn.experiments.report.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
WIDE = 6.6
KINDS = (".png", ".svg")
TITLES = {
    "probe": "Linear probes: what a linear classifier reads from each layer",
    "reset": "One layer set back: top-1 lost when it is at its start, or drawn afresh",
    "cka": "Similarity of layers (linear CKA)",
    "line": "Loss on the line from base B to its fine-tuned neighbours",
    "distance": "How far each layer moved from its start",
    "logme": "LogME of each layer on the target task, beside the measured AnB",
}
SOURCES = {
    "probe": "Alain and Bengio, ICLR workshop 2017",
    "reset": "Zhang, Bengio, Singer, JMLR 2022",
    "cka": "Kornblith et al., ICML 2019; Nguyen et al., ICLR 2021",
    "line": "Frankle et al., ICML 2020; Neyshabur et al., NeurIPS 2020",
    "distance": "relative Euclidean norm",
    "logme": "You et al., ICML 2021",
}
# What titles of each family of splits end in.
FAMILIES = {SIMILAR: "", DISSIMILAR: "; natural, man-made", WHOLE: "; all classes"}
LAYER = "layer"
# What lies along the rows, and along the columns.
SIDES = {
    "base B and AnB+": ("base B", "AnB+"),
    "bases A and B": ("base A", "base B"),
    "two seeds of a base": ("the first", "the second"),
}


def stem(name: str, family: str) -> str:
    """The name of an analysis's files, without suffix."""
    return name if family == SIMILAR else f"{name}-{family}"


def drawn(name: str, family: str, cases: Sequence[Row]) -> dict[str, bytes]:
    """The picture of an analysis of a family of splits by suffix: ".png" and ".svg"."""
    with plotting.styled():
        figure = _DRAW[name](cases)
        title = TITLES[name] + FAMILIES[family]
        figure.suptitle(title, fontsize=10, x=0.02, ha="left")
        source = f"minicnn analyse; {SOURCES[name]}"
        return {kind: plotting.content(figure, kind, source) for kind in KINDS}


def _figure(columns: int, height: float = 3.0) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure((WIDE, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _bars(axes: Axes, cases: Sequence[Row], x: str, value: str, **look: Any) -> None:
    """Means of one column against another, and their intervals where there are any."""
    scale = 100 if value == "top1" else 1
    found = [Interval(**case[value]) for case in cases]
    means = np.array([each.mean for each in found])
    lows = [each.mean if each.low is None else each.low for each in found]
    highs = [each.mean if each.high is None else each.high for each in found]
    reach = scale * np.array([means - lows, highs - means])
    at = [case[x] for case in cases]
    axes.locator_params(axis="x", integer=x in ("n", LAYER))
    axes.errorbar(at, scale * means, reach, capsize=2, **look)


def _lines(axes: Axes, cases: Sequence[Row], x: str, value: str) -> None:
    """A line for each n."""
    from matplotlib import colormaps

    depths = sorted({case["n"] for case in cases})
    for place, n in enumerate(depths):
        some = sorted((c for c in cases if c["n"] == n), key=lambda c: c[x])
        colour = colormaps["viridis"](0.9 * place / max(1, len(depths) - 1))
        _bars(axes, some, x, value, color=colour, marker="o", ms=3, label=f"n = {n}")
    plotting.grid(axes)


def _heat(
    axes: Axes, table: Any, rows: Sequence[str], columns: Sequence[int], **look: Any
) -> None:
    image = axes.imshow(table, aspect="auto", **look)
    axes.set_xticks(range(len(columns)), [*map(str, columns)])
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.85)


def _probe(cases: Sequence[Row]) -> Figure:
    figure, (axes,) = _figure(1)
    for own, label, colour in ((True, "its own task", BLUE), (False, "the other", RED)):
        if some := [case for case in cases if case["own"] is own]:
            _bars(axes, some, LAYER, "top1", color=colour, marker="o", label=label)
    axes.set(xlabel="layer read", ylabel=drawing.ACCURACY)
    axes.legend()
    plotting.grid(axes)
    return figure


def _reset(cases: Sequence[Row]) -> Figure:
    nets = sorted({(case["treatment"], case["n"]) for case in cases})
    names = ["base" if kind == "base" else f"A{n}B+" for kind, n in nets]
    layers = sorted({case[LAYER] for case in cases})
    keys = "to", "treatment", "n", LAYER
    lost = {tuple(c[key] for key in keys): 100 * c["change"]["mean"] for c in cases}
    look = {"cmap": "magma", "vmin": min(-1, *lost.values()), "vmax": 0}
    figure, both = _figure(2, 1.4 + 0.28 * len(nets))
    titles = ("start", "to its start"), ("fresh", "to a fresh draw")
    for axes, (to, words) in zip(both, titles, strict=True):
        table = [[lost.get((to, *net, n), np.nan) for n in layers] for net in nets]
        _heat(axes, table, names, layers, **look)
        axes.set(title=words, xlabel="layer set back")
    return figure


def _cka(cases: Sequence[Row]) -> Figure:
    pairs = sorted({case["pair"] for case in cases})
    figure, many = _figure(len(pairs), 2.6)
    for axes, pair in zip(many, pairs, strict=True):
        found: dict[tuple[int, int], list[float]] = {}
        for case in (each for each in cases if each["pair"] == pair):
            at = case["row"], case["column"]
            found.setdefault(at, []).append(case["cka"]["mean"])
        layers = sorted({row for row, _ in found})
        table = [[np.mean(found[row, n]) for n in layers] for row in layers]
        names = [*map(str, layers)]
        _heat(axes, table, names, layers, cmap="viridis", vmin=0, vmax=1)
        first, second = SIDES[pair]
        axes.set(title=pair, xlabel=f"layer of {second}", ylabel=f"layer of {first}")
        axes.invert_yaxis()
    return figure


def _line(cases: Sequence[Row]) -> Figure:
    figure, (left, right) = _figure(2)
    some = [case for case in cases if case["treatment"] == "transfer+"] or list(cases)
    _lines(left, some, "share", "loss")
    left.set(xlabel="share of the fine-tuned net (0: its base)")
    left.set(ylabel="validation loss (nats)", title=some[0]["treatment"])
    left.legend(fontsize=6.5)
    for kind, colour in (("transfer+", ORANGE), ("selffer+", BLUE)):
        ends = [c for c in cases if c["treatment"] == kind and c["share"] == 1]
        if ends:
            look = {"color": colour, "marker": "o", "ls": "none", "label": kind}
            _bars(right, ends, "n", "barrier", **look)
    right.set(xlabel="n", ylabel="barrier (nats)")
    right.legend()
    plotting.grid(right)
    return figure


def _distance(cases: Sequence[Row]) -> Figure:
    from matplotlib.ticker import LogLocator, NullLocator

    kinds = ("base", "transfer+", "selffer+")
    held = [k for k in kinds if any(c["treatment"] == k for c in cases)]
    figure, many = _figure(len(held), 2.8)
    for axes, kind in zip(many, held, strict=True):
        _lines(axes, [c for c in cases if c["treatment"] == kind], LAYER, "distance")
        axes.set(title=kind, xlabel=LAYER, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        if kind != "base":
            axes.legend(fontsize=6.5)
    many[0].set_ylabel("distance from start, relative")
    return figure


def _logme(cases: Sequence[Row]) -> Figure:
    figure, (axes,) = _figure(1)
    _bars(axes, cases, LAYER, "top1", color=RED, marker="D", label="AnB")
    axes.set(xlabel=LAYER + " n", ylabel="top-1 of AnB (%)")
    beside = axes.twinx()
    beside.spines["right"].set_visible(True)
    look = {"color": GREEN, "marker": "s", "ls": "--", "label": "LogME"}
    _bars(beside, cases, LAYER, "logme", **look)
    beside.set_ylabel("LogME (nats an image)")
    handles = [each.get_legend_handles_labels() for each in (axes, beside)]
    both = (a + b for a, b in zip(*handles, strict=True))
    axes.legend(*both, loc="upper center")
    tau = Interval(**cases[0]["tau"])
    ends = "" if tau.low is None else f" ({tau.low:.2f} to {tau.high:.2f})"
    if not math.isnan(tau.mean):
        axes.set_title(f"Kendall's τ {tau.mean:.2f}{ends}".replace("-", "−"))
    return figure


_DRAW: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "probe": _probe,
    "reset": _reset,
    "cka": _cka,
    "line": _line,
    "distance": _distance,
    "logme": _logme,
}
