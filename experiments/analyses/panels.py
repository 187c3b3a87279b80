"""One picture for each analysis, drawn from its summary; its title and explanation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.experiments import plotting
from minicnn.experiments.report import drawing
from minicnn.experiments.report.drawing import BLUE, GREEN, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
WIDE = 6.6
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
LAYER = "layer"
DEPTHS = range(1, 8)


def drawn(name: str, cases: Sequence[Row]) -> dict[str, bytes]:
    """The picture of an analysis by suffix: ".png" and ".svg"."""
    with plotting.styled():
        figure = _DRAW[name](cases)
        figure.suptitle(TITLES[name], fontsize=10, x=0.02, ha="left")
        source = f"minicnn analyse; {SOURCES[name]}"
        return {
            suffix: plotting.content(figure, suffix, source)
            for suffix in (".png", ".svg")
        }


def _figure(columns: int, height: float = 3.0) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure((WIDE, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _bars(axes: Axes, x: Any, found: Sequence[Row], scale: float, **look: Any) -> None:
    """Means as a line, and their intervals where there are any."""
    means = np.array([each["mean"] for each in found]) * scale
    ends = [
        [
            abs(each["mean"] - (each["mean"] if each[side] is None else each[side]))
            for each in found
        ]
        for side in ("low", "high")
    ]
    axes.errorbar(x, means, np.array(ends) * scale, capsize=2, **look)


def _lines(
    axes: Axes, cases: Sequence[Row], split: str, x: str, value: str, scale: float = 1
) -> None:
    """A line for each value of one column, against another."""
    from matplotlib import colormaps

    names = sorted({case[split] for case in cases})
    for place, name in enumerate(names):
        some = sorted((c for c in cases if c[split] == name), key=lambda c: c[x])
        colour = colormaps["viridis"](0.9 * place / max(1, len(names) - 1))
        at, found = [c[x] for c in some], [c[value] for c in some]
        _bars(
            axes, at, found, scale, color=colour, marker="o", ms=3, label=f"n = {name}"
        )


def _probe(cases: Sequence[Row]) -> Figure:
    figure, (axes,) = _figure(1)
    for own, label, colour in ((True, "its own task", BLUE), (False, "the other", RED)):
        some = [case for case in cases if case["own"] is own]
        at = [case[LAYER] for case in some]
        values = [case["top1"] for case in some]
        _bars(axes, at, values, 100, color=colour, marker="o", label=label)
    axes.set(xlabel="layer read", ylabel=drawing.ACCURACY)
    axes.legend()
    plotting.grid(axes)
    return figure


def _heat(
    axes: Axes, table: Any, rows: Sequence[str], columns: Sequence[str], **look: Any
) -> None:
    image = axes.imshow(table, aspect="auto", **look)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.85)


def _reset(cases: Sequence[Row]) -> Figure:
    nets = sorted({(case["treatment"], case["n"]) for case in cases})
    names = ["base" if kind == "base" else f"A{n}B+" for kind, n in nets]
    layers = sorted({case[LAYER] for case in cases})
    figure, both = _figure(2, 1.4 + 0.28 * len(nets))
    for axes, to in zip(both, ("start", "fresh"), strict=True):
        found = {
            ((c["treatment"], c["n"]), c[LAYER]): 100 * c["change"]["mean"]
            for c in cases
            if c["to"] == to
        }
        table = [[found.get((net, layer), np.nan) for layer in layers] for net in nets]
        look = {"cmap": "magma", "vmin": -100 * _worst(cases), "vmax": 0}
        _heat(axes, table, names, [*map(str, layers)], **look)
        axes.set_title(f"to its {to}" if to == "start" else "to a fresh draw")
        axes.set_xlabel("layer set back")
    return figure


def _worst(cases: Sequence[Row]) -> float:
    return max(0.01, *(-case["change"]["mean"] for case in cases))


def _cka(cases: Sequence[Row]) -> Figure:
    pairs = sorted({case["pair"] for case in cases})
    figure, many = _figure(len(pairs), 2.6)
    for axes, pair in zip(many, pairs, strict=True):
        some = [case for case in cases if case["pair"] == pair]
        layers = sorted({case["row"] for case in some})
        table = np.full((len(layers), len(layers)), np.nan)
        for i, row in enumerate(layers):
            for j, column in enumerate(layers):
                found = [
                    case["cka"]["mean"]
                    for case in some
                    if (case["row"], case["column"]) == (row, column)
                ]
                if found:
                    table[i, j] = np.mean(found)
        names = [*map(str, layers)]
        _heat(axes, table, names, names, cmap="viridis", vmin=0, vmax=1)
        axes.set_title(pair)
        axes.invert_yaxis()
    return figure


def _line(cases: Sequence[Row]) -> Figure:
    figure, (left, right) = _figure(2)
    some = [case for case in cases if case["treatment"] == "transfer+"] or list(cases)
    _lines(left, some, "n", "share", "loss")
    left.set(xlabel="share of AnB+ (0: base B)", ylabel="validation loss (nats)")
    left.legend(fontsize=6.5)
    for kind, colour in (("transfer+", ORANGE), ("selffer+", BLUE)):
        ends = [c for c in cases if c["treatment"] == kind and c["share"] == 1]
        at, found = [c["n"] for c in ends], [c["barrier"] for c in ends]
        if ends:
            _bars(right, at, found, 1, color=colour, marker="o", ls="none", label=kind)
    right.set(xlabel="n", ylabel="barrier (nats)")
    right.legend()
    for axes in (left, right):
        plotting.grid(axes)
    return figure


def _distance(cases: Sequence[Row]) -> Figure:
    kinds = ("base", "transfer+", "selffer+")
    held = [k for k in kinds if any(c["treatment"] == k for c in cases)]
    figure, many = _figure(len(held), 2.8)
    for axes, kind in zip(many, held, strict=True):
        some = [case for case in cases if case["treatment"] == kind]
        _lines(axes, some, "n", LAYER, "distance")
        axes.set(title=kind, xlabel=LAYER, ylim=(0, None))
        plotting.grid(axes)
    many[0].set_ylabel("distance from start, relative")
    if len(held) > 1:
        many[-1].legend(fontsize=6.5)
    return figure


def _logme(cases: Sequence[Row]) -> Figure:
    figure, (axes,) = _figure(1)
    at = [case[LAYER] for case in cases]
    _bars(axes, at, [c["top1"] for c in cases], 100, color=RED, marker="D", label="AnB")
    axes.set(xlabel=LAYER + " n", ylabel="top-1 of AnB (%)")
    beside = axes.twinx()
    beside.spines["right"].set_visible(True)
    logme = [case["logme"] for case in cases]
    _bars(beside, at, logme, 1, color=GREEN, marker="s", ls="--", label="LogME")
    beside.set_ylabel("LogME (nats an image)")
    handles = [each.get_legend_handles_labels() for each in (axes, beside)]
    axes.legend(*(a + b for a, b in zip(*handles, strict=True)))
    tau = cases[0]["tau"]
    text = f"Kendall's τ {tau['mean']:.2f}"
    if tau["low"] is not None:
        text += f" ({tau['low']:.2f} to {tau['high']:.2f})"
    axes.set_title(text)
    return figure


_DRAW: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "probe": _probe,
    "reset": _reset,
    "cka": _cka,
    "line": _line,
    "distance": _distance,
    "logme": _logme,
}
