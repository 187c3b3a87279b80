"""The Ray engine: the commands of a study as tasks of a cluster.

A Ray task a command, with one GPU, or some CPUs where the cluster has no GPU; the task
of a base comes before those that copy from it. All of them find the study folder and
the store under the same paths, on a file system that the machines share. A task whose
worker dies is run again, and its net goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError, Stopped
from minicnn.base.interrupt import Interrupt
from minicnn.devices.device import NAMES
from minicnn.experiments.study.child import Child
from minicnn.experiments.study.engine import Engine, Workers
from minicnn.experiments.study.tasks import Task

RETRIES = 3
"""How often a task is run again whose worker died."""
POLL = 0.2
LOOK = 2.0
"""Seconds between looks at a process, and at the tasks and metrics."""


def load_ray() -> Any:
    """Ray, which stays silent and tells nobody that it is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MinicnnError(
            "--engine ray: Ray is not installed; install it with "
            "'pip install \"minicnn-transfer[ray]\"', or use --engine local"
        ) from None
    return ray


def train(command: dict[str, Any], *bases: dict[str, Any]) -> dict[str, Any]:
    """What a worker does: runs a command to its end.

    Args:
        command: what `Child` takes, by name.
        bases: what the tasks of the bases returned.

    Returns:
        The command's last words ("" if all went well), and the seconds it took.
    """
    if any(base["error"] for base in bases):
        return {"error": "its base is not finished", "seconds": 0.0}
    began = time.monotonic()
    child = Child(**command)
    error = ""
    try:
        while child.status() is None:
            time.sleep(POLL)
    except KeyboardInterrupt:  # the task was cancelled
        error = "stopped"
        child.stop()
        while child.status() is None:
            time.sleep(POLL)
    if child.status():
        error = error or child.error()
    return {"error": error, "seconds": time.monotonic() - began}


@dataclass(frozen=True)
class Cluster:
    """Where the tasks run.

    Attributes:
        address: of a running cluster: "auto", or HOST:PORT; None starts one here.
        device: as --device takes it; "auto" takes GPUs where the cluster has any.
        jobs: of a cluster that is started here; None takes as many as the cores have
            threads for.
        threads: CPUs of a task; None takes one, and beside a GPU an equal share.
    """

    address: str | None = None
    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.device not in NAMES:
            raise MinicnnError(
                f"--device {self.device} --engine ray: Ray chooses among the GPUs; "
                f"give one of {', '.join(NAMES)}"
            )
        if self.address and self.jobs:
            raise MinicnnError(
                f"--jobs {self.jobs} --address {self.address}: a cluster that runs "
                "already trains as many nets at a time as its GPUs or CPUs allow; "
                "leave --jobs out (--threads-per-job says how many CPUs each takes)"
            )

    @property
    def cpus(self) -> int:
        """CPUs that a cluster has which is started here."""
        threads = self.threads or 1
        return (self.jobs or max(1, available_cores() // threads)) * threads

    def workers(self, resources: Mapping[str, float]) -> Workers:
        """What each task takes of the cluster's resources.

        Raises:
            MinicnnError: the cluster has not as much.
        """
        cpus, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
        device = self.device
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        if device == "cuda" and not gpus:
            raise MinicnnError(f"--device {device}: the Ray cluster has no GPU")
        share = max(1, cpus // gpus) if device == "cuda" else 1
        threads = self.threads or share
        if threads > cpus:
            raise MinicnnError(
                f"--threads-per-job {threads}: the Ray cluster has {cpus} CPUs"
            )
        return Workers(gpus if device == "cuda" else cpus // threads, threads, device)


class RayEngine(Engine):
    """Runs tasks on a Ray cluster."""

    def __init__(self, cluster: Cluster, *given: Any) -> None:
        super().__init__(*given)
        self.cluster, self.ray = cluster, load_ray()

    def run(self) -> None:
        """As of all engines."""
        try:
            self._connect()
            with Interrupt() as interrupt, self.bar:
                waiting = self._submit()
                while waiting and not interrupt.requested:
                    waiting = self._collect(waiting)
                if waiting:
                    self.bar.message("Stopping; the running nets will save first.")
                    for reference in waiting:
                        self.ray.cancel(reference, force=False)
                    self.ray.wait(list(waiting), num_returns=len(waiting), timeout=None)
                    raise Stopped(interrupt.signal_name)
        finally:
            self.ray.shutdown()

    def _connect(self) -> None:
        cluster = self.cluster
        options: dict[str, Any] = {"address": cluster.address or "local"}
        if cluster.address is None:
            options |= {"num_cpus": cluster.cpus, "include_dashboard": False}
        try:
            self.ray.init(log_to_driver=False, logging_level="ERROR", **options)
        # Ray has an Exception itself for what does not start in time.
        except Exception as error:
            why = f"--engine ray: Ray does not start here ({_first(error)})"
            if cluster.address:
                why = (
                    f"--address {cluster.address}: no Ray cluster answers "
                    f"({_first(error)}); one that asks for a token takes it from "
                    "RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
                )
            raise MinicnnError(why) from None
        self.workers = cluster.workers(self.ray.cluster_resources())

    def _submit(self) -> dict[Any, Task]:
        """Hands all tasks over; those with the longest way to the end come first."""
        gpus = 1 if self.workers.device == "cuda" else 0
        needs = {"num_cpus": self.workers.threads, "num_gpus": gpus}
        remote = self.ray.remote(max_retries=RETRIES, **needs)(train)
        made, reference_of = dict[Any, Task](), dict[str, Any]()
        for task in sorted(self.queue.left, key=lambda task: bool(task.base)):
            bases = [reference_of[task.base]] if task.base in reference_of else []
            reference = remote.options(name=task.id).remote(self.command(task), *bases)
            made[reference] = task
            reference_of |= {node.id: reference for node in task.nodes}
        return made

    def _collect(self, waiting: dict[Any, Task]) -> dict[Any, Task]:
        """Takes note of what has ended; returns the rest."""
        ended, _ = self.ray.wait(list(waiting), timeout=LOOK)
        for reference in ended:
            task = waiting[reference]
            try:
                result = self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                result = {"error": f"Ray: {_first(error)}", "seconds": 0.0}
            if task.base and task.base not in self.finished:
                self.waiting += [node.id for node in task.nodes]
            else:
                self.end(task, result["seconds"], result["error"])
        rest = {each: task for each, task in waiting.items() if each not in ended}
        self.count(list(rest.values()))
        return rest


def _first(error: Exception) -> str:
    """The first line of what Ray says, which may be long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
