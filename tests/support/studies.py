"""A study small enough to run in a test, by its commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minicnn.cli import main as cli
from tests.support.runs import make_store

PLAN = """
name = "tiny"
data = ""
recipe = "demo"
[settings]
solver.iterations = 6
solver.batch = 8
solver.lr = 0.001
schedule.evaluate_every = 3
schedule.checkpoint_every = 2
[[nets]]
split = "random-0"
treatments = ["transfer"]
targets = ["B"]
depths = [1, 2, 4]
"""
Invoke = Callable[..., tuple[int, str, str]]


def commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Invoke:
    """Runs a command line in a folder with a store and a plan: status, out, err."""
    monkeypatch.chdir(folder)
    make_store(folder / "tiny.h5")
    Path("tiny.toml").write_text(PLAN)

    def invoke(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["minicnn", *argv])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return invoke


def study_run(*options: str) -> list[str]:
    return ["study", "run", "tiny.toml", "--data=tiny.h5", "--device=cpu", *options]
