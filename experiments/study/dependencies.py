"""What copies from what, in a few lines for each group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from minicnn.experiments.study.graph import REDUCED, Node
from minicnn.training.treatment import RANDOM

SHORTEST = 3
"""Consecutive depths that are written as a range."""


def dependency_lines(nodes: Sequence[Node]) -> list[str]:
    """Every base with the nets that copy from it: baseA -> A1A..A7A, A1B..A7B.

    Bases on few images, a group each, share a line.
    """
    rows: dict[str, list[str]] = {}
    groups: dict[str, list[Node]] = {}
    few: dict[tuple[str, str], list[int]] = {}
    for node in nodes:
        if node.kind == REDUCED:
            count = node.config.data.images_per_class
            group = node.group.replace(f"-images{count}", "-imagesK")
            few.setdefault((group, node.name), []).append(count)
        else:
            groups.setdefault(node.group, []).append(node)
    for group, members in groups.items():
        rows[group] = _group_lines(members)
    for (group, name), counts in few.items():
        line = f"{name}, K = {', '.join(map(str, counts))}"
        rows.setdefault(group, []).append(line)
    width = max(map(len, rows)) + 2
    return [
        f"{'' if place else group:{width}}{text}"
        for group, texts in rows.items()
        for place, text in enumerate(texts)
    ]


def _group_lines(members: Sequence[Node]) -> list[str]:
    """The lines of one group."""
    heads: dict[str, list[Node]] = {}
    for node in members:
        source = node.treatment.source
        base = "random filters" if source == RANDOM else f"base{source}"
        copies = heads.setdefault(base if source else node.name, [])
        copies += [node] if source else []
    return [
        f"{head} -> {', '.join(_ranges(copies))}" if copies else head
        for head, copies in heads.items()
    ]


def _ranges(copies: Iterable[Node]) -> list[str]:
    """Names, those that differ in a consecutive n alone as the first and the last."""
    families: dict[str, list[Node]] = {}
    for node in copies:
        families.setdefault(node.treatment.family, []).append(node)
    texts = []
    for members in families.values():
        members.sort(key=lambda node: node.treatment.n)
        # Of consecutive depths the place among all is as far behind.
        places = enumerate(members)
        for _, run in groupby(places, lambda each: each[1].treatment.n - each[0]):
            names = [node.name for _, node in run]
            short = len(names) >= SHORTEST
            texts += [f"{names[0]}..{names[-1]}"] if short else names
    return texts
