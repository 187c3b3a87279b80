"""Tiny ImageNet as published: 200 classes, 64×64, labels of val in one text file."""

from __future__ import annotations

from minicnn.base.errors import MinicnnError
from minicnn.data_prep.sources.labelled import Found, Labelled
from minicnn.data_prep.sources.tree import Tree

SIZE = 64
_ANNOTATIONS = "val/val_annotations.txt"


def recognise(tree: Tree) -> Found | None:
    """wnids.txt, train/<wnid>/images/, val/images/ with val_annotations.txt."""
    if "wnids.txt" not in tree.files or _ANNOTATIONS not in tree.files:
        return None
    train = [
        Labelled(path.split("/", 1)[0], f"train/{path}", place)
        for path, place in tree.under("train")
        if path.count("/") == 2 and path.split("/")[1] == "images"
    ]
    listed, held = set(tree.lines("wnids.txt")), {image.wnid for image in train}
    odd = sorted(listed ^ held)
    if odd:
        lack, have = ("train/", "wnids.txt") if odd[0] in listed else ("wnids.txt", "")
        raise MinicnnError(
            f"source {tree.source}: class {odd[0]} is in {have or 'train/'} but not in "
            f"{lack} ({len(odd)} such); unpack the archive again"
        )
    names = {}
    if "words.txt" in tree.files:
        for line in tree.lines("words.txt"):
            wnid, _, words = line.partition("\t")
            if wnid in listed:
                names[wnid] = words
    val = _val(tree)
    return Found("tiny-imagenet", SIZE, "ignored", train, val, names)


def _val(tree: Tree) -> list[Labelled]:
    labels: dict[str, str] = {}
    for line in tree.lines(_ANNOTATIONS):
        name, wnid = [*line.split("\t"), ""][:2]
        if not wnid or labels.setdefault(name, wnid) != wnid:
            raise MinicnnError(
                f"source {tree.source}: {_ANNOTATIONS}: line {line[:60]!r} has no "
                "class, or gives an image a second one"
            )
    images = dict(tree.under("val/images"))
    odd = sorted(images.keys() ^ labels.keys())
    if odd:
        raise MinicnnError(
            f"source {tree.source}: {_ANNOTATIONS} labels {len(labels)} images, "
            f"val/images holds {len(images)} (first difference: {odd[0]}); unpack the "
            "archive again"
        )
    return [
        Labelled(labels[name], f"val/images/{name}", place)
        for name, place in images.items()
    ]
