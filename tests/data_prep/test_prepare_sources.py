"""Recognising sources: Tiny ImageNet, CIFAR-100, class folders, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.store import TRAIN, VAL
from minicnn.data_prep.sources.tree import read
from tests.support import prepare_sources as make
from tests.support.prepare_sources import about, opened, rows


def test_tiny_imagenet_folder_and_zip_are_one(tmp_path: Path) -> None:
    folder, archive = tmp_path / "tiny-imagenet-200", tmp_path / "tiny.zip"
    make.tiny_imagenet(lambda name, data: make.put(folder / name, data))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        make.tiny_imagenet(
            lambda name, data: file.writestr(f"tiny-imagenet-200/{name}", data)
        )
    plain, zipped = opened(folder), opened(archive)
    assert about(plain) == (
        "tiny-imagenet",
        64,
        "ignored",
    )
    assert plain.contents.wnids == make.WNIDS
    truth = make.val_truth()
    assert rows(plain) == [
        (TRAIN, wnid, f"{wnid}_{n}.JPEG")
        for wnid in make.WNIDS
        for n in range(make.TRAIN_EACH)
    ] + sorted((VAL, wnid, f"val_{n}.JPEG") for n, wnid in enumerate(truth))
    assert (zipped.contents.files, zipped.contents.names) == (
        plain.contents.files,
        plain.contents.names,
    )
    assert list(map(read, zipped.places)) == list(map(read, plain.places))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("wnids.txt", "\n".join(make.WNIDS[:3]), "n04557648 is in train/ but not in"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01440764\n", "labels 1 images"),
        ("val/val_annotations.txt", "val_0.JPEG\n", "no class"),
    ],
)
def test_tiny_imagenet_faults(folder: Path, name: str, text: str, message: str) -> None:
    make.tiny_imagenet(lambda name, data: make.put(folder / name, data))
    make.put(folder / name, text)
    with pytest.raises(MinicnnError, match=message):
        opened(folder)


def test_cifar_binary_archive(folder: Path) -> None:
    members = make.cifar_members()
    archive = make.tar(folder / "cifar-100-binary.tar.gz", members, "w:gz")
    source = opened(archive)
    assert about(source) == ("cifar-100", 32, "ignored")
    assert source.contents.wnids == ["apple", "bear", "clock"]
    assert source.contents.labels.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert source.contents.split.tolist() == [TRAIN] * 9 + [VAL] * 6
    assert source.contents.files[4] == "train.bin#00004"
    for name, place in zip(source.contents.files, source.places, strict=True):
        which, number = name.split("#")
        record = members[f"cifar-100-binary/{which}"][int(number) * 3074 :][:3074]
        assert read(place) == record[2:]


def test_cifar_python_version_is_refused(folder: Path) -> None:
    for name in ("meta", "train", "test", "file.txt~"):
        make.put(folder / "cifar-100-python" / name, b"\x80\x02}q")
    with pytest.raises(MinicnnError, match=r"cifar-100-binary\.tar\.gz"):
        opened(folder)


def test_held_out_part_is_seeded_and_of_every_class(folder: Path) -> None:
    make.class_folders(folder, {"cat": 10, "dog": 24, "ant": 2})
    source = opened(folder, val_fraction=0.25)
    held = source.contents.labels[source.contents.split == VAL]
    assert source.contents.wnids == ["ant", "cat", "dog"]
    assert np.bincount(held).tolist() == [1, 3, 6]  # 2.5 rounds up
    again = opened(folder, val_fraction=0.25)
    other = opened(folder, val_fraction=0.25, seed=1)
    assert source.contents.files == again.contents.files != other.contents.files
    make.class_folders(folder, {"bee": 5})
    larger = opened(folder, val_fraction=0.25)
    held_dogs = [
        [
            name
            for name, part in zip(each.contents.files, each.contents.split, strict=True)
            if part == VAL
        ]
        for each in (source, larger)
    ]
    assert [name for name in held_dogs[1] if "bee" not in name] == held_dogs[0]


def test_that_nothing_is_held_out_is_noted(folder: Path) -> None:
    make.class_folders(folder, {"cat": 2, "dog": 2})
    (note,) = opened(folder, val_fraction=0.0).notes
    assert "leave out --val-fraction 0 to train" in note
    assert opened(folder).notes == []


def test_own_train_and_val(folder: Path) -> None:
    make.class_folders(folder / "train", {"b": 2, "a": 3})
    make.class_folders(folder / "val", {"a": 1, "b": 1})
    make.put(folder / "train" / "a" / "notes.txt", "not an image")
    make.put(folder / "README.md", "hello")
    make.put(folder / "train" / "a" / ".DS_Store", b"\0")
    source = opened(folder)
    assert about(source) == ("folders", 256, "applied")
    assert source.contents.files == [
        *("train/a/000.png", "train/a/001.png", "train/a/002.png"),
        *("train/b/000.png", "train/b/001.png", "val/a/000.png", "val/b/000.png"),
    ]
    with pytest.raises(MinicnnError, match="--val-fraction"):
        opened(folder, val_fraction=0.5)


@pytest.mark.parametrize("packed", ["zip", "tar", "tgz"])
def test_class_folders_in_archives(tmp_path: Path, packed: str) -> None:
    folder = make.class_folders(tmp_path / "mine", {"a": 3, "b": 3})
    files = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in sorted(folder.rglob("*.png"))
    }
    archive = tmp_path / f"mine.{packed}"
    if packed == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name, data in files.items():
                file.writestr(name, data)
            file.writestr("__MACOSX/", b"")
            file.writestr("__MACOSX/mine/a/._000.png", b"junk")
    else:
        make.tar(archive, files, "w:gz" if packed == "tgz" else "w")
    source = opened(archive)
    assert source.contents.files == opened(folder).contents.files
    assert [read(place) for place in source.places] == [
        files[f"mine/{name}"] for name in source.contents.files
    ]


def test_groups_file(folder: Path, tmp_path: Path) -> None:
    make.class_folders(folder, {"cat": 2, "cup": 2, "x": 2})
    groups = make.put(tmp_path / "g.toml", 'natural = ["cat"]\nmanmade = ["cup"]\n')
    assert opened(folder, groups=groups).contents.groups == ["natural", "manmade", ""]


TEST_DATA = os.environ.get("MINICNN_TEST_DATA")


@pytest.mark.skipif(not TEST_DATA, reason="MINICNN_TEST_DATA is not set")
def test_the_real_tiny_imagenet(tmp_path: Path) -> None:
    packs = Path(TEST_DATA or "") / "tiny-imagenet"
    command = [sys.executable, packs / "unpack.py", tmp_path, packs / "part0.pack"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    source = opened(tmp_path)
    assert source.contents.attributes["source"] == "tiny-imagenet"
    assert len(source.contents.wnids) == 200
    assert (
        np.bincount(source.contents.labels[source.contents.split == TRAIN]).tolist()
        == [125] * 200
    )
    assert (
        np.bincount(source.contents.labels[source.contents.split == VAL]).tolist()
        == [50] * 200
    )
    assert (
        source.contents.groups.count("natural"),
        source.contents.groups.count("manmade"),
    ) == (72, 128)
    assert source.contents.names[:2] == ["goldfish", "European fire salamander"]
