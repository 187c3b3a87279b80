"""The page of proofs: its tables, and that no proof is missing from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from minicnn.devices.nvrtc import KernelReport
from minicnn.experiments.proofs import proofs
from minicnn.experiments.proofs.proofs import MISTAKES, Outcomes

TESTS = Path(__file__).parents[1]


def rows(table: str) -> list[list[str]]:
    """A table's cells, without the line below its head."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def outcomes(**ended: str) -> Outcomes:
    """How each planted mistake's test ended: passed, or as given."""
    found = Outcomes()
    found.of = {f"a.py::{test}[1]": ended.get(test, "passed") for test in MISTAKES}
    return found


def report(name: str, arch: str, **found: int) -> KernelReport:
    none = dict.fromkeys(
        (
            "registers",
            "shared_bytes",
            "stack_bytes",
            "spill_stores",
            "spill_loads",
            "instructions",
        ),
        0,
    )
    return KernelReport(name, arch, **{**none, **found}, ptx="")


def test_planted_mistakes_are_counted() -> None:
    ended = outcomes(test_unwritten_output_stays_nan="failed")
    caught = {row[1]: row[2] for row in rows(proofs.mistake_table(ended))[1:]}
    assert caught["`test_unwritten_output_stays_nan…`"] == "0 of 1"
    assert caught["`test_missing_cp_async_wait_shows…`"] == "1 of 1"
    with pytest.raises(click.ClickException, match="no test's name begins with test_"):
        proofs.mistake_table(Outcomes())


def test_every_planted_mistake_has_its_test() -> None:
    # All of the files are there.
    text = "".join((TESTS / name).read_text() for name in proofs.tested())
    names = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    for test in MISTAKES:
        assert sum(name.startswith(test) for name in names) == 1, test


def test_skipped_and_failed_tests_are_kept() -> None:
    ended = Outcomes()
    for name in ("setup passed", "call passed", "setup skipped"):
        when, outcome = name.split()
        each: Any = SimpleNamespace(nodeid=name, when=when, outcome=outcome)
        ended.pytest_runtest_logreport(each)
    assert ended.count() == {"passed": 1, "skipped": 1}


def test_proofs_are_of_committed_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiments" / "results"
    folder.mkdir(parents=True)
    for name, about in {
        "a-emulated-losses.json": {"commit": "abc", "precision": "fp64"},
        "b-emulated-losses.json": {"commit": "abc"},
        "other.json": {"commit": "abc-dirty"},
    }.items():
        (folder / name).write_text(json.dumps({"command": "python x.py", **about}))
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    found = proofs.recorded_losses()
    assert list(found) == ["b-emulated-losses.json", "a-emulated-losses.json"]
    changed = {"command": "python x.py", "commit": "abc-dirty"}
    (folder / "b-emulated-losses.json").write_text(json.dumps(changed))
    with pytest.raises(click.ClickException) as refused:
        proofs.recorded_losses()
    said = refused.value.message
    assert said.startswith("b-emulated-losses.json: made from changes to commit abc ")
    assert said.endswith("then: python x.py")
    # Nor is the page written from such a tree.
    (folder / "b-emulated-losses.json").unlink()
    monkeypatch.setattr("minicnn.training.environment.commit", lambda: "abc-dirty")
    with pytest.raises(click.ClickException, match=r"docs/proofs.md: made from .* abc"):
        proofs.collect(1)


def test_the_page_says_where_it_comes_from() -> None:
    about = {"machine": "2 cores", "date": "2026-11-23", "commit": "abc123"}
    folder = proofs.ROOT / "experiments" / "results"
    losses = {
        path.name: json.loads(path.read_text())
        for path in folder.glob("*emulated-losses*.json")
    }
    found = outcomes(), {}, [], losses, "12.9", [report("f<bf16>", "sm_90")]
    page = proofs.page(about, 300, *found)
    assert "| `f<bf16>` | 0, 0, 0, 0 |" in page
    assert "2 cores, 2026-11-23, commit\nabc123" in page
    assert f"Of the tests behind this page: {len(MISTAKES)} passed" in page
    for name, record in losses.items():
        assert f"(../experiments/results/{name}): `{record['command']}`" in page
