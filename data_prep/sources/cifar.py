"""CIFAR-100's binary version: records of two label bytes and 32×32×3 pixel planes."""

from __future__ import annotations

import numpy as np

from minicnn.data_prep.sources.labelled import Found, Labelled
from minicnn.data_prep.sources.tree import Place, Tree, read

SIZE = 32
_RECORD = 2 + 3 * SIZE * SIZE
_NAMES = "fine_label_names.txt"


def recognise(tree: Tree) -> Found | None:
    """train.bin, test.bin (taken as val) and fine_label_names.txt.

    Raises:
        MinicnnError: the python version, which only Python's own object loader can
            read and which may therefore run any code; CIFAR-10.
    """
    if {"meta", "train", "test"} <= tree.files.keys():
        raise tree.error(
            "CIFAR-100's python version cannot be read safely; get the binary version, "
            "cifar-100-binary.tar.gz"
        )
    if "data_batch_1.bin" in tree.files:
        raise tree.error(
            "CIFAR-10 is not supported; get CIFAR-100's binary version, "
            "cifar-100-binary.tar.gz"
        )
    if not {"train.bin", "test.bin", _NAMES} <= tree.files.keys():
        return None
    names = tree.lines(_NAMES)
    train, val = (_records(tree, name, names) for name in ("train.bin", "test.bin"))
    return Found("cifar-100", SIZE, train, val)


def _records(tree: Tree, name: str, names: list[str]) -> list[Labelled]:
    place = tree.files[name]
    data = read(place)
    if place.member:
        raise tree.error("unpack the zip first")
    if not data or len(data) % _RECORD:
        raise tree.error(
            f"{name} has {len(data)} bytes, not a multiple of {_RECORD}; it is "
            "truncated, get it again"
        )
    labels = np.frombuffer(data, np.uint8)[1::_RECORD]
    if labels.max() >= len(names):
        raise tree.error(
            f"{name} has label {labels.max()}, {_NAMES} only {len(names)} names"
        )
    start = max(place.offset, 0) + 2
    return [
        Labelled(
            names[label],
            f"{name}#{number:05d}",
            Place(place.path, _RECORD - 2, start + number * _RECORD),
        )
        for number, label in enumerate(labels.tolist())
    ]
