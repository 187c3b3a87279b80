"""A plan and how far its study is, as tables that fit a screen and as JSON has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from minicnn.base.errors import counted
from minicnn.experiments.printing import columns
from minicnn.experiments.study.cost import Cost
from minicnn.experiments.study.folder import STATES, State, Study
from minicnn.experiments.study.graph import REDUCED, Node, Plan, published_name
from minicnn.experiments.study.plans import KINDS
from minicnn.training.treatment import RANDOM

SHORTEST = 3
"""Consecutive depths that are written as a range."""
SIGNS = {"running": ">", "stopped": "|", "failed": "FAIL", "ready": ".", "waiting": "-"}
LEGEND = (
    "Numbers are top-1 in percent after the last update; >40 running, 40 % done; |40 "
    "stopped there; FAIL; . ready; - waits for its base."
)


def to_dict(study: Study, states: Mapping[str, State]) -> dict[str, Any]:
    """The state of every net, as JSON has it."""
    nodes = [
        {
            "id": node.id,
            "state": state.state,
            "step": state.step,
            "iterations": node.config.solver.iterations,
            "top1": state.top1,
            "top1_mean_of_10_best": state.best10,
            "error": state.error,
            "run": str(study.run(node)),
        }
        for node in study.nodes
        for state in [states[node.id]]
    ]
    return {
        "study": str(study.folder),
        "plan": study.name,
        "counts": counts(states),
        "nets": nodes,
    }


def counts(states: Mapping[str, State]) -> dict[str, int]:
    """How many nets are in each state."""
    found = [state.state for state in states.values()]
    return {name: found.count(name) for name in STATES}


def _row(node: Node) -> tuple[str, str]:
    """Group, and line of the grid."""
    t = node.treatment
    if node.kind == REDUCED:
        return "reduced: bases on so many images per class", f"{node.split} {t.target}"
    if not t.source:
        return node.group, f"base {t.target}"
    arrow = f"{'random' if t.source == RANDOM else t.source} -> {t.target}"
    plus = " +" if t.finetune else ""
    return node.group, arrow + plus + (f" keep {t.keep}" if t.keep else "")


def _cell(node: Node, state: State) -> str:
    if state.state == "done":
        return f"{100 * (state.top1 or 0):.1f}"
    sign = SIGNS[state.state]
    if state.state in ("running", "stopped"):
        return f"{sign}{100 * state.step // node.config.solver.iterations}"
    return sign


def grid(study: Study, states: Mapping[str, State]) -> str:
    """A line for each treatment of a group, a column for each depth."""
    rows: dict[str, dict[str, dict[int, str]]] = {}
    for node in study.nodes:
        group, line = _row(node)
        column = node.treatment.n
        if node.kind == REDUCED:
            column = node.config.data.images_per_class
        cells = rows.setdefault(group, {}).setdefault(line, {})
        cells[column] = _cell(node, states[node.id])
    lines = []
    for group, members in rows.items():
        columns = sorted({column for cells in members.values() for column in cells})
        heads = ["" if column == 0 else str(column) for column in columns]
        lines += ["", f"{group:16}" + "".join(f"{head:>7}" for head in heads)]
        if len(group) > 16:
            lines[-1:] = [group, " " * 16 + "".join(f"{head:>7}" for head in heads)]
        for line, cells in members.items():
            texts = [cells.get(column, "") for column in columns]
            lines.append(f"  {line:14}" + "".join(f"{text:>7}" for text in texts))
    return "\n".join(lines[1:])


def table(study: Study, states: Mapping[str, State]) -> str:
    """The grid, and how many nets are in each state; failed ones with the reason."""
    found = counts(states)
    parts = ", ".join(f"{count} {name}" for name, count in found.items() if count)
    lines = [
        f"Study {study.folder}, plan {study.name}: "
        f"{counted(len(study.nodes), 'net')}: {parts}.",
        LEGEND,
        "",
        grid(study, states),
    ]
    for node in study.nodes:
        state = states[node.id]
        if state.state == "failed":
            lines += ["", f"{node.id} failed: {state.error} (all it said: {state.log})"]
    return "\n".join(lines)


def plan_table(plan: Plan, nodes: Sequence[Node]) -> str:
    """How many nets of each kind each group has, and what must come first."""
    kinds = [kind for kind in KINDS if any(node.kind == kind for node in nodes)]
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        few = f"{node.split} reduced" if node.kind == REDUCED else node.group
        groups.setdefault(few, []).append(node)

    def row(group: str, members: Sequence[Node]) -> dict[str, Any]:
        found = [node.kind for node in members]
        after = sum(bool(node.base) for node in members) or None
        counted = {kind: found.count(kind) or None for kind in kinds}
        return {"group": group, **counted, "after its bases": after}

    rows = [row(group, members) for group, members in groups.items()]
    first, depths = nodes[0].config, sorted({n.treatment.n for n in nodes} - {0})
    solver = first.solver
    about = (
        f"Plan {plan.name}: {counted(len(nodes), 'net')} in "
        f"{counted(len(groups), 'group')}; recipe "
        f"{plan.recipe}, {first.network.arch}, {solver.iterations:,} iterations of "
        f"{solver.batch}"
    )
    if depths:
        whole = len(depths) > 2 and depths == list(range(1, depths[-1] + 1))
        listed = f"1..{depths[-1]}" if whole else ",".join(map(str, depths))
        about += f"; n = {listed}"
    return f"{about}.\n\n{columns([*rows, row('sum', nodes)])}"


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
    """Names; a range of consecutive depths as its first and last."""
    families: dict[str, list[Node]] = {}
    for node in copies:
        families.setdefault(node.treatment.family, []).append(node)
    texts = []
    for members in families.values():
        members.sort(key=lambda node: node.treatment.n)
        # Within consecutive depths, n minus the place in the list is constant.
        places = enumerate(members)
        for _, run in groupby(places, lambda each: each[1].treatment.n - each[0]):
            names = [node.name for _, node in run]
            short = len(names) >= SHORTEST
            texts += [f"{names[0]}..{names[-1]}"] if short else names
    return texts


def plan_dict(
    plan: Plan, nodes: Sequence[Node], cost: Cost, left: Cost | None
) -> dict[str, Any]:
    """The graph and its cost, as JSON has them."""
    return {
        "plan": plan.name,
        "recipe": plan.recipe,
        "nets": [
            {
                "id": node.id,
                "treatment": node.kind,
                "split": node.split,
                "seed": node.seed,
                "source": node.treatment.source,
                "target": node.treatment.target,
                "n": node.treatment.n,
                "keep": node.treatment.keep,
                "needs": [node.base] if node.base else [],
                "iterations": node.config.solver.iterations,
                "images": node.images,
                **({"published_name": published_name(node)} if plan.published else {}),
            }
            for node in nodes
        ],
        "cost": asdict(cost),
        "left": asdict(left) if left else None,
    }


def _hours(value: float) -> str:
    if value < 1:
        return f"{60 * value:.0f} min" if value > 1 / 60 else f"{3600 * value:.0f} s"
    return f"{value:,.1f} h"


def cost_table(cost: Cost, left: Cost | None, sizes_known: bool) -> str:
    """The cost for people."""
    evaluated = f"{cost.evaluated:,} evaluated"
    if not sizes_known:
        evaluated = "evaluation not counted (give --data)"
    lines = [
        f"To train: {cost.nets} nets by {cost.commands} commands; {cost.images:,} "
        f"images trained on, {evaluated}; as much work as {cost.equivalent:,.0f} "
        "images of a base net's training, frozen layers and evaluation at their share. "
        f"Disk: {cost.disk / 1e9:,.1f} GB of checkpoints.",
    ]
    if cost.rate is None or cost.hours_one is None or cost.hours is None:
        lines.append(
            "Hours: unknown; --measure times a few steps on this device, --rate "
            "IMAGES/S takes a rate that you know."
        )
        return "\n".join(lines)
    lines.append(
        f"Rate: {cost.rate.images_per_second:,.0f} images/s of a base net's training "
        f"on one worker: {cost.rate.source}."
    )
    lines.append("Time: " + _times(cost))
    if left and left.nets:
        lines.append(f"Left, {left.nets} nets: " + _times(left))
    return "\n".join(lines)


def _times(cost: Cost) -> str:
    one, many, path = (cost.hours_one, cost.hours, cost.hours_path)
    assert one is not None
    assert many is not None
    assert path is not None
    shared = f", {_hours(many)} on {cost.workers}" if cost.workers > 1 else ""
    return (
        f"{_hours(one)} on 1 worker{shared} (no number ends sooner than a base and its "
        f"longest dependent, {_hours(path)})."
    )
