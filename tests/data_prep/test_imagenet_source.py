"""Recognising ImageNet: its layouts, each kind of labels, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.store import TRAIN, VAL
from minicnn.data_prep.sources.tree import read
from tests.support import prepare_sources as make
from tests.support.prepare_sources import about, opened, rows


def imagenet_rows() -> list[tuple[int, str, str]]:
    """What every ImageNet layout must come to."""
    train = [
        (TRAIN, wnid, name)
        for wnid in make.WNIDS
        for name in sorted(make.train_members(wnid))
    ]
    pairs = zip(make.val_truth(), make.val_names(), strict=True)
    return train + sorted((VAL, wnid, name) for wnid, name in pairs)


LABELS: dict[str, Callable[[Path], None]] = {
    "devkit": make.add_devkit,
    "devkit folder": lambda folder: make.add_devkit(folder, as_folder=True),
    "caffe": make.add_caffe,
    "kaggle": make.add_kaggle,
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("archived", [True, False])
def test_imagenet_with_each_kind_of_labels(
    folder: Path, archived: bool, labels: str
) -> None:
    if archived:
        make.imagenet_archives(folder)
    else:
        make.imagenet_folders(folder, nested=False)
    LABELS[labels](folder)
    source = opened(folder)
    known = source.contents
    assert about(source) == ("imagenet", 256, "ignored")
    assert rows(source) == imagenet_rows()
    assert known.names == ["tench", "goldfish", "tabby", "water bottle"]
    assert known.groups == ["natural", "natural", "natural", "manmade"]
    for name, place in zip(known.files, source.places, strict=True):
        data = read(place)
        assert len(data) == place.length
        assert data == make.picture(make.colour(Path(name).name)), name


def test_imagenet_val_in_folders_needs_no_other_labels(folder: Path) -> None:
    make.imagenet_folders(folder, nested=True)
    assert rows(opened(folder)) == imagenet_rows()


def test_imagenet_as_kaggle_ships_it(folder: Path) -> None:
    make.imagenet_folders(folder / "ILSVRC/Data/CLS-LOC", nested=False)
    make.put(folder / "ILSVRC/Annotations/CLS-LOC/val/x.xml", "<a/>")
    make.add_kaggle(folder)
    source = opened(folder)
    assert rows(source) == imagenet_rows()


def test_the_devkit_counts_before_other_labels(folder: Path) -> None:
    make.imagenet_archives(folder)
    make.add_devkit(folder)
    make.put(folder / "val.txt", "not looked at")
    assert rows(opened(folder / "ILSVRC2012_img_val.tar")) == imagenet_rows()


def test_the_devkit_without_scipy_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.imagenet_archives(folder)
    make.add_devkit(folder)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MinicnnError, match="pip install scipy"):
        opened(folder)


def test_caffe_numbers_count_synsets_where_there_are(folder: Path) -> None:
    make.imagenet_archives(folder)
    order = make.WNIDS[::-1]
    make.put(folder / "synsets.txt", "\n".join(order))
    pairs = zip(make.val_names(), make.val_truth(), strict=True)
    lines = [f"{name} {order.index(wnid)}\n" for name, wnid in pairs]
    make.put(folder / "val.txt", "".join(lines))
    assert rows(opened(folder)) == imagenet_rows()


def test_labels_of_other_images_are_refused(folder: Path) -> None:
    make.imagenet_archives(folder)
    make.add_caffe(folder)
    lines = (folder / "val.txt").read_text().splitlines()
    make.put(folder / "val.txt", "\n".join(lines[1:]))
    with pytest.raises(MinicnnError, match=r"val.txt labels 7 images.* holds 8"):
        opened(folder)


TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT, META = "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12/data/meta.mat"


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        (TRAIN_TAR, True, "truncated"),
        (VAL_TAR, True, "truncated"),
        (DEVKIT, True, "devkit cannot be read"),
        (META, True, "devkit cannot be read"),
        (DEVKIT, False, "no labels"),
        (VAL_TAR, False, "no ILSVRC2012_img_val.tar"),
    ],
)
def test_files_cut_short_or_missing(
    folder: Path, name: str, cut: bool, message: str
) -> None:
    make.imagenet_archives(folder)
    make.add_devkit(folder, as_folder=name == META)
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if cut:
        path.write_bytes(data[: len(data) // 3])
    with pytest.raises(MinicnnError, match=message) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


def test_class_of_val_that_train_lacks(folder: Path) -> None:
    make.imagenet_folders(folder, nested=True)
    (folder / "train" / make.WNIDS[1]).rename(folder.parent / "kept")
    with pytest.raises(MinicnnError, match=f"{make.WNIDS[1]} is in val but not in"):
        opened(folder)
