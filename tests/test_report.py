"""Whole reports: the files, the page, what is missing, what is damaged, a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from minicnn import architectures, checkpoint, device, transfer
from minicnn.cli import cli
from minicnn.errors import MinicnnError
from minicnn.experiments.report.build import Built, build
from minicnn.experiments.report.checks import check_all
from minicnn.experiments.report.contents import read
from minicnn.experiments.report.drawing import Picture
from minicnn.experiments.report.page import figure, folded, page
from minicnn.experiments.study.cost import evaluations
from minicnn.experiments.study.plans import load_plan
from minicnn.experiments.study.records import of_study, published
from minicnn.run import BEST, Run
from tests.report_study import (
    CLASSES,
    EVERY,
    IMAGES,
    PLAN,
    RATE,
    SECONDS,
    make_study,
    open_plan,
)
from tests.runs import MINIATURE, make_store

# A few depths, so that the pictures are few.
DEPTHS = [1, 4, 7]
SMALL: dict[str, Any] = PLAN | {
    "nets": [
        {"splits": ["random-0", "random-1"], "treatments": EVERY, "depths": DEPTHS},
        {
            "split": "random-0",
            "treatments": ["random", "transfer-keep"],
            "depths": DEPTHS[:2],
            "keep": [1],
        },
        {
            "split": "natural-manmade",
            "seeds": [0, 1],
            "treatments": ["base", "transfer"],
            "depths": DEPTHS,
        },
        {
            "split": "all",
            "treatments": ["base", "reduced"],
            "images_per_class": [1, 10, 75],
        },
    ]
}
TINY: dict[str, Any] = PLAN | {
    "nets": [
        {"split": "random-0", "treatments": ["base", "transfer"], "depths": [2, 3]},
    ]
}
FIGURES = ("transfer", "panels", "relative", "preserved", "reduced")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study; not to be written to."""
    folder = tmp_path_factory.mktemp("report") / "study"
    make_study(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def built(study: Path) -> Built:
    """Its report, in a folder beside it."""
    return build(study, study.parent / "report")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two bases and four transfer nets, to be damaged."""
    make_study(tmp_path / "study", TINY)
    return tmp_path / "study"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page_of(study: Path) -> str:
    return build(study, study.parent / "report").page.read_text(encoding="utf-8")


def command(*argv: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, argv)])


class Parsed(HTMLParser):
    """What of a page matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_the_files_are_there_and_whole(built: Built) -> None:
    assert all(path.is_file() for path in built.files)
    names = {path.name for path in built.files}
    assert {"report.html", "nets.csv", "claims.csv"} <= names
    for name in FIGURES:
        assert {f"{name}.png", f"{name}.svg"} <= names
    # Not comparable: the published figures on their own, but for what has none.
    apart = {f"{name}-published.svg" for name in FIGURES if name != "preserved"}
    assert apart <= names
    assert "preserved-published.svg" not in names
    assert "Pale: published" not in built.page.read_text(encoding="utf-8")
    for path in built.files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.verify()
        if path.suffix == ".svg":
            ElementTree.parse(path)


def test_every_figure_says_where_it_comes_from(built: Built) -> None:
    """In words that are drawn as paths, of which the SVG tells in comments."""
    ours = "Study “made-up”, data made-up.h5, net caffenet32, minicnn 0.1.0"
    theirs = "published, Yosinski et al. 2014: ImageNet, CaffeNet"
    found = [path for path in built.files if path.suffix == ".svg"]
    assert found
    for path in found:
        text = path.read_text(encoding="utf-8")
        published = path.stem.endswith("-published")
        assert f"<!-- {theirs if published else ours} -->" in text, path.name


def test_every_net_is_a_row(built: Built, study: Path) -> None:
    found = rows(built.page.parent / "nets.csv")
    nets = of_study(study)
    assert len(found) == len(nets) == len({row["folder"] for row in found})
    [row] = [r for r in found if r["folder"] == "runs/random-0/A4B+"]
    result = Run(study / row["folder"]).result
    assert result is not None
    expected = {
        "kind": "transfer+",
        "split": "random-0",
        "source": "A",
        "target": "B",
        "n": "4",
        "keep": "0",
        "seed": "0",
        "images_per_class": str(float(IMAGES)),
        "classes": str(CLASSES),
        "top1_final": str(result["top1"]),
        "top1_mean_of_10_best": str(result["top1_mean_of_10_best"]),
        "evaluations": str(result["evaluations"]),
        "top5": str(result["top5"]),
        "iterations": "400",
        "name": "A4B+",
        "seconds": str(SECONDS),
        "images_per_second": str(RATE),
        # Another protocol: no published net corresponds.
        "published_name": "",
        "published_top1": "",
    }
    assert {key: row[key] for key in expected} == expected


def test_every_claim_is_a_row(built: Built) -> None:
    found = rows(built.page.parent / "claims.csv")
    assert [row["claim"] for row in found] == [
        *("1", "2", "3", "4", "5", "6a", "6b", "7", "8", "9", "10")
    ]
    by_claim = {row["claim"]: row for row in found}
    # Half a point of noise does not hide what the made-up nets lose.
    assert by_claim["2"]["verdict"] == "supported"
    assert float(by_claim["2"]["high"]) < 0
    assert by_claim["2"]["depths"] == "4"
    assert by_claim["7"]["units"] == "4 and 4"
    assert by_claim["10"]["verdict"] == "not enough runs"
    assert by_claim["10"]["low"] == ""
    # By the same function on the published rows.
    assert by_claim["4"]["published_units"] == "8"
    assert float(by_claim["4"]["published_estimate"]) == pytest.approx(-1.373, abs=1e-3)


def test_the_page_needs_nothing_but_itself(built: Built) -> None:
    text = built.page.read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert not parsed.open
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", text)
    assert "default-src 'none'" in text
    for content in re.findall(r"data:image/svg\+xml;base64,([^\"]*)", text):
        svg = ElementTree.fromstring(base64.b64decode(content))
        for each in svg.iter():
            links = [v for k, v in each.attrib.items() if k.endswith("href")]
            assert all(link.startswith(("#", "data:")) for link in links)


def test_a_second_report_leaves_no_figure_of_the_first(
    study: Path, built: Built, tmp_path: Path
) -> None:
    """But what others put there, whatever its name."""
    folder = tmp_path / "report"
    folder.mkdir()
    for path in built.files:
        shutil.copy(path, folder)
    mine = {"notes.png", "curves-mine-seed0.svg", "transfer.pdf", "filters.csv"}
    for name in mine:
        (folder / name).write_text("mine")
    made = make_study(tmp_path / "study", TINY)
    again = build(made.folder, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == mine | {path.name for path in again.files}
    assert "preserved.svg" in {path.name for path in built.files} - names


def test_the_page_is_well_made(built: Built) -> None:
    parsed = Parsed(built.page.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in parsed.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in parsed.tags if tag == "a"]
    assert len(links) == 8
    assert {str(link)[1:] for link in links} <= set(ids)
    alts = [a["alt"] for tag, a in parsed.tags if tag == "img"]
    assert all(alt and len(alt) > 40 for alt in alts)
    counts = {tag: [t for t, _ in parsed.tags].count(tag) for tag in ("h1", "main")}
    assert counts == {"h1": 1, "main": 1}
    assert ("html", {"lang": "en"}) in parsed.tags
    assert any(a.get("name") == "viewport" for _, a in parsed.tags)


def test_the_page_says_what_was_run_and_all_that_came_of_it(
    built: Built, study: Path
) -> None:
    text = " ".join(Parsed(built.page.read_text(encoding="utf-8")).words)
    for words in ("made-up, recipe demo", "0123456789abcdef", "caffenet32"):
        assert words in text
    assert "400 updates of 32 images, learning rate 0.0" in text
    assert "target copy from the other target's base" in text
    nets = of_study(study)
    assert f"{len(nets)} of {len(nets)} nets of the plan are finished." in text
    for net in nets:
        assert net.name in text
        assert f"{100 * net.best10:.2f}" in text
        assert f"{100 * (net.final or 0):.2f}" in text
    assert f"{len(nets) * 400 * 32:,}" in text  # training images in all
    copied = sum(net.n > 0 for net in nets)
    assert f"All {copied} nets with copied or frozen layers" in text
    assert "WRONG" not in text
    for split in ("random-0, seed 0", "natural-manmade, seed 1", "all, seed 0"):
        assert split in text


def test_what_is_written_into_the_page_stays_text(tmp_path: Path) -> None:
    make_study(tmp_path / "study", TINY | {"name": '<script>alert("&")<'})
    parsed = Parsed(page_of(tmp_path / "study"))
    assert "script" not in [tag for tag, _ in parsed.tags]
    assert any('<script>alert("&")<' in words for words in parsed.words)


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
    text = report.page.read_text(encoding="utf-8")
    assert "transfer0B0A_1_2" in text
    assert "Pale: published, means of the 10 best evaluations." in text
    assert "laid under ours" in text


def test_a_score_can_be_chosen(tiny: Path) -> None:
    best = build(tiny, tiny.parent / "report", "best10")
    text = best.page.read_text(encoding="utf-8")
    assert "Scores: means of the 10 best" in text
    assert "Scores: final top-1." not in text
    nets = [net for net in of_study(tiny) if net.kind == "base"]
    mean = sum(net.best10 for net in nets) / len(nets)
    assert f"Base: {100 * mean:.1f} %." in text


def evaluated(run: Path, times: int) -> None:
    """Changes how often a run says that it was evaluated."""
    result = json.loads((run / "result.json").read_text()) | {"evaluations": times}
    (run / "result.json").write_text(json.dumps(result))


def test_with_few_evaluations_there_is_no_mean_of_the_10_best(tiny: Path) -> None:
    """Not even where the record, as older ones do, holds a number."""
    evaluated(tiny / "runs" / "random-0" / "A2B", 9)
    text = page_of(tiny)
    assert "–</td>" in text
    assert "All 6 nets. – for best 10: fewer than 10 evaluations." in text
    found = {row["name"]: row for row in rows(tiny.parent / "report" / "nets.csv")}
    few, enough = found["A2B"], found["A3B"]
    assert (few["evaluations"], few["top1_mean_of_10_best"]) == ("9", "")
    assert enough["evaluations"] == "10"
    assert float(enough["top1_mean_of_10_best"]) > 0
    with pytest.raises(MinicnnError, match=r"1 of 6 nets .* 10 best: random-0/A2B;"):
        build(tiny, tiny.parent / "best", "best10")
    assert not (tiny.parent / "best").exists()
    evaluated(tiny / "runs" / "random-0" / "A2B", 10)
    assert "fewer than 10" not in page_of(tiny)


def test_the_demo_study_is_evaluated_often_enough_for_both_scores() -> None:
    assert all(evaluations(node.config) >= BEST for node in load_plan("demo").nodes)


def test_missing_and_damaged_nets_are_named(tiny: Path) -> None:
    runs = tiny / "runs" / "random-0"
    (runs / "A2B" / "result.json").unlink()
    shutil.rmtree(runs / "A3B")
    (runs / "B2A" / "result.json").write_text("{")
    (runs / "B3A" / "result.json").write_text('{"weights_sha256": {}}')
    (runs / "baseB" / "env.json").write_text("{}")
    report = build(tiny, tiny.parent / "report")
    assert set(report.left_out) == {"random-0/B2A", "random-0/B3A"}
    text = " ".join(Parsed(report.page.read_text(encoding="utf-8")).words)
    assert "2 of 6 nets of the plan are finished. This report shows what" in text
    assert "random-0/A2B (stopped, 400 of 400 updates)" in text
    assert "random-0/A3B (ready)" in text
    assert "B2A/result.json: not valid JSON" in text
    assert "B3A/result.json: damaged, lacks results" in text
    assert "without a record" in text
    assert [row["name"] for row in rows(tiny.parent / "report" / "nets.csv")] == [
        *("baseA", "baseB")
    ]
    told = command(tiny, "-o", tiny.parent / "again")
    assert told.exit_code == 0
    assert "warning: left out: " in told.stderr
    assert "B3A" in told.stderr


@pytest.mark.parametrize("key", ["frozen_layers", "frozen_unchanged"])
def test_a_record_that_lacks_what_is_read_is_left_out(key: str, tiny: Path) -> None:
    path = tiny / "runs" / "random-0" / "A2B" / "result.json"
    result = json.loads(path.read_text())
    del result[key]
    path.write_text(json.dumps(result))
    report = build(tiny, tiny.parent / "report")
    assert f"damaged, they lack '{key}'" in report.left_out["random-0/A2B"]


def test_nets_of_other_settings_are_left_out(tiny: Path) -> None:
    config = tiny / "runs" / "random-0" / "A2B" / "config.toml"
    config.write_text(config.read_text().replace("momentum = 0.9", "momentum = 0.8"))
    report = build(tiny, tiny.parent / "report")
    assert set(report.left_out) == {"random-0/A2B"}
    text = " ".join(Parsed(report.page.read_text(encoding="utf-8")).words)
    assert "A2B: trained by other settings: solver.momentum was 0.9, now 0.8" in text
    assert "5 of 6 nets of the plan are finished. This report shows what" in text
    names = [row["name"] for row in rows(tiny.parent / "report" / "nets.csv")]
    assert names == ["baseA", "baseB", "B2A", "B3A", "A3B"]


def test_a_study_without_any_result_has_a_report(tiny: Path) -> None:
    shutil.rmtree(tiny / "runs")
    report = build(tiny, tiny.parent / "report")
    text = " ".join(Parsed(report.page.read_text(encoding="utf-8")).words)
    assert "0 of 6 nets of the plan are finished." in text
    assert "random-0/A2B (waiting)" in text
    assert {found.verdict for found in report.findings} == {"not enough runs"}
    assert rows(tiny.parent / "report" / "nets.csv") == []


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
    text = page_of(tiny)
    assert "1 min 02 s" in text  # 4 · 12.5 + 2 · 6.25 = 62.5
    assert "2 nets, each at its part" in text


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
    text = page_of(tiny)
    assert "<strong>WRONG</strong>" in text
    assert "Wrong: random-0/A2B." in text
    assert "3 of 3" not in text
    assert "2 of 3 hold the base" in text


def test_a_net_that_changed_in_training_shows(tiny: Path) -> None:
    path = tiny / "runs" / "random-0" / "B2A" / "result.json"
    result = json.loads(path.read_text()) | {"frozen_unchanged": False}
    path.write_text(json.dumps(result))
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


def test_real_runs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the trainer itself writes, not what these tests make up."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)
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
    found = {each.id: each for each in check_all(contents)}
    assert {each.right for each in found.values()} == {True}
    assert found["random-0/A2B"].as_base is True
    assert found["random-0/A2B-keep1"].as_base is True
    assert found["random-0/A2B+"].as_base is False
    assert found["random-0/R2B"].as_base is None
    assert all(entry.rate and entry.seconds for entry in contents.entries)
    report = build(made.folder, tmp_path / "report")
    names = {path.name for path in report.files}
    assert {"curves-random-0-seed0.svg", "filters-random-0-baseA.png"} <= names


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
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "1.6 points published" in text
    assert "2.1 points published" in text


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


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Of starting a browser on a busy machine.
PATIENCE = 120


def browser() -> str:
    """A headless browser: MINICNN_BROWSER, or one on the PATH."""
    found = [os.environ.get("MINICNN_BROWSER"), *map(shutil.which, BROWSERS)]
    path = next((each for each in found if each), None)
    if path is None:
        pytest.skip("no Chromium; install one, or name it in MINICNN_BROWSER")
    return path


def open_in_browser(page: Path, made: Path, *more: str) -> str:
    """Opens a page to make a file of it; returns what the browser said."""
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-dev-shm-usage", "--enable-logging=stderr"),
        f"--user-data-dir={page.parent / 'profile'}",
        # Whatever is asked of the network fails, and says so on the console.
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *more,
    ]
    done = subprocess.run(
        [browser(), *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert made.exists(), done.stderr[-2000:]
    return done.stderr


def screenshot(page: Path, width: int, height: int) -> tuple[np.ndarray, list[str]]:
    """The page's picture (H,W,3), and what it wrote to the console."""
    picture = page.with_suffix(".png")
    size = f"--window-size={width},{height}"
    said = open_in_browser(page, picture, size, f"--screenshot={picture}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels, [line for line in said.splitlines() if ":CONSOLE" in line]


def test_what_is_folded_is_printed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folds = []
    for name in "ab":
        png = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(png, "png")
        shown = Picture(name, "", "", "noise", png.getvalue(), None)
        folds.append(folded(name, [figure(shown)], opened=name == "a"))
    path, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(page("title", "lead", [("section", folds)], "end"))
    open_in_browser(path, printed, f"--print-to-pdf={printed}")
    assert len(re.findall(rb"/Subtype\s*/Image\b", printed.read_bytes())) == 2


def test_a_browser_shows_the_page_without_an_error(
    built: Built, tmp_path: Path
) -> None:
    # What is looked for can be seen: errors of scripts, of policy and of the network.
    (tmp_path / "broken.html").write_text(
        "<!doctype html><meta charset=utf-8><img src='http://a.example/x.png'>"
        "<script>console.error('planted')</script>"
    )
    _, console = screenshot(tmp_path / "broken.html", 300, 300)
    assert "planted" in " ".join(console)
    shutil.copy(built.page, tmp_path / "report.html")
    pixels, console = screenshot(tmp_path / "report.html", 1200, 3000)
    assert console == []
    # The figures are there: the colours of their lines, on the white of their ground.
    for colour in ("#D55E00", "#0072B2", "#009E73"):
        rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (pixels == rgb).all(axis=2).sum() > 100, colour
    # At a phone's width the text is as wide as the page, and nothing wider.
    narrow, console = screenshot(tmp_path / "report.html", 500, 1000)
    assert console == []
    assert (narrow[:, -3:] == narrow[0, 0]).all()
