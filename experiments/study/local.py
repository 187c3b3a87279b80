"""The local engine: the commands of a study as processes on this machine."""

from __future__ import annotations

import time
from typing import Any

from minicnn.base.errors import Stopped
from minicnn.base.interrupt import Interrupt
from minicnn.experiments.study.child import Child
from minicnn.experiments.study.engine import Engine, Outcome, Workers
from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.tasks import Task

POLL = 0.05
"""Seconds between looks at the processes."""
LOOK = 1.0
"""Seconds between looks at the metrics of running nets."""


class LocalEngine(Engine):
    """Runs tasks, each as a process of its own, some at a time.

    Args:
        workers: where they run.
    """

    def __init__(self, *given: Any, workers: Workers) -> None:
        super().__init__(*given)
        self.workers = workers
        self.running: dict[int, tuple[Task, Child, float]] = {}

    def run(self) -> Outcome:
        """As of all engines."""
        stopping, looked = False, time.monotonic()
        with Interrupt() as interrupt, self.ledger.bar:
            try:
                while True:
                    if not interrupt.requested:
                        self._fill()
                    elif not stopping:
                        stopping = True
                        self._stop()
                    if not self.running:
                        break
                    time.sleep(POLL)
                    self._reap(interrupt.requested)
                    if time.monotonic() - looked > LOOK:
                        looked = time.monotonic()
                        self.ledger.count([t for t, _, _ in self.running.values()])
            finally:
                for _, child, _ in self.running.values():
                    child.stop()
        if interrupt.requested:
            raise Stopped(interrupt.signal_name)
        left = [node.id for task in self.queue.left for node in task.nodes]
        self.ledger.outcome.waiting = left
        return self.ledger.outcome

    def _fill(self) -> None:
        """Starts what is ready on what is free."""
        for slot in range(self.workers.jobs):
            if slot in self.running:
                continue
            task = self.queue.take()
            if task is None:
                return
            self.ledger.begin(task)
            child = start(self.study, task, self.workers, slot)
            self.running[slot] = task, child, time.monotonic()

    def _reap(self, stopping: bool) -> None:
        """Takes note of what has ended."""
        for slot, (task, child, began) in list(self.running.items()):
            status = child.status()
            if status is None:
                continue
            del self.running[slot]
            finished = all(map(self.study.finished, task.nodes))
            if stopping and not finished:
                continue
            seconds = time.monotonic() - began
            if self.ledger.end(task, seconds, "" if finished else child.error()):
                self.queue.finish(task)

    def _stop(self) -> None:
        names = ", ".join(task.id for task, _, _ in self.running.values())
        if names:
            self.ledger.bar.message(f"Stopping; {names} will save first.")
        for _, child, _ in self.running.values():
            child.stop()


def start(study: Study, task: Task, workers: Workers, slot: int = 0) -> Child:
    """Starts a task's command.

    Args:
        slot: which of the jobs it is: the GPUs are shared out among them.
    """
    gpus = workers.gpus
    return Child(
        task.arguments(study, workers.device, workers.threads),
        [study.run(node) for node in task.nodes],
        study.log(task.id),
        workers.threads,
        gpus[slot % len(gpus)] if gpus else None,
    )
