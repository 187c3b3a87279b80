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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minicnn.base.config import Config
from minicnn.base.errors import MinicnnError, counted
from minicnn.base.precision import FP32
from minicnn.data.splits import task_classes
from minicnn.data.store import Store
from minicnn.devices import device as devices
from minicnn.experiments.study import records
from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.graph import Node, Plan
from minicnn.experiments.study.tasks import Queue, Task, makespan
from minicnn.nn import architecture_files, assembly
from minicnn.nn.layers import ConvLayer
from minicnn.training.checkpoint import KEPT


@cache
def _counts(arch: str, outputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each layer: forward operations of an image, and parameters."""
    network = architecture_files.load(arch)
    flops, values = [0] * network.depth, [0] * network.depth
    for layer in assembly.build(devices.get("cpu", 1), FP32, network, outputs):
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


def training_flops(layers: Sequence[int], frozen: int = 0) -> int:
    """Operations of one image's training, but for its way through layers 1..frozen.

    Args:
        layers: forward operations of each layer.
    """
    head = sum(layers[frozen:])
    # Weight gradients of all of the head, data gradients of all but its lowest layer.
    backward = 2 * head - (layers[frozen] if frozen < len(layers) else 0)
    return head + backward


def work(
    layers: Sequence[int], depths: Sequence[int], images: int, scored: int
) -> float:
    """Operations of nets that share their trunk, each frozen to one of the depths.

    Args:
        layers: forward operations of each layer.
        images, scored: that each is trained on, and evaluated on.
    """
    total = sum(layers[: max(depths)]) * (images + scored)
    for frozen in depths:
        total += images * training_flops(layers, frozen)
        total += scored * sum(layers[frozen:])
    return float(total)


def evaluations(config: Config) -> int:
    """How often a net is scored: when due, and at the end."""
    return -(-config.solver.iterations // config.schedule.evaluate_every)


class TaskSizes:
    """Classes and validation images of the tasks of a plan.

    Args:
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
                classes = task_classes(split, name, store.classes, groups).classes
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
        """Operations that a task costs: its nets differ in depth alone."""
        node, depths = task.nodes[0], [each.treatment.frozen for each in task.nodes]
        return work(self.layers(node), depths, node.images, self.evaluated(node))


@dataclass(frozen=True)
class Rate:
    """How fast a base net trains on one worker, and where the number comes from."""

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
        rate: None where it is not known, as then the hours.
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
    """The cost of some tasks, shared by so many workers."""
    if workers < 1:
        raise MinicnnError(f"--workers {workers}: must be at least 1")
    nodes = [node for task in tasks for node in task.nodes]

    def equivalent(task: Task) -> float:
        return sizes.work(task) / sizes.unit

    def hours(span: float) -> float | None:
        return span / rate.images_per_second / 3600 if rate else None

    total = sum(map(equivalent, tasks))
    return Cost(
        nets=len(nodes),
        commands=len(tasks),
        images=sum(node.images for node in nodes),
        evaluated=sum(map(sizes.evaluated, nodes)),
        disk=sum(map(sizes.disk, nodes)),
        equivalent=total,
        workers=workers,
        rate=rate,
        hours_one=hours(total),
        hours=hours(makespan(tasks, equivalent, workers)),
        hours_path=hours(Queue(tasks, equivalent, set()).critical_path),
    )


def measured_rate(study: Study, sizes: TaskSizes) -> Rate | None:
    """The rate of the nets that were trained in a study folder; None before any was.

    Only work that is done is counted, frozen layers and evaluations at their cost.
    """
    done = seconds = 0.0
    count, machines = 0, set[str]()
    for node in study.nodes:
        for session in records.sessions(study.run(node)):
            names = session.get("trained_together", [node.name])
            ids = [f"{node.group}/{name}" for name in names]
            steps = session["last_step"] - session["first_step"]
            # One of several in one pass, which counts once, with the first of them.
            counts = ids[0] == node.id and study.by_id.keys() >= set(ids)
            if not counts or steps <= 0:
                continue
            task = Task(tuple(study.by_id[each] for each in ids))
            done += steps / node.config.solver.iterations * sizes.work(task)
            seconds += session["seconds"]
            name = session.get("gpu") or session.get("processor")
            machines.add(f"{name}, {counted(session['threads'], 'thread')}")
            count += 1
    if not done or not seconds:
        return None
    where = "; ".join(sorted(machines))
    source = f"{counted(count, 'run')} in {study.folder} ({where})"
    return Rate(done / sizes.unit / seconds, source)


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
