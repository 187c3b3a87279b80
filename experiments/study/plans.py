"""Study plans: a TOML file in, an ordered graph of nets out.

A node of the graph is one net: one run folder, one ordinary `minicnn` command. Its id
is GROUP/NAME, such as "random-0/A3B+": the group is all nets that share split, seed and
images per class, the name is the treatment's. Bases come before what copies from them.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from minicnn.config import Config, from_dict, load_recipe, override, read_toml
from minicnn.data_prep.splits import Task, other, task_classes
from minicnn.errors import MinicnnError
from minicnn.store import Store
from minicnn.treatment import DEEPEST, RANDOM, Treatment

PLANS = "plans"
DEMO = "demo"
REDUCED = "reduced"
"""A base on few images of each class."""
KINDS = (
    "base",
    "selffer",
    "transfer",
    "selffer+",
    "transfer+",
    RANDOM,
    REDUCED,
    "selffer-keep",
    "transfer-keep",
)
"""The treatments that a plan can ask for."""

_PLAN = {
    "name": str,
    "data": str,
    "recipe": str,
    "published": bool,
    "expected": dict,
    "settings": dict,
    "nets": list,
}
_NETS = {
    "split": str,
    "splits": list,
    "seeds": list,
    "treatments": list,
    "targets": list,
    "depths": list,
    "keep": list,
    "images_per_class": list,
    "settings": dict,
}
_ITEMS = {"splits": str, "treatments": str, "targets": str}


@dataclass(frozen=True)
class Node:
    """One net of a study.

    Attributes:
        split: such as "random-0".
        seed: of the comparison it belongs to.
        treatment: what it copies and what it learns.
        config: all of its settings.
    """

    split: str
    seed: int
    treatment: Treatment
    config: Config

    @property
    def name(self) -> str:
        """The treatment's: baseA, A3B+."""
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
    """What the store of a plan will hold, to reckon with before there is one.

    Attributes:
        classes, natural: classes, and the natural ones among them.
        val_per_class: validation images of each.
    """

    classes: int
    natural: int
    val_per_class: int

    def task_size(self, split: str, target: str) -> int:
        """Classes of a task; half of them where a file says which."""
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
        recipe: that the settings start from.
        published: whether the protocol is the paper's, so that its numbers may be laid
            under ours.
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
        found = {}
        for node in self.nodes:
            treatment = node.treatment
            for task in (treatment.source, treatment.target):
                if task not in ("", RANDOM):
                    found[node.split, task] = None
        return list(found)


def plan_names() -> list[str]:
    """The built-in plans."""
    folder = importlib.resources.files("minicnn.experiments") / PLANS
    return sorted(each.name[:-5] for each in folder.iterdir() if ".toml" in each.name)


def load_plan(plan: str, settings: Sequence[str] = ()) -> Plan:
    """A built-in plan, or one from a TOML file, checked and resolved.

    Args:
        plan: a built-in name such as "paper", or a path that ends in .toml.
        settings: `section.key=value` texts that override the plan's own settings.

    Raises:
        MinicnnError: there is no such plan, or something in it is wrong.
    """
    if plan.endswith(".toml"):
        return resolve(read_toml(Path(plan)), plan, settings)
    if plan not in plan_names():
        raise MinicnnError(
            f"plan {plan}: unknown; built in are {', '.join(plan_names())}, or give a "
            "path that ends in .toml"
        )
    folder = importlib.resources.files("minicnn.experiments") / PLANS
    with importlib.resources.as_file(folder / f"{plan}.toml") as path:
        return resolve(read_toml(path), f"plan {plan}", settings)


def resolve(table: Mapping[str, Any], where: str, settings: Sequence[str] = ()) -> Plan:
    """The plan that a TOML table describes.

    Args:
        where: what the table comes from, for the errors.
        settings: as for `load_plan`.
    """
    _check_keys(table, _PLAN, where)
    name, nets = table.get("name", ""), table.get("nets", [])
    if not name or name.startswith(".") or "/" in name:
        raise MinicnnError(f"{where}: name = {name!r} must be a folder's name")
    recipe = table.get("recipe", "")
    if not recipe:
        raise MinicnnError(f"{where}: recipe is missing; name one, such as 'demo'")
    if recipe.endswith(".toml"):
        recipe = str(Path(recipe).resolve())
    config = from_dict(table.get("settings", {}), where, load_recipe(recipe))
    nodes: dict[str, Node] = {}
    for number, entry in enumerate(nets, 1):
        place = f"{where}: nets {number}"
        if not isinstance(entry, dict):
            raise MinicnnError(f"{place} must be a table, [[nets]]")
        for node in _expand(entry, place, config, settings):
            _add(nodes, node, place)
    if not nodes:
        raise MinicnnError(f"{where}: no nets; list them under [[nets]]")
    _add_bases(nodes)
    _check_groups(nodes.values(), where)
    return Plan(
        name=name,
        data=table.get("data", ""),
        recipe=recipe,
        published=table.get("published", False),
        expected=_expected(table, where),
        nodes=tuple(_ordered(nodes.values())),
    )


