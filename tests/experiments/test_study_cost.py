"""What a study costs: operations, order, hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.config import SolverConfig, load_recipe, override
from minicnn.devices import device
from minicnn.experiments.bench import ops as bench
from minicnn.experiments.bench.ops import Step
from minicnn.experiments.bench.roofline import cost as op_cost
from minicnn.experiments.study import cost
from minicnn.experiments.study.cost import Rate, TaskSizes, estimate, layer_flops
from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.graph import Node
from minicnn.experiments.study.plans import resolve
from minicnn.experiments.study.tasks import Queue, Task, make_tasks, makespan
from minicnn.training.solver import Solver
from minicnn.training.transfer import Setup, train_base, transfer
from minicnn.training.treatment import Treatment
from tests.support.runs import make_store

# Multiply-adds of AlexNet's forward pass, layer by layer, as widely published: 55² ·
# 96 · 11²·3; 27² · 256 · 5²·48; 13² · 384 · 3²·256; and so on.
CAFFENET = [105_415_200, 223_948_800, 149_520_384, 112_140_288, 74_760_192]
CAFFENET += [37_748_736, 16_777_216, 4_096_000]
EXPECTED = {"classes": 40, "natural": 20, "val_per_class": 5}
SETTINGS = {
    "solver": {"iterations": 10, "batch": 4},
    "schedule": {"evaluate_every": 4},
}


def plan_of(*nets: dict) -> cost.Plan:
    table = {"name": "small", "recipe": "demo", "settings": SETTINGS}
    return resolve({**table, "expected": EXPECTED, "nets": list(nets)}, "small.toml")


def test_operations_are_those_of_the_published_network() -> None:
    assert layer_flops("caffenet", 1000) == tuple(2 * macs for macs in CAFFENET)


def test_the_disk_is_reckoned_as_it_is_used(tmp_path: Path) -> None:
    short = ["solver.iterations=2", "solver.batch=8", "schedule.checkpoint_every=1"]
    config = override(load_recipe("demo"), short)
    store, dev = make_store(tmp_path / "tiny.h5"), device.get("cpu", 1)
    setup = Setup(store, dev, config, runs=tmp_path)
    for made, frozen in (train_base(setup, "A"), 0), (transfer(setup, "A", 3), 3):
        files = list(made.folder.glob("checkpoints/*.safetensors"))
        used = sum(path.stat().st_size for path in files)
        assert len(files) == 2
        # The rest is the mean image, names and shapes.
        reckoned = cost.checkpoint_bytes("caffenet32", 4, frozen)
        assert 0 < used - reckoned < 0.03 * used


@pytest.mark.parametrize("frozen", [0, 1, 3, 5, 7])
def test_a_trained_image_costs_what_a_step_does(frozen: int) -> None:
    step = Step(device.get("cpu", 1), "caffenet32", 2)
    step.network.freeze(frozen)
    step.solver = Solver(step.network, SolverConfig(lr=0.0, batch=2))
    step.network.plan(2)
    calls = step.recorded()
    spent = sum(op_cost(call.op, call.arguments).flops for call in calls)
    layers = layer_flops("caffenet32", 1000)
    trained = cost.training_flops(layers, frozen)
    assert spent == 2 * (sum(layers[:frozen]) + trained)


def test_work_counts_evaluations_and_a_shared_trunk_once() -> None:
    plan = plan_of({"split": "random-0", "treatments": ["transfer"], "targets": ["B"]})
    sizes = TaskSizes(plan)
    layers = layer_flops("caffenet32", 20)
    forward = sum(layers)
    by_name = {node.name: node for node in plan.nodes}
    # 10 steps of 4 images; 100 validation images after 4, 8 and 10.
    base = Task((by_name["baseA"],))
    assert sizes.work(base) == 40 * (3 * forward - layers[0]) + 300 * forward
    two, six = (Task((by_name[name],)) for name in ("A2B", "A6B"))
    both = Task((by_name["A2B"], by_name["A6B"]))
    trained = sum(layers[:2]) + 3 * sum(layers[2:]) - layers[2]
    assert sizes.work(two) == 40 * trained + 300 * forward
    # Together the first two layers' forward pass is done once, not twice.
    shared = sum(layers[:2]) * (40 + 300)
    assert sizes.work(both) == sizes.work(two) + sizes.work(six) - shared


def test_the_reckoning_uses_each_tasks_own_classes() -> None:
    plan = plan_of(
        {"split": "all", "treatments": ["base"]},
        {"split": "random-0", "treatments": ["base"]},
        {"split": "natural-manmade", "treatments": ["base"]},
    )
    found = {node.id: TaskSizes(plan).of(node) for node in plan.nodes}
    halves = {f"{s}/base{t}" for s in ("random-0", "natural-manmade") for t in "AB"}
    assert found == {"all/baseall": (40, 200), **dict.fromkeys(halves, (20, 100))}


def tasks_of(**lengths: float) -> tuple[list[Task], dict[str, float]]:
    """Tasks by name, of these lengths; B1A needs baseB, A1B needs baseA."""
    config = load_recipe("demo")
    treatments = {
        "baseA": Treatment("A"),
        "baseB": Treatment("B"),
        "A1B": Treatment("B", "A", 1),
        "A2B": Treatment("B", "A", 2),
        "B1A": Treatment("A", "B", 1),
        "R1B": Treatment("B", "random", 1),
    }
    nodes = [Node("random-0", 0, treatments[name], config) for name in lengths]
    return make_tasks(nodes), {f"random-0/{k}": v for k, v in lengths.items()}


def test_the_longest_way_to_the_end_goes_first() -> None:
    tasks, lengths = tasks_of(R1B=4, A1B=1, A2B=2, B1A=9, baseA=3, baseB=3)
    queue = Queue(tasks, lambda task: lengths[task.id], set())
    # baseB 3 + 9; baseA 3 + 2; then R1B; what copies is not ready.
    order = [queue.take() for _ in range(4)]
    assert [task and task.id for task in order] == [
        "random-0/baseB",
        "random-0/baseA",
        "random-0/R1B",
        None,
    ]
    assert queue.critical_path == 12
    assert order[1] is not None
    queue.done.add(order[1].id)
    assert queue.take().id == "random-0/A2B"  # type: ignore[union-attr]
    assert [task.id for task in queue.left] == ["random-0/B1A", "random-0/A1B"]


@pytest.mark.parametrize(
    # One after another; baseB+B1A beside baseA+R1B+A2B+A1B; all there is to gain.
    ("workers", "expected"),
    [(1, 22), (2, 12), (3, 12), (99, 12)],
)
def test_workers_share_the_work(workers: int, expected: float) -> None:
    tasks, lengths = tasks_of(R1B=4, A1B=1, A2B=2, B1A=9, baseA=3, baseB=3)
    assert makespan(tasks, lambda task: lengths[task.id], workers) == expected


def test_a_base_that_is_finished_is_not_waited_for() -> None:
    tasks, lengths = tasks_of(A1B=1, A2B=2)
    assert makespan(tasks, lambda task: lengths[task.id], 2) == 2


def test_hours_follow_from_the_rate() -> None:
    plan = plan_of({"split": "random-0", "treatments": ["base"]})
    sizes = TaskSizes(plan)
    found = estimate(make_tasks(plan.nodes), sizes, Rate(0.01, "said"), 2)
    assert (found.nets, found.images, found.evaluated) == (2, 80, 600)
    each = sizes.work(Task((plan.nodes[0],))) / sizes.unit
    assert 40 + 100 < each < 40 + 110  # an evaluated image is a third, or a bit more
    assert found.equivalent == pytest.approx(2 * each)
    assert found.hours_one == pytest.approx(2 * each / 0.01 / 3600)
    assert found.hours == found.hours_path == pytest.approx(each / 0.01 / 3600)
    assert estimate(make_tasks(plan.nodes), sizes, None, 2).hours is None


def test_depths_that_share_a_trunk_are_one_task() -> None:
    plan = plan_of(
        {"split": "random-0", "treatments": ["transfer", "random"], "targets": ["B"]},
        {
            "split": "random-0",
            "treatments": ["selffer"],
            "targets": ["B"],
            "depths": [1, 3, 5],
        },
        {"split": "random-0", "treatments": ["transfer+"], "depths": [1, 2]},
        {"split": "random-0", "treatments": ["transfer-keep"], "targets": ["A"]},
    )
    names = {task.id.partition("/")[2] for task in make_tasks(plan.nodes, True)}
    fine = {f"{way[0]}{n}{way[1]}+" for way in ("AB", "BA") for n in (1, 2)}
    assert names == fine | {
        *("baseA", "baseB", "A1-7B", "R1-7B", "B1,3,5B", "B1-6A-keep1")
    }
    assert len(make_tasks(plan.nodes)) == len(plan.nodes)


def test_the_rate_is_taken_from_what_was_trained(tmp_path: Path) -> None:
    plan = plan_of(
        {"split": "random-0", "treatments": ["transfer"], "targets": ["B"]},
    )
    study = Study(tmp_path, "s", "demo", False, tmp_path, "", {}, None, plan.nodes)
    sizes = TaskSizes(plan)
    assert cost.measured_rate(study, sizes) is None
    about = {"processor": "abacus", "threads": 3}

    def session(first: int, last: int, seconds: float, **more: object) -> dict:
        steps = {"first_step": first, "last_step": last, "seconds": seconds}
        steps["images_per_second"] = 9.0
        return {**steps, **about, **more}

    together = {"trained_together": ["A1B", "A2B"]}
    sessions = {
        # Half of the base, twice; the second session at the same speed.
        "baseA": [session(0, 5, 10.0), session(5, 10, 10.0)],
        "A1B": [session(0, 10, 7.0, **together)],
        "A2B": [session(0, 10, 7.0, **together)],
    }
    for name, found in sessions.items():
        folder = tmp_path / "runs" / "random-0" / name
        folder.mkdir(parents=True)
        (folder / "env.json").write_text(json.dumps({"sessions": found}))
    rate = cost.measured_rate(study, sizes)
    nodes = {node.name: node for node in plan.nodes}
    work = sizes.work(Task((nodes["baseA"],)))
    work += sizes.work(Task((nodes["A1B"], nodes["A2B"])))
    assert rate is not None
    assert rate.images_per_second == pytest.approx(work / sizes.unit / 27.0)
    assert "abacus, 3 threads" in rate.source


def test_a_rate_can_be_measured_in_the_plans_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Step] = []

    class Seen(Step):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(bench, "Step", Seen)
    settings = {"network": {"precision": "bf16"}}
    plan = plan_of({"split": "random-0", "treatments": ["base"], "settings": settings})
    rate = cost.measure(plan.nodes[0], device.get("cpu", 1))
    assert rate.images_per_second > 1
    assert "measured now on cpu" in rate.source
    assert rate.source.endswith(", bf16")
    assert [each.network.precision.name for each in made] == ["bf16"]
