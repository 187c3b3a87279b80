"""What the engines share: what is left to do, who failed, what is said of it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress, duration
from minicnn.devices.device import NAMES, cuda_count
from minicnn.experiments.study.folder import State, Study
from minicnn.experiments.study.graph import Node
from minicnn.experiments.study.tasks import Queue, Task

EVERY = 60.0
"""Seconds between plain lines of progress."""


@dataclass(frozen=True)
class Workers:
    """Where the commands run.

    Attributes:
        jobs: commands at a time.
        threads: CPU threads of each.
        device: what each is told by --device.
        gpus: for CUDA_VISIBLE_DEVICES, shared out among the jobs; none on a CPU.
    """

    jobs: int
    threads: int
    device: str
    gpus: tuple[str, ...] = ()


def check_counts(jobs: int | None, threads: int | None) -> None:
    """Refuses less than one job or thread."""
    for name, value in (("jobs", jobs), ("threads-per-job", threads)):
        if value is not None and value < 1:
            raise MinicnnError(f"--{name} {value}: must be at least 1")


def plan_workers(
    device: str = "auto",
    jobs: int | None = None,
    threads: int | None = None,
    gpus: Sequence[str] | None = None,
) -> Workers:
    """Shares this machine out.

    Args:
        device: as --device takes it.
        jobs: commands at a time; None takes one a GPU, and on the CPU as many as the
            cores have threads for, by default one a core: a thread each trains more in
            all than all threads on one.
        threads: of each; None takes an equal share of the cores.
        gpus: as CUDA_VISIBLE_DEVICES names them; None asks the system.

    Raises:
        MinicnnError: less than one job or thread, or there is no such device.
    """
    check_counts(jobs, threads)
    kind, colon, index = device.partition(":")
    if kind not in NAMES or (colon and (kind != "cuda" or not index.isdigit())):
        raise MinicnnError(
            f"--device {device}: unknown; choose auto, cpu, cuda, cuda:N or emulated"
        )
    found = tuple(visible_gpus() if gpus is None else gpus)
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


@dataclass
class Outcome:
    """How a call of an engine ended.

    Attributes:
        done: ids of nets that were trained now.
        failed: what each failed net said last, by id.
        waiting: ids of nets whose base failed.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)


class Ledger:
    """Keeps count of a call's nets: progress, a line for each that ends, the outcome.

    Args:
        study: the study folder.
        nodes: all that were asked for, finished ones too.
    """

    def __init__(self, study: Study, nodes: Sequence[Node]) -> None:
        self.study, self.nodes = study, nodes
        self.outcome = Outcome()
        self.finished = {node.id for node in nodes if study.finished(node)}
        self._seen = {node.id: self._images(node) for node in nodes}

    @cached_property
    def bar(self) -> Progress:
        """All nets' progress; it begins when an engine first asks for it."""
        total = sum(node.images for node in self.nodes)
        begun = sum(self._seen.values())
        return Progress(total, "images", self.study.name, begun, EVERY)

    def _images(self, node: Node) -> int:
        """Images that a net was trained on so far."""
        if node.id in self.finished:
            return node.images
        return self.study.step(node) * node.config.solver.batch

    def count(self, running: Sequence[Task]) -> None:
        """Looks how far the running nets are."""
        grown = 0
        for node in (node for task in running for node in task.nodes):
            now = self._images(node)
            grown += now - self._seen[node.id]
            self._seen[node.id] = now
        self.bar.update(grown, f"{len(self.finished)} of {len(self.nodes)} nets")

    def begin(self, task: Task) -> None:
        """A task is about to start."""
        for node in task.nodes:
            self.study.forget_failure(node)

    def end(self, task: Task, seconds: float, error: str) -> bool:
        """A task's command has ended.

        Args:
            error: what it said, in case that it did not do its work.

        Returns:
            Whether all of its nets are finished.
        """
        together, took = len(task.nodes) > 1, duration(seconds)
        for node in task.nodes:
            if self.study.finished(node):
                self._done(node, "" if together else f", {took}")
            else:
                self._fail(node, task, error)
        self.count([task])
        complete = all(node.id in self.finished for node in task.nodes)
        if together and complete:
            self.bar.message(f"{task.id}: these {len(task.nodes)} in one pass, {took}")
        return complete

    def _done(self, node: Node, took: str) -> None:
        self.finished.add(node.id)
        self.outcome.done.append(node.id)
        top1 = self.study.state(node, frozenset([node.id])).top1
        place = f"{len(self.finished)} of {len(self.nodes)}"
        self.bar.message(f"{node.id}: top-1 {top1:.1%}{took} ({place})")

    def _fail(self, node: Node, task: Task, error: str) -> None:
        self.outcome.failed[node.id] = error
        log = self.study.log(task.id)
        self.study.note_failure(node, error, log)
        self.bar.message(f"{node.id}: FAILED: {error} (all it said: {log})")


class Engine(ABC):
    """What trains tasks.

    Args:
        study: the study folder, held by its lock.
        ledger: of the nets that were asked for.
        tasks: what is left to do.
        work: how long each takes, in any unit.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        tasks: Sequence[Task],
        work: Callable[[Task], float],
    ) -> None:
        self.study, self.ledger = study, ledger
        self.queue = Queue(tasks, work, set(ledger.finished))

    @abstractmethod
    def run(self) -> Outcome:
        """Trains all that can be trained.

        Raises:
            Stopped: by Ctrl-C or SIGTERM; every net has saved.
        """


def summary(
    outcome: Outcome, nodes: Sequence[Node], states: Mapping[str, State]
) -> str:
    """How a call ended, in a line."""
    finished = sum(states[node.id].state == "done" for node in nodes)
    parts = [f"{finished} of {len(nodes)} nets are done"]
    parts += [f"{len(outcome.failed)} failed"] * bool(outcome.failed)
    if outcome.waiting:
        parts.append(f"{len(outcome.waiting)} wait for a base that failed")
    again = "; the same command tries them again" * bool(outcome.failed)
    return ", ".join(parts) + again + "."


def visible_gpus() -> list[str]:
    """This process's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    count = cuda_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named[0] else [str(index) for index in range(count)]
