"""Tiny ImageNet as published: 200 classes, 64×64, labels of val in one text file."""

from __future__ import annotations

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
        has, lacks = "wnids.txt", "train/"
        if odd[0] in held:
            has, lacks = lacks, has
        raise tree.error(
            f"class {odd[0]} is in {has} but not in {lacks} ({len(odd)} such); unpack "
            "the archive again"
        )
    words = tree.lines("words.txt") if "words.txt" in tree.files else []
    names = dict(line.split("\t", 1) for line in words if "\t" in line)
    return Found("tiny-imagenet", SIZE, train, _val(tree), names)


def _val(tree: Tree) -> list[Labelled]:
    labels: dict[str, str] = {}
    for line in tree.lines(_ANNOTATIONS):
        name, wnid = [*line.split("\t"), ""][:2]
        if not wnid or labels.setdefault(name, wnid) != wnid:
            raise tree.error(
                f"{_ANNOTATIONS}: line {line[:60]!r} has no class, or gives an image a "
                "second one"
            )
    images = dict(tree.under("val/images"))
    odd = sorted(images.keys() ^ labels.keys())
    if odd:
        raise tree.error(
            f"{_ANNOTATIONS} labels {len(labels)} images, val/images holds "
            f"{len(images)} (first difference: {odd[0]}); unpack the archive again"
        )
    return [
        Labelled(labels[name], f"val/images/{name}", place)
        for name, place in images.items()
    ]
