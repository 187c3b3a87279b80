"""Runs of treatments: their folders, what each network copies, and their training."""

from __future__ import annotations

import hashlib
import json
import shlex
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minicnn.base import precision
from minicnn.base.config import Config, load_recipe
from minicnn.base.errors import MinicnnError
from minicnn.base.files import write_json
from minicnn.data.loader import Loader
from minicnn.data.splits import Task, split_report, task_classes
from minicnn.data.store import Store
from minicnn.devices.device import Device
from minicnn.nn import architecture_files, architectures
from minicnn.nn.architectures import Architecture
from minicnn.nn.network import Network, tensor_hashes
from minicnn.nn.trunk import Trunk
from minicnn.training.run import Run, check_folder, open_folder
from minicnn.training.solver import check_layers, scale_rates
from minicnn.training.trainee import Diverged, Trainee
from minicnn.training.trainer import Trainer
from minicnn.training.treatment import RANDOM, Treatment, passes


@dataclass(frozen=True)
class Setup:
    """What the runs of one comparison share.

    Attributes:
        store: the image store's path.
        dev: where to train.
        config: settings, such as `load_recipe("demo")`.
        split: "random-S", "natural-manmade", "file:PATH" or "all".
        seed: 0 ≤ seed < 2³².
        runs: folder of the run folders; None takes runs/STORE-SPLIT[-seedS].
        groups: a groups file for natural-manmade, where the store has no groups.
        words: of the command line, that make the same setup again; for errors.
    """

    store: Path
    dev: Device
    config: Config = field(default_factory=lambda: load_recipe("demo"))
    split: str = "random-0"
    seed: int = 0
    runs: Path | None = None
    groups: Path | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise MinicnnError(f"--seed {self.seed}: must be 0 .. 2^32 - 1")

    @cached_property
    def arch(self) -> Architecture:
        """The runs' architecture."""
        return architecture_files.load(self.config.network.arch)

    def folder(self, treatment: Treatment) -> Path:
        """The run folder of a treatment."""
        if self.runs is not None:
            return self.runs / treatment.name
        split = self.split
        if split.startswith("file:"):
            split = Path(split[5:]).stem
        seed = f"-seed{self.seed}" if self.seed else ""
        return Path("runs") / f"{self.store.stem}-{split}{seed}" / treatment.name

    def task(self, store: Store, name: str) -> Task:
        """A task of this split."""
        return task_classes(self.split, name, store.classes, self.groups)


def _identity(setup: Setup, treatment: Treatment) -> dict[str, Any]:
    """The entries that both config.toml and result.json open with."""
    return {
        "name": treatment.name,
        "treatment": treatment.kind,
        "source": treatment.source,
        "target": treatment.target,
        "n": treatment.n,
        "finetune": treatment.finetune,
        "keep": treatment.keep,
        "finetune_after": treatment.finetune_after,
        "split": setup.split,
        "seed": setup.seed,
    }


def _settings(
    setup: Setup, treatment: Treatment, store: Store, base: Run | None
) -> dict[str, Any]:
    """All that decides a run's numbers, as config.toml holds it."""
    own = {}
    if not architectures.is_built_in(setup.arch):
        own = {"architecture": architecture_files.to_dict(setup.arch)}
    weights = base.result["weights_sha256"] if base and base.result else {}
    digest = hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()
    return {
        "run": {
            **_identity(setup, treatment),
            "store": str(setup.store.resolve()),
            "store_identity": store.identity,
            # The very weights that were copied: a base trained anew is another base.
            "base_sha256": digest[:16] if base else "",
            # How an image becomes one of the store's: `minicnn predict` does the same.
            "resize": store.attributes.get("resize", "none"),
            "orientation": store.attributes.get("orientation", "none"),
        },
        **setup.config.to_dict(),
        **own,
    }


def _base(setup: Setup, task: Task, store: Store) -> Run:
    """The finished base that a treatment copies from.

    Raises:
        MinicnnError: it is missing, unfinished, or does not fit.
    """
    folder = setup.folder(Treatment(task.name))
    words = ("minicnn", "train-base", "--task", task.name, *setup.words)
    command = shlex.join(words)
    if not (folder / "config.toml").exists():
        raise MinicnnError(f"{folder}: missing; make it first: {command}")
    run = Run(folder)
    if run.result is None:
        raise MinicnnError(f"{folder}: not finished; finish it first: {command}")
    if run.arch != setup.arch:
        raise MinicnnError(
            f"{folder}: its architecture is {run.arch.name}, this run's is "
            f"{setup.arch.name} of other layers; use the recipe that made it"
        )
    if [c.wnid for c in run.classes] != [store.wnids[c] for c in task.classes]:
        raise MinicnnError(
            f"{folder}: trained on other classes than task {task.name} of split "
            f"{setup.split} has in {store.path}; use the store and split that made it"
        )
    mine = {"split": setup.split, "seed": setup.seed, "store_identity": store.identity}
    for key, value in mine.items():
        if run.about.get(key) != value:
            raise MinicnnError(
                f"{folder}: its {key} is {run.about.get(key)!r}, this run's is "
                f"{value!r}; copy from a base of the same split, seed and store"
            )
    _check_weights(run, command)
    return run


def _check_weights(base: Run, command: str) -> None:
    """Refuses a base whose last checkpoint is not what its result was scored on."""
    result = base.result
    assert result is not None
    try:
        weights = base.checkpoint.weights
        intact = tensor_hashes(weights) == result["weights_sha256"]
    except MinicnnError:
        intact = False
    if not intact:
        raise MinicnnError(
            f"{base.folder}: its last checkpoint is damaged or missing; make the base "
            f"again: {command} --fresh"
        )


