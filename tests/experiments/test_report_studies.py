"""Reports of one study and another: real runs, scores, costs, the published numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.devices import device
from minicnn.experiments.report.build import build
from minicnn.experiments.report.contents import read
from minicnn.experiments.study.cost import evaluations
from minicnn.experiments.study.plans import load_plan
from minicnn.experiments.study.records import published
from minicnn.training import transfer
from minicnn.training.run import BEST
from tests.support.report_page import FIGURES, Parsed, command, parsed, rows, words_of
from tests.support.report_study import PLAN, RATE, SECONDS, TINY, make_study, open_plan
from tests.support.runs import make_store


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two bases and four transfer nets."""
    make_study(tmp_path / "study", TINY)
    return tmp_path / "study"


def test_what_is_written_into_the_page_stays_text(tmp_path: Path) -> None:
    make_study(tmp_path / "study", TINY | {"name": '<script>alert("&")<'})
    page = parsed(build(tmp_path / "study", tmp_path / "report"))
    assert "script" not in [tag for tag, _ in page.tags]
    assert '<script>alert("&")<' in page.text


def test_nets_whose_metrics_were_not_kept_have_no_curves(tiny: Path) -> None:
    metrics = sorted(tiny.glob("runs/*/*/metrics.jsonl"))
    for path in metrics[1:]:
        path.write_text("")
    page = parsed(build(tiny, tiny.parent / "one"))
    assert any("top-1 of 1 nets: " in str(a.get("alt")) for _, a in page.tags)
    metrics[0].write_text("")
    build(tiny, tiny.parent / "two")
    assert not (tiny.parent / "two" / "curves-random-0-seed0.svg").exists()


def test_equal_studies_give_equal_reports(tiny: Path) -> None:
    first = build(tiny, tiny.parent / "one")
    second = build(tiny, tiny.parent / "two")
    for one, two in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_a_comparable_plan_has_the_published_numbers_under_it(tmp_path: Path) -> None:
    make_study(tmp_path / "study", TINY | {"published": True})
    report = build(tmp_path / "study", tmp_path / "report")
    assert not [path for path in report.files if "published" in path.name]
    found = {row["name"]: row for row in rows(tmp_path / "report" / "nets.csv")}
    assert found["A3B"]["published_name"] == "transfer0A0B_1_3"
    assert found["A3B"]["published_top1"] == "0.626452"
    assert found["baseA"]["published_name"] == "half0A"
    text = parsed(report).text
    assert "transfer0B0A_1_2" in text
    assert "Pale: published, means of the 10 best evaluations." in text
    assert "laid under ours" in text


def test_a_score_can_be_chosen(tiny: Path) -> None:
    best = build(tiny, tiny.parent / "report", "best10")
    page = parsed(best)
    assert "Scores: means of the 10 best" in page.text
    assert "Scores: final top-1." not in page.text
    nets = [e.net for e in read(tiny).entries if e.net.kind == "base"]
    mean = sum(net.best10 for net in nets) / len(nets)
    alts = [str(a["alt"]) for tag, a in page.tags if tag == "img"]
    assert f"Base: {100 * mean:.1f} %." in alts[0]


def test_with_few_evaluations_there_is_no_mean_of_the_10_best(tiny: Path) -> None:
    path = tiny / "runs/random-0/A2B/result.json"
    result = json.loads(path.read_text())
    path.write_text(
        json.dumps(result | {"evaluations": 9, "top1_mean_of_10_best": None})
    )
    text = words_of(tiny)
    assert "– for best 10: fewer than 10 evaluations." in text
    found = {row["name"]: row for row in rows(tiny.parent / "report" / "nets.csv")}
    few, enough = found["A2B"], found["A3B"]
    assert (few["evaluations"], few["top1_mean_of_10_best"]) == ("9", "")
    assert enough["evaluations"] == "10"
    assert float(enough["top1_mean_of_10_best"]) > 0
    with pytest.raises(MinicnnError, match=r"1 of 6 nets .* 10 best: random-0/A2B;"):
        build(tiny, tiny.parent / "best", "best10")
    assert not (tiny.parent / "best").exists()
    path.write_text(json.dumps(result))
    assert "fewer than 10" not in words_of(tiny)


def test_the_demo_study_is_evaluated_often_enough_for_both_scores() -> None:
    assert all(evaluations(node.config) >= BEST for node in load_plan("demo").nodes)


def test_a_pass_that_nets_share_is_paid_once(tiny: Path) -> None:
    for name in ("A2B", "A3B"):
        path = tiny / "runs" / "random-0" / name / "env.json"
        found = json.loads(path.read_text())
        found["sessions"][0]["trained_together"] = ["A2B", "A3B"]
        path.write_text(json.dumps(found))
    entries = {each.id: each for each in read(tiny).entries}
    assert entries["random-0/A2B"].seconds == SECONDS / 2
    assert entries["random-0/B2A"].seconds == SECONDS
    assert entries["random-0/A2B"].rate == RATE
    text = words_of(tiny)
    assert "1 min 02 s" in text  # 4 · 12.5 + 2 · 6.25 = 62.5
    assert "2 nets, each at its part" in text


def test_real_runs_are_read(tmp_path: Path) -> None:
    """What the trainer itself writes, not what these tests make up."""
    store = make_store(tmp_path / "tiny.h5")
    # Two checkpoints each: the last one counts.
    settings = {
        "network": {"arch": "miniature"},
        "solver": {"iterations": 6, "batch": 8, "lr": 0.001},
        "schedule": {"checkpoint_every": 3},
    }
    plan = PLAN | {
        "settings": settings,
        "nets": [
            {
                "split": "random-0",
                "treatments": ["transfer", "transfer+", "transfer-keep", "random"],
                "targets": ["B"],
                "depths": [2],
                "keep": [1],
            }
        ],
    }
    made = open_plan(tmp_path / "study", plan, store)
    for node in made.nodes:
        dev, runs = device.get("cpu", 2), made.runs(node)
        setup = transfer.Setup(store, dev, node.config, runs=runs)
        transfer.execute(setup, [[node.treatment]])
    contents = read(made.folder)
    assert (contents.unfinished, contents.left_out) == ({}, {})
    assert all(entry.rate and entry.seconds for entry in contents.entries)
    report = build(made.folder, tmp_path / "report")
    names = {path.name for path in report.files}
    assert {"curves-random-0-seed0.svg", "filters.png"} <= names


def test_the_published_numbers_alone(tmp_path: Path) -> None:
    done = command("--published", "-o", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert re.search("^2   supported  ", done.output, re.MULTILINE)
    assert re.search("^9   not enough runs  ", done.output, re.MULTILINE)
    names = {path.name for path in (tmp_path / "report").iterdir()}
    shown = {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    shown -= {"preserved.png", "preserved.svg"}
    assert names == shown | {"report.html", "nets.csv", "claims.csv"}
    found = rows(tmp_path / "report" / "nets.csv")
    assert [row["name"] for row in found] == [net.name for net in published()]
    text = Parsed((tmp_path / "report" / "report.html").read_text("utf-8")).text
    assert (
        "comes to 1.6 points published (n ≥ 1); 2.1 points published (n ≥ 5)." in text
    )
