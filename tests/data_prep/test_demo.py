"""The demo set: the same pictures however drawn, of every class, in a whole store."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from minicnn.base import philox
from minicnn.base.errors import MinicnnError
from minicnn.cli.data import data
from minicnn.data.store import Store
from minicnn.data_prep.demo import store as demo
from minicnn.data_prep.demo.pen import Dice, Pen
from minicnn.data_prep.demo.scene import CLASSES, DRAWINGS, render

SEED, SIZE = 3, 32
SOME = [(kind, number) for kind in range(0, len(CLASSES), 3) for number in (0, 150)]
# Pictures a class in the stores that tests make, so that they take seconds.
FEW_TRAIN, FEW_VAL = 3, 2


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo set of few pictures."""
    monkeypatch.setattr(demo, "TRAIN_IMAGES", FEW_TRAIN)
    monkeypatch.setattr(demo, "VAL_IMAGES", FEW_VAL)


def test_a_picture_depends_on_its_numbers_alone() -> None:
    forward = {each: render(SEED, *each, SIZE) for each in SOME}
    backward = {each: render(SEED, *each, SIZE) for each in reversed(SOME)}
    for each in SOME:
        assert forward[each].shape == (SIZE, SIZE, 3)
        assert forward[each].dtype == np.uint8
        assert np.array_equal(forward[each], backward[each])
    assert len({picture.tobytes() for picture in forward.values()}) == len(SOME)
    other = render(SEED + 1, *SOME[0], SIZE)
    assert not np.array_equal(other, forward[SOME[0]])


@pytest.mark.parametrize("wnid", CLASSES)
def test_every_drawing_shows(wnid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fair part of the picture is the drawing, and never the same part."""
    kind, sketch = CLASSES.index(wnid), DRAWINGS[wnid]

    def elsewhere(pen: Pen, dice: Dice) -> None:
        """The same drawing with the same dice, on paper that nobody sees."""
        paper = ImageDraw.Draw(Image.new("RGB", (8, 8)))
        sketch.draw(replace(pen, draw=paper), dice)

    shown = [render(SEED, kind, number, SIZE).astype(int) for number in range(6)]
    monkeypatch.setitem(DRAWINGS, wnid, sketch._replace(draw=elsewhere))
    empty = [render(SEED, kind, number, SIZE).astype(int) for number in range(6)]
    changed = [abs(a - b).max(axis=2) > 20 for a, b in zip(shown, empty, strict=True)]
    assert np.mean(changed) > 0.08
    assert min(map(np.mean, changed)) > 0.03
    assert len({each.tobytes() for each in changed}) == 6


@pytest.mark.usefixtures("few")
def test_a_whole_store(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "demo.h5"
    demo.prepare_demo(path, seed=SEED, jobs=1)
    opened = Store(path)
    rows = (FEW_TRAIN + FEW_VAL) * len(CLASSES)
    assert (len(opened), opened.image_size) == (rows, (32, 32))
    assert opened.wnids == list(CLASSES) == sorted(CLASSES)
    assert opened.names[CLASSES.index("brick-wall")] == "brick wall"
    assert opened.groups.count("natural") == opened.groups.count("manmade") == 20
    for kind in range(len(CLASSES)):
        assert len(opened.rows([kind], "train")) == FEW_TRAIN
        assert len(opened.rows([kind], "val")) == FEW_VAL
    for row in range(0, rows, 17):
        wnid, number = opened.files[row].split("/")
        kind = CLASSES.index(wnid)
        assert opened.labels[row] == kind
        assert np.array_equal(opened.images[row], render(SEED, kind, int(number), 32))
    assert opened.crc32.tolist() == [zlib.crc32(image) for image in opened.images]
    assert len(set(opened.files)) == rows
    assert [each.name for each in path.parent.iterdir()] == ["demo.h5"]


@pytest.mark.usefixtures("few")
def test_any_number_of_jobs_gives_the_same_bytes(tmp_path: Path) -> None:
    for jobs in (1, 2, 3):
        demo.prepare_demo(tmp_path / str(jobs), size=16, jobs=jobs)
    one, *others = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert len(others) == 2
    assert all(other == one for other in others)


@pytest.mark.usefixtures("few")
def test_first_use_draws_the_set_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = demo.ensure_demo()
    assert path == tmp_path / "minicnn" / "demo-v1-32.h5"
    said = capsys.readouterr().err.splitlines()
    assert "demo set" in said[0]
    assert str(path) in said[0]
    before = path.stat().st_mtime_ns
    assert demo.ensure_demo() == path
    assert capsys.readouterr().err == ""
    assert path.stat().st_mtime_ns == before


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("other", [{"size": 17}, {"seed": 1}, {"version": 2}])
def test_another_demo_set_is_replaced_only_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    path, settings = tmp_path / "demo.h5", {"size": 16} | other
    assert demo.prepare_demo(path, size=16, jobs=1)
    assert not demo.prepare_demo(path, size=16, jobs=1)
    before = path.read_bytes()
    monkeypatch.setattr(demo, "VERSION", settings.pop("version", demo.VERSION))
    with pytest.raises(MinicnnError, match=f"{path}: exists.*--fresh replaces it"):
        demo.prepare_demo(path, jobs=1, **settings)
    assert path.read_bytes() == before
    assert demo.prepare_demo(path, jobs=1, fresh=True, **settings)
    assert path.read_bytes() != before


@pytest.mark.usefixtures("few")
def test_what_is_no_store_is_replaced_afresh(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    command = ["demo", "-o", str(path), "--size", "16", "-j", "1"]
    said = [
        CliRunner().invoke(data, [*command, *more]).stdout for more in (["--fresh"], [])
    ]
    assert said[0] == f"{path}: the demo set is drawn.\n"
    assert said[1] == f"{path} is done already: the demo set.\n"


def test_dice_go_through_a_stream_of_their_own() -> None:
    dice = Dice(1, 2, 3)
    drawn = np.concatenate([dice.words(count) for count in (4096, 100)])
    expected = philox.words(1, philox.Stream.DEMO, (2 << 32) | 3, 4196)
    assert np.array_equal(drawn, expected)
