"""The store's file before its pixels are written: plan, names, space on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.data import store
from minicnn.data.images import decoder
from minicnn.data_prep.sources.labelled import Source

_PIPELINE = 2
"""Raised whenever the same source and options would give other bytes."""

_SPARE_BYTES = 16 << 20  # the journal, the report, what the file system itself needs


class Files:
    """The store, and the files beside it that exist while it is made."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.report = target.with_name(f"{target.name}.bad.txt")
        self.partial, self.journal, self.lock, self.scratch = (
            target.with_name(f"{target.name}.partial{ending}")
            for ending in ("", ".journal", ".lock", ".tar")
        )


def plan(source: Source, size: int, resize: str, exact: bool) -> store.Contents:
    """What the store will be, but for the pixels.

    Among its attributes are `source_bytes`, of all image files together: a changed file
    changes it; and `fingerprint`, the SHA-256 of all else that decides the store.

    Args:
        size, resize, exact: as `to_rgb` takes them; 0 is the source's own size.
    """
    known, digest = source.contents, hashlib.sha256()
    size = size or known.size[0]
    head = [str(_PIPELINE), str(store.VERSION), str(size), resize]
    head += [str(known.attributes[key]) for key in ("source", "orientation")]
    head.append("exact" if exact else "")
    for texts in (head, known.wnids, known.names, known.groups, known.files):
        digest.update(("\0".join(texts) + "\0\0").encode())
    digest.update(known.labels.tobytes() + known.split.tobytes())
    more: dict[str, str | int | float] = {
        "resize": resize,
        "decoder": decoder(exact),
        "fingerprint": digest.hexdigest(),
        "source_bytes": sum(place.length for place in source.places),
    }
    return replace(known, size=(size, size), attributes=known.attributes | more)


def is_there(target: Path, wanted: dict[str, Any], other: str, fresh: bool) -> bool:
    """Whether the target is a store with these attributes, or this `image_size`.

    Args:
        other: what the error says of one that has others.
        fresh: it is not, whatever it is, and may be overwritten.

    Raises:
        MinicnnError: it is something else, which must not be overwritten.
    """
    if fresh or not target.exists():
        return False
    try:
        found = store.Store(target)
    except MinicnnError as error:
        raise MinicnnError(f"{error}; --fresh replaces it") from None
    about = {**found.attributes, "image_size": found.image_size}
    if all(about.get(key) == value for key, value in wanted.items()):
        return True
    raise MinicnnError(f"store {target}: exists, {other}; --fresh replaces it")


def check_disk(contents: store.Contents, target: Path) -> None:
    """Raises MinicnnError if the target's disk has too little room for the store."""
    row = 3 * contents.size[0] ** 2 + max(map(len, contents.files)) + 16
    needed = len(contents.files) * row + _SPARE_BYTES
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise MinicnnError(
            f"store {target}: needs {needed / 1e9:.2f} GB, {target.parent.resolve()} "
            f"has {free / 1e9:.2f} GB free; free some space or choose another folder"
        )


def sync(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
