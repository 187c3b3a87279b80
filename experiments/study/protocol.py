"""When the published numbers may be drawn behind ours.

A plan says `published = true` where its nets are the paper's. That holds for a study
only while its settings decide the same numbers, and its store is the paper's data.
"""

from __future__ import annotations

from pathlib import Path

from minicnn.base.config import Config
from minicnn.data.classes import group_classes, ilsvrc2012
from minicnn.data.store import PARTS, Store
from minicnn.experiments.study.graph import Plan, changes

# Settings that change no score: a resumed net ends with the same bits, and the metrics
# only record. All other settings decide scores: `evaluate_every` too, since a published
# score is the mean of the 10 best evaluations, and `precision`, since it rounds every
# product.
IDLE = ("schedule.checkpoint_every", "schedule.log_every")
SIZE = (256, 256)
IMAGES = {"train": 1_281_167, "val": 50_000}
# Largest share of images missing: a copy may lack a few unreadable files.
TOLERANCE = 0.01


def same_numbers(one: Config, other: Config) -> bool:
    """Whether two configurations differ in nothing that decides a net's scores."""
    return all(name in IDLE for name, _, _ in changes(one, other))


def difference_from_paper(plan: Plan, store: Store, groups: Path | None) -> str:
    """What keeps a store from being the paper's data, in words; "" if nothing does."""
    known = ilsvrc2012()
    if tuple(store.wnids) != known.wnids:
        return (
            f"its {len(store.wnids)} classes are not the {len(known.wnids)} of "
            "ILSVRC2012"
        )
    if store.image_size != SIZE:
        height, width = store.image_size
        return f"its images are {height}x{width}, not {SIZE[0]}x{SIZE[1]}"
    for part, wanted in IMAGES.items():
        count = int((store.split == PARTS[part]).sum())
        if abs(count - wanted) > TOLERANCE * wanted:
            return f"it has {count:,} images in {part}, ILSVRC2012 {wanted:,}"
    divided = any(split == "natural-manmade" for split, _ in plan.tasks())
    found = group_classes(store.classes, groups)
    if divided and tuple(found) != known.groups:
        return "its natural and man-made classes are not the paper's"
    return ""


def warning(plan: Plan, store: Store, groups: Path | None) -> str:
    """Why a study of a plan that follows the paper is not comparable; "" if it is."""
    difference = difference_from_paper(plan, store, groups) if plan.published else ""
    if not difference:
        return ""
    return (
        "warning: the published numbers will be shown apart, not under ours: store "
        f"{store.path} is not the paper's data: {difference}"
    )
