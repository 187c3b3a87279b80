"""A run moves between devices: begun on one, resumed on another, scored on any."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np

from minicnn.devices import device
from minicnn.results.inference import evaluate_run
from minicnn.training.transfer import train_base, transfer
from tests.support.runs import make_store
from tests.support.training import make_setup, sessions, stopped_at

# Of the largest weight: 15 updates' roundings of float32 come to 2e-7; a maximum that
# falls to a neighbour within a rounding of it would add some 1e-5.
CLOSE = 1e-4


def test_a_run_moves_between_devices(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.h5")
    whole = train_base(make_setup(store, tmp_path / "whole"), "A")

    with stopped_at(8, signal.SIGTERM):
        train_base(make_setup(store, tmp_path / "moved"), "A")
    emulated = make_setup(store, tmp_path / "moved", device="emulated")
    moved = train_base(emulated, "A")
    assert sessions(moved, "device") == ["cpu", "emulated"]
    weights = whole.checkpoint.weights
    off = {
        name: np.abs(values - weights[name]).max() / np.abs(weights[name]).max()
        for name, values in moved.checkpoint.weights.items()
    }
    assert 0 < max(off.values()) < CLOSE, off

    cpu, other = (evaluate_run(moved, device.get(n)) for n in ("cpu", "emulated"))
    assert abs(cpu["loss"] - other["loss"]) < CLOSE * cpu["loss"]
    assert (cpu["top1"], cpu["top5"]) == (other["top1"], other["top5"])

    # Its copy goes on on the CPU again, and begins with its very bytes.
    copy = transfer(make_setup(store, tmp_path / "moved"), "A", n=2)
    for name, values in copy.checkpoint.weights.items():
        same = values.tobytes() == moved.checkpoint.weights[name].tobytes()
        assert same == name.startswith(("conv1", "conv2")), name
