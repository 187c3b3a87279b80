"""Study plans: their nets, names, dependencies and settings, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.config import load_recipe, override
from minicnn.base.errors import MinicnnError
from minicnn.experiments.study.folder import Study, read_study
from minicnn.experiments.study.graph import Node, assignments, with_bases
from minicnn.experiments.study.plans import load_plan, resolve


def plan_of(*nets: dict[str, Any], **keys: Any) -> list[Node]:
    """The nodes of a small plan."""
    table = {"name": "small", "recipe": "demo", "nets": list(nets), **keys}
    return list(resolve(table, "small.toml").nodes)


def ids(nodes: list[Node]) -> list[str]:
    return [node.id for node in nodes]


def test_the_other_plans_hold_the_whole_figure() -> None:
    demo, tiny = (load_plan(name).nodes for name in ("demo", "tiny-imagenet"))
    assert Counter(n.group for n in demo) == {"random-0": 65, "natural-manmade": 16}
    assert Counter(node.group for node in tiny) == {
        **{"random-0": 72, "random-1-seed1": 72, "all": 1},
        **{"natural-manmade": 16, "natural-manmade-seed1": 16},
        **{f"all-images{count}": 1 for count in (10, 25, 50, 100, 250)},
    }
    both = [("A", "B"), ("B", "A")]
    expected = {("transfer" + plus, *way) for way in both for plus in ("", "+")}
    expected |= {("selffer" + plus, t, t) for t in "AB" for plus in ("", "+")}
    expected |= {("base", "", "A"), ("base", "", "B"), ("random", "random", "B")}
    # Of random filters one target is enough to draw, but not for an interval.
    more = {("random", "random", "A"), ("reduced", "", "all"), ("base", "", "all")}
    for nodes, kinds in (demo, expected), (tiny, expected | more):
        found = {(n.kind, n.treatment.source, n.treatment.target) for n in nodes}
        assert found == kinds
        depths = {n.treatment.n for n in nodes if n.kind == "transfer"}
        assert depths == set(range(1, 8))


def test_a_base_that_is_needed_is_added_once() -> None:
    nodes = plan_of(
        {"split": "random-1", "treatments": ["transfer"], "depths": [2]},
        {"split": "random-1", "treatments": ["selffer"], "depths": [2]},
        {"split": "random-1", "treatments": ["selffer"], "depths": [2], "seeds": [3]},
    )
    assert ids(nodes) == [
        *("random-1/baseB", "random-1/baseA"),
        *("random-1/B2A", "random-1/A2B", "random-1/A2A", "random-1/B2B"),
        *("random-1-seed3/baseA", "random-1-seed3/baseB"),
        *("random-1-seed3/A2A", "random-1-seed3/B2B"),
    ]


def test_groups_and_names_tell_nets_apart() -> None:
    whole = {"splits": ["all"], "treatments": ["reduced", "base", "random"]}
    halves = {"split": "random-0", "treatments": ["selffer-keep", "transfer-keep"]}
    nodes = plan_of(
        {**whole, "images_per_class": [25], "depths": [7], "seeds": [0, 2]},
        {**halves, "targets": ["A"], "depths": [1, 6, 7], "keep": [1, 2]},
    )
    assert {*ids(nodes)} == {
        *("all-images25/baseall", "all/baseall", "all/R7all"),
        *("all-images25-seed2/baseall", "all-seed2/baseall", "all-seed2/R7all"),
        # n + keep is 7 at most: layers 2, 2–3 and 7 are kept.
        *("random-0/A1A-keep1", "random-0/A1A-keep2", "random-0/A6A-keep1"),
        *("random-0/B1A-keep1", "random-0/B1A-keep2", "random-0/B6A-keep1"),
        *("random-0/baseA", "random-0/baseB"),
    }


def test_the_same_net_twice_is_one_and_with_other_settings_is_refused() -> None:
    base = {"split": "random-0", "treatments": ["base"], "targets": ["A"]}
    assert ids(plan_of(base, base)) == ["random-0/baseA"]
    other = {**base, "settings": {"solver": {"iterations": 7}}}
    said = "nets 2: random-0/baseA is there already .* solver.iterations was 900, now 7"
    with pytest.raises(MinicnnError, match=said):
        plan_of({**base, "settings": {"solver": {"iterations": 900}}}, other)


def test_settings_override_each_other_in_order() -> None:
    net = {"split": "all", "treatments": ["base"]}
    table = {
        "name": "small",
        "recipe": "demo",
        "settings": {"solver": {"lr": 0.5, "iterations": 5, "batch": 3}},
        "nets": [{**net, "settings": {"solver": {"iterations": 6, "batch": 4}}}],
    }
    (node,) = resolve(table, "small.toml", ["solver.batch=9"]).nodes
    solver = node.config.solver
    assert (solver.lr, solver.iterations, solver.batch) == (0.5, 6, 9)
    assert node.images == 54


@pytest.mark.parametrize("place", [0, 1])
def test_a_study_folder_keeps_the_settings_of_each_net(
    place: int, tmp_path: Path
) -> None:
    nets = [{"split": "all", "treatments": ["base"], "seeds": [s]} for s in (0, 1)]
    nets[place]["settings"] = {"solver": {"layers": {"conv1": {"lr_mult": 2.0}}}}
    nodes = tuple(plan_of(*nets))
    Study(tmp_path, "s", "demo", False, tmp_path, "", {}, None, nodes).write()
    assert read_study(tmp_path).nodes == nodes


def test_assignments_carry_the_settings_to_a_command() -> None:
    start = load_recipe("demo")
    texts = ["solver.lr=0.5", "data.mirror=false", 'network.arch="caffenet"']
    config = override(start, texts)
    assert sorted(assignments(config, start)) == sorted(texts)
    assert override(start, assignments(config, start)) == config


def test_only_takes_the_bases_along() -> None:
    nodes = list(load_plan("demo").nodes)
    for pattern, group, names in (
        ("A[12]B+", "random-0", ["baseA", "A1B+", "A2B+"]),
        ("natural-manmade/?7?", "natural-manmade", ["baseA", "baseB", "B7A", "A7B"]),
    ):
        found = ids(with_bases(nodes, [pattern]))
        assert found == [f"{group}/{name}" for name in names]
    assert with_bases(nodes, []) == nodes
    with pytest.raises(MinicnnError, match=r"--only A8B: matches no net"):
        with_bases(nodes, ["A1B", "A8B"])


def test_a_split_file_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (node,) = plan_of(
        {"split": "file:mine.toml", "treatments": ["base"], "targets": ["B"]}
    )
    assert node.split == f"file:{tmp_path / 'mine.toml'}"
    assert node.id == "mine/baseB"


NETS = {"split": "random-0", "treatments": ["base"]}
BAD_NETS: list[tuple[dict[str, Any], str]] = [
    ({"speed": 1}, "nets 1: unknown key 'speed'"),
    ({"split": 3}, "split = 3 must be of type str"),
    ({"split": "odd-1"}, "split 'odd-1': unknown"),
    ({"split": "random-x"}, "split 'random-x': unknown"),
    ({"splits": ["all"]}, "either split or splits"),
    ({"treatments": ["bass"]}, "'bass' in treatments"),
    ({"treatments": "base"}, "must be of type list"),
    ({"targets": ["C"]}, "task 'C'"),
    ({"targets": ["all"]}, "task 'all'"),
    ({"seeds": [-1]}, "seed -1"),
    ({"seeds": [True]}, r"seeds = \[True\]"),
    ({"treatments": ["random"], "depths": [0, 1]}, "0 in depths; choose of 1, 2, 3"),
    ({"treatments": ["transfer"], "depths": [8]}, "8 in depths"),
    ({"treatments": ["selffer-keep"], "keep": [7]}, "7 in keep"),
    ({"keep": [1]}, "keep goes with the treatments"),
    ({"split": "all", "treatments": ["transfer"]}, "transfer: task 'all': has no coun"),
    ({"treatments": ["reduced"]}, "images_per_class goes with"),
    ({"images_per_class": [5]}, "images_per_class goes with"),
    ({"treatments": ["reduced"], "images_per_class": [0]}, "images_per_class 0"),
]
ONE, OTHER = (
    {**NETS, "split": f"file:{folder}/one.toml", "targets": [target]}
    for folder, target in ("aA", "bB")
)
BAD: list[tuple[dict[str, Any], str]] = [
    *(({"nets": [{**NETS, **change}]}, said) for change, said in BAD_NETS),
    ({"nets": []}, "no nets"),
    ({"nets": [{"treatments": ["base"]}]}, "either split or splits"),
    ({"nets": [{"split": "all"}]}, "treatments is missing"),
    ({"nets": [ONE, OTHER]}, "would share the folder one"),
    ({"settings": {"data": {"images_per_class": 3}}}, "cannot be set in a plan"),
    ({"settings": {"solver": {"speed": 1}}}, "unknown key solver.speed"),
    ({"recipe": "none"}, "--recipe none: unknown"),
    ({"recipe": ""}, "recipe is missing"),
    ({"name": "a/b"}, "must be a folder's name"),
    ({"net": []}, "unknown key 'net'"),
    ({"published": 1}, "published = 1 must be of type bool"),
    ({"expected": {"classes": 3}}, "expected lacks natural, val_per_class"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_a_bad_plan_is_refused(change: dict[str, Any], said: str) -> None:
    table = {"name": "small", "recipe": "demo", "nets": [NETS], **change}
    with pytest.raises(MinicnnError, match=said) as caught:
        resolve(table, "small.toml")
    assert "\n" not in str(caught.value)
