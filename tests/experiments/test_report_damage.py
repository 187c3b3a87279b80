"""Reports of studies that are damaged or altered or lack nets; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.experiments.report.build import build
from tests.support.report_page import command, parsed, rows, words_of
from tests.support.report_study import TINY, make_study


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two bases and four transfer nets, to be damaged."""
    make_study(tmp_path / "study", TINY)
    return tmp_path / "study"


def change(result: Path, **values: Any) -> None:
    """Other values in a result.json; None takes one out."""
    found = json.loads(result.read_text()) | values
    kept = {
        key: value
        for key, value in found.items()
        if key not in values or value is not None
    }
    result.write_text(json.dumps(kept))


def test_missing_and_damaged_nets_are_named(tiny: Path) -> None:
    runs = tiny / "runs" / "random-0"
    (runs / "A2B" / "result.json").unlink()
    shutil.rmtree(runs / "A3B")
    (runs / "B2A" / "result.json").write_text("{")
    (runs / "B3A" / "result.json").write_text('{"weights_sha256": {}}')
    (runs / "baseB" / "env.json").write_text("{}")
    change(runs / "baseA" / "result.json", frozen_unchanged=None)
    report = build(tiny, tiny.parent / "report")
    assert set(report.left_out) == {f"random-0/{n}" for n in ("B2A", "B3A", "baseA")}
    text = parsed(report).text
    assert "1 of 6 nets of the plan are finished. This report shows what" in text
    assert "damaged, they lack 'frozen_unchanged'" in text
    assert "random-0/A2B (stopped, 400 of 400 updates)" in text
    assert "random-0/A3B (waiting)" in text
    assert "B2A/result.json: not valid JSON" in text
    assert "B3A/result.json: damaged, lacks results" in text
    assert "without a record" in text
    assert [r["name"] for r in rows(tiny.parent / "report" / "nets.csv")] == ["baseB"]
    told = command(tiny, "-o", tiny.parent / "again")
    assert told.exit_code == 0
    assert "warning: left out: " in told.stderr
    assert "B3A" in told.stderr


def test_nets_of_other_settings_are_left_out(tiny: Path) -> None:
    config = tiny / "runs" / "random-0" / "A2B" / "config.toml"
    config.write_text(config.read_text().replace("momentum = 0.9", "momentum = 0.8"))
    report = build(tiny, tiny.parent / "report")
    assert set(report.left_out) == {"random-0/A2B"}
    text = parsed(report).text
    assert "A2B: trained by other settings: solver.momentum was 0.9, now 0.8" in text
    assert "5 of 6 nets of the plan are finished. This report shows what" in text
    names = [row["name"] for row in rows(tiny.parent / "report" / "nets.csv")]
    assert names == ["baseA", "baseB", "B2A", "B3A", "A3B"]


def test_a_study_without_any_result_has_a_report(tiny: Path) -> None:
    shutil.rmtree(tiny / "runs")
    report = build(tiny, tiny.parent / "report")
    text = parsed(report).text
    assert "0 of 6 nets of the plan are finished." in text
    assert "random-0/A2B (waiting)" in text
    assert "random-0/baseA (ready)" in text
    assert {found.verdict for found in report.findings} == {"not enough runs"}
    assert rows(tiny.parent / "report" / "nets.csv") == []


def test_a_net_that_changed_in_training_shows(tiny: Path) -> None:
    report = tiny.parent / "report"
    assert "All 4 nets with frozen layers ended with them unchanged" in words_of(tiny)
    change(tiny / "runs/random-0/B2A/result.json", frozen_unchanged=False)
    text = words_of(tiny)
    assert "Frozen layers changed in training: runs/random-0/B2A." in text
    assert "CHANGED" in text
    found = {row["name"]: row["frozen_unchanged"] for row in rows(report / "nets.csv")}
    held = dict.fromkeys(("A2B", "A3B", "B3A"), "True")
    assert found == {"baseA": "", "baseB": "", "B2A": "False"} | held


def test_what_is_refused(tiny: Path, tmp_path: Path) -> None:
    for argv in ([], [tiny, "--published"]):
        done = command(*argv, "-o", tmp_path / "report")
        assert isinstance(done.exception, MinicnnError)
        assert "give a study folder" in str(done.exception)
    with pytest.raises(MinicnnError, match=r"no study folder.*plan\.toml"):
        build(tiny / "runs", tmp_path / "report")
    (tmp_path / "file").write_text("")
    with pytest.raises(MinicnnError, match="cannot be made"):
        build(tiny, tmp_path / "file")
    with pytest.raises(MinicnnError, match="--score best: choose final or best10"):
        build(tiny, tmp_path / "report", "best")
    assert not (tmp_path / "report").exists()
