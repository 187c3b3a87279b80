"""A plan and how far its study is, as tables that fit a screen and as JSON has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from minicnn.base.errors import counted
from minicnn.base.progress import duration
from minicnn.experiments.printing import columns
from minicnn.experiments.study.cost import Cost
from minicnn.experiments.study.folder import STATES, State, Study
from minicnn.experiments.study.graph import REDUCED, Node, Plan
from minicnn.experiments.study.plans import KINDS
from minicnn.experiments.study.run import Preview
from minicnn.training.treatment import RANDOM

SIGNS = {"running": ">", "stopped": "|", "failed": "FAIL", "ready": ".", "waiting": "-"}
LEGEND = (
    "Numbers are top-1 in percent after the last update; >40 running, 40 % done; |40 "
    "stopped there; FAIL; . ready; - waits for its base."
)


def to_dict(study: Study, states: Mapping[str, State]) -> dict[str, Any]:
    """The state of every net, as JSON has it."""

    def net(node: Node, state: State) -> dict[str, Any]:
        return {
            "id": node.id,
            "state": state.state,
            "step": state.step,
            "iterations": node.config.solver.iterations,
            "top1": state.top1,
            "top1_mean_of_10_best": state.best10,
            "error": state.error,
            "run": str(study.run(node)),
        }

    return {
        "study": str(study.folder),
        "plan": study.name,
        "counts": _counts(states),
        "nets": [net(node, states[node.id]) for node in study.nodes],
    }


def _counts(states: Mapping[str, State]) -> dict[str, int]:
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


def _grid(study: Study, states: Mapping[str, State]) -> str:
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
        heads = "".join(f"{column or '':>7}" for column in columns)
        long = len(group) > 16  # a line of its own
        lines += ["", *[group] * long, f"{'' if long else group:16}{heads}"]
        for line, cells in members.items():
            texts = [cells.get(column, "") for column in columns]
            lines.append(f"  {line:14}" + "".join(f"{text:>7}" for text in texts))
    return "\n".join(lines[1:])


def table(study: Study, states: Mapping[str, State]) -> str:
    """The grid, and how many nets are in each state; failed ones with the reason."""
    found = _counts(states).items()
    parts = ", ".join(f"{count} {name}" for name, count in found if count)
    lines = [
        f"Study {study.folder}, plan {study.name}: "
        f"{counted(len(study.nodes), 'net')}: {parts}.",
        LEGEND,
        "",
        _grid(study, states),
    ]
    for node in study.nodes:
        state = states[node.id]
        if state.state == "failed":
            lines += ["", f"{node.id} failed: {state.error} (all it said: {state.log})"]
    return "\n".join(lines)


def _plan_table(plan: Plan, nodes: Sequence[Node]) -> str:
    """How many nets of each kind each group has, and what must come first."""
    kinds = [kind for kind in KINDS if any(node.kind == kind for node in nodes)]
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        few = f"{node.split} reduced" if node.kind == REDUCED else node.group
        groups.setdefault(few, []).append(node)

    def row(group: str, members: Sequence[Node]) -> dict[str, Any]:
        found = [node.kind for node in members]
        after = sum(bool(node.base) for node in members) or None
        each = {kind: found.count(kind) or None for kind in kinds}
        return {"group": group, **each, "after its bases": after}

    rows = [row(group, members) for group, members in groups.items()]
    first, depths = nodes[0].config, sorted({n.treatment.n for n in nodes} - {0})
    about = (
        f"Plan {plan.name}: {counted(len(nodes), 'net')} in "
        f"{counted(len(groups), 'group')}; recipe {plan.recipe}, {first.network.arch}, "
        f"{first.solver.iterations:,} iterations of {first.solver.batch}"
    )
    if depths:
        whole = len(depths) > 2 and depths == list(range(1, depths[-1] + 1))
        listed = f"1..{depths[-1]}" if whole else ",".join(map(str, depths))
        about += f"; n = {listed}"
    return f"{about}.\n\n{columns([*rows, row('sum', nodes)])}"


def plan_dict(found: Preview) -> dict[str, Any]:
    """The graph and its cost, as JSON has them."""

    def net(node: Node) -> dict[str, Any]:
        t = node.treatment
        return {
            "id": node.id,
            "treatment": node.kind,
            "split": node.split,
            "seed": node.seed,
            "source": t.source,
            "target": t.target,
            "n": t.n,
            "keep": t.keep,
            "needs": [node.base] if node.base else [],
            "iterations": node.config.solver.iterations,
            "images": node.images,
        }

    return {
        "plan": found.plan.name,
        "recipe": found.plan.recipe,
        "nets": [net(node) for node in found.nodes],
        "cost": asdict(found.cost),
        "left": asdict(found.left) if found.left else None,
    }


def plan_text(found: Preview) -> str:
    """The same for people."""
    cost = _cost_lines(found.cost, found.left, found.sizes_known)
    return "\n".join([_plan_table(found.plan, found.nodes), "", *cost])


def _cost_lines(cost: Cost, left: Cost | None, sizes_known: bool) -> Iterator[str]:
    evaluated = f"{cost.evaluated:,} evaluated"
    if not sizes_known:
        evaluated = "evaluation not counted (give --data)"
    yield (
        f"To train: {cost.nets} nets by {cost.commands} commands; {cost.images:,} "
        f"images trained on, {evaluated}; as much work as {cost.equivalent:,.0f} "
        "images of a base net's training, frozen layers and evaluation at their share. "
        f"Disk: {cost.disk / 1e9:,.1f} GB of checkpoints."
    )
    if cost.rate is None:
        yield (
            "Hours: unknown; --measure times a few steps on this device, --rate "
            "IMAGES/S takes a rate that you know."
        )
        return
    yield (
        f"Rate: {cost.rate.images_per_second:,.0f} images/s of a base net's training "
        f"on one worker: {cost.rate.source}."
    )
    yield f"Time: {_times(cost)}"
    if left and left.nets:
        yield f"Left, {left.nets} nets: {_times(left)}"


def _times(cost: Cost) -> str:
    hours = cost.hours_one, cost.hours, cost.hours_path
    one, several, path = (duration(3600 * (each or 0)) for each in hours)
    shared = f", {several} on {cost.workers}" if cost.workers > 1 else ""
    return (
        f"{one} on 1 worker{shared} (no number ends sooner than a base and its longest "
        f"dependent, {path})."
    )
