"""Looking into a store: info, verify, show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from minicnn.base.errors import MinicnnError
from minicnn.cli.data import data
from minicnn.data.store import Store
from minicnn.data_prep.inspect import contact_sheet, describe, find_classes, verify
from minicnn.data_prep.prepare import Options, prepare
from tests.support import prepare_sources as make

SIZE = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 images: a 10, b 9 and c 2; one of b is bad."""
    folder = tmp_path_factory.mktemp("made")
    source = make.class_folders(folder / "source", {"a": 10, "b": 9, "c": 2})
    (source / "b" / "004.png").write_bytes(b"")
    groups = make.put(folder / "g.toml", 'natural = ["a", "c"]\nmanmade = ["b"]')
    options = Options(size=SIZE, jobs=1, on_error="skip", groups=groups)
    prepare(source, folder / "store.h5", options)
    return folder / "store.h5"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return make.put(tmp_path / "copy.h5", made.read_bytes())


def damage(path: Path, row: int) -> None:
    """Flips one bit."""
    place = Store(path).images.offset + row * SIZE * SIZE * 3 + 7
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(data, [str(each) for each in arguments])
    return result.exit_code, result.stdout


def test_info(made: Path) -> None:
    told = describe(Store(made))
    assert (told["images"], told["classes"], told["excluded"]) == (21, 3, 1)
    assert told["image_size"] == [SIZE, SIZE]
    # a and b hold out one of ten (nine), c one of two; the bad one is b's
    bad_in_val = told["parts"]["val"]["images"] == 2
    assert told["parts"]["train"]["class_min"] == 1
    assert told["parts"]["train"]["class_max"] == 9
    assert told["parts"]["train"]["images"] == 18 - (not bad_in_val)
    assert told["groups"] == {"natural": 2, "manmade": 1, "unknown": 0}
    status, printed = call("info", made, "--json")
    assert status == 0
    assert json.loads(printed) == told
    status, printed = call("info", made)
    assert "natural 2, manmade 1" in printed
    assert "1 images that could not be read" in printed


def test_verify_names_each_damaged_image(copy: Path) -> None:
    assert verify(Store(copy)) == []
    assert call("verify", copy) == (0, f"{copy}: 21 images, all whole.\n")
    for row in (3, 19):
        damage(copy, row)
    opened = Store(copy)
    found = verify(opened, jobs=3)
    assert [each.row for each in found] == [3, 19]
    for each in found:
        assert each.file == opened.files[each.row]
        assert each.wnid == each.file.split("/")[0]
        assert each.reason == "checksum differs"
    status, printed = call("verify", copy)
    assert status == 1
    assert all(f"row {row}, class" in printed for row in (3, 19))
    status, printed = call("verify", copy, "--json")
    assert status == 1
    assert [each["row"] for each in json.loads(printed)["damaged"]] == [3, 19]


def test_verify_looks_at_labels_and_parts_too(copy: Path) -> None:
    import h5py

    with h5py.File(copy, "r+") as file:
        file["labels"][5] = 77
        file["split"][6] = 9
    found = {each.row: each.reason for each in verify(Store(copy))}
    assert found == {5: "label 77 out of range", 6: "unknown split 9"}


def tile(sheet: Image.Image, row: int, col: int) -> np.ndarray:
    """A tile's pixels: 96 wide, 4 apart, and 12 for the text."""
    left, top = 4 + col * 100, 4 + row * 116
    return np.asarray(sheet)[top : top + 96, left : left + 96]


def colours(opened: Store, label: int, part: str) -> list[tuple[int, ...]]:
    """The colour of each image of a class."""
    return [tuple(opened.images[row, 0, 0]) for row in opened.rows([label], part)]


@pytest.mark.parametrize(
    ("classes", "part", "rows", "cols", "shown"),
    [
        ([], "train", 2, 3, [0, 0, 0, 1, 1, 2]),  # c has one for training
        ([2, 1, 2], "val", 5, 2, [2, 1]),  # ends with the images
        ([], "val", 1, 2, [0, 1]),  # more classes than tiles
        ([2], "val", 1, 1, [2]),
    ],
)
def test_contact_sheet_shows_the_classes_in_turn(
    made: Path, classes: list[int], part: str, rows: int, cols: int, shown: list[int]
) -> None:
    opened = Store(made)
    sheet = contact_sheet(opened, classes, part=part, rows=rows, cols=cols)
    cols = min(cols, len(shown))
    assert sheet.size == (4 + 100 * cols, 4 + 116 * -(-len(shown) // cols))
    found = []
    for number, label in enumerate(shown):
        pixels = tile(sheet, number // cols, number % cols)
        assert (pixels == pixels[0, 0]).all()
        found.append(tuple(pixels[0, 0]))
        assert found[-1] in colours(opened, label, part)
    assert len(set(found)) == len(found)
    below = np.asarray(sheet)[4 + 96 : 4 + 96 + 12, 4:100]
    assert (below < 128).any()  # the name


def test_classes_by_index_id_or_name(made: Path) -> None:
    opened = Store(made)
    assert find_classes(opened, ["2", "a", "b"]) == [2, 0, 1]
    for wrong in ("3", "d"):
        with pytest.raises(MinicnnError, match=f"class '{wrong}'"):
            find_classes(opened, [wrong])


def test_show_on_the_command_line(made: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    status, _ = call(
        "show", made, "-o", grid, "--classes", "a,c", "--rows", 1, "--cols", 2
    )
    assert status == 0
    with Image.open(grid) as image:
        assert image.size == (204, 120)


def test_names_in_letters_that_the_font_lacks(tmp_path: Path) -> None:
    sheets = []
    for name in ("猫", "class 1", "other"):
        source = make.class_folders(tmp_path / name, {"aa": 2, name: 2})
        prepare(source, tmp_path / f"{name}.h5", Options(size=SIZE, jobs=1))
        sheet = contact_sheet(Store(tmp_path / f"{name}.h5"), [1])
        sheets.append(np.asarray(sheet)[100:].tobytes())  # what is under the tiles
    assert sheets[0] == sheets[1] != sheets[2]