def _layer_table(network: Network, treatment: Treatment) -> list[dict[str, Any]]:
    """Which tensors were copied or drawn, and which are frozen or trained."""
    return [
        {
            "layer": p.index,
            "tensor": p.name,
            "shape": list(p.shape),
            "origin": f"copied from base{treatment.source}"
            if p.index <= treatment.copied
            else "drawn afresh",
            "state": "frozen" if p.index <= treatment.frozen else "trained",
        }
        for p in network.params
    ]


def run_seed(seed: int, name: str) -> int:
    """The Philox key of a run: its seed, and a name's CRC-32 in the upper word.

    Initial weights are keyed by the treatment's full name, so that no two runs of a
    comparison share any: a selffer that drew the base's own upper layers again would
    find its way back too easily.

    Sample order, crops, mirrors, dropout and frozen random filters are keyed by its
    family, the name without the depth. All depths of one source, target and treatment
    then see the same batches through the same masks: a curve over n compares paired
    runs, and one pass over the data can train them all.
    """
    return seed | zlib.crc32(name.encode()) << 32


def _check_task(setup: Setup, task: Task, store: Store) -> int:
    """The outputs that a net of this task has."""
    classes, asked = len(task.classes), setup.config.network.outputs
    if classes < 2:
        raise MinicnnError(
            f"task {task.name} of split {setup.split}: {classes} class in "
            f"{store.path}, and a task needs at least 2; --split all --task all takes "
            f"all {len(store.wnids)} classes"
        )
    if 0 < asked < classes:
        raise MinicnnError(
            f"network.outputs {asked}: fewer than the {classes} classes of task "
            f"{task.name}; 0 takes their number"
        )
    return asked or classes


def starting_network(
    treatment: Treatment,
    seed: int,
    arch: Architecture,
    types: str,
    outputs: int,
    dev: Device,
    base: Run | None,
) -> Network:
    """A network as its training begins: drawn, and its first layers copied.

    Args:
        seed: of the comparison, see `run_seed`.
        types: name of the precision.
        base: that layers are copied from, where the treatment copies any.
    """
    drawn = run_seed(seed, treatment.name)
    network = Network(arch, outputs, dev, drawn, precision.get(types))
    if treatment.copied:
        assert base is not None
        network.copy_layers(base.checkpoint.weights, treatment.copied)
    elif treatment.source == RANDOM:
        network.draw(run_seed(seed, treatment.family), treatment.n)
    return network


def _trainee(
    setup: Setup, treatment: Treatment, outputs: int, base: Run | None
) -> Trainee:
    """A run's network as it starts, and what trains it."""
    types = setup.config.network.precision
    network = starting_network(
        treatment, setup.seed, setup.arch, types, outputs, setup.dev, base
    )
    network.freeze(treatment.frozen)
    scale_rates(network, setup.config.solver)
    still = treatment.copied, treatment.finetune_after
    identity = _identity(setup, treatment)
    return Trainee(setup.folder(treatment), setup.config, network, identity, still)


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
    check_layers(config.solver, setup.arch)
    for each in treatments:
        each.check_depth(setup.arch.depth)
    store = Store(setup.store)
    target = setup.task(store, first.target)
    base = None
    if first.copied:
        base = _base(setup, setup.task(store, first.source), store)
    outputs = _check_task(setup, target, store)
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
    all_settings = [_settings(setup, each, store, base) for each in treatments]
    for each, settings in zip(treatments, all_settings, strict=True):
        check_folder(setup.folder(each), settings, task, fresh)
    trainees = {
        each: _trainee(setup, each, outputs, base)
        for each in treatments
        if fresh or not (setup.folder(each) / "result.json").exists()
    }
    if trainees:
        networks = [trainee.network for trainee in trainees.values()]
        Trunk(networks).check(config.solver.batch)
    runs = []
    for each, settings in zip(treatments, all_settings, strict=True):
        runs.append(open_folder(setup.folder(each), settings, task, fresh))
        if each in trainees:
            table = _layer_table(trainees[each].network, each)
            write_json(trainees[each].folder / "layers.json", table)
    # The published transfer nets subtract the source task's mean image.
    mean = base.mean if base else None
    return Trainer(runs, list(trainees.values()), config, loader, mean, seed)


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
        The finished runs; those that were finished already at once.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, after saving.
        Diverged: runs whose training diverged; the others are finished.
        MinicnnError: as for `start`.
    """
    runs: list[Run] = []
    given_up: list[str] = []
    for treatments in planned:
        trainer = start(setup, treatments, fresh)
        began(trainer)
        try:
            trainer.run()
        except Diverged as error:
            given_up.append(str(error))
        ended(trainer)
        runs += trainer.runs
    if given_up:
        raise Diverged("; ".join(given_up))
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
        source: "A", "B", or "random" for random filters.
        n: layers copied, from 1 to all but the last.
        target: None takes the other task ("B" for random filters).
        finetune: whether the copied layers are trained as well.
        keep: layers n+1..n+keep are copied too, and trained on.
        finetune_after: updates of the other layers alone, before the copied ones are
            trained as well.
    """
    planned = passes(source, [n], target, finetune, keep, False, finetune_after)
    return execute(setup, planned, fresh)[0]


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
    """As `transfer`, for several n; each has its own run folder.

    Args:
        depths: layers copied, from 1 to all but the last each.
        share_trunk: whether one pass over the data trains them all, with the frozen
            layers run once; the runs end with the same bytes either way.
    """
    more = finetune, keep, share_trunk, finetune_after
    planned = passes(source, depths, target, *more)
    return execute(setup, planned, fresh)
