"""Writing a store: its content, the same bytes every way, what is not overwritten."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from minicnn.base.errors import MinicnnError
from minicnn.cli.data import data as data_commands
from minicnn.data.store import TRAIN, VAL, Store
from minicnn.data_prep.prepare import Options, prepare
from tests.support import prepare_sources as make
from tests.support.preparing import only_the_store, run

JPEG_ERROR = 3  # 8-bit rounding in the colour transform; one colour, quality 100


def test_every_row_is_its_image(source: Path, target: Path) -> None:
    outcome = run(source, target)
    assert (outcome.state, outcome.rows, outcome.converted) == ("done", 25, 25)
    made = Store(target)
    assert made.split.tolist() == [TRAIN] * 22 + [VAL] * 3
    assert made.labels.tolist() == [0] * 9 + [1] * 8 + [2] * 5 + [0, 1, 2]
    assert made.wnids == made.names == ["a", "b", "c"]
    for row, path in enumerate(made.files):
        name, number = path.removesuffix(".png").split("/")
        assert made.wnids[made.labels[row]] == name
        assert (made.images[row] == make.colour(name, int(number))).all()
        assert made.crc32[row] == zlib.crc32(made.images[row].tobytes())
    assert made.attributes["orientation"] == "applied"
    assert made.attributes["resize"] == "warp"
    size = sum(path.stat().st_size for path in source.rglob("*.png"))
    assert made.attributes["source_bytes"] == size
    assert only_the_store(target)


def test_archives_folders_and_any_number_of_jobs_give_the_same_bytes(
    tmp_path: Path, target: Path
) -> None:
    archives = make.imagenet_archives(tmp_path / "a")
    folders = make.imagenet_folders(tmp_path / "b", nested=False)
    contents = []
    for folder, jobs in ((archives, 1), (folders, 1), (archives, 3)):
        make.add_devkit(folder)
        run(folder, target, size=24, jobs=jobs, fresh=True)
        contents.append(target.read_bytes())
    assert contents[0] == contents[1] == contents[2]
    made = Store(target)
    for row, path in enumerate(made.files):
        difference = made.images[row].astype(int) - make.colour(Path(path).name)
        assert abs(difference).max() <= JPEG_ERROR


def test_cifar_rows_are_its_records(tmp_path: Path, target: Path) -> None:
    members = make.cifar_members()
    archive = make.tar(tmp_path / "cifar-100-binary.tar.gz", members, "w:gz")
    prepare(archive, target, Options(jobs=1))
    record = members["cifar-100-binary/train.bin"][4 * 3074 :][2:3074]
    planes = np.frombuffer(record, np.uint8).reshape(3, 32, 32)
    made = Store(target)
    row = made.files.index("train.bin#00004")
    np.testing.assert_array_equal(made.images[row], planes.transpose(1, 2, 0))
    assert only_the_store(target)


@pytest.mark.parametrize("change", ["options", "file"])
def test_another_store_is_not_overwritten(
    source: Path, target: Path, change: str
) -> None:
    run(source, target)
    before = target.read_bytes()
    size = 12
    if change == "file":
        size = 16
        make.put(source / "a" / "000.png", make.picture((1, 2, 3), "PNG", (99, 50)))
    with pytest.raises(MinicnnError, match="--fresh"):
        run(source, target, size=size)
    assert target.read_bytes() == before
    assert only_the_store(target)
    run(source, target, size=size, fresh=True)
    assert Store(target).image_size == (size, size)


def test_command_line(source: Path, target: Path) -> None:
    arguments = ["prepare", str(source), "-o", str(target), "--size", "8", "-j", "1"]
    result = CliRunner().invoke(data_commands, arguments)
    assert result.exit_code == 0
    assert re.search(r"25 images, 25 of them prepared in .* images/s", result.output)
    before = target.stat()
    result = CliRunner().invoke(data_commands, arguments)
    assert "done already: 25 images" in result.output
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert only_the_store(target)


TEST_DATA = os.environ.get("MINICNN_TEST_DATA")
WORST = 1  # grey level: Pillow 13 may begin with the columns, and round there


@pytest.mark.skipif(not TEST_DATA, reason="MINICNN_TEST_DATA is not set")
def test_real_imagenet_files_in_the_published_layout(
    tmp_path: Path, target: Path
) -> None:
    samples = sorted(Path(TEST_DATA or "", "imagenet-samples").glob("*.JPEG"))
    make.imagenet_of(tmp_path / "archives", samples)
    for exact in (False, True):
        options = Options(jobs=2, exact=exact, fresh=True)
        prepare(tmp_path / "archives", target, options)
        made = Store(target)
        assert made.image_size == (256, 256)
        assert len(made) == 2 * len(samples)
        for path in samples:
            wnid = path.name.split("_")[0]
            rows = np.flatnonzero(made.labels == made.wnids.index(wnid))
            assert made.split[rows].tolist() == [TRAIN, VAL]
            with Image.open(path) as image:
                plain = image.convert("RGB").resize((256, 256), 2)  # 2: bilinear
            difference = made.images[rows[0]] - np.asarray(plain, int)
            assert abs(difference).max() <= (0 if exact else WORST)
            np.testing.assert_array_equal(made.images[rows[0]], made.images[rows[1]])
