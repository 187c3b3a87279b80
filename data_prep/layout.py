"""The store's file before its pixels are written: plan, names, space on disk."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py

from minicnn.base.errors import MinicnnError
from minicnn.data import store
from minicnn.data.images import decoder
from minicnn.data_prep.sources.labelled import Source

_PIPELINE = 2
"""Raised whenever the same source and options would give other bytes."""

_SPARE_BYTES = 16 << 20  # the journal, the report, what the file system itself needs


@dataclass(frozen=True)
class Files:
    """The store, and the files beside it that exist while it is made."""

    target: Path
    partial: Path
    created: Path
    journal: Path
    lock: Path
    scratch: Path
    report: Path

    @classmethod
    def of(cls, target: Path) -> Files:
        work = ("", ".new", ".journal", ".lock", ".tar")
        endings = ["", *(".partial" + ending for ending in work), ".bad.txt"]
        return cls(*(target.with_name(target.name + ending) for ending in endings))


@dataclass(frozen=True)
class Plan:
    """What the store will be, but for the pixels.

    Attributes:
        source: classes and rows.
        size: height and width of every image, in pixels.
        resize: "warp" or "short-center".
        exact: whether Pillow alone decides the pixels; see `to_rgb`.
    """

    source: Source
    size: int
    resize: str
    exact: bool = False

    @cached_property
    def source_bytes(self) -> int:
        """Bytes of all image files together; a changed file changes it."""
        return sum(place.length for place in self.source.places)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the store but the image files' bytes."""
        source, digest = self.source, hashlib.sha256()
        head = [str(_PIPELINE), str(store.VERSION), str(self.size), self.resize]
        head += [source.kind, source.orientation, "exact" if self.exact else ""]
        for texts in (head, source.wnids, source.names, source.groups, source.files):
            digest.update(("\0".join(texts) + "\0\0").encode())
        digest.update(source.labels.tobytes() + source.split.tobytes())
        return digest.hexdigest()

    @property
    def contents(self) -> store.Contents:
        """As `store.create` takes it."""
        source = self.source
        return store.Contents(
            size=(self.size, self.size),
            labels=source.labels,
            split=source.split,
            files=source.files,
            wnids=source.wnids,
            names=source.names,
            groups=source.groups,
            attributes={
                "resize": self.resize,
                "source": source.kind,
                "orientation": source.orientation,
                "decoder": decoder(self.exact),
                "fingerprint": self.fingerprint,
                "source_bytes": self.source_bytes,
            },
        )


def lay_out(plan: Plan, files: Files) -> None:
    """Makes the partial store at its full size, in place of an older one.

    Raises:
        MinicnnError: too little free disk.
        OSError: the disk is full all the same.
    """
    files.partial.unlink(missing_ok=True)
    _check_disk(plan, files.target)
    try:
        store.create(files.created, plan.contents)
        _reserve(files.created)
        files.created.rename(files.partial)
    finally:
        files.created.unlink(missing_ok=True)


def _check_disk(plan: Plan, target: Path) -> None:
    row = 3 * plan.size**2 + max(map(len, plan.source.files)) + 16
    needed = len(plan.source.files) * row + _SPARE_BYTES
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise MinicnnError(
            f"store {target}: needs {needed / 1e9:.2f} GB, {target.parent.resolve()} "
            f"has {free / 1e9:.2f} GB free; free some space or choose another folder"
        )


def pixels_at(path: Path) -> int:
    """Byte offset of row 0's pixels in a laid-out store."""
    with h5py.File(path, "r") as file:
        return file["images"].id.get_offset()


def sync(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reserve(path: Path) -> None:
    """Takes the file's whole space now, so that a full disk shows before the work.

    Only where the file system can do it at once: `os.posix_fallocate` would fall back
    to writing every block.
    """
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is None:
        return
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    with open(path, "r+b") as file:
        if fallocate(file.fileno(), 0, 0, path.stat().st_size) == 0:
            return
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(number, os.strerror(number))
