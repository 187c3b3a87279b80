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
    assert about(plain) == about(zipped) == ("tiny-imagenet", 64, "ignored")
    assert rows(plain) == [
        (TRAIN, wnid, f"{wnid}_{n}.JPEG")
        for wnid in make.WNIDS
        for n in range(make.TRAIN_EACH)
    ] + sorted((VAL, wnid, f"val_{n}.JPEG") for n, wnid in enumerate(make.val_truth()))
    assert zipped.contents.files == plain.contents.files
    assert zipped.contents.names == plain.contents.names
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
    source = opened(make.tar(folder / "cifar-100-binary.tar.gz", members, "w:gz"))
    assert about(source) == ("cifar-100", 32, "ignored")
    counts = {(TRAIN, "train.bin"): 3, (VAL, "test.bin"): 2}
    expected = [
        (part, name, file)
        for (part, file), count in counts.items()
        for name in ("apple", "bear", "clock")
        for _ in range(count)
    ]
    assert [(*each, file.split("#")[0]) for *each, file in rows(source)] == expected
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
    def held(seed: int = 0) -> list[tuple[str, str]]:
        """Class and file of what is held out."""
        found = rows(opened(folder, val_fraction=0.25, seed=seed))
        return [(wnid, name) for part, wnid, name in found if part == VAL]

    make.class_folders(folder, {"cat": 10, "dog": 24, "ant": 2})
    first = held()
    assert [wnid for wnid, _ in first] == ["ant"] + ["cat"] * 3 + ["dog"] * 6
    assert first == held() != held(seed=1)
    make.class_folders(folder, {"bee": 5})
    assert [each for each in held() if each[0] != "bee"] == first


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
    paths = sorted(folder.rglob("*.png"))
    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in paths}
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
    data = [files[f"mine/{name}"] for name in source.contents.files]
    assert list(map(read, source.places)) == data


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz"])
def test_a_damaged_archive_is_named(tmp_path: Path, packed: str) -> None:
    members = {"a/0.png": np.random.default_rng(0).bytes(2_000_000)}
    archive = make.tar(tmp_path / "mine.tar", members, f"w:{packed}")
    archive.write_bytes(archive.read_bytes()[:-1000] + bytes(1000))
    with pytest.raises(MinicnnError, match=r"mine\.tar: a damaged"):
        opened(archive)


TEST_DATA = os.environ.get("MINICNN_TEST_DATA")


@pytest.mark.skipif(not TEST_DATA, reason="MINICNN_TEST_DATA is not set")
def test_the_real_tiny_imagenet(tmp_path: Path) -> None:
    packs = Path(TEST_DATA or "") / "tiny-imagenet"
    command = [sys.executable, packs / "unpack.py", tmp_path, packs / "part0.pack"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    source = opened(tmp_path)
    assert about(source) == ("tiny-imagenet", 64, "ignored")
    known = source.contents
    for part, each in ((TRAIN, 125), (VAL, 50)):
        assert np.bincount(known.labels[known.split == part]).tolist() == [each] * 200
    assert (known.groups.count("natural"), known.groups.count("manmade")) == (72, 128)
    assert known.names[:2] == ["goldfish", "European fire salamander"]
