"""Runs of treatments: their folders, what each network copies, and their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minicnn.base import precision
from minicnn.base.errors import MinicnnError
from minicnn.data.loader import Loader
from minicnn.data.splits import Task, split_report
from minicnn.data.store import Store
from minicnn.nn.network import check
from minicnn.nn.trunk import Trunk
from minicnn.training.run import Run, check_folder, open_folder
from minicnn.training.setup import Setup, settings
from minicnn.training.source import Source, of_base, of_path, place_of
from minicnn.training.trainee import Diverged, Trainee, run_seed
from minicnn.training.trainer import Trainer
from minicnn.training.treatment import Treatment, is_path, passes


def _check_task(setup: Setup, first: Treatment, task: Task, store: Store) -> int:
    """The outputs that a net of this task has."""
    classes, asked = len(task.classes), setup.config.network.outputs
    if classes < 2:
        option = "--to" if first.source else "--task"
        raise MinicnnError(
            f"task {task.name} of split {setup.split}: {classes} class in "
            f"{store.path}, and a task needs at least 2; --split all {option} all "
            f"takes all {len(store.wnids)} classes"
        )
    if 0 < asked < classes:
        raise MinicnnError(
            f"network.outputs {asked}: fewer than the {classes} classes of task "
            f"{task.name}; 0 takes their number"
        )
    return asked or classes


def _source(
    setup: Setup, treatments: Sequence[Treatment], store: Store, fresh: bool
) -> Source | None:
    """What the treatments copy from, if they do; checked to fit them and the store."""
    first, deepest = treatments[0], max(treatments, key=lambda each: each.copied)
    if not deepest.copied:
        return None
    if not is_path(first.source):
        return of_base(setup, setup.task(store, first.source), store)
    saved = [any(setup.folder(each).glob("checkpoints/step-*")) for each in treatments]
    if all(saved) and not fresh and not place_of(first.source).exists():
        # All that the source gave is in the runs' checkpoints.
        run = Run(setup.folder(deepest))
        return Source(run.checkpoint.weights, run.mean, run.about["base_sha256"])
    source = of_path(first.source, setup.arch, deepest.copied)
    if source.mean is not None and source.mean.shape[:2] != store.image_size:
        height, width = source.mean.shape[:2]
        raise MinicnnError(
            f"--from {first.source}: trained on images of {height}x{width} pixels, "
            f"those of {store.path} are {'x'.join(map(str, store.image_size))}; make "
            f"the store again with --size {height}"
        )
    return source


def start(
    setup: Setup, treatments: Treatment | Sequence[Treatment], fresh: bool = False
) -> Trainer:
    """Opens or makes run folders and builds their trainer; trains nothing yet.

    Args:
        treatments: one, or several of one family, such as A1B to A7B, which one pass
            over the data then trains.
        fresh: whether to start over what there is.

    Raises:
        MinicnnError: the store, the tasks, the base or a folder do not fit, or the
            device has too little memory; none of the folders is touched.
    """
    if isinstance(treatments, Treatment):
        treatments = [treatments]
    first, config = treatments[0], setup.config
    precision.get(config.network.precision)
    if any(each.family != first.family for each in treatments):
        raise ValueError("treatments of one pass differ in their depth alone")
    for each in treatments:
        each.check_depth(setup.arch.depth)
    store = Store(setup.store)
    target = setup.task(store, first.target)
    source = _source(setup, treatments, store, fresh)
    outputs = _check_task(setup, first, target, store)
    seed = run_seed(setup.seed, first.family)
    loader = Loader(
        store,
        target.classes,
        setup.arch.crop,
        config.solver.batch,
        seed,
        config.data.mirror,
        config.data.images_per_class,
        setup.seed,
        setup.dev.host_empty,
    )
    task = split_report(target, store.classes)
    digest = source.digest if source else ""
    opening = []
    for each in treatments:
        own = settings(setup, each, store, digest)
        anew = check_folder(setup.folder(each), own, task, fresh)
        opening.append((setup.folder(each), own, task, anew))
    trainees = [
        Trainee(setup, each, outputs, source)
        for each in treatments
        if fresh or not (setup.folder(each) / "result.json").exists()
    ]
    if trainees:
        networks = [trainee.network for trainee in trainees]
        check(Trunk(networks).networks, config.solver.batch)
    runs = [open_folder(*how) for how in opening]
    for trainee in trainees:
        trainee.write_layers()
    # The published transfer nets subtract the source task's mean image.
    mean = source.mean if source else None
    return Trainer(runs, trainees, config, loader, mean)


def execute(
    setup: Setup,
    planned: Sequence[Sequence[Treatment]],
    fresh: bool = False,
    began: Callable[[Trainer], object] = lambda trainer: None,
    ended: Callable[[Trainer], object] = lambda trainer: None,
) -> list[Run]:
    """Trains to the end, pass after pass, going on where an earlier call stopped.

    Args:
        planned: the treatments of each pass, see `passes`.
        began, ended: told of each pass before and after it is trained.

    Returns:
        The finished runs. `Diverged` is raised once all others are finished.
    """
    runs, given_up = list[Run](), list[Diverged]()
    for treatments in planned:
        trainer = start(setup, treatments, fresh)
        began(trainer)
        given_up += trainer.run()
        ended(trainer)
        runs += trainer.runs
    if given_up:
        raise Diverged("; ".join(map(str, given_up)))
    return runs


def train_base(setup: Setup, task: str, fresh: bool = False) -> Run:
    """Trains the base net of a task: all layers drawn afresh, all trained."""
    return execute(setup, [[Treatment(task)]], fresh)[0]


def transfer(
    setup: Setup,
    source: str,
    n: int,
    target: str | None = None,
    finetune: bool = False,
    fresh: bool = False,
    keep: int = 0,
    finetune_after: int = 0,
) -> Run:
    """Copies layers 1..n of a base net and trains the rest, or all, on the target.

    Args:
        source: "A", "B", or "random" for random filters; or the path of a run, a
            checkpoint or an exported file, perhaps of another store and task.
        n: layers copied, from 1 to all but the last.
        target: None takes the other task ("B" for random filters; for a
            path "all", which the split "all" has).
        finetune: whether the copied layers are trained as well.
        keep: layers n+1..n+keep are copied too, and trained on.
        finetune_after: updates of the other layers alone, before the copied ones are
            trained as well.
    """
    how = target, keep, finetune, False, fresh, finetune_after
    return transfer_depths(setup, source, [n], *how)[0]


def transfer_depths(
    setup: Setup,
    source: str,
    depths: Sequence[int],
    target: str | None = None,
    keep: int = 0,
    finetune: bool = False,
    share_trunk: bool = False,
    fresh: bool = False,
    finetune_after: int = 0,
) -> list[Run]:
    """As `transfer`, for several n, the depths; each has its own run folder.

    Args:
        share_trunk: whether one pass over the data trains them all, with the frozen
            layers run once; the runs end with the same bytes either way.
    """
    how = target, finetune, keep, share_trunk, finetune_after
    return execute(setup, passes(source, depths, *how), fresh)
