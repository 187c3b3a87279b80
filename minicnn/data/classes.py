"""Class lists: ILSVRC2012's, and how people name classes in files."""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from minicnn.base.config import read_toml
from minicnn.base.errors import MinicnnError


class ClassList(NamedTuple):
    """K class ids in class order, with the name and the group of each."""

    wnids: Sequence[str]
    names: Sequence[str]
    groups: Sequence[str]


@lru_cache(maxsize=1)
def ilsvrc2012() -> ClassList:
    """The 1000 classes in sorted-wnid order, with the study's natural/manmade groups.

    Source: the ILSVRC2012 synsets; Yosinski et al. 2014, supplementary section S1.
    """
    file = importlib.resources.files("minicnn.data") / "ilsvrc2012_classes.csv"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    columns = (tuple(row[key] for row in rows) for key in ("wnid", "name", "group"))
    return ClassList(*columns)


def class_index(label: str, classes: ClassList) -> int:
    """The class that a label means: by its id, else by a name no other class has.

    Raises:
        MinicnnError: no such class, or several of that name.
    """
    wnids, names, _ = classes
    if label in wnids:
        return wnids.index(label)
    found = [index for index, name in enumerate(names) if name == label]
    if len(found) > 1:
        ids = ", ".join(wnids[index] for index in found)
        raise MinicnnError(
            f"class {label!r}: the name of {len(found)} classes; use one of {ids}"
        )
    if not found:
        raise MinicnnError(
            f"class {label!r}: neither a class id nor a name among {len(wnids)} "
            f"classes such as {wnids[0]!r} ({names[0]})"
        )
    return found[0]


def group_classes(classes: ClassList, file: Path | None) -> list[str]:
    """The group of each class: the file's, else its own, else ILSVRC2012's, else "".

    Args:
        file: TOML with the lists `natural` and `manmade` of class ids or names.

    Raises:
        MinicnnError: a bad file.
    """
    published = dict(zip(ilsvrc2012().wnids, ilsvrc2012().groups, strict=True))
    pairs = zip(classes.wnids, classes.groups, strict=True)
    merged = [group or published.get(wnid, "") for wnid, group in pairs]
    if file is not None:
        listed = read_class_lists(file, ("natural", "manmade"), classes)
        for index, group in listed.items():
            merged[index] = group
    return merged


def read_class_lists(
    path: Path, keys: tuple[str, str], classes: ClassList
) -> dict[int, str]:
    """Two lists of classes from a TOML file: each a key with class ids or names.

    Args:
        keys: its two keys, such as ("A", "B").
        classes: all that there are.

    Returns:
        The key of each class in the lists, by its index.

    Raises:
        MinicnnError: unreadable, not TOML, other keys than these two, an empty list, a
            class unknown, ambiguous or listed twice.
    """
    table = read_toml(path)
    for key in keys:
        if not isinstance(table.get(key), list) or not table[key]:
            raise MinicnnError(
                f"{path}: {key} is not a list of classes; give {keys[0]} = [...] and "
                f"{keys[1]} = [...] with class ids or names in quotes"
            )
    if odd := sorted(set(table) - set(keys)):
        raise MinicnnError(
            f"{path}: unknown key {odd[0]}; give only {keys[0]} and {keys[1]}"
        )
    key_of: dict[int, str] = {}
    for key in keys:
        for label in table[key]:
            if not isinstance(label, str):
                raise MinicnnError(
                    f"{path}: {label!r} in {key} is not text; put class ids or names "
                    "in quotes"
                )
            try:
                index = class_index(label, classes)
            except MinicnnError as error:
                raise MinicnnError(f"{path}: in {key}, {error}") from None
            if index in key_of:
                raise MinicnnError(
                    f"{path}: class {label!r} is listed in {key_of[index]} and again "
                    f"in {key}; keep it in one place"
                )
            key_of[index] = key
    return key_of
