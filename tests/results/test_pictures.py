"""Pictures of runs: what is in them, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.results import pictures
from minicnn.training.run import Run
from tests.support.runs import make_run

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
MEAN = np.zeros((32, 32, 3))


def made(folder: Path, **about: str) -> Run:
    """A run with filters and a few metrics, as the trainer writes them."""
    w = np.random.default_rng(0).normal(0, 0.1, (7, 5, 5, 3)).astype(np.float32)
    records = [
        {"step": 10, "loss": 2.5, "lr": 0.1},
        {"step": 20, "loss": 1.5, "lr": 0.1},
        {"step": 20, "val_loss": 1.25, "val_top1": 0.5, "val_top5": 0.75},
    ]
    text = "".join(json.dumps(each) + "\n" for each in records)
    weights = {"conv1.w": w, "fc8.b": np.zeros(4)}
    return make_run(folder, "caffenet32", weights, MEAN, 4, text, **about)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(tmp_path / "baseA")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be written."""
    kept: list[Any] = []
    monkeypatch.setattr(pictures, "_write", lambda figure, path: kept.append(figure))
    return kept


def test_a_filter_is_scaled_about_grey_by_its_largest_weight() -> None:
    w = np.zeros((3, 2, 2, 3))
    w[0, 0, 1] = (4, -2, 0)
    w[1, 1, 0] = (0.001, 0, -0.0005)
    picture = pictures.mosaic(w, pixels=2)
    # Three filters in a row, 4×4 pixels each, a gap of one pixel between.
    assert picture.shape == (4, 14, 3)
    assert picture[0, 0].tolist() == picture[3, 3].tolist() == [0.5, 0.5, 0.5]
    assert (picture[:2, 2:4] == [1, 0.25, 0.5]).all()
    assert (picture[2:, 5:7] == [1, 0.5, 0.25]).all()
    assert (picture[:, [4, 9]] == 1).all()
    assert (picture[:, 10:] == 0.5).all()  # all zero: grey, no division by zero


@pytest.mark.parametrize(("count", "columns"), [(96, 12), (48, 12), (32, 8), (7, 7)])
def test_rows_are_full_where_that_can_be(count: int, columns: int) -> None:
    picture = pictures.mosaic(np.ones((count, 3, 3, 3)), pixels=2)
    assert picture.shape[1] == columns * 7 - 1
    assert picture.shape[0] == -(-count // columns) * 7 - 1


@pytest.mark.parametrize("suffix", MAGIC)
def test_each_suffix_gives_its_format_and_equal_bytes(
    suffix: str, run: Run, tmp_path: Path
) -> None:
    for draw in (pictures.filters, lambda r, path: pictures.curves([r], path)):
        one, two = tmp_path / f"one{suffix.upper()}", tmp_path / f"two{suffix}"
        draw(run, one)
        draw(run, two)
        assert one.read_bytes().startswith(MAGIC[suffix])
        assert one.read_bytes() == two.read_bytes()


def test_the_curves_go_through_the_recorded_points(
    run: Run, figures: list[Any]
) -> None:
    pictures.curves([run], Path("curves.png"))
    loss, top1 = figures[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 2.5], [20, 1.5]]
    assert top1.lines[0].get_xydata().tolist() == [[20, 50]]
    for axes in (loss, top1):  # markers at the edge are whole, and heights are used
        assert not axes.lines[0].get_clip_on()
        assert axes.get_ylim()[0] > 0
    assert loss.lines[1].get_ydata()[0] == pytest.approx(1.386294, abs=1e-6)  # ln 4
    assert top1.lines[1].get_ydata()[0] == 25
    [legend] = figures[0].legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["baseA", "chance, 4 classes"]


def test_runs_are_told_apart_by_more_than_colour(
    tmp_path: Path, figures: list[Any]
) -> None:
    names = [f"A{n}B" for n in range(1, 8)] + [f"B{n}A" for n in range(1, 8)]
    runs = [made(tmp_path / name, name=name) for name in names]
    pictures.curves(runs, Path("curves.png"))
    lines = figures[0].axes[0].lines[: len(names)]
    in_grey = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(in_grey) == len(names)
    assert [line.get_label() for line in lines] == names


def test_runs_of_one_name_are_called_by_their_folders(run: Run, tmp_path: Path) -> None:
    twin = made(tmp_path / "again")
    pictures.curves([run, twin], tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    labels = re.findall("<!-- (.*?) -->", text)
    assert {str(run.folder), str(twin.folder)} <= set(labels)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MinicnnError, match="no run given"):
        pictures.curves([], tmp_path / "a.png")
