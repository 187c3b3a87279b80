"""The local engine: the commands of a study as processes on this machine."""

from __future__ import annotations

import time
from typing import Any

from minicnn.base.errors import Stopped
from minicnn.base.interrupt import Interrupt
from minicnn.experiments.study.child import Child
from minicnn.experiments.study.engine import Engine, Workers
from minicnn.experiments.study.tasks import Task

POLL = 0.05
"""Seconds between looks at the processes."""
LOOK = 1.0
"""Seconds between looks at the metrics of running nets."""


class LocalEngine(Engine):
    """Runs tasks, each as a process of its own, some at a time."""

    def __init__(self, workers: Workers, *given: Any) -> None:
        super().__init__(*given)
        self.workers = workers
        self.running: dict[int, tuple[Task, Child, float]] = {}
        self._looked = time.monotonic()

    def run(self) -> None:
        """As of all engines."""
        with Interrupt() as interrupt, self.bar:
            try:
                while not interrupt.requested and self._fill():
                    self._look(interrupt)
                names = ", ".join(task.id for task, _, _ in self.running.values())
                if names:
                    self.bar.message(f"Stopping; {names} will save first.")
            finally:
                for _, child, _ in self.running.values():
                    child.stop()
            while self.running:
                self._look(interrupt)
        if interrupt.requested:
            raise Stopped(interrupt.signal_name)
        self.waiting = [node.id for task in self.queue.left for node in task.nodes]

    def _fill(self) -> bool:
        """Starts what is ready on what is free; whether anything runs."""
        gpus = self.workers.gpus
        for slot in range(self.workers.jobs):
            if slot not in self.running and (task := self.queue.take()):
                gpu = gpus[slot % len(gpus)] if gpus else None
                child = Child(**self.command(task), gpu=gpu)
                self.running[slot] = task, child, time.monotonic()
        return bool(self.running)

    def _look(self, interrupt: Interrupt) -> None:
        """Waits a little, and takes note of what has ended and how far the rest is."""
        time.sleep(POLL)
        for slot, (task, child, began) in list(self.running.items()):
            if child.status() is None:
                continue
            del self.running[slot]
            finished = all(map(self.study.finished, task.nodes))
            if finished or not interrupt.requested:
                error = "" if finished else child.error()
                self.end(task, time.monotonic() - began, error)
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self.count([task for task, _, _ in self.running.values()])
