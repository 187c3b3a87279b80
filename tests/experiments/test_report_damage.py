"""Reports of studies that are damaged or altered or lack nets; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.experiments.report.build import build
from minicnn.experiments.report.checks import check_all
from minicnn.experiments.report.contents import read
from minicnn.training import checkpoint
from tests.support.report_page import command, parsed, rows, words_of
from tests.support.report_study import PLAN, TINY, make_study


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


def alter(run: Path, name: str) -> None:
    """Changes one number of a run's checkpoint, with a valid checksum."""
    [path] = (run / "checkpoints").iterdir()
    state = checkpoint.load(path)
    state.weights[name].flat[0] += 1
    checkpoint.save(path.parent, state)


def test_the_frozen_layers_are_hashed_again_from_the_files(tiny: Path) -> None:
    runs = tiny / "runs" / "random-0"
    whole = {each.id: each for each in check_all(read(tiny))}
    assert {each.right for each in whole.values()} == {True}
    assert whole["random-0/A3B"].tensors == 6
    assert whole["random-0/A3B"].conv1_moved == 0
    alter(runs / "A2B", "conv2.b")  # frozen: found
    alter(runs / "A3B", "fc8.b")  # trained: none of this check's business
    [path] = (runs / "B3A" / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    found = {each.id: each for each in check_all(read(tiny))}
    bad = found["random-0/A2B"]
    assert (bad.recomputed, bad.as_base, bad.right) == (False, False, False)
    assert found["random-0/A3B"].right is True
    assert found["random-0/B2A"].right is True
    assert (found["random-0/B3A"].recomputed, found["random-0/B3A"].right) == (
        None,
    ) * 2
    text = words_of(tiny)
    assert "WRONG" in text
    assert "Wrong: random-0/A2B." in text
    assert "3 of 3" not in text
    assert "2 of 3 hold the base" in text


def test_a_net_that_changed_in_training_shows(tiny: Path) -> None:
    change(tiny / "runs/random-0/B2A/result.json", frozen_unchanged=False)
    found = {each.id: each.right for each in check_all(read(tiny))}
    assert [name for name, right in found.items() if not right] == ["random-0/B2A"]


def test_a_base_that_is_another_one_shows(tiny: Path) -> None:
    """The nets' checkpoints are as their results say; the layers are not the base's."""
    alter(tiny / "runs" / "random-0" / "baseA", "conv1.w")
    found = {each.id: each for each in check_all(read(tiny))}
    wrong = [each.id for each in found.values() if not each.right]
    assert wrong == ["random-0/A2B", "random-0/A3B"]
    assert found["random-0/A2B"].recomputed is True
    assert (found["random-0/A2B"].conv1_moved or 0) > 0


def test_fine_tuned_layers_must_have_moved(tmp_path: Path) -> None:
    nets = [{"split": "random-0", "treatments": ["base", "selffer+"], "depths": [2]}]
    made = make_study(tmp_path / "study", PLAN | {"nets": nets})
    [each, _] = check_all(read(tmp_path / "study"))
    assert (each.right, each.as_base, each.unchanged) == (True, False, None)
    assert (each.conv1_moved or 0) > 0.1
    [base] = (made.folder / "runs/random-0/baseA/checkpoints").iterdir()
    [mine] = (made.folder / "runs/random-0/A2A+/checkpoints").iterdir()
    shutil.copy(base, mine)
    [each, _] = check_all(read(tmp_path / "study"))
    assert each.right is False


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
