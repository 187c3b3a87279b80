"""What a study costs: images, and hours at a measured rate.

Work is counted in floating-point operations of convolutions and products. A trained
image costs a forward pass of all layers, and backward weight and data gradients, a
pass each, of the layers that are trained; the lowest of them hands no data gradient
down. An evaluated image costs a forward pass. Nets that share their trunk share its
forward pass. The rate is that of a base net, images a second; it turns work into time
on the assumption that all work goes equally fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minicnn.base.config import Config
from minicnn.base.errors import MinicnnError, counted
from minicnn.base.precision import FP32
from minicnn.data.store import Store
from minicnn.devices import device as devices
from minicnn.experiments.study import records
from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.graph import Node, Plan, task_of
from minicnn.experiments.study.tasks import Queue, Task, makespan
from minicnn.nn import architecture_files, assembly
from minicnn.nn.layers import ConvLayer
from minicnn.training.checkpoint import KEPT


@cache
def _counts(arch: str, outputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each layer: forward operations of an image, and parameters."""
    network = architecture_files.load(arch)
    flops, values = [0] * network.depth, [0] * network.depth
    dev = devices.get("cpu", 1)
    for layer in assembly.build(dev, FP32, network, outputs):
        number = layer.spec.index - 1
        if isinstance(layer, ConvLayer):
            flops[number] += layer.problem.flops
        values[number] += sum(math.prod(p.shape) for p in layer.params)
    return tuple(flops), tuple(values)


def layer_flops(arch: str, outputs: int) -> tuple[int, ...]:
    """Operations of one image's forward pass through each layer."""
    return _counts(arch, outputs)[0]


def checkpoint_bytes(arch: str, outputs: int, frozen: int) -> int:
    """What a run's checkpoints take: float32 weights, momentum of what is trained."""
    values = _counts(arch, outputs)[1]
    return KEPT * 4 * (sum(values) + sum(values[frozen:]))


def training_flops(layers: Sequence[int], frozen: int = 0, trunk: bool = True) -> int:
    """Operations that one image costs in training.

    Args:
        layers: forward operations of each layer.
        frozen: layers 1..frozen are not trained.
        trunk: whether their forward pass is counted.
    """
    head = sum(layers[frozen:])
    # Weight gradients of all of the head, data gradients of all but its lowest layer.
    backward = 2 * head - (layers[frozen] if frozen < len(layers) else 0)
    return sum(layers[:frozen]) * trunk + head + backward


