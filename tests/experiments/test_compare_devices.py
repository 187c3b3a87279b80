"""Trainings that prove a device: stopped and resumed, and what their losses prove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicnn.devices import device
from minicnn.experiments.proofs import compare_devices
from minicnn.nn import architectures
from tests.support.runs import MINIATURE, make_store


def test_a_stopped_training_is_resumed_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.ARCHITECTURES, "caffenet32", MINIATURE)
    store = make_store(tmp_path / "tiny.h5", size=24)
    dev = device.get("cpu")

    def train(runs: str, stop: int | None = None, precision: str = "fp32") -> Any:
        settings = ["solver.batch=5", f"network.precision={precision}"]
        how = store, tmp_path / runs, dev, 6, settings
        return compare_devices.train(compare_devices.make_setup(*how), stop)

    whole, resumed = train("whole"), train("resumed", 3)
    assert whole["weights"] == resumed["weights"]
    assert len(whole["losses"]) == 6
    assert whole["losses"] == resumed["losses"]
    sessions = json.loads((tmp_path / "resumed" / "baseA" / "env.json").read_text())
    assert [s["first_step"] for s in sessions["sessions"]] == [0, 4]
    assert compare_devices.side_by_side([1.0, 3.0], [1.0, 2.0, 9.0]) == [0.0, 0.5]
    exact = train("exact", precision="fp64")["losses"]
    differences = compare_devices.side_by_side(exact, whole["losses"])
    assert 1e-9 < max(differences) < 1e-4  # what float32 rounds off


def test_losses_that_differ_prove_nothing() -> None:
    bits = {"same_bits_again": True, "same_bits_resumed": True}
    late = [1e-7] * compare_devices.FIRST + [0.02]
    for record, differences, right in [
        ({"precision": "fp32", **bits}, late, True),
        ({"precision": "fp32", **bits, "same_bits_resumed": False}, late, False),
        ({"precision": "fp32", **bits}, late[::-1], False),
        ({"precision": "fp64"}, [1e-12] * 50, True),
        ({"precision": "fp64"}, late, False),
    ]:
        assert compare_devices.proven(record, differences) is right
