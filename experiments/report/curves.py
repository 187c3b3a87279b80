"""Accuracies against n, gathered by unit and measured against the unit's own base.

A unit is one (split, seed, target, images per class): the nets in it are scored on the
same images, and share one base. Units are what repeats of the study are counted in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import fmean

from minicnn.experiments.study.records import Net

DISSIMILAR, WHOLE, SIMILAR = "natural-manmade", "all", "A/B"
SCORES = ("final", "best10")
DEPTHS = range(1, 8)
SAME_IMAGES = 1.1
"""Images per class are averages over a task; this ratio still is the same request."""

Key = tuple[str, int, str, float]
Heights = dict[int, list[float]]
"""By n: accuracies in %, or differences from the base in points, one a unit."""


def family_of(split: str) -> str:
    """How alike a split's tasks are: SIMILAR halves, DISSIMILAR, or WHOLE (no A, B)."""
    return split if split in (DISSIMILAR, WHOLE) else SIMILAR


@dataclass
class Unit:
    """The nets of one split, seed and target, on the same number of images.

    Attributes:
        classes: of the target task.
        base: top-1 of its base, 0..1; None where there is none.
        scores: top-1 by (kind, keep), then by n.
    """

    split: str
    seed: int
    target: str
    classes: int
    base: float | None = None
    scores: dict[tuple[str, int], dict[int, float]] = field(default_factory=dict)

    def drops(self, kind: str, keep: int = 0) -> dict[int, float]:
        """By n, accuracy minus the base's; empty without a base."""
        base, curve = self.base, self.scores.get((kind, keep), {})
        return {} if base is None else {n: curve[n] - base for n in sorted(curve)}

    @property
    def above_chance(self) -> float:
        """What its base has learnt: the accuracy minus that of a guess."""
        assert self.base is not None
        return self.base - 1 / self.classes


def _key(net: Net) -> Key:
    return net.split, net.seed, net.target, round(net.images_per_class, 6)


def on_all_images(nets: Iterable[Net]) -> list[Net]:
    """The nets trained on all their task's images: no reduced base, nor its heirs."""
    nets = list(nets)
    few = {_key(net) for net in nets if net.kind == "reduced"}
    few -= {_key(net) for net in nets if net.kind == "base"}
    return [net for net in nets if net.kind != "reduced" and _key(net) not in few]


def by_unit(nets: Iterable[Net], score: str) -> list[Unit]:
    """The units of the nets that were trained on all images, in order.

    Nets that were run twice in one unit count as their mean.
    """
    found: dict[Key, Unit] = {}
    several: dict[tuple[Key, str, int, int], list[float]] = defaultdict(list)
    for net in on_all_images(nets):
        key = _key(net)
        found.setdefault(key, Unit(net.split, net.seed, net.target, net.classes))
        several[key, net.kind, net.keep, net.n].append(net.score(score))
    for (key, kind, keep, n), scores in several.items():
        if kind == "base":
            found[key].base = fmean(scores)
        else:
            found[key].scores.setdefault((kind, keep), {})[n] = fmean(scores)
    return [found[key] for key in sorted(found)]


def of_family(units: Iterable[Unit], family: str | None) -> list[Unit]:
    """The units of a family of splits; None takes all."""
    return [unit for unit in units if family in (None, family_of(unit.split))]


def heights(
    units: Iterable[Unit], kind: str, keep: int = 0, drops: bool = False
) -> Heights:
    """The accuracies, or their differences from the bases."""
    found: Heights = defaultdict(list)
    for unit in units:
        curve = unit.drops(kind, keep) if drops else unit.scores.get((kind, keep), {})
        for n, score in curve.items():
            found[n].append(100 * score)
    return dict(sorted(found.items()))


def bases(units: Iterable[Unit]) -> list[float]:
    """The bases' accuracies in %."""
    return [100 * unit.base for unit in units if unit.base is not None]


def twin(net: Net, published: Iterable[Net]) -> Net | None:
    """The published net of the same treatment, split and direction; None without one.

    The seed does not matter: a second seed repeats the same published net.
    """
    what = attrgetter("kind", "split", "source", "target", "n", "keep")
    for each in published:
        ratio = net.images_per_class / each.images_per_class
        same = net.kind != "reduced" or 1 / SAME_IMAGES < ratio < SAME_IMAGES
        if same and what(net) == what(each):
            return each
    return None
