"""The report's figures: what is drawn where, and what is left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from minicnn.experiments import plotting
from minicnn.experiments.report import drawing, figures, intervals, run_figures
from minicnn.experiments.report.curves import Unit, by_unit
from minicnn.experiments.report.drawing import TREATMENTS
from minicnn.experiments.study.records import Net, published

# Sums of a few floats below 100, in another order.
ROUNDING = 1e-9


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plotting.styled():
        yield


@pytest.fixture(scope="module")
def paper() -> list[Unit]:
    return by_unit(published(), "best10")


def shown(drawn: figures.Drawn | None) -> Figure:
    assert drawn is not None
    return drawn[0]


def lines(axes: Any, label: str) -> list[Any]:
    return [each for each in axes.lines if each.get_label() == label]


def heights(axes: Any, colour: str, marker: str) -> list[float]:
    """The y of all markers of one look."""
    return [
        y
        for line in axes.lines
        if (line.get_color(), line.get_marker()) == (colour, marker)
        for y in line.get_ydata()
    ]


def bars(axes: Any) -> list[Any]:
    return [each for each in axes.containers if isinstance(each, ErrorbarContainer)]


def test_every_published_net_is_a_point(paper: list[Unit]) -> None:
    upper, _ = shown(figures.transfer(paper, [])).axes
    for kind, look in TREATMENTS.items():
        expected = [
            100 * net.best10
            for net in published()
            if net.kind == kind and net.split != "natural-manmade"
        ]
        assert sorted(heights(upper, look.colour, look.marker)) == sorted(expected)
    bases = heights(upper, drawing.BASE.colour, drawing.BASE.marker)
    assert len(bases) == 8


def test_the_lines_go_through_the_means(paper: list[Unit]) -> None:
    _, lower = shown(figures.transfer(paper, [])).axes
    [line] = lines(lower, TREATMENTS["transfer"].label)
    # n = 7, from the CSV by hand: A to B and B to A, splits 0 to 3.
    a_to_b = 0.552568 + 0.536084 + 0.541468 + 0.546492
    b_to_a = 0.533012 + 0.541208 + 0.544608 + 0.544452
    assert line.get_ydata()[6] == pytest.approx(100 * (a_to_b + b_to_a) / 8)
    shift = TREATMENTS["transfer"].shift
    assert line.get_xdata().tolist() == [n + shift for n in range(1, 8)]
    # The dashed line: the mean of the eight bases.
    base = (0.615100 + 0.634083 + 0.623163 + 0.624979) + (
        0.628647 + 0.621931 + 0.626000 + 0.626907
    )
    level = [each for each in lower.lines if len(set(each.get_ydata())) == 1]
    assert any(
        each.get_ydata()[0] == pytest.approx(100 * base / 8, abs=ROUNDING)
        for each in level
    )


def test_error_bars_are_of_the_difference_and_need_three(paper: list[Unit]) -> None:
    _, lower = shown(figures.transfer(paper, [])).axes
    # Frozen nets have 4 and 8 splits and targets; the fine-tuned one or two.
    assert len(bars(lower)) == 14
    drops = [100 * unit.drops("selffer")[5] for unit in paper if unit.drops("selffer")]
    found = intervals.of_mean(drops)
    segments = [bar[2][0].get_segments()[0] for bar in bars(lower)]
    ends = [tuple(segment[:, 1]) for segment in segments]
    scores = [u.scores["selffer", 0][5] for u in paper if ("selffer", 0) in u.scores]
    mean = 100 * float(np.mean(scores))
    assert found.low is not None
    assert found.high is not None
    expected = (mean + found.low - found.mean, mean + found.high - found.mean)
    assert any(end == pytest.approx(expected, abs=ROUNDING) for end in ends)


def test_published_numbers_lie_pale_behind_the_kinds_that_we_have(
    paper: list[Unit],
) -> None:
    ours = [replace(unit, scores=dict(unit.scores)) for unit in paper]
    for unit in ours:
        unit.scores.pop(("selffer", 0), None)
    figure = shown(figures.transfer(ours, paper))
    upper, lower = figure.axes
    for axes in (upper, lower):
        looks = {each.get_color() for each in axes.lines}
        assert TREATMENTS["selffer"].colour not in looks
        assert TREATMENTS["transfer"].colour in looks
    colour = TREATMENTS["transfer"].colour
    mine = [each for each in lower.lines if each.get_color() == colour]
    alphas = {each.get_alpha() for each in mine if len(each.get_ydata()) == 7}
    assert alphas == {drawing.PALE, 1.0}
    [legend] = figure.legends
    assert "pale: published, 2014" in [text.get_text() for text in legend.get_texts()]
    [legend] = shown(figures.transfer(ours, [])).legends
    assert not [t for t in legend.get_texts() if "published" in t.get_text()]


def test_figure_3_compares_accuracies_minus_base(paper: list[Unit]) -> None:
    [axes] = shown(figures.relative(paper, [])).axes
    [random] = lines(axes, "random filters")
    assert random.get_ydata()[0] == pytest.approx(100 * (0.491662 - 0.576305))
    [apart] = lines(axes, "natural/man-made")
    loss = (0.291372 - 0.537244) + (0.399026 - 0.653399)
    assert apart.get_ydata()[6] == pytest.approx(100 * loss / 2)
    assert len(bars(axes)) == 7


def test_the_panels_show_each_target_and_chance(paper: list[Unit]) -> None:
    left, right = shown(figures.panels(paper, [])).axes
    [natural] = lines(left, "target natural")
    assert natural.get_ydata()[0] == pytest.approx(65.7147)
    [manmade] = lines(left, "target man-made")
    assert manmade.get_ydata()[0] == pytest.approx(53.9236)
    assert [line.get_ydata()[0] for line in lines(right, "chance")] == [0.1]
    # On one scale: what the two panels lose can be compared by eye.
    assert left.get_ylim() == right.get_ylim()
    chances = {line.get_ydata()[0] for line in lines(left, "chance")}
    assert chances == {100 / 449, 100 / 551}
    for axes, count in ((left, 2), (right, 1)):
        bases = heights(axes, drawing.BASE.colour, drawing.BASE.marker)
        means = lines(axes, "mean of the bases")
        levels = [each.get_ydata()[0] for each in means]
        assert levels == pytest.approx(bases)
        assert len(bases) == count


def test_letters_that_the_font_lacks_are_written_as_numbers() -> None:
    assert plotting.drawable("Käse → “A” ≥ 1") == "Käse → “A” ≥ 1"
    assert plotting.drawable("花 🌼") == r"\u82b1 \U0001f33c"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plotting.content(Figure((6, 1)), ".png", "Study “花”")


def test_few_images_are_drawn_on_a_logarithmic_axis() -> None:
    [axes] = shown(figures.reduced(published(), [], "best10")).axes
    assert axes.get_xscale() == "log"
    [line] = lines(axes, drawing.FEW.label)
    assert line.get_xdata().tolist() == [
        *(1, 2, 5, 10, 25, 50, 100, 250, 500, 750, 1000, 1300)
    ]
    assert line.get_ydata()[-1] == pytest.approx(55.1762)
    assert lines(axes, "base on all images, 450,000 updates")


def kept(keep: int, n: int, top1: float) -> Net:
    kind = "transfer-keep" if keep else "transfer"
    return Net(
        kind, "random-0", "A", "B", n, keep, 0, 9.0, 10, top1, top1, 5, f"A{n}B", None
    )


def test_kept_layers_have_a_line_for_each_number() -> None:
    base = replace(kept(0, 0, 0.5), kind="base", source="", name="baseB")
    nets = [base, kept(0, 3, 0.4), kept(1, 3, 0.45), kept(2, 3, 0.49)]
    [axes] = shown(figures.preserved(by_unit(nets, "final"), [])).axes
    for label, height in (
        ("k = 0", -10),
        ("k = 1", -5),
        ("k = 2", -1),
    ):
        [line] = lines(axes, label)
        assert line.get_ydata().tolist() == pytest.approx([height])


def test_without_nets_there_is_no_figure() -> None:
    assert {draw([], []) for draw in figures.OF_UNITS.values()} == {None}
    assert figures.reduced([], [], "final") is None


def test_long_curves_are_thinned_to_means_and_end_where_they_end() -> None:
    records = [(float(step), float(step % 2)) for step in range(10_001)]
    found = run_figures.thinned(records)
    assert len(found) == run_figures.POINTS
    assert found[-1] == (10_000.0, 0.0)
    inner = [value for _, value in found[:-1]]
    assert inner == pytest.approx([0.5] * len(inner), abs=0.01)
    assert run_figures.thinned(records[:50]) == records[:50]
