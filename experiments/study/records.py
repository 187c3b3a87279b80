"""One row a net: ours, read from run folders, and the published ones, from their CSV.

Both have the same columns, so that every figure and number can be made from either.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.base.files import read_json
from minicnn.training.run import Run
from minicnn.training.treatment import RANDOM

PUBLISHED = Path(__file__).parents[1] / "published"
_SESSION = ("seconds", "first_step", "last_step", "images_per_second")


@dataclass(frozen=True)
class Net:
    """A finished net and its scores.

    Attributes:
        kind: base, selffer, transfer, selffer+, transfer+, random, selffer-keep,
            transfer-keep, or reduced (a base on few images).
        split: such as "random-0", "natural-manmade" or "all".
        source: task of the base it copies from; "" for base, random and reduced.
        target: task it was trained and scored on.
        n: layers copied (or random) and, unless fine-tuned, frozen; 0 for a base.
        keep: layers above these n that were copied and trained on.
        seed: of its study; 0 for the published.
        images_per_class: training images, on average where classes differ.
        classes: of its task; chance is 1/classes.
        best10: top-1 on the validation part, 0..1, the mean of the 10 best evaluations:
            the published score. It selects on the validation part. None with fewer.
        final: top-1 after the last update; None for the published.
        name: of the run, or as published.
        folder: the run folder; None for the published.
    """

    kind: str
    split: str
    source: str
    target: str
    n: int
    keep: int
    seed: int
    images_per_class: float
    classes: int
    best10: float | None
    final: float | None
    iterations: int
    name: str
    folder: Path | None = None

    def score(self, which: str) -> float:
        """Top-1, 0..1, by "final" or "best10"; the published have the latter alone."""
        best = which == "best10" or self.final is None
        found = self.best10 if best else self.final
        assert found is not None
        return found


def _published_classes(split: str, target: str) -> int:
    """Classes of a published task (paper, section 3 and appendix)."""
    if split == "natural-manmade":
        return {"A": 449, "B": 551}[target]
    return 1000 if split == "all" else 500


def published_rows(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of experiments/published."""
    return list(csv.DictReader((PUBLISHED / name).read_text("utf-8").splitlines()))


def published() -> list[Net]:
    """The 148 published results, in the file's order."""
    return [
        Net(
            kind=row["treatment"],
            split=row["split"],
            source=row["source"],
            target=row["target"],
            n=int(row["n"]),
            keep=0,
            seed=0,
            images_per_class=float(row["images_per_class"]),
            classes=_published_classes(row["split"], row["target"]),
            best10=float(row["top1"]),
            final=None,
            iterations=int(row["iterations"]),
            name=row["published_name"],
        )
        for row in published_rows("yosinski2014.csv")
    ]


def of_run(run: Run, result: Mapping[str, Any]) -> Net:
    """The row of a finished run folder."""
    about = run.about
    reduced = run.config.data.images_per_class > 0 and about["treatment"] == "base"
    return Net(
        kind="reduced" if reduced else about["treatment"],
        split=about["split"],
        source="" if about["source"] == RANDOM else about["source"],
        target=about["target"],
        n=about["n"],
        keep=about.get("keep", 0),
        seed=about["seed"],
        images_per_class=result["train_images"] / len(run.classes),
        classes=len(run.classes),
        best10=result["top1_mean_of_10_best"],
        final=result["top1"],
        iterations=result["iterations"],
        name=run.name,
        folder=run.folder,
    )


def sessions(run: Path) -> list[dict[str, Any]]:
    """When, where and how fast a run was trained; none where env.json is damaged."""
    try:
        return [
            each
            for each in read_json(run / "env.json")["sessions"]
            if all(isinstance(each[key], int | float) for key in _SESSION)
        ]
    except (MinicnnError, KeyError, TypeError):
        return []
