"""A whole report: the files, the page and what it says, and a browser that shows it."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from minicnn.experiments.report.build import Built, build
from minicnn.experiments.report.contents import read
from minicnn.training.run import Run
from tests.support.browser import screenshot
from tests.support.report_page import FIGURES, parsed, rows
from tests.support.report_study import (
    CLASSES,
    EVERY,
    IMAGES,
    PLAN,
    RATE,
    SECONDS,
    TINY,
    make_study,
)

# A few depths, so that the pictures are few.
DEPTHS = [1, 4, 7]
KEPT = {"split": "random-0", "treatments": ["random", "transfer-keep"], "keep": [1]}
APART = {"split": "natural-manmade", "treatments": ["base", "transfer"]}
WHOLE = {"split": "all", "treatments": ["base", "reduced"]}
SMALL: dict[str, Any] = PLAN | {
    "nets": [
        {"splits": ["random-0", "random-1"], "treatments": EVERY, "depths": DEPTHS},
        {**KEPT, "depths": DEPTHS[:2]},
        {**APART, "seeds": [0, 1], "depths": DEPTHS},
        {**WHOLE, "images_per_class": [1, 10, 75]},
    ]
}


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
    nets = [each.net for each in read(study).entries]
    assert len(found) == len(nets) == len({row["folder"] for row in found})
    [row] = [r for r in found if r["folder"] == "runs/random-0/A4B+"]
    result = Run(study / row["folder"]).result
    assert result is not None
    expected = {"kind": "transfer+", "split": "random-0", "source": "A", "target": "B"}
    expected |= {"n": 4, "keep": 0, "seed": 0, "iterations": 400, "name": "A4B+"}
    expected |= {"images_per_class": float(IMAGES), "classes": CLASSES}
    expected |= {"seconds": SECONDS, "images_per_second": RATE}
    names = ("top1_mean_of_10_best", "evaluations", "top5")
    expected |= {name: result[name] for name in names} | {"top1_final": result["top1"]}
    # Another protocol: no published net corresponds.
    expected |= {"published_name": "", "published_top1": "", "frozen_unchanged": ""}
    assert {key: row[key] for key in expected} == {
        key: str(value) for key, value in expected.items()
    }


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


def test_the_page_is_well_made_and_needs_nothing_but_itself(built: Built) -> None:
    text = built.page.read_text(encoding="utf-8")
    page = parsed(built)
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert len(links) == 6
    assert {str(link)[1:] for link in links} <= set(ids)
    alts = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert all(alt and len(alt) > 40 for alt in alts)
    assert ("html", {"lang": "en"}) in page.tags
    for tag, attributes in page.tags:
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


def test_analyses_of_the_study_have_a_section_and_their_files(tmp_path: Path) -> None:
    made = make_study(tmp_path / "study", TINY)
    drawn, report = made.folder / "analyses", tmp_path / "report"
    drawn.mkdir()
    for name in ("probe", "probe-natural-manmade"):
        Image.new("RGB", (9, 9)).save(drawn / f"{name}.png")
        svg = "<svg xmlns='http://www.w3.org/2000/svg'/>"
        (drawn / f"{name}.svg").write_text(svg)
        (drawn / f"{name}.csv").write_text("n,top1\n")
    page = parsed(build(made.folder, report))
    assert "Analyses" in page.text
    assert "Linear probes: what a linear classifier reads" in page.text
    assert "classifier reads from each layer; natural, man-made" in page.text
    assert ("a", {"href": "probe.csv"}) in page.tags
    for path in drawn.iterdir():
        assert (report / path.name).read_bytes() == path.read_bytes()


def test_the_page_says_what_was_run_and_all_that_came_of_it(
    built: Built, study: Path
) -> None:
    text = parsed(built).text
    for words in ("made-up, recipe demo", "0123456789abcdef", "caffenet32"):
        assert words in text
    assert "400 updates of 32 images, learning rate 0.0" in text
    assert "target copy from the other target's base" in text
    nets = [each.net for each in read(study).entries]
    assert f"{len(nets)} of {len(nets)} nets of the plan are finished." in text
    for net in nets:
        assert net.name in text
        assert f"{100 * net.best10:.2f}" in text
        assert f"{100 * (net.final or 0):.2f}" in text
    assert f"{len(nets) * 400 * 32:,}" in text  # training images in all
    frozen = sum(net.n > 0 and not net.kind.endswith("+") for net in nets)
    assert f"All {frozen} nets with frozen layers ended with them unchanged" in text
    for split in ("random-0, seed 0", "natural-manmade, seed 1", "all, seed 0"):
        assert split in text


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
