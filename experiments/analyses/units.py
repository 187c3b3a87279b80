"""Pieces of analyses: one net or pair of nets each, done once and kept as rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.devices.device import Device
from minicnn.results.analyses import measures
from minicnn.results.analyses.nets import Net, blended, distances
from minicnn.training.run import Run

Row = dict[str, Any]
GRID = 3
"""Cells a side that a convolutional layer's features are pooled to, for probes and
LogME."""
POINTS = 11
"""Of a line between two nets, the ends included."""
FRESH = 2**31
"""Added to a seed, for weights that no training began with."""


@dataclass(frozen=True)
class Budget:
    """Images that an analysis looks at, at most.

    Attributes:
        val: validation images for scores, CKA and lines.
        train: training images for probes and LogME.
    """

    val: int = 2000
    train: int = 5000


@dataclass(frozen=True)
class Group:
    """The finished runs of one split and seed, by name: they share data and bases."""

    folder: Path
    runs: dict[str, Run]

    @property
    def name(self) -> str:
        """Of the folder that the run folders lie in."""
        return self.folder.name

    def base(self, task: str) -> Run | None:
        """The base of a task."""
        return self.runs.get(f"base{task}")

    def source(self, run: Run) -> Run | None:
        """The base that a run copied from."""
        return self.base(run.about["source"])

    def of_kind(self, *kinds: str) -> list[Run]:
        """Its runs of some treatments, by name."""
        each = (run for _, run in sorted(self.runs.items()))
        return [run for run in each if run.about["treatment"] in kinds]

    def with_source(self, *kinds: str) -> Iterator[list[Run]]:
        """Runs of some treatments, each before the base that it copied from."""
        for run in self.of_kind(*kinds):
            base = self.source(run)
            if base or run.about["treatment"] == "base":
                yield [run, base] if base else [run]


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        analysis: whose.
        name: within it.
        runs: whose weights decide the rows.
        settings: what else does.
        work: makes the rows.
    """

    analysis: str
    name: str
    runs: tuple[Run, ...]
    settings: Row
    work: Callable[[], list[Row]]

    @cached_property
    def key(self) -> str:
        """Of all that decides its rows."""
        weights = [run.result["weights_sha256"] for run in self.runs if run.result]
        text = json.dumps([self.analysis, weights, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def about(run: Run) -> Row:
    """The columns that say which net a row is of."""
    names = ("split", "seed", "treatment", "source", "target", "n")
    return {"net": run.name} | {name: run.about[name] for name in names}


class Analyst:
    """The units of groups of runs.

    Args:
        store: path of the image store; None takes the runs' own.
    """

    def __init__(
        self, groups: Sequence[Group], dev: Device, budget: Budget, store: Path | None
    ) -> None:
        self.groups, self.dev, self.budget, self.store = groups, dev, budget, store

    def net(self, run: Run) -> Net:
        """The run on the device."""
        return Net(run, self.dev, self.store)

    def units(self, analyses: Sequence[str]) -> Iterator[Unit]:
        """Those of some analyses, all that the runs there are allow."""
        for name in analyses:
            for group in self.groups:
                yield from getattr(self, f"_{name}")(group)
        if "cka" in analyses:
            yield from self._two_seeds()

    def _unit(
        self, analysis: str, group: str, runs: Sequence[Run], work: Callable[..., Any]
    ) -> Unit:
        name = f"{group}/{'-'.join(run.name for run in runs)}"
        settings = asdict(self.budget)
        return Unit(analysis, name, tuple(runs), settings, lambda: work(*runs))

    # --- Linear probes --------------------------------------------------------------

    def _probe(self, group: Group) -> Iterator[Unit]:
        bases = group.of_kind("base")
        for base in bases:
            for task in bases:
                yield self._unit("probe", group.name, [base, task], self._probed)

    def _probed(self, base: Run, task: Run) -> list[Row]:
        net = self.net(base)
        layers = net.layers[:-1]
        train = net.images(task, "train", self.budget.train)
        val = net.images(task, "val", self.budget.val)
        x, labels = net.features(train, layers, GRID)
        other, answers = net.features(val, layers, GRID)
        own = base.about["target"] == task.about["target"]
        common = about(base) | {"task": task.about["target"], "own": own}
        return [
            common
            | {"layer": n}
            | measures.probe(x.pop(n), labels, other.pop(n), answers)
            for n in layers
        ]

    # --- Layers set back --------------------------------------------------------------

    def _reset(self, group: Group) -> Iterator[Unit]:
        for runs in group.with_source("base", "transfer+"):
            yield self._unit("reset", group.name, runs, self._were_reset)

    def _were_reset(self, run: Run, base: Run | None = None) -> list[Row]:
        net = self.net(run)
        images = net.images(run, "val", self.budget.val)
        start = net.start(base)
        net.network.draw(run.about["seed"] + FRESH)
        fresh = net.network.tensors()
        net.network.load(net.weights)
        trained = net.score(images)["top1"]
        rows = []
        for layer in net.layers:
            for how, weights in ("start", start), ("fresh", fresh):
                names = [p.name for p in net.network.params if p.index == layer]
                changed = {name: weights[name] for name in names}
                net.network.load({**net.weights, **changed})
                top1 = net.score(images)["top1"]
                found = {"layer": layer, "to": how, "top1": top1}
                rows.append(about(run) | found | {"change": top1 - trained})
        return rows

    # --- Similarity -------------------------------------------------------------------

    def _cka(self, group: Group) -> Iterator[Unit]:
        bases = group.of_kind("base")
        if len(bases) == 2:
            yield self._unit("cka", group.name, bases, self._compared("bases A and B"))
        for run in group.of_kind("transfer+"):
            if base := group.base(run.about["target"]):
                work = self._compared("base B and AnB+")
                yield self._unit("cka", group.name, [base, run], work)

    def _two_seeds(self) -> Iterator[Unit]:
        """Bases of the same task of one split, trained from different seeds."""
        bases = [base for group in self.groups for base in group.of_kind("base")]
        for i, first in enumerate(bases):
            for second in bases[i + 1 :]:
                same = [first.about[k] == second.about[k] for k in ("split", "target")]
                if all(same) and first.about["seed"] != second.about["seed"]:
                    seeds = f"seeds-{first.about['seed']}-{second.about['seed']}"
                    group = f"{first.about['split']}-{seeds}"
                    work = self._compared("two seeds of a base")
                    yield self._unit("cka", group, [first, second], work)

    def _compared(self, pair: str) -> Callable[[Run, Run], list[Row]]:
        def work(first: Run, second: Run) -> list[Row]:
            one, two = self.net(first), self.net(second)
            layers = one.layers
            batches = (
                net.batches(net.images(second, "val", self.budget.val))
                for net in (one, two)
            )
            found = measures.cka(
                ([x[n] for n in layers], [y[n] for n in layers])
                for (x, _), (y, _) in zip(*batches, strict=True)
            )
            common = about(second) | {"pair": pair, "with": first.name}
            return [
                common | {"row": a, "column": b, "cka": float(found[i, j])}
                for i, a in enumerate(layers)
                for j, b in enumerate(layers)
            ]

        return work

    # --- Lines ------------------------------------------------------------------------

    def _line(self, group: Group) -> Iterator[Unit]:
        for run in group.of_kind("transfer+", "selffer+"):
            if base := group.base(run.about["target"]):
                yield self._unit("line", group.name, [base, run], self._along)

    def _along(self, base: Run, run: Run) -> list[Row]:
        net, start = self.net(run), base.checkpoint.weights
        images = net.images(run, "val", self.budget.val)
        rows = []
        for share in np.linspace(0, 1, POINTS).tolist():
            net.network.load(blended(start, net.weights, share))
            net.subtract((1 - share) * base.mean + share * run.mean)
            rows.append(about(run) | {"share": round(share, 6)} | net.score(images))
        height = measures.barrier([row["loss"] for row in rows])
        return [row | {"barrier": height} for row in rows]

    # --- Distance ---------------------------------------------------------------------

    def _distance(self, group: Group) -> Iterator[Unit]:
        for runs in group.with_source("base", "transfer+", "selffer+"):
            yield self._unit("distance", group.name, runs, self._moved)

    def _moved(self, run: Run, base: Run | None = None) -> list[Row]:
        net = self.net(run)
        far = distances(net.network, net.weights, net.start(base))
        return [
            about(run)
            | {"layer": n, "copied": n <= run.about["n"], "distance": distance}
            for n, distance in far.items()
        ]

    # --- LogME ------------------------------------------------------------------------

    def _logme(self, group: Group) -> Iterator[Unit]:
        for target in group.of_kind("base"):
            task = target.about["target"]
            frozen = group.of_kind("transfer")
            frozen = [run for run in frozen if run.about["target"] == task]
            frozen.sort(key=lambda run: run.about["n"])
            if len(frozen) > 1 and (source := group.source(frozen[0])):
                runs = [source, target, *frozen]
                yield self._unit("logme", group.name, runs, self._ranked)

    def _ranked(self, source: Run, target: Run, *frozen: Run) -> list[Row]:
        net = self.net(source)
        depths = [run.about["n"] for run in frozen]
        images = net.images(target, "train", self.budget.train)
        features, labels = net.features(images, depths, GRID)
        scores = [measures.logme(features[n], labels) for n in depths]
        measured = [run.result["top1"] for run in frozen if run.result]
        tau = measures.kendall(scores, measured)
        rows = zip(frozen, depths, scores, measured, strict=True)
        return [
            about(run) | {"layer": n, "logme": score, "top1": top1, "tau": tau}
            for run, n, score, top1 in rows
        ]
