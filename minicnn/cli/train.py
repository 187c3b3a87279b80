"""The commands `train-base` and `transfer`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import minicnn
from minicnn.base.errors import MinicnnError
from minicnn.cli import shared
from minicnn.cli.data import default_split
from minicnn.cli.shared import put, say

if TYPE_CHECKING:
    from minicnn.devices.device import Device
    from minicnn.nn.architectures import Architecture
    from minicnn.training.trainer import Trainer
    from minicnn.training.treatment import Treatment

setup_options = shared.together(
    shared.data_option("the demo set"),
    shared.split_option,
    shared.groups_option,
    click.option(
        "--recipe",
        help="paper, tiny-imagenet, small, demo or a TOML file; default: chosen by "
        "the number and size of images, the classes and the device.",
    ),
    shared.set_option,
    click.option("--seed", default=0, help="Seed of the run."),
    click.option(
        "--runs", type=shared.FOLDER, help="Folder for runs; default: runs/STORE-SPLIT."
    ),
    shared.on_device,
    shared.precision_option,
    click.option(
        "--log",
        type=click.Choice(["tensorboard"]),
        help="Also write event files into the run folders.",
    ),
    click.option("--fresh", is_flag=True, help="Start over instead of going on."),
    shared.json_option,
)


def make_setup(
    task: str,
    arch: Architecture | None,
    dev: Device,
    data: Path | None,
    split: str | None,
    groups: Path | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    runs: Path | None,
    precision: str | None,
) -> tuple[minicnn.Setup, str]:
    """The Setup that the shared options describe, and why its recipe was chosen.

    Args:
        task: that is trained.
        arch: of the source that layers are copied from, if that is known.
    """
    from minicnn.data.splits import task_classes
    from minicnn.training import advice

    store = data or minicnn.ensure_demo()
    split = split or default_split(task)
    if recipe:
        chosen, why = minicnn.load_recipe(recipe), f"recipe {recipe}"
    else:
        opened = minicnn.Store(store)
        classes = task_classes(split, task, opened.classes, groups).classes
        suited = advice.choose(opened, classes, dev.on_gpu)
        chosen, why = suited.config, f"recipe {suited.recipe}: {suited.why}"
        if suited.recipe != "paper":
            why += "; --recipe paper for the published one"
    named = [f"network.arch={arch.name}"] if arch else []
    own = [f"network.precision={precision}"] if precision else []
    resolved = minicnn.override(chosen, [*named, *settings, *own])
    return minicnn.Setup(store, dev, resolved, split, seed, runs, groups, _typed()), why


def _target_of(source: str, target: str | None) -> tuple[str, Architecture | None]:
    """The task that a transfer learns, and the architecture of its source."""
    from minicnn.nn import architecture_files, architectures
    from minicnn.training.source import architecture
    from minicnn.training.treatment import default_target, is_path

    if not source:
        raise MinicnnError("--from '': names no net; --from A copies from task A's")
    if source == "all" and not target:
        raise MinicnnError(
            "--from all: there is no other task to learn; --to all learns the same "
            "classes, and --from runs/STORE-all/baseall --to A those of a split's task"
        )
    task = target or default_target(source)
    if not is_path(source):
        return task, None
    found = architecture(source)
    if found and not architectures.is_built_in(found):
        architecture_files.register(found)
    return task, found


def _typed() -> tuple[str, ...]:
    """The words of the command line, but for those that only this command knows."""
    context = click.get_current_context()
    common = {each.name for each in train_base.params} - {"task", "fresh", "json"}
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if name in common and source is click.core.ParameterSource.COMMANDLINE:
            value = context.params[name]
            for each in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(each)]
    return tuple(words)


def _summary(run: minicnn.Run, already: bool) -> str:
    """What a finished run came to."""
    result = run.result
    assert result is not None
    text = ""
    if already:
        text = f"{run.name} is done already; --fresh trains it again.\n"
    if frozen := result["frozen_layers"]:
        text += f"Frozen layers 1..{frozen}: bytes unchanged (SHA-256).\n"
    best10 = result["top1_mean_of_10_best"]
    best = "" if best10 is None else f"; mean of the 10 best top-1 {best10:.1%}"
    return text + (
        f"{run.name}: top-1 {result['top1']:.1%}, top-5 {result['top5']:.1%}, loss "
        f"{result['loss']:.3f} on {result['val_images']} validation images{best}. In "
        f"{run.folder}."
    )


def _train(
    setup: minicnn.Setup,
    why: str,
    planned: list[list[Treatment]],
    fresh: bool,
    log: str | None,
) -> None:
    """Trains pass after pass, and says what each run came to."""
    from minicnn.cli import announce
    from minicnn.results.event_log import EventLog
    from minicnn.training import transfer

    def began(trainer: Trainer) -> None:
        announce.announce(setup, why, trainer)
        for trainee in trainer.trainees if log else []:
            trainee.observers.append(EventLog(trainee))

    def ended(trainer: Trainer) -> None:
        trained = [each.folder for each in trainer.trainees]
        for run in trainer.runs:
            if run.result is not None:
                say(_summary(run, run.folder not in trained))

    runs = transfer.execute(setup, planned, fresh, began, ended)
    put([{"run": run.folder, **(run.result or {})} for run in runs])


@click.command("train-base")
@click.option("--task", required=True, help="A, B, or all.")
@setup_options
def train_base(task: str, fresh: bool, log: str | None, **options: Any) -> None:
    """Train the base net of a task, from nothing."""
    from minicnn.training.treatment import Treatment

    setup, why = make_setup(task, None, **options)
    _train(setup, why, [[Treatment(task)]], fresh, log)


@click.command()
@click.option(
    "--from",
    "source",
    required=True,
    help="Base to copy from: task A or B; random; tiny-imagenet, which comes with "
    "minicnn; or the PATH of a run, a checkpoint or an exported .safetensors file.",
)
@click.option(
    "--to",
    "target",
    help="Task to learn; default: the other one; B for random; all for a PATH.",
)
@click.option(
    "--n", "depths", required=True, help="Layers to copy, such as 3, 1-7 or 1,3,5."
)
@click.option("--finetune", is_flag=True, help="Train the copied layers as well.")
@click.option(
    "--finetune-after", default=0, metavar="N", help="As well, from update N on."
)
@click.option(
    "--keep", default=0, metavar="K", help="Copy K more layers, and train those."
)
@click.option(
    "--share-trunk",
    is_flag=True,
    help="Train all depths in one pass over the data; frozen layers run once.",
)
@setup_options
def transfer(
    source: str,
    target: str | None,
    depths: str,
    finetune: bool,
    finetune_after: int,
    keep: int,
    share_trunk: bool,
    fresh: bool,
    log: str | None,
    **options: Any,
) -> None:
    """Copy the first N layers of a net, and train the rest.

    Several depths are trained one after another, or together with --share-trunk: the
    same results, bit for bit on the CPU, from one pass over the data.
    """
    from minicnn.training.treatment import parse_depths, passes

    setup, why = make_setup(*_target_of(source, target), **options)
    numbers = parse_depths(depths, setup.arch.depth - 1)
    planned = passes(
        source, numbers, target, finetune, keep, share_trunk, finetune_after
    )
    _train(setup, why, planned, fresh, log)


COMMANDS = [train_base, transfer]
