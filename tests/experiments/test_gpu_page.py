"""The page of a GPU's record: its tables, and what is not in the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.devices import nvrtc
from minicnn.experiments import gpu_page, predict
from minicnn.experiments.bench import step_against_torch as bench_torch
from minicnn.experiments.predict import LAUNCH, Prediction

ENVIRONMENT = {
    "state": "ok",
    "summary": "a | b",
    "gpu": "NVIDIA H200",
    "cuda_driver": 13000,
    "cupy": "14.2.0",
    "torch": "2.11.0",
    "date": "2026-12-01T00:00:00Z",
    "commit": "abc",
}


def record() -> dict[str, Any]:
    """As gpu_check writes it, of made-up numbers."""
    about = {"arch": "caffenet", "batch": 256, "state": "ok", "summary": ""}
    bench = {**about, "precision": "bf16", "step": 4e-3, "images_per_second": 64e3}
    bench["environment"] = {"device": "cuda"}
    bench["rows"] = [
        {"place": "conv1", "op": "conv.forward", "seconds": 2e-4, "share": 0.5},
        {"place": "", "op": "nothing.known", "seconds": 1e-4, "share": 0.25},
    ]
    theirs = [
        {"name": "bf16 slow", "precision": "bf16", "median": 9e-3},
        {"name": "bf16 fast", "precision": "bf16", "median": 8e-3},
    ]
    for each in theirs:
        each["ratios"] = {"bf16": each["median"] / 4e-3}  # type: ignore[operator]
    net = {**about, "device": "cuda", "theirs": theirs, "tried": []}

    def timed(tile: list[int], seconds: float, chosen: bool, layer: str) -> Any:
        where = {"layer": layer, "kernel": "conv_forward", "kind": "bf16"}
        return {**where, "tile": tile, "seconds": seconds, "chosen": chosen}

    tiles = [timed([128, 64, 8], 1e-4, True, "conv1")]
    tiles += [timed([256, 96, 8], 9e-5, False, "conv1")]
    tiles += [timed([128, 64, 8], 1e-4, True, "conv2")]
    tiles += [timed([256, 96, 8], 2e-4, False, "conv2")]
    kernel = {"name": "conv_forward", "grid": "(9, 1, 1)", "seconds": 7e-5}
    kernel["metrics"] = {"DRAM Throughput [%]": 61.4}
    return {
        "environment": ENVIRONMENT,
        "bench caffenet bf16": bench,
        "torch caffenet": {"state": "ok", "summary": "", "nets": [net]},
        "tiles": {"state": "ok", "summary": "", "tiles": {"bf16": tiles}},
        "profile": {"state": "ok", "summary": "", "kernels": [kernel]},
        "goals": [{"goal": "of another day"}],
    }


def test_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvrtc, "available", lambda: True)
    guesses = {("conv1", "conv.forward"): 1.5e-4}
    monkeypatch.setattr(gpu_page, "predicted", lambda precision: guesses)
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- gpu-check -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(bench_torch, "PAGE", page)
    file = tmp_path / "card.json"
    file.write_text(json.dumps(record()))
    done = CliRunner().invoke(gpu_page.main, [str(file)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n<!-- gpu-check -->\nNVIDIA H200, driver 13000")
    assert text.endswith("\n<!-- end -->\nafter\n")
    assert "commit abc" in text
    assert "results/card.json" in text
    assert "- a step of caffenet, batch 256, bf16, in at most 4.2 ms: met (4.0" in text
    assert "of another day" not in text
    assert "| environment | ok | a / b |" in text
    assert "| caffenet | 256 | bf16 | 4.00 | 64,000 | bf16 fast | 8.00 | 2.00 |" in text
    assert "| conv1 | conv.forward | 200 | 150 | 50% |" in text
    assert "|  | nothing.known | 100 | – | 25% |" in text
    # Only where another tile was faster.
    row = "| bf16 | conv1 | conv_forward | [128, 64, 8]: 100 | [256, 96, 8]: 90 |"
    assert row in text
    assert "| bf16 | conv2 |" not in text
    assert "| conv_forward | (9, 1, 1) | 70 | – | – | 61 | – | – |" in text


def test_what_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "available", lambda: False)
    text = gpu_page.page({"environment": ENVIRONMENT}, "card.json")
    assert text.count("\n| --- |") == 1  # of the sections
    alone = {"environment": ENVIRONMENT, "bench": record()["bench caffenet bf16"]}
    text = gpu_page.page(alone, "card.json")
    assert "| caffenet | 256 | bf16 | 4.00 | 64,000 | – | – | – |" in text
    assert "| conv1 | conv.forward | 200 | – | 50% |" in text


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    for content, said in (("{}", "it has no 'environment'"), ("{", "other.json")):
        file.write_text(content)
        done = CliRunner().invoke(gpu_page.main, [str(file)])
        assert done.exit_code == 1
        assert said in done.output
        assert done.output.count("\n") == 1


def test_an_ops_launches_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(place: str, kernel: str, seconds: float) -> Prediction:
        parts = {"memory": seconds - LAUNCH}
        return Prediction(place, "conv.backward_weights", kernel, 1, 1, parts)

    made = [launch("conv1", "conv_backward_weights", 3e-4), launch("conv2", "a", 1e-4)]
    made.append(launch("conv1", "sum_columns", 1e-5))
    monkeypatch.setattr(predict, "compiled", dict)
    monkeypatch.setattr(predict, "predictions", lambda *_: made)
    assert gpu_page.predicted("bf16") == {
        ("conv1", "conv.backward_weights"): pytest.approx(3.1e-4),
        ("conv2", "conv.backward_weights"): pytest.approx(1e-4),
    }
