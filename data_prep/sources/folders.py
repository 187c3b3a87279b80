"""Any folder of class folders, flat or with train/ and val/."""

from __future__ import annotations

from minicnn.data_prep.sources.labelled import Found, class_folders
from minicnn.data_prep.sources.tree import Tree

SIZE = 256


def recognise(tree: Tree) -> Found | None:
    """class/image, or train/class/image with val/class/image.

    EXIF orientation is applied: these are photographs as a camera wrote them.
    """
    tops = tree.children("")
    if not tops:
        return None
    if "train" not in tops or not tree.children("train"):
        flat = class_folders(tree, "")
        return Found("folders", SIZE, flat, None, orientation="applied")
    strange = sorted(set(tops) - {"train", "val", "test"})
    if strange:
        raise tree.error(
            f"{strange[0]}/ beside train/: a class or not? Move it into train/, or away"
        )
    if "val" not in tops:
        raise tree.error(
            "train/ but no val/; name the held-out folder val/, or give "
            f"{tree.source / 'train'} alone to hold a part of it out"
        )
    notes = ["test/ is left out: only train/ and val/ are read"] * ("test" in tops)
    train, val = class_folders(tree, "train"), class_folders(tree, "val")
    return Found("folders", SIZE, train, val, {}, notes, "applied")
