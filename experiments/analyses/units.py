"""Pieces of analyses: one net or pair of nets each, done once and kept as rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.data.store import Store
from minicnn.devices.device import Device
from minicnn.results.analyses import measures
from minicnn.results.analyses.nets import Net, blended, distances, final_weights
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
    """The finished runs of one split and seed, by name: they share data and bases.

    Attributes:
        folder: that the run folders lie in.
    """

    folder: Path
    runs: dict[str, Run]

    def source(self, run: Run) -> Run | None:
        """The base that a run copied from."""
        return self.runs.get(f"base{run.about['source']}")

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

    def with_target(self, *kinds: str) -> Iterator[list[Run]]:
        """Runs of some treatments, each after the base of its task."""
        for run in self.of_kind(*kinds):
            if base := self.runs.get(f"base{run.about['target']}"):
                yield [base, run]


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        analysis: whose.
        name: within it.
        key: of all that decides its rows: weights, budget, a store not the runs' own.
        work: makes the rows.
    """

    analysis: str
    name: str
    key: str
    work: Callable[[], list[Row]]


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
        self.identity = Store(store).identity if store else ""

    def net(self, run: Run) -> Net:
        return Net(run, self.dev, self.store)

    def units(self, analyses: Sequence[str]) -> Iterator[Unit]:
        """Those of some analyses, all that the runs there are allow."""
        for name in analyses:
            runs_of, work = getattr(self, f"_{name}_of"), getattr(self, f"_{name}")
            for group in self.groups:
                for runs in runs_of(group):
                    yield self._unit(name, group.folder.name, runs, work)
        if "cka" in analyses:
            for first, second in self._two_seeds():
                seeds = f"seeds-{first.about['seed']}-{second.about['seed']}"
                place = f"{first.about['split']}-{seeds}"
                yield self._unit("cka", place, [first, second], self._cka)

    def _unit(
        self, analysis: str, group: str, runs: Sequence[Run], work: Callable[..., Any]
    ) -> Unit:
        of = [run.result["weights_sha256"] for run in runs if run.result]
        if self.identity not in ("", *(run.about["store_identity"] for run in runs)):
            of.append(self.identity)
        decides = json.dumps([analysis, of, asdict(self.budget)], sort_keys=True)
        key = hashlib.sha256(decides.encode()).hexdigest()[:16]
        name = f"{group}/{'-'.join(run.name for run in runs)}"
        return Unit(analysis, name, key, lambda: work(*runs))

    def _probe_of(self, group: Group) -> Iterator[Sequence[Run]]:
        return product(group.of_kind("base"), repeat=2)

    def _probe(self, base: Run, task: Run) -> list[Row]:
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

    def _reset_of(self, group: Group) -> Iterator[Sequence[Run]]:
        return group.with_source("base", "transfer+")

    def _reset(self, run: Run, base: Run | None = None) -> list[Row]:
        net = self.net(run)
        images = net.images(run, "val", self.budget.val)
        start = net.start(base)
        other = run.network(net.dev)  # of its own: on the host tensors are no copies
        other.draw(run.about["seed"] + FRESH)
        fresh = other.tensors()
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

    def _cka_of(self, group: Group) -> Iterator[Sequence[Run]]:
        bases = group.of_kind("base")
        if len(bases) == 2:
            yield bases
        yield from group.with_target("transfer+")

    def _two_seeds(self) -> Iterator[Sequence[Run]]:
        """Bases of the same task of one split, trained from different seeds."""
        bases = [base for group in self.groups for base in group.of_kind("base")]
        for pair in combinations(bases, 2):
            tasks = [(base.about["split"], base.about["target"]) for base in pair]
            seeds = {base.about["seed"] for base in pair}
            if tasks[0] == tasks[1] and len(seeds) == 2:
                yield pair

    def _cka(self, first: Run, second: Run) -> list[Row]:
        pair = "base B and AnB+"
        if second.about["treatment"] == "base":
            same = first.about["target"] == second.about["target"]
            pair = "two seeds of a base" if same else "bases A and B"
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

    def _line_of(self, group: Group) -> Iterator[Sequence[Run]]:
        return group.with_target("transfer+", "selffer+")

    def _line(self, base: Run, run: Run) -> list[Row]:
        net, start = self.net(run), final_weights(base)
        images = net.images(run, "val", self.budget.val)
        rows = []
        for share in np.linspace(0, 1, POINTS).tolist():
            net.network.load(blended(start, net.weights, share))
            net.subtract((1 - share) * base.mean + share * run.mean)
            rows.append(about(run) | {"share": round(share, 6)} | net.score(images))
        height = measures.barrier([row["loss"] for row in rows])
        return [row | {"barrier": height} for row in rows]

    def _distance_of(self, group: Group) -> Iterator[Sequence[Run]]:
        return group.with_source("base", "transfer+", "selffer+")

    def _distance(self, run: Run, base: Run | None = None) -> list[Row]:
        net = self.net(run)
        far = distances(net.network, net.weights, net.start(base))
        return [
            about(run)
            | {"layer": n, "copied": n <= run.about["n"], "distance": distance}
            for n, distance in far.items()
        ]

    def _logme_of(self, group: Group) -> Iterator[Sequence[Run]]:
        for target in group.of_kind("base"):
            task, pairs = target.about["target"], group.with_source("transfer")
            frozen = [pair for pair in pairs if pair[0].about["target"] == task]
            if len(frozen) > 1:
                yield [frozen[0][1], target, *(run for run, _ in frozen)]

    def _logme(self, source: Run, target: Run, *frozen: Run) -> list[Row]:
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
