"""The store: what plain h5py sees in it, and what its reader refuses."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data import store
from minicnn.data.store import EXCLUDED, TRAIN, VAL, Contents, Store

SHAPE = (6, 4, 5, 3)
CONTENTS = Contents(
    size=SHAPE[1:3],
    labels=np.array([0, 1, 2, 0, 1, 2], np.int32),
    split=np.array([TRAIN, TRAIN, TRAIN, VAL, VAL, VAL], np.uint8),
    files=["a/1.png", "b/1.png", "ç/1.png", "a/2.png", "b/2.png", "ç/long name.png"],
    wnids=["a", "b", "ç"],
    names=["a thing", "a being", "ça"],
    groups=["manmade", "natural", ""],
    attributes={"resize": "warp", "source": "test", "orientation": "ignored", "z": 7},
)


def make(path: Path, contents: Contents = CONTENTS) -> np.ndarray:
    """Writes a complete store of random pixels; returns the pixels."""
    store.create(path, contents)
    rng = np.random.default_rng(0)
    shape = (len(contents.labels), *contents.size, 3)
    pixels = rng.integers(0, 256, shape, np.uint8)
    sums = np.array([zlib.crc32(row) for row in pixels], np.uint32)
    with h5py.File(path, "r+") as file:
        file["images"][...], file["crc32"][...] = pixels, sums
    store.mark_complete(path)
    return pixels


def test_plain_h5py_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    pixels = make(path)
    with h5py.File(path) as file:
        for key, kind in (("labels", np.int32), ("split", np.uint8)):
            assert file[key].dtype == kind
            assert np.array_equal(file[key], getattr(CONTENTS, key))
        for key in ("files", "wnids", "names", "groups"):
            assert list(file[key].asstr()) == list(getattr(CONTENTS, key))
        assert np.array_equal(file["images"], pixels)
        assert file["images"].chunks is None
        assert file["images"].compression is None
        assert file["crc32"][2] == zlib.crc32(pixels[2])
        attributes = {"format": "minicnn-store", "version": 1, "complete": 1}
        assert dict(file.attrs) == attributes | CONTENTS.attributes


def test_the_reader_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    pixels = make(path)
    opened = Store(path)
    assert (len(opened), opened.image_size) == (6, (4, 5))
    assert np.array_equal(opened.images, pixels)
    for key in ("files", "wnids", "names", "groups"):
        assert getattr(opened, key) == getattr(CONTENTS, key)
    assert opened.attributes["z"] == 7
    assert opened.crc32.tolist() == [zlib.crc32(row) for row in pixels]
    with pytest.raises(ValueError, match="read-only"):
        opened.images[0] = 0


def test_the_bytes_depend_on_the_contents_alone(tmp_path: Path) -> None:
    one, another = tmp_path / "one.h5", tmp_path / "another.h5"
    make(one)
    time.sleep(1.1)  # HDF5 would note the time of creation in seconds
    make(another)
    assert one.read_bytes() == another.read_bytes()


def test_rows_of_a_part_without_excluded_ones(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    split = np.array([TRAIN, EXCLUDED, TRAIN, VAL, VAL, EXCLUDED], np.uint8)
    make(path, replace(CONTENTS, split=split))
    opened = Store(path)
    assert opened.rows([0, 1, 2], "train").tolist() == [0, 2]
    assert opened.rows([2, 1], "val").tolist() == [4]
    assert opened.rows([], "val").tolist() == []


def test_identity_tells_contents_apart(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    labels = np.array([0, 1, 2, 0, 2, 1], np.int32)
    seen = set()
    for contents in (
        CONTENTS,
        replace(CONTENTS, labels=labels),
        replace(CONTENTS, wnids=["a", "b", "d"]),
        replace(CONTENTS, split=CONTENTS.split[::-1].copy()),
    ):
        make(path, contents)
        seen.add(Store(path).identity)
    with h5py.File(path, "r+") as file:
        file["crc32"][0] += 1
    seen.add(Store(path).identity)
    assert len(seen) == 5
    make(path)
    assert Store(path).identity in seen


def without(key: str) -> Callable[[h5py.File], None]:
    def delete(file: h5py.File) -> None:
        del file[key]

    return delete


def never_written(file: h5py.File) -> None:
    del file["images"]
    file.create_dataset("images", SHAPE, np.uint8)


def of_version(version: int) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.modify("version", version)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        *((0.02, "truncated"), (0.3, "truncated"), (0.7, "truncated")),
        *((0.999, "truncated"), (never_written, "truncated")),
        *((of_version(n), f"format version {n}") for n in (0, 2)),
        *((without(k), k) for k in ("images", "labels", "split", "crc32", "wnids")),
    ],
)
def test_what_is_no_whole_store_is_refused(
    tmp_path: Path, damage: Any, said: str
) -> None:
    path = tmp_path / "store.h5"
    make(path)
    if isinstance(damage, float):  # the share that is left
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * damage)])
    else:
        with h5py.File(path, "r+") as file:
            damage(file)
    with pytest.raises(MinicnnError, match=f"^store {re.escape(str(path))}: .*{said}"):
        Store(path)


def test_a_store_of_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (22, 8, 8, 3), np.uint8)
    labels = np.arange(22) % 2
    made = store.write(str(tmp_path / "a.h5"), images, labels, ["zebra", "ant"])
    np.testing.assert_array_equal(made.images, images)
    assert made.labels.tolist() == labels.tolist()
    assert (made.names, made.wnids) == (["zebra", "ant"], ["0000", "0001"])
    # Every fifth of each class: rows 8, 18 and 9, 19.
    assert np.flatnonzero(made.split == store.VAL).tolist() == [8, 9, 18, 19]
    assert made.crc32.tolist() == [zlib.crc32(each.tobytes()) for each in images]
    kept = made.split[::-1].copy()
    again = store.write(tmp_path / "b.h5", images, labels, ["zebra", "ant"], kept)
    assert again.split.tolist() == kept.tolist()


GOOD = {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [0, 1]}
GOOD |= {"names": ["a", "b"], "split": np.array([0, 1])}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": np.zeros((2, 4, 4, 3))}, r"images \(2, .* be \(N,H,W,3\) uint8"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, r"must be \(N,H,W,3\) uint8"),
        ({"images": np.zeros((2, 4, 5, 3), np.uint8)}, "must be square"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8), "labels": []}, "one or more"),
        ({"labels": [0, 2]}, r"labels\[1\] = 2: must be 0\.\.1"),
        ({"labels": [-1, 0]}, r"labels\[0\] = -1: must be 0\.\.1"),
        ({"labels": [0.0, 0.5]}, r"labels \(2,\) float64: must be \(2,\) whole"),
        ({"labels": [[0], [1, 0]]}, r"labels: make no array \(setting an array elem"),
        ({"images": [[0], [1, 0]]}, "images: make no array"),
        ({"labels": [0]}, r"labels \(1,\) int64: must be \(2,\) whole numbers"),
        ({"names": []}, r"names \[\]: must be one or more"),
        ({"names": "ab"}, "names 'ab': must be a list of texts"),
        ({"names": ["a", 7]}, r"names \['a', 7\]: must be a list of texts"),
        ({"split": np.array([0, 2])}, r"split\[1\] = 2: must be 0\.\.1"),
        ({"split": np.array([0, 0.5])}, r"split \(2,\) float64: must be \(2,\) whole"),
    ],
)
def test_arrays_that_make_no_store(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(MinicnnError, match=said):
        store.write(tmp_path / "a.h5", **{**GOOD, **given})
    assert not list(tmp_path.iterdir())


def test_no_folder_to_write_a_store_in(tmp_path: Path) -> None:
    with pytest.raises(MinicnnError, match=r"none does not exist; make it by mkdir -p"):
        store.write(tmp_path / "none" / "a.h5", **GOOD)
