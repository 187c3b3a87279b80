"""From a request to trained nets: the steps of `minicnn study plan` and `study run`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minicnn.base.errors import MinicnnError
from minicnn.data.store import Store
from minicnn.devices import device as devices
from minicnn.experiments.study import cost
from minicnn.experiments.study.cost import Cost, Rate, TaskSizes
from minicnn.experiments.study.engine import Engine, plan_workers
from minicnn.experiments.study.folder import PLAN, open_study, read_study
from minicnn.experiments.study.graph import Node, Plan, with_bases
from minicnn.experiments.study.local import LocalEngine
from minicnn.experiments.study.plans import DEMO, load_plan
from minicnn.experiments.study.protocol import warning
from minicnn.experiments.study.tasks import make_tasks
from minicnn.nn import architecture_files


@dataclass(frozen=True)
class Request:
    """What is to be trained, and where, as the options of `minicnn study` say it.

    Attributes:
        folder: the study folder; None takes studies/NAME.
        data: the store; None takes the plan's.
        patterns: of the nets to train; none takes all.
    """

    plan: str
    folder: Path | None = None
    data: Path | None = None
    groups: Path | None = None
    patterns: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    share_trunk: bool = False

    def place(self, plan: Plan) -> Path:
        """The study folder."""
        return self.folder or Path("studies") / plan.name


@dataclass(frozen=True)
class Preview:
    """What a plan would train.

    Attributes:
        nodes: that were asked for, and their bases.
        cost: of all of them.
        left: of those that are not finished in the study folder; None where none is.
        sizes_known: whether the validation images are counted.
    """

    plan: Plan
    nodes: list[Node]
    cost: Cost
    left: Cost | None
    sizes_known: bool


def preview(
    request: Request,
    workers: int = 8,
    rate: float | None = None,
    measure_on: tuple[str, int | None] | None = None,
) -> Preview:
    """A plan and its cost; trains nothing, and writes nothing.

    Args:
        workers: to share the work.
        rate: images a second of a base net's training; None takes what was measured.
        measure_on: device and threads to measure it on now; None does not.
    """
    if rate is not None and not 0 < rate < float("inf"):
        raise MinicnnError(f"--rate {rate}: must be more than 0")
    plan = load_plan(request.plan, request.settings)
    nodes = with_bases(plan.nodes, request.patterns)
    folder = request.place(plan)
    study = read_study(folder) if (folder / PLAN).exists() else None
    if study and not {*study.nodes} <= {*plan.nodes}:
        study = None  # of another plan
    path = request.data or (Path(plan.data) if plan.data not in ("", DEMO) else None)
    if path is None and study and study.store.exists():
        path = study.store
    sizes = TaskSizes(plan, Store(path) if path else None, request.groups)
    known = None
    if rate:
        known = Rate(rate, "given by --rate")
    elif measure_on:
        known = cost.measure(plan.nodes[0], devices.get(*measure_on))
    elif study:
        known = cost.measured_rate(study, sizes)

    def costs(some: list[Node]) -> Cost:
        tasks = make_tasks(some, request.share_trunk)
        return cost.estimate(tasks, sizes, known, workers)

    rest = [node for node in nodes if not (study and study.finished(node))]
    left = costs(rest) if len(rest) < len(nodes) else None
    return Preview(plan, nodes, costs(nodes), left, sizes.known)


def execute(
    request: Request,
    engine: str = "local",
    device: str = "auto",
    jobs: int | None = None,
    threads: int | None = None,
    address: str | None = None,
) -> Engine:
    """Trains what is asked for and not finished; arguments as of `minicnn study run`.

    Returns:
        The engine that did, which knows what came of it.

    Raises:
        Stopped: by Ctrl-C or SIGTERM; every net has saved.
        MinicnnError: something does not fit; a net that fails is no error.
    """
    make = _engine(engine, device, jobs, threads, address)
    plan = load_plan(request.plan, request.settings)
    store_path = _store(request, plan)
    store = Store(store_path)
    study = open_study(request.place(plan), plan, store_path, request.groups)
    nodes = with_bases(study.nodes, request.patterns)
    _check_sizes(nodes, store)
    apart = warning(plan, store, request.groups)
    if apart:
        print(apart, file=sys.stderr, flush=True)
    with study.locked():
        study.write()
        done = {node.id for node in nodes if study.finished(node)}
        left = [node for node in nodes if node.id not in done]
        tasks = make_tasks(left, request.share_trunk)
        work = TaskSizes(plan, store, request.groups).work
        trained = make(study, nodes, done, tasks, work)
        if left:
            trained.run()
    return trained


def _engine(
    engine: str, device: str, jobs: int | None, threads: int | None, address: str | None
) -> Callable[..., Engine]:
    """A function that makes the engine; refuses bad arguments at once."""
    for name, value in (("jobs", jobs), ("threads-per-job", threads)):
        if value is not None and value < 1:
            raise MinicnnError(f"--{name} {value}: must be at least 1")
    if engine == "ray":
        from minicnn.experiments.study import ray_engine

        cluster = ray_engine.Cluster(address, device, jobs, threads)
        ray_engine.load_ray()
        return partial(ray_engine.RayEngine, cluster)
    if address:
        raise MinicnnError(f"--address {address}: goes with --engine ray")
    return partial(LocalEngine, plan_workers(device, jobs, threads))


def _store(request: Request, plan: Plan) -> Path:
    """The store's path; the demo set is drawn on first use."""
    if request.data:
        return request.data
    if plan.data == DEMO:
        from minicnn.data_prep.demo.store import ensure_demo

        return ensure_demo()
    if not plan.data:
        raise MinicnnError(
            f"plan {plan.name}: needs a store; give --data STORE.h5, made by 'minicnn "
            "data prepare'"
        )
    return Path(plan.data)


def _check_sizes(nodes: Sequence[Node], store: Store) -> None:
    """Refuses images too small for a network, before any net is begun."""
    height, width = store.image_size
    for name in {node.config.network.arch for node in nodes}:
        crop = architecture_files.load(name).crop
        if crop > min(height, width):
            raise MinicnnError(
                f"store {store.path}: its images of {height}x{width} are smaller than "
                f"the input of {name}, {crop}x{crop}; prepare it with a larger --size, "
                "or choose another network by --set network.arch=NAME"
            )
