"""The commands `train-base` and `transfer`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minicnn.cli.data import default_split, split_option
from minicnn.cli.look import device_options, precision_option
from minicnn.cli.output import json_option, put, say

if TYPE_CHECKING:
    from minicnn.nn.architectures import Architecture
    from minicnn.training.run import Run
    from minicnn.training.setup import Setup
    from minicnn.training.trainer import Trainer
    from minicnn.training.treatment import Treatment


def setup_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that train-base and transfer share."""
    folder = click.Path(file_okay=False, path_type=Path)
    file = click.Path(dir_okay=False, path_type=Path)
    options: list[Callable[[Callable[..., Any]], Any]] = [
        click.option("--data", type=file, help="Image store; default: the demo set."),
        split_option,
        click.option(
            "--groups", type=file, help="Groups file for --split natural-manmade."
        ),
        click.option(
            "--recipe",
            help="paper, tiny-imagenet, small, demo or a TOML file; default: chosen by "
            "the number and size of images, the classes and the device.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change a setting, such as solver.lr=0.02; may be repeated.",
        ),
        click.option("--seed", default=0, show_default=True, help="Seed of the run."),
        click.option(
            "--runs", type=folder, help="Folder for runs; default: runs/STORE-SPLIT."
        ),
        device_options,
        precision_option,
        click.option(
            "--log",
            type=click.Choice(["tensorboard"]),
            help="Also write event files into the run folders.",
        ),
        click.option("--fresh", is_flag=True, help="Start over instead of going on."),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def make_setup(
    task: str,
    arch: Architecture | None,
    data: Path | None,
    split: str | None,
    groups: Path | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    runs: Path | None,
    device: str,
    threads: int | None,
    precision: str | None,
) -> tuple[Setup, str]:
    """The Setup that the shared options describe, and why its recipe was chosen.

    Args:
        task: that is trained.
        arch: of the source that layers are copied from, if that is known.
    """
    from minicnn.base import config
    from minicnn.data.splits import task_classes
    from minicnn.data.store import Store
    from minicnn.data_prep.demo.store import ensure_demo
    from minicnn.devices import device as devices
    from minicnn.training import advice
    from minicnn.training.setup import Setup

    store = data or ensure_demo()
    dev = devices.get(device, threads)
    split = split or default_split(task)
    if recipe:
        chosen, why = config.load_recipe(recipe), f"recipe {recipe}"
    else:
        opened = Store(store)
        classes = task_classes(split, task, opened.classes, groups).classes
        suited = advice.choose(opened, classes, gpu=not dev.on_host)
        chosen = suited.config
        published = "; --recipe paper for the published one"
        why = (
            f"recipe {suited.recipe}: {suited.why}{published * (not suited.published)}"
        )
    named = [f"network.arch={arch.name}"] if arch else []
    own = [f"network.precision={precision}"] if precision else []
    resolved = config.override(chosen, [*named, *settings, *own])
    return Setup(store, dev, resolved, split, seed, runs, groups, typed()), why


def _target_of(source: str, target: str | None) -> tuple[str, Architecture | None]:
    """The task that a transfer learns, and the architecture of its source."""
    from minicnn.nn import architecture_files, architectures
    from minicnn.training.source import architecture
    from minicnn.training.treatment import Treatment, default_target

    task = target or default_target(source)
    if not Treatment("all", source, 1).is_from_path:
        return task, None
    found = architecture(source)
    if found and not architectures.is_built_in(found):
        architecture_files.register(found)
    return task, found


def typed() -> tuple[str, ...]:
    """The words of the command line, but for those that only this command knows."""
    context = click.get_current_context()
    shared = {each.name for each in train_base.params} - {"task", "fresh", "json"}
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if name in shared and source is click.core.ParameterSource.COMMANDLINE:
            value = context.params[name]
            for each in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(each)]
    return tuple(words)


def summary(run: Run, already: bool) -> str:
    """What a finished run came to."""
    result = run.result
    assert result is not None
    lines = []
    if already:
        lines.append(f"{run.name} is done already; --fresh trains it again.")
    frozen = result["frozen_layers"]
    if frozen:
        lines.append(f"Frozen layers 1..{frozen}: bytes unchanged (SHA-256).")
    best10 = result["top1_mean_of_10_best"]
    best = "" if best10 is None else f"; mean of the 10 best top-1 {best10:.1%}"
    lines.append(
        f"{run.name}: top-1 {result['top1']:.1%}, top-5 {result['top5']:.1%}, loss "
        f"{result['loss']:.3f} on {result['val_images']} validation images{best}. In "
        f"{run.folder}."
    )
    return "\n".join(lines)


def train(
    setup: Setup,
    why: str,
    planned: list[list[Treatment]],
    fresh: bool,
    log: str | None,
) -> list[Run]:
    """Trains pass after pass, and says what each run came to.

    Args:
        why: the recipe, and why it was chosen.

    Returns:
        The finished runs.
    """
    from minicnn.cli import announce
    from minicnn.results.event_log import EventLog
    from minicnn.training import transfer

    def ended(trainer: Trainer) -> None:
        trained = [each.folder for each in trainer.trainees]
        for run in trainer.runs:
            if run.result is not None:
                say(summary(run, run.folder not in trained))

    def began(trainer: Trainer) -> None:
        announce.announce(setup, why, trainer)
        for trainee in trainer.trainees if log else []:
            trainee.observers.append(EventLog(trainee))

    return transfer.execute(setup, planned, fresh, began, ended)


def put_results(runs: list[Run]) -> None:
    """With --json a list of each run's folder and result.json."""
    put([{"run": run.folder, **(run.result or {})} for run in runs])


@click.command("train-base")
@click.option("--task", required=True, help="A, B, or all.")
@setup_options
def train_base(task: str, fresh: bool, log: str | None, **options: Any) -> None:
    """Train the base net of a task, from nothing."""
    from minicnn.training.treatment import Treatment

    setup, why = make_setup(task, None, **options)
    put_results(train(setup, why, [[Treatment(task)]], fresh, log))


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
    more = target, finetune or finetune_after > 0, keep, share_trunk, finetune_after
    planned = passes(source, numbers, *more)
    put_results(train(setup, why, planned, fresh, log))


COMMANDS = [train_base, transfer]
