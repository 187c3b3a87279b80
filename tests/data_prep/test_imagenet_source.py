"""Recognising ImageNet: its layouts, each kind of labels, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.store import TRAIN, VAL
from minicnn.data_prep.sources.mat5 import read_struct
from minicnn.data_prep.sources.tree import read
from tests.support import prepare_sources as make
from tests.support.prepare_sources import about, opened, rows

# Written by scipy 1.17's savemat: `synsets`, 4×1, with fields, types and nesting as in
# the devkit's meta.mat, after another variable; compressed.
META_MAT = """
TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IE1vbiBOb3YgMjMgMTk6
Mjc6MDMgMjAyNgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB
SU0PAAAAMgAAAHic42NgYAgAYjYg5gBiPgYIYIXyGYGYGUqDxPJLMlKLgDQPEEswIAAjlGaC0gCB7QLbDwAA
ANIBAAB4nO2WzU7jMBDHDWqBSksFnPaGH6CHtOWjPVEESCAhVIG2HItp3MQicZDHge0bcOPCg+4jrIcm4Jpq
s2q4wUgja6b6/5xxpuPUCSH9GiErZl0zvkymVs3iivGlzFeNw0QC12B+r5DNLP9k/Oz8anB51PKareHZMQKu
L6brmz0mygc7EUQJzCRkGg9HoYh8xeVrYibIGZLrYchFEOpMohUTcihiFnAgdZPskPd6Vpx6lixHq2X5qf05
QH3P0lfm6GuWfiOLpddqNrv7nW6WR85pAeenw8H4Tmg6Tn436CCN7jnQmI1UogUg76aA13B4GEPMoogGik8Q
S5MxhSTV4SMHzZWkv6TQ3KdXmmkO+XMvfn5TvfcPfW62/rP2XVjff+mV3L9Xpm88b7+9a9VRxKk7HIxPZBAJ
CKn5c5oX+3+cDYeDziTNUbeKc/+7HxbZf61MP3jdvVZ3x6qjaI5sORyMD1MwczES5n2aflACe2LeuczjVR0e
xq9zpOy5ki/aD6fPpfqh027v7Fl1FHHWHQ7GIyaF5A2Kq59x+gWcbYeDMZMTvEQemBJJCnQsAMS9uUFiFpsO
KXv/fpyj9Tn6ZUv/g8zOsfz75TOeo0y//QW/OoFP
"""


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


def test_imagenet_labels_that_agree_are_fine_together(folder: Path) -> None:
    make.imagenet_archives(folder)
    for add in (make.add_devkit, make.add_caffe, make.add_kaggle):
        add(folder)
    assert rows(opened(folder / "ILSVRC2012_img_val.tar")) == imagenet_rows()


def test_caffe_numbers_count_synsets_where_there_are(folder: Path) -> None:
    make.imagenet_archives(folder)
    order = make.WNIDS[::-1]
    make.put(folder / "synsets.txt", "\n".join(order))
    pairs = zip(make.val_names(), make.val_truth(), strict=True)
    lines = [f"{name} {order.index(wnid)}\n" for name, wnid in pairs]
    make.put(folder / "val.txt", "".join(lines))
    assert rows(opened(folder)) == imagenet_rows()


def labels(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """What changes the lines of val.txt."""

    def spoil(folder: Path) -> None:
        path = folder / "val.txt"
        path.write_text("\n".join(change(path.read_text().splitlines())))

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 3])

    return shorten


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
IMAGENET_FAULTS = {
    "contradiction": (
        labels(lambda lines: [line.replace(" 898", " 3") for line in lines]),
        "by val.txt but .* by the devkit",
    ),
    "missing label": (
        labels(lambda lines: lines[1:]),
        "val.txt labels 7 images.* holds 8",
    ),
    "train cut": (cut(TRAIN_TAR), "truncated"),
    "val cut": (cut(VAL_TAR), "truncated"),
    "devkit cut": (cut(DEVKIT), "devkit cannot be read"),
    "no labels": (without("val.txt", DEVKIT), "no labels"),
    "no val": (without(VAL_TAR), "no ILSVRC2012_img_val.tar"),
}


@pytest.mark.parametrize("fault", IMAGENET_FAULTS)
def test_imagenet_faults_are_refused(folder: Path, fault: str) -> None:
    make.imagenet_archives(folder)
    make.add_devkit(folder)
    make.add_caffe(folder)
    spoil, message = IMAGENET_FAULTS[fault]
    spoil(folder)
    with pytest.raises(MinicnnError, match=message) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


def test_class_of_val_that_train_lacks(folder: Path) -> None:
    make.imagenet_folders(folder, nested=True)
    (folder / "train" / make.WNIDS[1]).rename(folder.parent / "kept")
    with pytest.raises(MinicnnError, match=f"{make.WNIDS[1]} is in val but not in"):
        opened(folder)


def test_meta_mat_as_another_program_writes_it() -> None:
    synsets = read_struct(base64.b64decode(META_MAT), "synsets")
    assert [(each["ILSVRC2012_ID"], each["WNID"]) for each in synsets] == [
        ([1.0], "n02119789"),
        ([2.0], "n02100735"),
        ([3.0], "n02096294"),
        ([1001.0], "n02083346"),
    ]
    assert synsets[0]["words"] == "kit fox, Vulpes macrotis"
    assert synsets[3]["children"] == [1.0, 2.0]


@pytest.mark.parametrize("spoil", [b"", b"x" * 200, None])
def test_damaged_meta_mat(spoil: bytes | None) -> None:
    data = base64.b64decode(META_MAT)[:-40] if spoil is None else spoil
    with pytest.raises(ValueError, match=r"."):
        read_struct(data, "synsets")