def _check_keys(table: Mapping[str, Any], known: dict[str, type], where: str) -> None:
    """Refuses unknown keys and values of the wrong kind."""
    for key, value in table.items():
        if key not in known:
            raise MinicnnError(
                f"{where}: unknown key {key!r}; known: {', '.join(known)}"
            )
        if type(value) is not known[key]:
            raise MinicnnError(
                f"{where}: {key} = {value!r} must be of type {known[key].__name__}"
            )
        if known[key] is list and key != "nets":
            kind = _ITEMS.get(key, int)
            if not value or any(type(item) is not kind for item in value):
                raise MinicnnError(
                    f"{where}: {key} = {value!r} must list one {kind.__name__} or more"
                )


def _expected(table: Mapping[str, Any], where: str) -> Expected | None:
    found = table.get("expected")
    if found is None:
        return None
    names = {field.name: int for field in dataclasses.fields(Expected)}
    _check_keys(found, names, f"{where}: expected")
    missing = names.keys() - found.keys()
    if missing:
        raise MinicnnError(f"{where}: expected lacks {', '.join(sorted(missing))}")
    return Expected(**found)


def _expand(
    entry: Mapping[str, Any], where: str, config: Config, settings: Sequence[str]
) -> Iterable[Node]:
    """The nodes of one [[nets]]."""
    _check_keys(entry, _NETS, where)
    if ("split" in entry) == ("splits" in entry):
        raise MinicnnError(f"{where}: give either split or splits")
    kinds = _known(entry.get("treatments", []), KINDS, "treatments", where)
    if ("images_per_class" in entry) != (REDUCED in kinds):
        raise MinicnnError(
            f"{where}: images_per_class goes with the treatment 'reduced' and with it "
            "alone"
        )
    config = from_dict(entry.get("settings", {}), where, config)
    config = override(config, list(settings))
    if config.data.images_per_class:
        raise MinicnnError(
            f"{where}: data.images_per_class cannot be set in a plan; the treatment "
            "'reduced' trains bases on few images"
        )
    for split in entry.get("splits", [entry.get("split")]):
        for seed in entry.get("seeds", [0]):
            if not 0 <= seed < 2**32:
                raise MinicnnError(f"{where}: seed {seed} must be 0 .. 2^32 - 1")
            targets = _targets(entry, split, where)
            for kind in kinds:
                for target in targets:
                    yield from _nodes(
                        entry, where, config, _absolute(split), seed, kind, target
                    )


def _known(
    values: Sequence[Any], known: Sequence[Any], key: str, where: str
) -> Sequence[Any]:
    if not values:
        raise MinicnnError(f"{where}: {key} is missing")
    for value in values:
        if value not in known:
            raise MinicnnError(
                f"{where}: {value!r} in {key}; choose of {', '.join(map(str, known))}"
            )
    return values


def _absolute(split: str) -> str:
    """The split, a file's path made absolute: other processes look elsewhere."""
    if split.startswith("file:"):
        return f"file:{Path(split[5:]).resolve()}"
    return split


def _targets(entry: Mapping[str, Any], split: str, where: str) -> list[str]:
    """The target tasks, once it is sure that the split has them."""
    targets = entry.get("targets", ["all"] if split == "all" else ["A", "B"])
    for target in targets:
        try:
            if split.startswith("file:"):
                other(target)
            else:  # two classes, one in each group, are enough to know
                two, groups = ["0", "1"], ["natural", "manmade"]
                task_classes(split, target, two, two, groups)
        except MinicnnError as error:
            raise MinicnnError(f"{where}: {error}") from None
    return targets


