"""The image store: one HDF5 file that holds all classes of a labelled image set.

| name | type, shape | meaning |
| --- | --- | --- |
| `/images` | uint8 (N, H, W, 3) | RGB, rows top to bottom; contiguous, uncompressed |
| `/labels` | int32 (N,) | class index, 0 .. K − 1 |
| `/split` | uint8 (N,) | 0 train, 1 val, 2 excluded (could not be read; all zero) |
| `/crc32` | uint32 (N,) | zlib.crc32 of the image's H·W·3 bytes |
| `/files` | string (N,) | where the image came from, relative to the source |
| `/wnids` | string (K,) | class ids, sorted (WordNet ids, or folder names) |
| `/names` | string (K,) | what a person calls the class |
| `/groups` | string (K,) | "natural", "manmade" or "" where unknown |

Attributes of the root: `format`, `version`, `complete`, `resize`, `source`,
`orientation`; and where `minicnn data prepare` made it, `decoder` (the libraries that
decoded the images, and ", exact" where it was asked for), `fingerprint` (SHA-256 of the
plan: classes, files, parts, options) and `source_bytes` (of the image files).
`/images` is contiguous, so `dset.id.get_offset()` gives its place in the file, and
readers map it into memory: training reads rows in random order, validation and the mean
image in store order, each image in one piece; `loader` says how, also where the store
is larger than memory. All of it is readable with plain h5py.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.base.files import written_whole
from minicnn.data.classes import ClassList

FORMAT = "minicnn-store"
VERSION = 1
TRAIN, VAL, EXCLUDED = 0, 1, 2
PARTS = {"train": TRAIN, "val": VAL}
GROUPS = ("natural", "manmade", "")


@dataclass(frozen=True)
class Contents:
    """A store without its pixels, and what is known only once they are written.

    Attributes:
        size: height and width of every image, in pixels.
        labels: (N,) class index of each row.
        split: (N,) TRAIN or VAL.
        files: N texts, where each image comes from.
        wnids, names, groups: K texts each.
        attributes: `resize`, `source`, `orientation` and what else is worth keeping.
    """

    size: tuple[int, int]
    labels: NDArray[np.int32]
    split: NDArray[np.uint8]
    files: Sequence[str]
    wnids: Sequence[str]
    names: Sequence[str]
    groups: Sequence[str]
    attributes: dict[str, str | int | float]


def create(path: Path, contents: Contents) -> None:
    """Writes a store without pixels, marked incomplete, every dataset at its full size.

    Pixels may then be written at their place in the file, by any number of processes,
    without HDF5; checksums and exclusions follow, and `mark_complete` ends it. The
    file's bytes are a function of `contents` alone.
    """
    rows = len(contents.labels)
    height, width = contents.size
    with h5py.File(path, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["complete"] = np.uint8(0)
        for key, value in sorted(contents.attributes.items()):
            file.attrs[key] = value
        file["labels"] = np.asarray(contents.labels, np.int32)
        for key in ("files", "wnids", "names", "groups"):
            texts = [text.encode() for text in getattr(contents, key)]
            longest = max([1, *map(len, texts)])
            file[key] = np.array(texts, h5py.string_dtype("utf-8", longest))
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_layout(h5py.h5d.CONTIGUOUS)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        early.set_obj_track_times(False)  # a time stamp would change the bytes
        kinds = {"split": np.uint8, "crc32": np.uint32, "images": np.uint8}
        for key, kind in kinds.items():
            shape = (rows, height, width, 3) if key == "images" else (rows,)
            dtype = h5py.h5t.py_create(np.dtype(kind), logical=True)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, key.encode(), dtype, space, early)
        file["split"][...] = contents.split


def mark_complete(path: Path) -> None:
    """Sets the root attribute `complete`, the last thing written to a store."""
    with h5py.File(path, "r+") as file:
        file.attrs.modify("complete", np.uint8(1))


def write(
    path: str | os.PathLike[str],
    images: NDArray[np.uint8],
    labels: Sequence[int] | NDArray[np.integer],
    names: Sequence[str],
    split: NDArray[np.uint8] | None = None,
) -> Store:
    """Writes a whole store of images in memory, or in a memory map.

    Args:
        images: (N,H,W,3) uint8, RGB, H = W.
        labels: (N,) places in `names`.
        names: what the K classes are called; their ids become "0000", "0001", ...
        split: (N,) TRAIN or VAL; None holds out every fifth image of each class.

    Raises:
        MinicnnError: shapes, dtype or labels do not fit, or it cannot be written.
    """
    images = _array("images", images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise MinicnnError(
            f"images {images.shape} {images.dtype}: must be (N,H,W,3) uint8"
        )
    if images.shape[1] != images.shape[2] or not images.size:
        raise MinicnnError(f"images {images.shape}: must be square, and one or more")
    if isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise MinicnnError(f"names {names!r}: must be a list of texts, one a class")
    if not len(names):
        raise MinicnnError(f"names {names!r}: must be one or more")
    count = len(images)
    labels = _whole_numbers("labels", labels, count, len(names))
    if split is None:
        split = np.full(count, TRAIN, np.uint8)
        for label in range(len(names)):
            split[np.flatnonzero(labels == label)[4::5]] = VAL
    split = _whole_numbers("split", split, count, VAL + 1).astype(np.uint8)
    contents = Contents(
        size=(images.shape[1], images.shape[2]),
        labels=labels.astype(np.int32),
        split=split,
        files=[f"array {row}" for row in range(count)],
        wnids=[f"{place:04d}" for place in range(len(names))],
        names=names,
        groups=[""] * len(names),
        attributes={"source": "arrays", "resize": "none", "orientation": "none"},
    )
    with written_whole(Path(path)) as temporary:
        create(temporary, contents)
        with h5py.File(temporary, "r+") as file:
            for row, image in enumerate(images):
                file["images"][row] = image
                file["crc32"][row] = zlib.crc32(np.ascontiguousarray(image).data)
        mark_complete(temporary)
    return Store(path)


def _array(key: str, given: Any) -> NDArray[Any]:
    try:
        return np.asanyarray(given)
    except ValueError as error:
        raise MinicnnError(f"{key}: make no array ({error})") from None


def _whole_numbers(key: str, given: Any, count: int, below: int) -> NDArray[np.integer]:
    """One of 0 .. below − 1 for each of `count` images."""
    found = _array(key, given)
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise MinicnnError(
            f"{key} {found.shape} {found.dtype}: must be ({count},) whole numbers, one "
            "an image"
        )
    if len(wrong := np.flatnonzero((found < 0) | (found >= below))):
        raise MinicnnError(
            f"{key}[{wrong[0]}] = {found[wrong[0]]}: must be 0..{below - 1}"
        )
    return found


class Store:
    """A complete store, opened for reading; its pixels are memory-mapped.

    Raises:
        MinicnnError: the file is missing, is no store, is of another version, is not
            complete, or is shorter than its datasets.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise self._error(
                "no such file; make one with "
                f"'minicnn data prepare SOURCE -o {self.path}'"
            )
        try:
            with h5py.File(self.path, "r") as file:
                self._read(file)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise self._error(
                f"not a readable HDF5 file, or truncated ({why}); prepare it again"
            ) from None
        except KeyError as error:
            raise self._error(
                f"damaged, a part is missing ({error.args[0]}); prepare it again"
            ) from None

    def _error(self, problem: str) -> MinicnnError:
        return MinicnnError(f"store {self.path}: {problem}")

    def _read(self, file: h5py.File) -> None:
        kind, version = file.attrs.get("format"), file.attrs.get("version")
        if kind != FORMAT:
            raise self._error("an HDF5 file, but no minicnn store")
        if version != VERSION:
            raise self._error(
                f"format version {version}, this minicnn reads {VERSION}; prepare it "
                "again with this minicnn"
            )
        if not file.attrs["complete"]:
            raise self._error("not complete; run its 'minicnn data prepare' again")
        self.attributes = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in file.attrs.items()
        }
        self.labels: NDArray[np.int32] = file["labels"][...]
        self.split: NDArray[np.uint8] = file["split"][...]
        self.crc32: NDArray[np.uint32] = file["crc32"][...]
        texts = [list(file[key].asstr()[...]) for key in ClassList._fields]
        self.wnids, self.names, self.groups = texts
        self.classes = ClassList(*texts)
        pixels = file["images"]
        self._shape, self._offset = pixels.shape, pixels.id.get_offset()
        size = self.path.stat().st_size
        if self._offset is None or self._offset + int(np.prod(self._shape)) > size:
            raise self._error(
                f"truncated, its images end beyond the file's {size} bytes; prepare it "
                "again"
            )

    @cached_property
    def images(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        """(N, H, W, 3) uint8, a read-only memory map."""
        return np.memmap(self.path, np.uint8, "r", self._offset, self._shape)

    @cached_property
    def files(self) -> list[str]:
        """N texts: where each image came from."""
        with h5py.File(self.path, "r") as file:
            return list(file["files"].asstr()[...])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._shape[1], self._shape[2]

    @cached_property
    def identity(self) -> str:
        """A short hash of classes, labels, parts and checksums: all that matters."""
        digest = hashlib.sha256("\n".join(self.wnids).encode())
        for array in (self.labels, self.split, self.crc32):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Rows, excluded ones counted."""
        return self._shape[0]

    def check_labels(self) -> None:
        """Refuses labels that name no class.

        Raises:
            MinicnnError: there is one.
        """
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.wnids)))
        if len(wrong):
            raise self._error(
                f"damaged, row {wrong[0]} has label {self.labels[wrong[0]]} of "
                f"{len(self.wnids)} classes ({len(wrong)} such rows); 'minicnn data "
                f"verify {self.path}' lists them"
            )

    def rows(self, classes: Sequence[int], part: str) -> NDArray[np.int64]:
        """Rows of classes, by their indices, in the part "train" or "val", ascending.

        Raises:
            MinicnnError: a label names no class.
        """
        self.check_labels()
        wanted = np.zeros(len(self.wnids), bool)
        wanted[list(classes)] = True
        return np.flatnonzero((self.split == PARTS[part]) & wanted[self.labels])
