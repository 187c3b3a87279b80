"""Study plans: a TOML file in, a graph of nets out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minicnn.base.config import Config, from_dict, load_recipe, override, read_toml
from minicnn.base.errors import MinicnnError
from minicnn.data.classes import ClassList
from minicnn.data.splits import other, task_classes
from minicnn.experiments.study.graph import REDUCED, Expected, Node, Plan, differences
from minicnn.experiments.study.protocol import same_numbers
from minicnn.nn import architecture_files
from minicnn.training.treatment import RANDOM, Treatment

PLANS = Path(__file__).parents[1] / "plans"
DEMO = "demo"
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

_PLAN: dict[str, type] = {
    "name": str,
    "data": str,
    "recipe": str,
    "published": bool,
    "expected": dict,
    "settings": dict,
    "nets": list,
}
_NETS: dict[str, type] = {
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
_ITEMS: dict[str, type] = {"splits": str, "treatments": str, "targets": str}


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
    known = sorted(each.stem for each in PLANS.glob("*.toml"))
    if plan not in known:
        raise MinicnnError(
            f"plan {plan}: unknown; built in are {', '.join(known)}, or give a "
            "path that ends in .toml"
        )
    return resolve(read_toml(PLANS / f"{plan}.toml"), f"plan {plan}", settings)


def resolve(table: Mapping[str, Any], where: str, settings: Sequence[str] = ()) -> Plan:
    """The plan that a TOML table describes; `where` it comes from is for the errors."""
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
    nodes = _nodes(nets, where, config, settings)
    published = table.get("published", False)
    if published:
        usual = _nodes(nets, where, config, ())
        # Another network may have other depths, but then its first net differs.
        pairs = zip(usual, nodes, strict=False)
        published = all(same_numbers(a.config, b.config) for a, b in pairs)
    expected = _expected(table["expected"], where) if "expected" in table else None
    return Plan(name, table.get("data", ""), recipe, published, expected, nodes)


def _nodes(
    nets: Sequence[Any], where: str, config: Config, settings: Sequence[str]
) -> tuple[Node, ...]:
    """The nodes of all [[nets]], and the bases that they need."""
    nodes: dict[str, Node] = {}
    for number, entry in enumerate(nets, 1):
        place = f"{where}: nets {number}"
        if not isinstance(entry, dict):
            raise MinicnnError(f"{place} must be a table, [[nets]]")
        for node in _expand(entry, place, config, settings):
            known = nodes.setdefault(node.id, node)
            if known != node:
                different = differences(known.config, node.config)
                raise MinicnnError(
                    f"{place}: {node.id} is there already with other settings: "
                    f"{'; '.join(different) or 'another split file of that name'}"
                )
    if not nodes:
        raise MinicnnError(f"{where}: no nets; list them under [[nets]]")
    for node in list(nodes.values()):
        if node.base and node.base not in nodes:
            base = Treatment(node.treatment.source)
            nodes[node.base] = dataclasses.replace(node, treatment=base)
    split_of: dict[str, str] = {}
    for node in nodes.values():
        split = split_of.setdefault(node.group, node.split)
        if split != node.split:
            raise MinicnnError(
                f"{where}: splits {split} and {node.split} would share the folder "
                f"{node.group}; rename one of the files"
            )
    groups = list(split_of)

    def order(node: Node) -> tuple[int, bool]:
        """Group by group, in the plan's order, bases first."""
        return groups.index(node.group), bool(node.treatment.source)

    return tuple(sorted(nodes.values(), key=order))


def _check_keys(
    table: Mapping[str, Any], known: Mapping[str, type], where: str
) -> None:
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
        if isinstance(value, list) and key != "nets":
            kind = _ITEMS.get(key, int)
            if not value or any(type(item) is not kind for item in value):
                raise MinicnnError(
                    f"{where}: {key} = {value!r} must list one {kind.__name__} or more"
                )


def _expected(table: Mapping[str, Any], where: str) -> Expected:
    names = {field.name: int for field in dataclasses.fields(Expected)}
    _check_keys(table, names, f"{where}: expected")
    missing = names.keys() - table.keys()
    if missing:
        raise MinicnnError(f"{where}: expected lacks {', '.join(sorted(missing))}")
    return Expected(**table)


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
    if "keep" in entry and not any(kind.endswith("-keep") for kind in kinds):
        raise MinicnnError(
            f"{where}: keep goes with the treatments 'selffer-keep' and 'transfer-keep'"
        )
    config = from_dict(entry.get("settings", {}), where, config)
    config = override(config, list(settings))
    if config.data.images_per_class:
        raise MinicnnError(
            f"{where}: data.images_per_class cannot be set in a plan; the treatment "
            "'reduced' trains bases on few images"
        )
    for split in entry.get("splits", [entry.get("split")]):
        targets = _targets(entry, split, where)
        place = split
        if split.startswith("file:"):  # other processes look elsewhere
            place = f"file:{Path(split[5:]).resolve()}"
        for seed in entry.get("seeds", [0]):
            if not 0 <= seed < 2**32:
                raise MinicnnError(f"{where}: seed {seed} must be 0 .. 2^32 - 1")
            for kind, target in itertools.product(kinds, targets):
                for variant in _variants(entry, where, config, kind, target):
                    yield Node(place, seed, *variant)


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


def _targets(entry: Mapping[str, Any], split: str, where: str) -> list[str]:
    """The target tasks, once it is sure that the split has them."""
    targets = entry.get("targets", ["all"] if split == "all" else ["A", "B"])
    for target in targets:
        try:
            if split.startswith("file:"):
                other(target)
            else:  # two classes, one in each group, are enough to know
                two = ClassList(["0", "1"], ["0", "1"], ["natural", "manmade"])
                task_classes(split, target, two)
        except MinicnnError as error:
            raise MinicnnError(f"{where}: {error}") from None
    return targets


def _variants(
    entry: Mapping[str, Any], where: str, config: Config, kind: str, target: str
) -> Iterable[tuple[Treatment, Config]]:
    """The nets of one kind with one target: all depths, or all numbers of images."""
    if kind == "base":
        yield Treatment(target), config
        return
    if kind == REDUCED:
        for count in entry["images_per_class"]:
            if count < 1:
                raise MinicnnError(f"{where}: images_per_class {count}: at least 1")
            fewer = from_dict({"data": {"images_per_class": count}}, where, config)
            yield Treatment(target), fewer
        return
    deepest = architecture_files.load(config.network.arch).depth - 1
    every = range(1, deepest + 1)
    depths = _known(entry.get("depths", every), every, "depths", where)
    keeps: Sequence[int] = [0]
    if kind.endswith("-keep"):
        keeps = _known(entry.get("keep", [1]), every[:-1], "keep", where)
    source = RANDOM if kind == RANDOM else target
    if kind.startswith("transfer"):
        try:
            source = other(target)
        except MinicnnError as error:
            raise MinicnnError(f"{where}: {kind}: {error}") from None
    for n, keep in itertools.product(depths, keeps):
        # Layers n+1..n+keep must be layers that can be copied.
        if n + keep <= deepest:
            yield Treatment(target, source, n, kind.endswith("+"), keep), config
