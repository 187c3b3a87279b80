"""Treatments: what one net is, its name, and which are trained together.

Source: Yosinski, Clune, Bengio, Lipson, "How transferable are features in deep neural
networks?", NIPS 2014, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minicnn.base.errors import MinicnnError
from minicnn.data.splits import other

# Layers that can be copied of a network of the paper's eight.
DEEPEST = 7
RANDOM = "random"
# Bases that minicnn brings along, and where they lie in its experiments.
SHIPPED = {"tiny-imagenet": "results/2026-11-29-tiny-imagenet-bases/random-0/baseA"}

# "3", or "1-7".
_SPAN = re.compile(r"(-?\d{1,9})(?:-(\d{1,9}))?")


def is_path(source: str) -> bool:
    """Whether a source is a run or a file of weights, not a net of the same split."""
    return source not in ("", RANDOM, "A", "B", "all")


def _check_depth(n: int, deepest: int) -> None:
    if not 1 <= n <= deepest:
        raise MinicnnError(
            f"--n {n}: must be 1..{deepest}, the layers to copy of {deepest + 1}"
        )


@dataclass(frozen=True)
class Treatment:
    """What one network is: where its first n layers come from, and what it learns.

    Attributes:
        target: task it is trained on: "A", "B" or "all".
        source: task whose base gives layers 1..n; "random" for random filters; "" for
            a base; else the path of a run or file of weights, or a name in SHIPPED.
        n: layers taken, 1 or more; 0 for a base.
        finetune: whether they are trained on as well.
        keep: layers n+1..n+keep are copied too, and trained on: not in the paper.
        finetune_after: updates of the layers above n alone before all are fine-tuned
            (Kumar et al., "Fine-tuning can distort pretrained features and underperform
            out-of-distribution", ICLR 2022); not in the paper.
    """

    target: str
    source: str = ""
    n: int = 0
    finetune: bool = False
    keep: int = 0
    finetune_after: int = 0

    def __post_init__(self) -> None:
        if self.finetune_after and not (self.finetune and self.finetune_after > 0):
            raise MinicnnError(
                f"--finetune-after {self.finetune_after}: must be 0 or more, and goes "
                "with --finetune"
            )
        if self.source:
            _check_depth(self.n, max(self.n, DEEPEST))
        if self.source == RANDOM and self.finetune:
            raise MinicnnError(
                "--from random --finetune: random filters that are trained are a base; "
                "use 'minicnn train-base'"
            )
        if self.keep and self.source in ("", RANDOM):
            raise MinicnnError(
                f"--keep {self.keep}: random filters and bases copy no trained layer "
                "that could be kept; give a base by --from A or --from B"
            )
        if self.keep and self.finetune:
            raise MinicnnError(
                f"--keep {self.keep} --finetune: fine-tuning trains every copied layer "
                "on already; leave out one of the two"
            )
        if self.keep < 0:
            raise MinicnnError(f"--keep {self.keep}: must be 0 or more")

    def check_depth(self, depth: int) -> None:
        """Refuses to take more layers than lie below the last of `depth`."""
        if self.source:
            _check_depth(self.n, depth - 1)
        if self.n + self.keep >= depth:
            raise MinicnnError(
                f"--keep {self.keep} --n {self.n}: must be together at most "
                f"{depth - 1}, the layers to copy of {depth}"
            )

    def _named(self, n: int | str) -> str:
        if not self.source:
            return f"base{self.target}"
        source = f"{self.source_label}-" if is_path(self.source) else self.source
        name = f"{'R' if source == RANDOM else source}{n}{self.target}"
        name += "+" * self.finetune + f"-keep{self.keep}" * (self.keep > 0)
        return name + f"-after{self.finetune_after}" * (self.finetune_after > 0)

    @property
    def source_label(self) -> str:
        """What the source is called: baseA; of a path, its run's name or its stem."""
        if not is_path(self.source):
            return f"base{self.source}"
        path = Path(self.source)
        if path.parent.name == "checkpoints":  # of a run
            return path.parent.parent.name
        return path.stem if path.suffix == ".safetensors" else path.name

    @property
    def name(self) -> str:
        """The paper's name: baseA, A3B, A3B+, B3B, R3B; with keep, A3B-keep2.

        From a path: baseA-3all, net-7all+.
        """
        return self._named(self.n)

    @property
    def family(self) -> str:
        """The name without the depth, which all depths share: A*B, A*B+, R*B, baseA."""
        return self._named("*")

    @property
    def kind(self) -> str:
        """base, selffer, transfer, random; "+" when fine-tuned, "-keep" with keep."""
        if not self.source:
            return "base"
        if self.source == RANDOM:
            return RANDOM
        kind = "selffer" if self.source == self.target else "transfer"
        kind += "+" * self.finetune + "-keep" * (self.keep > 0)
        return kind + "-after" * (self.finetune_after > 0)

    @property
    def copied(self) -> int:
        """Layers 1..copied are a base's."""
        return 0 if self.source in ("", RANDOM) else self.n + self.keep

    @property
    def frozen(self) -> int:
        """Layers 1..frozen are not trained."""
        return 0 if self.finetune else self.n


def default_target(source: str) -> str:
    """The other task; B for random filters; all for what is not of the same split."""
    if is_path(source):
        return "all"
    return "B" if source == RANDOM else other(source)


def parse_depths(text: str, deepest: int = DEEPEST) -> list[int]:
    """The depths that "3", "1-7" or "1,3,5" mean, rising."""
    depths: list[int] = []
    for part in text.split(","):
        span = _SPAN.fullmatch(part.strip())
        if span is None:
            raise MinicnnError(
                f"--n {text}: not a number of layers; write it as 3, 1-7 or 1,3,5"
            )
        first, last = int(span[1]), int(span[2] or span[1])
        _check_depth(first, deepest)
        _check_depth(last, deepest)
        if last < first:
            raise MinicnnError(f"--n {text}: write the lower number first")
        depths += range(first, last + 1)
    if len(set(depths)) < len(depths):
        raise MinicnnError(f"--n {text}: names a depth twice")
    return sorted(depths)


def passes(
    source: str,
    depths: Sequence[int],
    target: str | None = None,
    finetune: bool = False,
    keep: int = 0,
    share_trunk: bool = False,
    finetune_after: int = 0,
) -> list[list[Treatment]]:
    """The treatments of several depths, by the pass over the data that trains them.

    Args:
        target: None takes that of `default_target`.
        finetune: `finetune_after` implies it.
        share_trunk: whether one pass trains them all; else each has its own.
    """
    target = target or default_target(source)
    if is_path(source) and source not in SHIPPED:
        source = str(Path(source).resolve())  # names it from everywhere
    finetune = finetune or finetune_after > 0
    how = finetune, keep, finetune_after
    made = [Treatment(target, source, n, *how) for n in depths]
    if not share_trunk:
        return [[each] for each in made]
    if finetune:
        raise MinicnnError(
            "--share-trunk --finetune: layers that are trained on differ from net to "
            "net, so there is no trunk to share; leave out one of the two"
        )
    if len(made) < 2:
        raise MinicnnError(
            f"--share-trunk --n {','.join(map(str, depths))}: needs two depths or "
            "more, such as --n 1-7"
        )
    return [made]
