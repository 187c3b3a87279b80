"""How long each op of a training step takes, and how near that is to the roofline.

A step runs once as in training, on random images, and every call of an op in it is
kept. Then each call is repeated alone, with the very same arrays, and its median time
taken; at last the whole step. On a CPU, whose speed wanders, all that is done five
times, ceilings with it, and the best counts: other programs only slow it down.
`roofline` says what is counted, a device's meter how it is timed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from minicnn.base import precision as precisions
from minicnn.base.config import SolverConfig
from minicnn.base.errors import MinicnnError, counted
from minicnn.base.progress import Progress
from minicnn.data.loader import Batch
from minicnn.devices.device import Device
from minicnn.devices.meter import Ceilings
from minicnn.devices.recording import RecordedStep
from minicnn.experiments.bench.roofline import cost
from minicnn.experiments.printing import columns
from minicnn.nn.architectures import Architecture
from minicnn.nn.layers import Context, Layer
from minicnn.nn.network import Network
from minicnn.ops import Op
from minicnn.training.environment import describe
from minicnn.training.solver import Solver
from minicnn.training.trainer import Inputs

Record = dict[str, Any]
OUTPUTS = 1000
# Images of a step unless asked for otherwise: what a device manages in about a minute.
BATCHES = {"cpu": 16, "emulated": 1}
BATCH = 256
# Rounds of ceilings, all ops and the step; 1 elsewhere.
ROUNDS = {"cpu": 5}
# Calls of an op in one record: in a step, too, threads go from loop to loop.
TOGETHER = 8
NOTES = {
    "cpu": "caches are not flushed, so small arrays may pass 100 % of the roofline",
    "emulated": "the emulator's times say nothing about a GPU; caches are not flushed",
}
NOTE = "CUDA events, level-2 cache flushed before each op"


@dataclass
class Call:
    """One call of an op in a step: where in the network, and all that it was given."""

    place: str
    op: Op
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """Module and op, such as "conv.forward"."""
        return f"{self.op.__module__.rpartition('.')[2]}.{self.op.__name__}"


def bench(
    dev: Device,
    arch: str = "caffenet",
    batch: int | None = None,
    precision: str = "fp32",
) -> Record:
    """Measures a training step of a network of 1000 classes.

    Args:
        batch: images; None takes 256, fewer on a CPU.
        precision: "fp32", "tf32x3", "tf32", "bf16" or "fp64".

    Returns:
        For JSON. "rows": of each op the place in the network, the "seconds" of a
        call, "gflop" and "gbyte" that it must do and move, and the "share" of the
        roofline, 0 to 1. "step": seconds of a whole step whose images are on the
        device; "upload": of one that also copies them from the host.

    Raises:
        MinicnnError: no such architecture or precision, or the batch does not fit.
    """
    batch = BATCHES.get(dev.name, BATCH) if batch is None else batch
    if batch < 1:
        raise MinicnnError(f"--batch {batch}: must be at least 1")
    step = Step(dev, arch, batch, precision)
    meter = dev.meter()
    with np.errstate(all="ignore"):
        calls = step.recorded()
        works = [_repeatable(dev, call) for call in calls]
        for _ in range(3):  # eager, recorded, and from the record
            step.resident()
        ceilings, times = [], []
        rounds = ROUNDS.get(dev.name, 1)
        title = f"bench {arch}, batch {batch}"
        with Progress(rounds * len(calls), "ops", title) as bar:
            for _ in range(rounds):
                ceilings.append(meter.ceilings(step.network.precision))
                for call, (work, number) in zip(calls, works, strict=True):
                    times.append(meter.seconds(work) / number)
                    bar.update(1, call.place)
                for whole in step.resident, step.whole:
                    times.append(meter.seconds(whole, cold=False))
    *seconds, resident, uploading = np.min(np.reshape(times, (rounds, -1)), axis=0)
    flops, moved = np.max([(c.flops, c.bytes) for c in ceilings], axis=0)
    best = Ceilings(flops, moved, ceilings[0].precision)
    rows = []
    for call, taken in zip(calls, seconds, strict=True):
        spent = cost(call.op, call.arguments)
        done = {"gflop": spent.flops / 1e9, "gbyte": spent.bytes / 1e9}
        about = {"place": call.place, "op": call.name, "seconds": taken}
        rows.append({**about, **done, "share": best.share(spent, taken)})
    return {
        "arch": arch,
        "batch": batch,
        "precision": precision,
        "note": NOTES.get(dev.name, NOTE),
        "ceilings": asdict(best),
        "rows": rows,
        "step": resident,
        "upload": uploading,
        "environment": describe(dev),
        "images_per_second": batch / resident,
    }


class Step:
    """A training step on random images that can be repeated without end.

    Args:
        lr: the rate; 0 changes no time, and leaves the weights as they are.
        seed: of the weights; None draws none, for those who look at launches alone.
    """

    def __init__(
        self,
        dev: Device,
        arch: str | Architecture,
        batch: int,
        precision: str = "fp32",
        lr: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        self.dev = dev
        how = precisions.get(precision)
        self.network = Network(arch, OUTPUTS, dev, seed, how)
        self.solver = Solver(self.network, SolverConfig(lr=lr, batch=batch))
        self.network.plan(batch)
        rng = np.random.default_rng(0)
        size, crop = self.network.arch.size, self.network.arch.crop
        shape = (size, size, 3)
        mean = rng.uniform(0, 255, shape).astype(np.float32)
        self.inputs = Inputs(self.network, mean, batch)
        images = dev.host_empty((batch, *shape), np.uint8)
        images[...] = rng.integers(0, 256, images.shape, dtype=np.uint8)
        self.batch = Batch(
            images=images,
            rows=np.full(batch, -1),
            labels=rng.integers(0, OUTPUTS, batch, dtype=np.int32),
            top=rng.integers(0, size - crop + 1, batch),
            left=rng.integers(0, size - crop + 1, batch),
            mirror=rng.integers(0, 2, batch).astype(bool),
        )
        self.totals = dev.zeros((3,), np.float64)
        self.context = Context.training(dev, seed=0)
        self.repeated = RecordedStep(dev)

    def recorded(self) -> list[Call]:
        """The calls of a step, in order; the step itself is a warm-up."""
        with _recording(self.network.layers) as calls:
            self.x, self.labels = self.inputs.fill(self.batch)
            self._train()
        self._augment = calls[0]
        return calls

    def whole(self) -> None:
        """Copies images to the device, augments, trains."""
        self.x, self.labels = self.inputs.fill(self.batch)
        self.repeated("step", self._train)

    def resident(self) -> None:
        """Augments the images that lie on the device, and trains."""
        self._augment.op(self.dev, **self._augment.arguments)
        self.repeated("step", self._train)

    def _train(self) -> None:
        self.network.forward(self.x, self.context)
        self.network.score(self.labels, self.totals, gradient=True)
        self.network.backward()
        self.solver.update()


@contextmanager
def _recording(layers: list[Layer]) -> Iterator[list[Call]]:
    """Keeps every call of an op, with the layer that makes it.

    An op's form may call other ops: those calls are part of its own.
    """
    calls: list[Call] = []
    place, inside = "", False
    original = Op.__call__

    def kept(self: Any, dev: Device, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return original(self, dev, *args, **kwargs)
        given = inspect.signature(self.forms).bind(dev, *args, **kwargs)
        given.apply_defaults()
        arguments = {k: v for k, v in given.arguments.items() if k != "dev"}
        calls.append(Call(place, self, arguments))
        inside = True
        try:
            return original(self, dev, *args, **kwargs)
        finally:
            inside = False

    def named(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            nonlocal place
            place = name
            made = method(*args)
            place = ""
            return made

        return called

    for layer in layers:
        layer.forward = named(layer.spec.name, layer.forward)  # type: ignore
        layer.backward = named(layer.spec.name, layer.backward)  # type: ignore
    Op.__call__ = kept  # type: ignore
    try:
        yield calls
    finally:
        Op.__call__ = original  # type: ignore
        for layer in layers:
            del layer.forward, layer.backward


def _repeatable(dev: Device, call: Call) -> tuple[Callable[[], object], int]:
    """The call alone, and how many that makes; on the host as a recorded step does it.

    Repeated, an op finds the same numbers, but that dropout in place scales what it
    keeps again and again, which takes no longer.
    """
    work = partial(call.op, dev, **call.arguments)
    many = dev.on_host and dev.record(lambda: [work() for _ in range(TOGETHER)])
    return (many, TOGETHER) if many else (work, 1)


def table(report: Record) -> str:
    """The report for people."""
    about, ceilings, rows = (report[k] for k in ("environment", "ceilings", "rows"))
    name = about.get("gpu") or about["processor"]
    measured = [f"{_number(ceilings['bytes'] / 1e9)} GB/s copy"]
    if math.isfinite(ceilings["flops"]):
        rate = _number(ceilings["flops"] / 1e9)
        measured.append(f"{rate} GFLOP/s product in {ceilings['precision']}")
    total = sum(row["seconds"] for row in rows)
    gflop = sum(row["gflop"] for row in rows)
    share = sum(row["share"] * row["seconds"] for row in rows) / total
    whole = {"place": "", "op": "sum of the ops", "seconds": total, "gflop": gflop}
    lines = []
    for row in (*rows, {**whole, "gbyte": 0.0, "share": share}):
        seconds = row["seconds"]
        lines.append(
            {
                "layer": row["place"],
                "op": row["op"],
                "ms": f"{seconds * 1e3:.3f}",
                "of sum": f"{seconds / total:.1%}",
                "GFLOP/s": _number(row["gflop"] / seconds) if row["gflop"] else "",
                "GB/s": _number(row["gbyte"] / seconds) if row["gbyte"] else "",
                "roofline": f"{row['share']:.0%}",
            }
        )

    def step(what: str, seconds: float) -> str:
        return (
            f"Whole step, images {what}: {seconds * 1e3:.3f} ms, "
            f"{_number(report['batch'] / seconds)} images/s, "
            f"{_number(gflop / seconds)} GFLOP/s."
        )

    return (
        f"{report['arch']}, batch {report['batch']}, {report['precision']}: a training "
        f"step on device {about['device']} ({name}, "
        f"{counted(about['threads'], 'thread')}); {report['note']}.\n"
        f"Ceilings measured in this run: {', '.join(measured)}.\n\n"
        f"{columns(lines)}\n\n"
        f"{step('on the device', report['step'])}\n"
        f"{step('copied from the host', report['upload'])}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
