"""What is told before a training begins."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from minicnn.base.config import load_recipe, override
from minicnn.base.errors import MinicnnError
from minicnn.cli import announce
from minicnn.devices import device
from minicnn.training.setup import Setup


def trainer(*frozen: int, val: int = 100) -> Any:
    """As much of a trainer as its estimate looks at."""
    nets = [SimpleNamespace(network=SimpleNamespace(frozen=n)) for n in frozen]
    runs = [SimpleNamespace(outputs=10)]
    loader = SimpleNamespace(val=range(val))
    return SimpleNamespace(trainees=nets, runs=runs, loader=loader)


def setup(*changes: str) -> Setup:
    config = override(load_recipe("small"), list(changes))
    return Setup(Path("store.h5"), device.get("cpu", 1), config)


def test_periods_are_said_as_people_do() -> None:
    said = [announce.period(length) for length in (0.2, 90, 150, 7300, 9e5)]
    assert said == ["1 s", "90 s", "2 minutes", "2 hours", "10 days"]


def test_frozen_layers_cost_less_and_nets_of_one_pass_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announce, "_rate", lambda _: 100.0)
    monkeypatch.setattr(
        announce.cost, "layer_flops", lambda *_: (8, 4, 2, 1, 1, 1, 1, 1)
    )
    small = setup("solver.iterations=10", "solver.batch=10")
    small = replace(small, config=override(small.config, ["schedule.evaluate_every=5"]))
    # By hand: 100 images of 19 forward, 19 weight and 11 data gradients; 200 scored.
    assert announce.seconds(small, trainer(0)) == pytest.approx(
        (100 * 49 + 200 * 19) / 49 / 100
    )
    # Three layers frozen: 14 forward, then 5 forward, 5 and 4 backward.
    one = 14 * 300 + 100 * 14 + 200 * 5
    assert announce.seconds(small, trainer(3)) == pytest.approx(one / 49 / 100)
    both = one + 100 * (4 + 4 + 3) + 200 * 4 + 300 * 1
    assert announce.seconds(small, trainer(3, 4)) == pytest.approx(both / 49 / 100)


@pytest.mark.parametrize("terminal", [True, False])
def test_smaller_choices_are_named_when_it_is_long(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(announce, "seconds", lambda *_: 78 * 86400.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    paper = Setup(Path("s.h5"), device.get("cpu", 1), load_recipe("paper"))
    with click.Context(click.Command("train-base")):
        announce.tell(paper, trainer(0))
    said = capsys.readouterr().out
    assert "450,000 updates of 256 images: about 78 days from the first on." in said
    assert ("--recipe small" in said) == terminal
    assert ("--size 64" in said) == terminal
    # A quarter of the two hours: 450,000 · 1800 s / 78 days.
    assert ("--set solver.iterations=120;" in said) == terminal


def test_a_net_that_fits_is_trained_where_one_trained_whole_would_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = setup("solver.batch=4")
    monkeypatch.setattr(few.dev, "free_bytes", lambda: 0)
    with pytest.raises(MinicnnError, match="not even one image fits"):
        announce._rate(few)
    with click.Context(click.Command("transfer")):
        announce.tell(few, trainer(7))
    assert capsys.readouterr().out == "300 updates of 4 images.\n"


def test_the_emulated_device_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(setup("solver.batch=4"), dev=device.get("emulated", 1))
    with click.Context(click.Command("train-base")):
        announce.tell(few, trainer(0))
    said = "300 updates of 4 images, on the emulated device: slow.\n"
    assert capsys.readouterr().out == said
