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
@pytest.mark.parametrize("layout", ["archives", "folders"])
def test_imagenet_with_each_kind_of_labels(
    folder: Path, layout: str, labels: str
) -> None:
    if layout == "archives":
        make.imagenet_archives(folder)
    else:
        make.imagenet_folders(folder, nested=False)
    LABELS[labels](folder)
    source = opened(folder)
    assert about(source) == (
        "imagenet",
        256,
        "ignored",
    )
    assert rows(source) == imagenet_rows()
    assert source.contents.names == ["tench", "goldfish", "tabby", "water bottle"]
    assert source.contents.groups == ["natural", "natural", "natural", "manmade"]
    for name, place in zip(source.contents.files, source.places, strict=True):
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


def test_imagenet_archives_and_folders_name_the_same_files(tmp_path: Path) -> None:
    archives = make.imagenet_archives(tmp_path / "a")
    folders = make.imagenet_folders(tmp_path / "b", nested=False)
    for folder in (archives, folders):
        make.add_devkit(folder)
    assert opened(archives).contents.files == opened(folders).contents.files


def test_caffe_numbers_count_synsets_where_there_are(folder: Path) -> None:
    make.imagenet_archives(folder)
    order = make.WNIDS[::-1]
    make.put(folder / "synsets.txt", "\n".join(order))
    pairs = zip(make.val_names(), make.val_truth(), strict=True)
    lines = [f"{name} {order.index(wnid)}\n" for name, wnid in pairs]
    make.put(folder / "val.txt", "".join(lines))
    assert rows(opened(folder)) == imagenet_rows()


def swap_two_labels(folder: Path) -> None:
    path = folder / "val.txt"
    lines = path.read_text().splitlines()
    first, second = lines[0].split(), lines[1].split()
    lines[:2] = [f"{first[0]} {second[1]}", f"{second[0]} {first[1]}"]
    path.write_text("\n".join(lines))


def drop_a_label(folder: Path) -> None:
    path = folder / "val.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))


def renumber(folder: Path) -> None:
    path = folder / "val.txt"
    path.write_text(path.read_text().replace(" 898", " 3"))


def cut(name: str) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 3])

    return shorten


def unlabel(folder: Path) -> None:
    (folder / "val.txt").unlink()
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()


def remove_val(folder: Path) -> None:
    (folder / "ILSVRC2012_img_val.tar").unlink()


IMAGENET_FAULTS = {
    "contradiction": (swap_two_labels, "by val.txt but .* by the devkit"),
    "missing label": (drop_a_label, "val.txt labels 7 images.* holds 8"),
    "label of a class not in train": (renumber, "by val.txt but"),
    "train cut": (cut("ILSVRC2012_img_train.tar"), "truncated"),
    "val cut": (cut("ILSVRC2012_img_val.tar"), "truncated"),
    "devkit cut": (cut("ILSVRC2012_devkit_t12.tar.gz"), "devkit cannot be read"),
    "no labels": (unlabel, "no labels"),
    "no val": (remove_val, "no ILSVRC2012_img_val.tar"),
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
    lost = folder / "train" / make.WNIDS[1]
    lost.rename(folder / "kept")
    (folder / "kept").rename(folder.parent / "kept")
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
