"""What copies from what, in a few lines for each group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minicnn.experiments.study.graph import REDUCED, Node
from minicnn.training.treatment import RANDOM

SHORTEST = 3
"""Consecutive depths that are written as a range."""


def dependency_lines(nodes: Sequence[Node]) -> list[str]:
    """Every base with the nets that copy from it: baseA -> A1A..A7A, A1B..A7B.

    Bases on few images, a group each, share a line.
    """
    rows: list[tuple[str, str]] = []
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
        rows += [(group, text) for text in _group_lines(members)]
    for (group, name), counts in few.items():
        rows.append((group, f"{name}, K = {', '.join(map(str, counts))}"))
    width = max(len(group) for group, _ in rows) + 2
    lines, last = [], ""
    for group, text in rows:
        lines.append(f"{'' if group == last else group:{width}}{text}")
        last = group
    return lines


def _group_lines(members: Sequence[Node]) -> list[str]:
    """The lines of one group."""
    heads: dict[str, list[Node]] = {}
    for node in members:
        source = node.treatment.source
        if not source:
            heads.setdefault(node.name, [])
        else:
            head = "random filters" if source == RANDOM else f"base{source}"
            heads.setdefault(head, []).append(node)
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
        runs: list[list[Node]] = []
        for node in sorted(members, key=lambda node: node.treatment.n):
            if runs and runs[-1][-1].treatment.n + 1 == node.treatment.n:
                runs[-1].append(node)
            else:
                runs.append([node])
        for run in runs:
            names = [node.name for node in run]
            short = len(names) >= SHORTEST
            texts += [f"{names[0]}..{names[-1]}"] if short else names
    return texts
