"""What the engines share: what is left to do, who failed, what is said of it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.base.files import write_json
from minicnn.base.progress import Progress, duration
from minicnn.devices.device import NAMES, cuda_count
from minicnn.experiments.study.folder import State, Study, last_step
from minicnn.experiments.study.graph import Node
from minicnn.experiments.study.tasks import Queue, Task

EVERY = 60.0
"""Seconds between plain lines of progress."""


@dataclass(frozen=True)
class Workers:
    """Where the commands run: so many at a time, each on so many CPU threads.

    Attributes:
        device: what each is told by --device.
        gpus: for CUDA_VISIBLE_DEVICES, shared out among the jobs; none on a CPU.
    """

    jobs: int
    threads: int
    device: str
    gpus: tuple[str, ...] = ()


def plan_workers(
    device: str = "auto", jobs: int | None = None, threads: int | None = None
) -> Workers:
    """Shares this machine out.

    Args:
        device: as --device takes it.
        jobs: commands at a time; None takes one a GPU, and on the CPU as many as the
            cores have threads for, by default one a core: a thread each trains more in
            all than all threads on one.
        threads: of each; None takes an equal share of the cores.

    Raises:
        MinicnnError: there is no such device.
    """
    kind, colon, index = device.partition(":")
    if kind not in NAMES or (colon and (kind != "cuda" or not index.isdigit())):
        raise MinicnnError(
            f"--device {device}: unknown; choose auto, cpu, cuda, cuda:N or emulated"
        )
    count = cuda_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    found = tuple(named[:count] if named[0] else map(str, range(count)))
    if kind in ("cpu", "emulated"):
        found = ()
    elif kind == "cuda" and int(index or 0) >= len(found):
        raise MinicnnError(
            f"--device {device}: {len(found)} GPUs answer here; 'minicnn doctor' says "
            "what is missing"
        )
    elif index:
        found = (found[int(index)],)
    cores = available_cores()
    jobs = jobs or len(found) or max(1, cores // (threads or 1))
    threads = threads or max(1, cores // jobs)
    if kind == "auto":
        kind = "cuda" if found else "cpu"
    return Workers(jobs, threads, kind, found)


class Engine(ABC):
    """What trains tasks: progress, a line for each net that ends, and what came of it.

    Args:
        study: held by its lock while it runs.
        nodes: that were asked for, and their bases.
        finished: ids of those that are done.
        tasks: what is left to do.
        work: how long each takes, in any unit.

    Attributes:
        failed: what each failed net said last, by id.
        waiting: ids of nets whose base failed.
    """

    workers: Workers

    def __init__(
        self,
        study: Study,
        nodes: Sequence[Node],
        finished: set[str],
        tasks: Sequence[Task],
        work: Callable[[Task], float],
    ) -> None:
        self.study, self.nodes, self.finished = study, nodes, finished
        self.failed: dict[str, str] = {}
        self.waiting: list[str] = []
        self.queue = Queue(tasks, work, finished)
        self._seen = {node.id: self._images(node) for node in self.nodes}

    @abstractmethod
    def run(self) -> None:
        """Trains all that can be trained.

        Raises:
            Stopped: by Ctrl-C or SIGTERM; every net has saved.
        """

    def summary(self, states: Mapping[str, State]) -> str:
        """How it ended, in a line."""
        finished = sum(states[node.id].state == "done" for node in self.nodes)
        parts = [f"{finished} of {len(self.nodes)} nets are done"]
        parts += [f"{len(self.failed)} failed"] * bool(self.failed)
        if self.waiting:
            parts.append(f"{len(self.waiting)} wait for a base that failed")
        again = "; the same command tries them again" * bool(self.failed)
        return ", ".join(parts) + again + "."

    @cached_property
    def bar(self) -> Progress:
        """All nets' progress; it begins when an engine first asks for it."""
        total = sum(node.images for node in self.nodes)
        begun = sum(self._seen.values())
        return Progress(total, "images", self.study.name, begun, EVERY)

    def command(self, task: Task) -> dict[str, Any]:
        """What `Child` takes to run a task."""
        study, workers = self.study, self.workers
        return {
            "arguments": task.arguments(study, workers.device, workers.threads),
            "folders": [study.run(node).resolve() for node in task.nodes],
            "failures": [study.failure(node).resolve() for node in task.nodes],
            "log": study.log(task.id).resolve(),
            "threads": workers.threads,
        }

    def _images(self, node: Node) -> int:
        """Images that a net was trained on so far."""
        if node.id in self.finished:
            return node.images
        return last_step(self.study.run(node)) * node.config.solver.batch

    def count(self, running: Sequence[Task]) -> None:
        """Looks how far the running nets are."""
        grown = 0
        for node in (node for task in running for node in task.nodes):
            now = self._images(node)
            grown += now - self._seen[node.id]
            self._seen[node.id] = now
        self.bar.update(grown, f"{len(self.finished)} of {len(self.nodes)} nets")

    def end(self, task: Task, seconds: float, error: str) -> None:
        """A task's command has ended.

        Args:
            error: what it said, in case that it did not do its work.
        """
        together, took = len(task.nodes) > 1, duration(seconds)
        log, alone = str(self.study.log(task.id)), "" if together else f", {took}"
        for node in task.nodes:
            if self.study.finished(node):
                self.finished.add(node.id)
                top1 = self.study.state(node, self.finished).top1
                place = f"{len(self.finished)} of {len(self.nodes)}"
                self.bar.message(f"{node.id}: top-1 {top1:.1%}{alone} ({place})")
                continue
            self.failed[node.id] = error
            write_json(self.study.failure(node), {"error": error, "log": log})
            self.bar.message(f"{node.id}: FAILED: {error} (all it said: {log})")
        self.count([task])
        if together and all(node.id in self.finished for node in task.nodes):
            self.bar.message(f"{task.id}: these {len(task.nodes)} in one pass, {took}")
