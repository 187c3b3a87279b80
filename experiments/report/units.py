"""Nets as curves against n, each measured against the base of its own unit.

A unit is one (split, seed, target, images per class): the nets in it are scored on the
same images, and share one base. Units are what repeats of the study are counted in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from minicnn.experiments.study.records import Net

DISSIMILAR = "natural-manmade"
WHOLE = "all"
SIMILAR = "A/B"
SCORES = ("final", "best10")
DEPTHS = range(1, 8)
# Images per class are averages over a task; so near they are the same number asked for.
SAME_IMAGES = 1.1

Key = tuple[str, int, str, float]


@dataclass
class Unit:
    """The nets of one split, seed and target, on the same number of images.

    Attributes:
        split, seed, target: of its nets.
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

    @property
    def family(self) -> str:
        """How alike its tasks A and B are: SIMILAR, DISSIMILAR, or WHOLE (no A, B)."""
        return family(self.split)

    def drops(self, kind: str, keep: int = 0) -> dict[int, float]:
        """By n, accuracy minus the base's; empty without a base."""
        if self.base is None:
            return {}
        curve = self.scores.get((kind, keep), {})
        return {n: score - self.base for n, score in sorted(curve.items())}

    @property
    def above_chance(self) -> float:
        """What its base has learnt: the accuracy minus that of a guess."""
        assert self.base is not None
        return self.base - 1 / self.classes


def family(split: str) -> str:
    """SIMILAR for halves of the classes, DISSIMILAR for natural and man-made."""
    return split if split in (DISSIMILAR, WHOLE) else SIMILAR


def value(net: Net, score: str) -> float:
    """A net's top-1, 0..1.

    Args:
        score: "final" or "best10"; the published have the latter alone.
    """
    if score == "final":
        return net.score
    assert net.best10 is not None
    return net.best10


def _key(net: Net) -> Key:
    return net.split, net.seed, net.target, round(net.images_per_class, 6)


def on_all_images(nets: Iterable[Net]) -> list[Net]:
    """The nets trained on all their task's images: no reduced base, nor its heirs."""
    nets = list(nets)
    few = {_key(net) for net in nets if net.kind == "reduced"}
    few -= {_key(net) for net in nets if net.kind == "base"}
    return [net for net in nets if net.kind != "reduced" and _key(net) not in few]


def units(nets: Iterable[Net], score: str) -> list[Unit]:
    """The units of the nets that were trained on all images, in order.

    Nets that were run twice in one unit count as their mean.
    """
    found: dict[Key, Unit] = {}
    several: dict[tuple[Key, str, int, int], list[float]] = defaultdict(list)
    for net in on_all_images(nets):
        key = _key(net)
        found.setdefault(key, Unit(net.split, net.seed, net.target, net.classes))
        several[key, net.kind, net.keep, net.n].append(value(net, score))
    for (key, kind, keep, n), scores in several.items():
        if kind == "base":
            found[key].base = fmean(scores)
        else:
            found[key].scores.setdefault((kind, keep), {})[n] = fmean(scores)
    return [found[key] for key in sorted(found)]


def twin(net: Net, published: Iterable[Net]) -> Net | None:
    """The published net of the same treatment, split and direction; None without one.

    The seed does not matter: a second seed repeats the same published net.
    """

    def same(other: Net) -> bool:
        mine = (net.kind, net.split, net.source, net.target, net.n, net.keep)
        theirs = (other.kind, other.split, other.source, other.target, other.n, 0)
        if mine != theirs:
            return False
        ratio = net.images_per_class / other.images_per_class
        return net.kind != "reduced" or 1 / SAME_IMAGES < ratio < SAME_IMAGES

    return next((other for other in published if same(other)), None)
