"""What a labelled image set is made of, before any pixel is read: classes and rows."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.philox import Stream, permutation
from minicnn.data.classes import ClassList, group_classes, ilsvrc2012
from minicnn.data.store import TRAIN, VAL, Contents
from minicnn.data_prep.sources.tree import Place, Tree

VAL_FRACTION = 0.1
# Texts that lie about in class folders; all else is judged by its content.
_SIDECARS = frozenset(
    ("csv", "db", "htm", "html", "ini", "json", "md", "tsv", "txt", "xml", "yaml")
)


class Labelled(NamedTuple):
    """One image: its class id, its path relative to the source, where its bytes are."""

    wnid: str
    path: str
    place: Place


@dataclass
class Found:
    """What a recogniser made of a source.

    Attributes:
        kind: "imagenet", "tiny-imagenet", "cifar-100" or "folders".
        size: default height and width of the store's images.
        train, val: the images; `val` is None where it is to be held out of `train`.
        names: names of classes by wnid, where the source tells.
        notes: what the user should know, one line each.
        orientation: what happens to EXIF orientation, "ignored" or "applied".
    """

    kind: str
    size: int
    train: list[Labelled]
    val: list[Labelled] | None
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    orientation: str = "ignored"


class Source(NamedTuple):
    """A recognised source with its rows in store order: part, class, path.

    Attributes:
        contents: of a store of it, with the default size, and of its attributes only
            `source`, the kind as in `Found`, and `orientation`.
        places: where the bytes of each row's image are.
        notes: as in `Found`.
    """

    contents: Contents
    places: list[Place]
    notes: list[str]


def class_folders(tree: Tree, base: str) -> list[Labelled]:
    """The images of the class folders directly inside `base`.

    Raises:
        MinicnnError: images outside any class folder, folders inside one, one without
            images, or two whose names differ by case alone.
    """
    where = f"{base}/" if base else ""
    images = []
    for path, place in tree.under(base):
        parts = path.split("/")
        if Path(path).suffix[1:].lower() in _SIDECARS:
            continue
        if len(parts) == 1:
            raise tree.error(
                f"{where}{path} lies outside any class folder; move it into one, or "
                "away"
            )
        if len(parts) > 2:
            raise tree.error(
                f"class folder {where}{parts[0]} holds folders ({parts[1]}); put its "
                "images directly inside it"
            )
        images.append(Labelled(parts[0], where + path, place))
    folders = tree.children(base)
    empty = sorted(set(folders) - {image.wnid for image in images})
    if empty:
        raise tree.error(
            f"class folder {where}{empty[0]} holds no images ({len(empty)} such); fill "
            "it or remove it"
        )
    folded: dict[str, str] = {}
    for name in folders:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise tree.error(
                f"class folders {where}{other} and {where}{name} differ by case alone; "
                "merge or rename them"
            )
    return images


def assemble(
    found: Found, tree: Tree, val_fraction: float | None, seed: int, groups: Path | None
) -> Source:
    """Puts classes and rows in order and checks that they make sense.

    Args:
        val_fraction, seed, groups: see `prepare.Options`.

    Raises:
        MinicnnError: fewer than two classes, a class of val that train lacks, a
            fraction where it has no meaning, a wrong groups file.
    """
    wnids = sorted({image.wnid for image in found.train})
    if len(wnids) < 2:
        raise tree.error(
            f"only class {', '.join(wnids)} has images; at least 2 classes are needed"
        )
    train, val = found.train, found.val
    if val is None:
        fraction = VAL_FRACTION if val_fraction is None else val_fraction
        train, val = hold_out(tree, train, fraction, seed)
    elif val_fraction is not None:
        raise tree.error("has its own validation part; leave out --val-fraction")
    held = {image.wnid for image in val}
    strange = sorted(held - set(wnids))
    if strange:
        raise tree.error(
            f"class {strange[0]} is in val but not in train ({len(strange)} such); the "
            "two parts must have the same classes"
        )
    index = {wnid: number for number, wnid in enumerate(wnids)}
    rows = [
        (part, index[image.wnid], image.path, image.place)
        for part, images in ((TRAIN, train), (VAL, val))
        for image in images
    ]
    rows.sort(key=lambda row: row[:3])
    parts, labels, files, places = map(list, zip(*rows, strict=True))
    names = [_name(wnid, found.names) for wnid in wnids]
    notes = list(found.notes)
    if not val:
        notes.append(
            "no image is held out for validation, and training needs some: this store "
            "is only to look at and to classify; leave out --val-fraction 0 to train"
        )
    elif missing := len(wnids) - len(held):
        notes.append(f"{missing} of {len(wnids)} classes have no validation images")
    contents = Contents(
        size=(found.size, found.size),
        labels=np.array(labels, np.int32),
        split=np.array(parts, np.uint8),
        files=files,
        wnids=wnids,
        names=names,
        groups=group_classes(ClassList(wnids, names, [""] * len(wnids)), groups),
        attributes={"source": found.kind, "orientation": found.orientation},
    )
    return Source(contents, places, notes)


def hold_out(
    tree: Tree, images: Iterable[Labelled], fraction: float, seed: int
) -> tuple[list[Labelled], list[Labelled]]:
    """Splits images into train and val, class by class.

    Of a class's n images, in path order, floor(n·fraction + 1/2), but at least one and
    not all, go to val: the first of a permutation keyed by the class id, so that
    another class more or less changes nothing for this one.
    """
    if not 0 <= fraction < 1:
        raise MinicnnError(f"--val-fraction {fraction}: must be at least 0 and under 1")
    classes: dict[str, list[Labelled]] = {}
    for image in sorted(images, key=lambda image: image.path):
        classes.setdefault(image.wnid, []).append(image)
    train: list[Labelled] = []
    val: list[Labelled] = []
    for wnid, members in classes.items():
        count = len(members)
        if fraction and count < 2:
            raise tree.error(
                f"class {wnid} has 1 image, none can be held out; add images or remove "
                "the class"
            )
        take = math.floor(count * fraction + 0.5)
        take = min(max(take, 1), count - 1) if fraction else 0
        order = permutation(seed, Stream.SUBSET, zlib.crc32(wnid.encode()), count)
        val += [members[place] for place in order[:take]]
        train += [members[place] for place in order[take:]]
    return train, val


def _name(wnid: str, own: dict[str, str]) -> str:
    known = ilsvrc2012()
    if wnid in known.wnids:
        return known.names[known.wnids.index(wnid)]
    return own.get(wnid, wnid).split(",")[0].strip()
