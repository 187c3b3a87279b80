"""The graph of a study: nets, what each copies from, and what tells them apart.

A node is one net: one run folder, one ordinary `minicnn` command. Its id is GROUP/NAME,
such as "random-0/A3B+": the group is all nets that share split, seed and images per
class, the name is the treatment's. Bases come before what copies from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from minicnn.base.config import Config
from minicnn.base.errors import MinicnnError
from minicnn.training.treatment import RANDOM, Treatment

REDUCED = "reduced"
"""A base on few images of each class."""


@dataclass(frozen=True)
class Node:
    """One net of a study.

    Attributes:
        split: such as "random-0".
        seed: of all its random draws; the nets of a group share it.
    """

    split: str
    seed: int
    treatment: Treatment
    config: Config

    @property
    def name(self) -> str:
        """The treatment's name, such as baseA or A3B+."""
        return self.treatment.name

    @property
    def group(self) -> str:
        """SPLIT[-imagesK][-seedS]: the folder that its run folder lies in."""
        split = self.split
        if split.startswith("file:"):
            split = Path(split[5:]).stem
        images = self.config.data.images_per_class
        few = f"-images{images}" if images else ""
        return split + few + (f"-seed{self.seed}" if self.seed else "")

    @property
    def id(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def kind(self) -> str:
        """The treatment's kind, or "reduced"."""
        if not self.treatment.source and self.config.data.images_per_class:
            return REDUCED
        return self.treatment.kind

    @property
    def base(self) -> str:
        """Id of the net that it copies from; "" for none."""
        if self.treatment.source in ("", RANDOM):
            return ""
        return f"{self.group}/base{self.treatment.source}"

    @property
    def images(self) -> int:
        """Images that it is trained on, each counted as often as it is seen."""
        return self.config.solver.iterations * self.config.solver.batch


@dataclass(frozen=True)
class Expected:
    """What the store of a plan will hold, for its cost before there is a store.

    Attributes:
        natural: classes among all `classes`.
        val_per_class: validation images of each.
    """

    classes: int
    natural: int
    val_per_class: int

    def task_size(self, split: str, target: str) -> int:
        """Number of classes of a task, as far as the split's name tells: else half."""
        if split == "all":
            return self.classes
        if split == "natural-manmade":
            return self.natural if target == "A" else self.classes - self.natural
        half = self.classes // 2
        return half if target == "A" else self.classes - half


@dataclass(frozen=True)
class Plan:
    """A study, resolved.

    Attributes:
        name: names the default study folder.
        data: "demo", the path of a store, or "" for one that must be given.
        published: whether the protocol is the paper's, so that the published numbers
            may be drawn behind ours.
        expected: of the store; None where the plan does not say.
        nodes: bases before what copies from them, each id once.
    """

    name: str
    data: str
    recipe: str
    published: bool
    expected: Expected | None
    nodes: tuple[Node, ...]

    def tasks(self) -> list[tuple[str, str]]:
        """(split, task) of every task that a net learns or comes from."""
        named = (
            (node.split, task)
            for node in self.nodes
            for task in (node.treatment.source, node.treatment.target)
        )
        return [pair for pair in dict.fromkeys(named) if pair[1] not in ("", RANDOM)]


def with_bases(nodes: Sequence[Node], patterns: Sequence[str]) -> list[Node]:
    """The nodes whose name or id matches one of the patterns, and the bases they need.

    Args:
        patterns: as a shell has them, such as "A*B+" or "random-0/*"; none takes all.

    Raises:
        MinicnnError: a pattern matches nothing.
    """
    if not patterns:
        return list(nodes)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [
            node
            for node in nodes
            if fnmatchcase(node.name, pattern) or fnmatchcase(node.id, pattern)
        ]
        if not found:
            raise MinicnnError(
                f"--only {pattern}: matches no net of the plan; names are like "
                f"{nodes[0].name}, or with their group {nodes[-1].id}"
            )
        chosen |= {node.id for node in found} | {node.base for node in found}
    return [node for node in nodes if node.id in chosen]


def _flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Every setting by its dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{place}{key}.") if nested else {place + key: value}
    return found


def changes(old: Config, new: Config) -> Iterator[tuple[str, Any, Any]]:
    """Each setting that differs, before and after; absent layer factors are 1."""
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    for name in dict.fromkeys([*before, *after]):
        pair = before.get(name, 1.0), after.get(name, 1.0)
        if pair[0] != pair[1]:
            yield name, *pair


def differences(old: Config, new: Config) -> list[str]:
    """A text for each setting that differs."""
    return [f"{name} was {was!r}, now {now!r}" for name, was, now in changes(old, new)]


def assignments(config: Config, start: Config) -> list[str]:
    """The `section.key=value` texts that turn one configuration into another."""
    return [f"{name}={json.dumps(now)}" for name, _, now in changes(start, config)]
