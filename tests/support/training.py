"""Short trainings on a small store, and what must be equal between them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from minicnn.base import config
from minicnn.base.errors import Stopped
from minicnn.data.loader import Loader
from minicnn.devices import device
from minicnn.training.run import Run
from minicnn.training.transfer import Setup

# Checkpoints, evaluations and log lines out of step with each other and with epochs.
SETTINGS = [
    "network.arch=miniature",
    "solver.iterations=23",
    "solver.batch=9",
    "solver.lr=0.002",
    "solver.step_size=15",
    "schedule.log_every=4",
    "schedule.evaluate_every=10",
    "schedule.checkpoint_every=6",
]
# env.json says when and how fast; everything else must be a function of the settings.
UNEQUAL = ("env.json", ".lock")


def make_setup(store: Path, runs: Path, *settings: str, **options: Any) -> Setup:
    """What the runs of a test share: the miniature network, 23 updates."""
    dev = device.get(options.pop("device", "cpu"), options.pop("threads", 2))
    resolved = config.override(config.Config(), [*SETTINGS, *settings])
    return Setup(store, dev, resolved, runs=runs, **options)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that must be reproducible."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNEQUAL
    }


def copied(whole: Setup, tmp_path: Path) -> Setup:
    """The same runs in a folder of their own, to write to."""
    assert whole.runs is not None
    runs = tmp_path / "runs"
    shutil.copytree(whole.runs, runs)
    return make_setup(whole.store, runs)


@contextmanager
def stopped_at(step: int, number: int) -> Iterator[Any]:
    """Sends this process a signal in that training step of the block, which it ends."""
    original = Loader.train_batch

    def train_batch(self: Loader, now: int) -> Any:
        if now == step:
            os.kill(os.getpid(), number)
        return original(self, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "train_batch", train_batch)
        with pytest.raises(Stopped) as stopped:
            yield stopped


def sessions(run: Run, key: str) -> list[Any]:
    """What env.json has under a key of each of a run's sessions."""
    content = json.loads((run.folder / "env.json").read_text())
    return [each[key] for each in content["sessions"]]
