"""The pictures of analyses: which number is drawn where, and what it is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.container import ErrorbarContainer

from minicnn.experiments import plotting
from minicnn.experiments.analyses import panels


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plotting.styled():
        yield


def axes_of(name: str, cases: list[dict[str, Any]]) -> list[Any]:
    """The axes of an analysis's picture."""
    return panels._DRAW[name](cases).axes


def mean(value: float, reach: float | None = None) -> dict[str, float | None]:
    """An interval as summary.json has it."""
    ends = (None, None) if reach is None else (value - reach, value + 2 * reach)
    return {"mean": value, "low": ends[0], "high": ends[1]}


def bars(axes: Any, label: str) -> tuple[list[float], list[float], list[list[float]]]:
    """x, y, and the ends of the intervals, of what a label names."""
    [found] = [
        each
        for each in axes.containers
        if isinstance(each, ErrorbarContainer) and each.get_label() == label
    ]
    line, _, [reach] = found
    x, y = (each.tolist() for each in line.get_data())
    return x, y, [segment[:, 1].tolist() for segment in reach.get_segments()]


def near(values: list[float]) -> Any:
    return pytest.approx(values, abs=1e-9)


def test_probes_by_task() -> None:
    cases = [
        {"own": own, "layer": n, "top1": mean(n / 10 + own / 2, 0.01)}
        for own in (True, False)
        for n in (1, 2)
    ]
    [axes] = axes_of("probe", cases)
    for label, points in (("its own task", [60, 70]), ("the other", [10, 20])):
        x, y, ends = bars(axes, label)
        assert (x, y) == ([1, 2], near(points))
        assert ends == [near([point - 1, point + 2]) for point in points]


def test_what_a_layer_set_back_loses() -> None:
    cases = [
        {"to": to, "treatment": kind, "n": n, "layer": layer, "change": mean(-lost)}
        for to, more in (("start", 0), ("fresh", 0.4))
        for kind, n in (("base", 0), ("transfer+", 3))
        for layer in (1, 2)
        for lost in [more + n / 10 + layer / 100]
    ]
    start, fresh, *_ = axes_of("reset", cases)
    for axes, title, more in ((start, "start", 0), (fresh, "fresh", 40)):
        assert title in axes.get_title("left")
        right = [[-more - 1, -more - 2], [-more - 31, -more - 32]]
        table = axes.images[0].get_array().tolist()
        assert table == [near(row) for row in right]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["base", "A3B+"]


def test_cka_has_the_first_net_along_its_rows() -> None:
    cases = [
        {"pair": pair, "n": n, "row": a, "column": b, "cka": mean(a / 10 + b / 100)}
        for pair, n in (("bases A and B", 0), ("base B and AnB+", 1))
        for a in (1, 2)
        for b in (1, 2)
    ]
    sides = ("base B", "AnB+"), ("base A", "base B")
    for axes, (first, second) in zip(axes_of("cka", cases), sides, strict=False):
        table = axes.images[0].get_array().tolist()
        assert table == [near([0.11, 0.12]), near([0.21, 0.22])]
        names = axes.get_ylabel(), axes.get_xlabel()
        assert names == (f"layer of {first}", f"layer of {second}")


def test_losses_and_barriers_of_lines() -> None:
    cases = [
        {"treatment": kind, "n": n, "share": s, "loss": mean(n * h + s)}
        | {"barrier": mean(h)}
        for kind, h in (("transfer+", 0.5), ("selffer+", 2.0))
        for n in (1, 3)
        for s in (0, 1)
    ]
    left, right = axes_of("line", cases)
    assert bars(left, "n = 3")[:2] == ([0, 1], [1.5, 2.5])
    assert bars(right, "transfer+")[:2] == ([1, 3], [0.5, 0.5])
    assert bars(right, "selffer+")[:2] == ([1, 3], [2, 2])


def test_logme_beside_accuracies() -> None:
    cases = [
        {"layer": n, "logme": mean(-n / 10), "top1": mean(n / 4), "tau": mean(-1, 0.5)}
        for n in (1, 2)
    ]
    axes, beside = axes_of("logme", cases)
    assert bars(axes, "AnB")[:2] == ([1, 2], [25, 50])
    assert bars(beside, "LogME")[:2] == ([1, 2], [-0.1, -0.2])
    assert axes.get_title("left") == "Kendall's τ −1.00 (−1.50 to 0.00)"
