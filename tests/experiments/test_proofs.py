"""The page of proofs: its tables, and that no proof is missing from it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from minicnn.devices.nvrtc import KernelReport
from minicnn.experiments.proofs import proofs
from minicnn.experiments.proofs.gradcheck import Check
from minicnn.experiments.proofs.proofs import MISTAKES, Outcomes
from tests.support.helpers import Worst

TESTS = Path(__file__).parents[1]


def test_every_planted_mistake_has_its_test() -> None:
    assert "ops/test_pool_lrn.py" in proofs.tested()  # two oracles' files serve it
    # All of the files are there.
    text = "".join((TESTS / name).read_text() for name in proofs.tested())
    names = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    for test in MISTAKES:
        assert sum(name.startswith(test) for name in names) == 1, test


def test_proofs_are_of_committed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicnn.training.environment.commit", lambda: "abc-dirty")
    with pytest.raises(click.ClickException, match=r"docs/proofs.md: made from .* abc"):
        proofs.collect()


def test_the_page_says_where_it_comes_from() -> None:
    about = {"machine": "2 cores", "date": "2026-11-23", "commit": "abc123"}
    # Registers, shared memory, stack and spills, instructions.
    report = KernelReport("f<bf16>", "sm_90", 1, 2, 3, 4, 5, 9, ptx="")
    checks = [
        Check("lrn", case, against, dtype, error, "dx[0]", 1.0)
        for case, against, dtype, error in (
            ("size 5", "reference", "float32", 1e-7),
            ("size 3", "reference", "float32", 2e-7),
            ("size 3", "differences", "float64", 3e-9),
        )
    ]
    worst = {
        ("lrn", "cpu", "float32", "y"): Worst(2e-7, 8e-7, "size 5"),
        ("lrn", "emulated", "float32", "y"): Worst(0.0, 8e-7, "size 5"),
        ("pool", "cpu", "float32", "y"): Worst(1e-7, 1e-6, "pad 1"),
    }
    outcomes, odd = Outcomes(), "test_unwritten_output_stays_nan"
    for test in MISTAKES:
        for when in "setup", "call":
            ended = "failed" if (test, when) == (odd, "call") else "passed"
            how = {"nodeid": f"a.py::{test}[1]", "when": when, "outcome": ended}
            outcomes.pytest_runtest_logreport(SimpleNamespace(**how))
    page = proofs.page(
        outcomes,
        about=about,
        errors=proofs.error_table(worst),
        gradients=proofs.gradient_table(checks),
        kernels=proofs.compile_table([report]),
    )
    assert "| `f<bf16>` | 1, 2, 12, 9 |" in page
    assert "| lrn | y | 2.0e-07 (25%) | 0 |" in page
    assert "| pool | y | 1.0e-07 (10%) | – |" in page
    assert "| lrn | 2 | 2.0e-07 | 3.0e-09 |" in page
    assert "2 cores, 2026-11-23, commit\nabc123" in page
    assert f"behind this page: 1 failed, {len(MISTAKES) - 1} passed" in page
    assert f"| `{odd}…` | 0 of 1 |" in page
    assert "| `test_missing_cp_async_wait_shows…` | 1 of 1 |" in page
