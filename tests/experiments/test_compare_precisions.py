"""The comparison of precisions: its statistics by hand, and a training of each."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from minicnn.experiments.bench import compare_precisions as compared
from minicnn.experiments.report.intervals import Interval


def run(precision: str, seed: int, top1: float) -> dict[str, object]:
    return {"precision": precision, "seed": seed, "top1": top1, "loss": 1 - top1}


def test_paired_differences_by_hand() -> None:
    exact, other = (0.80, 0.84, 0.82), (0.81, 0.84, 0.80)
    runs = [run("fp32", seed, value) for seed, value in enumerate(exact)]
    runs += [run("bf16", seed, value) for seed, value in enumerate(other)]
    top1, loss = compared.compare(runs)
    assert (top1["score"], loss["score"]) == ("top1", "loss")
    # +0.01, 0, −0.02: mean −1/300, standard deviation √(7/30000).
    mean, deviation = -1 / 300, math.sqrt(7 / 30000)
    half = 4.30265 * deviation / math.sqrt(3)
    assert top1["difference"] == pytest.approx(mean)
    ends = mean - half, mean + half
    assert (top1["low"], top1["high"]) == pytest.approx(ends, abs=1e-6)
    assert top1["spread_of_fp32_over_seeds"] == pytest.approx(0.02)
    assert top1["margin"] == 0.03
    assert top1["verdict"] == "undecided"  # the interval begins at −0.041
    assert loss["difference"] == pytest.approx(-mean)


@pytest.mark.parametrize(
    ("lost", "verdicts"),
    [
        (0.02, ["equivalent", "equivalent"]),  # of 0.03 in top-1, of 0.08 in loss
        (0.05, ["different", "equivalent"]),
        (0.09, ["different", "different"]),
    ],
)
def test_a_constant_loss_of_accuracy_is_no_noise(
    lost: float, verdicts: list[str]
) -> None:
    runs = [run("fp32", seed, 0.8 + 0.01 * seed) for seed in range(5)]
    worse = [run("bf16", seed, 0.8 - lost + 0.0101 * seed) for seed in range(5)]
    rows = compared.compare(runs + worse)
    assert [row["verdict"] for row in rows] == verdicts


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.02, 0.02, "equivalent"),
        (0.001, 0.029, "equivalent"),  # a difference, and too small to matter
        (-0.04, 0.02, "undecided"),
        (-0.04, 0.04, "undecided"),
        (0.01, 0.04, "undecided"),
        (0.031, 0.04, "different"),
        (-0.04, -0.031, "different"),
    ],
)
def test_what_an_interval_shows(low: float, high: float, said: str) -> None:
    assert compared.verdict(Interval(0.0, low, high), 0.03) == said


def test_one_seed_says_nothing() -> None:
    rows = compared.compare([run("fp32", 0, 0.8), run("bf16", 0, 0.1)])
    assert {row["verdict"] for row in rows} == {"undecided"}


def test_trainings_in_processes_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "precisions.json"
    few = ["--set=solver.iterations=1", "--set=solver.batch=4", "--jobs=1"]
    argv = ["--device=cpu", "--first=7", "--seeds=1", *few, f"--json={out}"]
    done = CliRunner().invoke(compared.main, argv)
    assert done.exit_code == 0, done.output  # one seed decides nothing
    record = json.loads(out.read_text())
    runs = record["runs"]
    assert record["seeds"] == 1
    assert [run["precision"] for run in runs] == ["fp32", "bf16"]
    assert [run["seed"] for run in runs] == [7, 7]
    first, second = (run["losses"][0] for run in runs)
    assert first != second
    assert first == pytest.approx(second, rel=0.01)