def evaluations(config: Config) -> int:
    """How often a net is scored: when due, and at the end."""
    total, every = config.solver.iterations, config.schedule.evaluate_every
    return -(-total // every)


class TaskSizes:
    """Classes and validation images of the tasks of a plan.

    Args:
        plan: whose tasks.
        store: to count in; None takes what the plan expects of it.
        groups: a groups file for natural-manmade.
    """

    def __init__(
        self, plan: Plan, store: Store | None = None, groups: Path | None = None
    ) -> None:
        self._sizes: dict[tuple[str, str], tuple[int, int]] = {}
        self.known = store is not None or plan.expected is not None
        for split, name in plan.tasks():
            if store is not None:
                classes = task_of(store, split, name, groups).classes
                size = (len(classes), len(store.rows(classes, "val")))
            elif plan.expected is not None:
                count = plan.expected.task_size(split, name)
                size = (count, count * plan.expected.val_per_class)
            else:
                size = (2, 0)
            self._sizes[split, name] = size
        # Unit of the rate: operations of one image of the plan's first base.
        self.unit = training_flops(self.layers(plan.nodes[0]))

    def of(self, node: Node) -> tuple[int, int]:
        """Classes and validation images of the node's task."""
        return self._sizes[node.split, node.treatment.target]

    def layers(self, node: Node) -> tuple[int, ...]:
        """Forward operations of each layer of the node's network."""
        return layer_flops(*self._network(node))

    def _network(self, node: Node) -> tuple[str, int]:
        """Architecture and outputs of the node's network."""
        network = node.config.network
        return network.arch, network.outputs or self.of(node)[0]

    def disk(self, node: Node) -> int:
        """Bytes of the node's checkpoints."""
        return checkpoint_bytes(*self._network(node), node.treatment.frozen)

    def evaluated(self, node: Node) -> int:
        """Images of all evaluations of the node."""
        return evaluations(node.config) * self.of(node)[1]

    def work(self, task: Task) -> float:
        """Operations that a task costs."""
        deepest = task.nodes[-1]
        trunk = sum(self.layers(deepest)[: deepest.treatment.frozen])
        total = trunk * (deepest.images + self.evaluated(deepest))
        for node in task.nodes:
            frozen, layers = node.treatment.frozen, self.layers(node)
            total += node.images * training_flops(layers, frozen, trunk=False)
            total += self.evaluated(node) * sum(layers[frozen:])
        return float(total)


@dataclass(frozen=True)
class Rate:
    """How fast a base net trains.

    Attributes:
        images_per_second: on one worker.
        source: where the number comes from.
    """

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Cost:
    """What the unfinished part of a study costs.

    Attributes:
        nets, commands: to train, and by how many commands.
        images, evaluated: trained on, and scored on, as often as they are seen.
        disk: bytes of all checkpoints.
        equivalent: images of a base net's training that cost as much as all of it.
        workers: as asked.
        rate: of one worker; None where it is not known.
        hours_one, hours: on one worker, and on `workers` in the engine's order.
        hours_path: of the longest chain, base and dependent: no number of workers
            ends sooner.
    """

    nets: int
    commands: int
    images: int
    evaluated: int
    disk: int
    equivalent: float
    workers: int
    rate: Rate | None
    hours_one: float | None
    hours: float | None
    hours_path: float | None


def estimate(
    tasks: Sequence[Task], sizes: TaskSizes, rate: Rate | None, workers: int
) -> Cost:
    """The cost of some tasks.

    Args:
        workers: to share them, 1 or more.
    """
    if workers < 1:
        raise MinicnnError(f"--workers {workers}: must be at least 1")
    nodes = [node for task in tasks for node in task.nodes]

    def equivalent(task: Task) -> float:
        return sizes.work(task) / sizes.unit

    total = sum(map(equivalent, tasks))
    path = Queue(tasks, equivalent).critical_path
    spans = total, makespan(tasks, equivalent, workers), path
    hours: Iterable[float | None] = (None,) * 3
    if rate is not None:
        hours = [span / rate.images_per_second / 3600 for span in spans]
    return Cost(
        len(nodes),
        len(tasks),
        sum(task.images for task in tasks),
        sum(map(sizes.evaluated, nodes)),
        sum(map(sizes.disk, nodes)),
        total,
        workers,
        rate,
        *hours,
    )


def measured_rate(study: Study, sizes: TaskSizes) -> Rate | None:
    """The rate of the nets that were trained in a study folder; None before any was.

    Only work that is done is counted, frozen layers and evaluations at their cost.
    """
    work = seconds = 0.0
    count, machines = 0, set[str]()
    for node in study.nodes:
        for session in records.sessions(study.run(node)):
            task = _trained(study, node, session)
            steps = session["last_step"] - session["first_step"]
            if task is None or task.nodes[0] != node or steps <= 0:
                continue  # one of several in one pass, which counts once
            work += steps / node.config.solver.iterations * sizes.work(task)
            seconds += session["seconds"]
            name = session.get("gpu") or session.get("processor")
            machines.add(f"{name}, {counted(session['threads'], 'thread')}")
            count += 1
    if not work or not seconds:
        return None
    where = "; ".join(sorted(machines))
    source = f"{counted(count, 'run')} in {study.folder} ({where})"
    return Rate(work / sizes.unit / seconds, source)


def _trained(study: Study, node: Node, session: Mapping[str, Any]) -> Task | None:
    """All that a session trained; None where part of it is not in the study."""
    names = session.get("trained_together", [node.name])
    ids = [f"{node.group}/{name}" for name in names]
    if not all(each in study.by_id for each in ids):
        return None
    return Task(tuple(study.by_id[each] for each in ids))


def measure(node: Node, dev: devices.Device) -> Rate:
    """The rate of a node's network on a device, by a few training steps on noise."""
    from minicnn.experiments.bench.ops import Step
    from minicnn.training.environment import describe

    batch, network = node.config.solver.batch, node.config.network
    step = Step(dev, network.arch, batch, network.precision)
    step.whole()
    seconds = dev.meter().seconds(step.whole, cold=False)
    about = describe(dev)
    name = about.get("gpu") or about["processor"]
    where = f"{dev.name} ({name}, {counted(dev.threads, 'thread')})"
    source = f"measured now on {where}, {network.precision}"
    return Rate(batch / seconds, source)