def _nodes(
    entry: Mapping[str, Any],
    where: str,
    config: Config,
    split: str,
    seed: int,
    kind: str,
    target: str,
) -> Iterable[Node]:
    """The nodes of one kind with one target: all depths, or all numbers of images."""
    if kind == "base":
        yield Node(split, seed, Treatment(target), config)
        return
    if kind == REDUCED:
        for count in entry["images_per_class"]:
            fewer = from_dict({"data": {"images_per_class": count}}, where, config)
            if not count:
                raise MinicnnError(f"{where}: images_per_class 0 must be at least 1")
            yield Node(split, seed, Treatment(target), fewer)
        return
    depths = list(range(1, DEEPEST + 1))
    depths = list(_known(entry.get("depths", depths), depths, "depths", where))
    keeps = [0]
    if kind.endswith("-keep"):
        keeps = list(_known(entry.get("keep", [1]), range(1, DEEPEST), "keep", where))
    try:
        source = _source(kind, target)
    except MinicnnError as error:
        raise MinicnnError(f"{where}: {kind}: {error}") from None
    finetune = kind.endswith("+")
    for n in depths:
        for keep in keeps:
            # Layers n+1..n+keep must be layers that can be copied.
            if n + keep <= DEEPEST:
                treatment = Treatment(target, source, n, finetune, keep)
                yield Node(split, seed, treatment, config)


def _source(kind: str, target: str) -> str:
    """The task that a treatment copies from."""
    if kind == RANDOM:
        return RANDOM
    return target if kind.startswith("selffer") else other(target)


def _add(nodes: dict[str, Node], node: Node, where: str) -> None:
    """Adds a node; the same one again changes nothing."""
    known = nodes.setdefault(node.id, node)
    if known != node:
        odd = differences(known.config, node.config)
        raise MinicnnError(
            f"{where}: {node.id} is there already with other settings: "
            f"{'; '.join(odd) or 'another split file of that name'}"
        )


def _add_bases(nodes: dict[str, Node]) -> None:
    """Adds every base that something copies from and the plan does not name."""
    for node in list(nodes.values()):
        if node.base and node.base not in nodes:
            base = Treatment(node.treatment.source)
            nodes[node.base] = dataclasses.replace(node, treatment=base)


def _check_groups(nodes: Iterable[Node], where: str) -> None:
    """Refuses two split files of one name: their nets would share a folder."""
    split_of: dict[str, str] = {}
    for node in nodes:
        known = split_of.setdefault(node.group, node.split)
        if known != node.split:
            raise MinicnnError(
                f"{where}: splits {known} and {node.split} would share the folder "
                f"{node.group}; rename one of the files"
            )


def _ordered(nodes: Iterable[Node]) -> list[Node]:
    """Group by group, in the plan's order, bases first."""
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.group, []).append(node)
    return [
        node
        for members in groups.values()
        for node in sorted(members, key=lambda node: bool(node.treatment.source))
    ]


def with_bases(nodes: Sequence[Node], patterns: Sequence[str]) -> list[Node]:
    """The nodes whose name or id matches one of the patterns, and the bases they need.

    Args:
        patterns: with * and ? as in a shell, such as "A*B+" or "random-0/*"; none
            takes all.

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


def flat(config: Config) -> dict[str, Any]:
    """Settings by their dotted names."""
    sections = config.to_dict().items()
    return {
        f"{s}.{key}": value for s, values in sections for key, value in values.items()
    }


def differences(old: Config, new: Config) -> list[str]:
    """What the settings differ in, a text each."""
    after = flat(new)
    return [
        f"{name} was {value!r}, now {after[name]!r}"
        for name, value in flat(old).items()
        if value != after[name]
    ]


def assignments(config: Config, start: Config) -> list[str]:
    """The `section.key=value` texts that make one configuration of another."""
    before = flat(start)
    return [
        f"{name}={json.dumps(value)}"
        for name, value in flat(config).items()
        if value != before[name]
    ]


def task_of(store: Store, split: str, name: str, groups: Path | None) -> Task:
    """A task as a store has it."""
    return task_classes(split, name, store.wnids, store.names, store.groups, groups)


def published_name(node: Node) -> str:
    """The name under which the paper's authors published a net of the plan `paper`.

    Splits are numbers, fine-tuning is "-ft", and the "1" before the depth is the first
    layer that was copied. Of the nets in the paper's figures these are the 148 whose
    logs were published: 10 half bases, 118 transfer and selffer nets (fine-tuned ones
    on two random splits only), the 1000-class base, 7 on random filters, 12 reduced.
    """
    t = node.treatment
    if node.kind == REDUCED:
        return f"reduced-{node.config.data.images_per_class:04d}"
    if node.kind == RANDOM:
        return f"nolearn_1_{t.n}"
    if node.split == "all":
        return "netbase"
    natman = node.split == "natural-manmade"
    group = "natman" if natman else node.split.removeprefix("random-")
    if not t.source:
        return f"half{group}{t.target}"
    kind = "transfer-ft" if t.finetune else "transfer"
    if natman:
        return f"{kind}natman{t.source}{t.target}_1_{t.n}"
    return f"{kind}{group}{t.source}{group}{t.target}_1_{t.n}"
