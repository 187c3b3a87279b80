"""The command line: parse, call, print; nothing else.

Heavy modules are imported inside the commands, so that `minicnn --help` answers at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minicnn import __version__
from minicnn.cli import analyse as cli_analyse
from minicnn.cli import data as cli_data
from minicnn.cli import look as cli_look
from minicnn.cli import program
from minicnn.cli import prove as cli_prove
from minicnn.cli import report as cli_report
from minicnn.cli import study as cli_study
from minicnn.cli.data import default_split, split_option
from minicnn.cli.look import device_options, precision_option

if TYPE_CHECKING:
    from minicnn.training.run import Run
    from minicnn.training.trainer import Trainer
    from minicnn.training.transfer import Setup
    from minicnn.training.treatment import Treatment


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="minicnn")
def cli() -> None:
    """Train AlexNet-style convnets by hand-written kernels, and measure how
    transferable the features of each layer are (Yosinski et al. 2014)."""


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
            help="paper, tiny-imagenet, demo or a TOML file; default: by image size.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change a setting of the recipe, such as solver.lr=0.02.",
        ),
        click.option("--seed", default=0, show_default=True, help="Of the whole run."),
        click.option(
            "--runs", type=folder, help="Where runs lie; default: runs/STORE-SPLIT."
        ),
        device_options,
        precision_option,
        click.option(
            "--log",
            type=click.Choice(["tensorboard"]),
            help="Also write event files into the run folders.",
        ),
        click.option("--fresh", is_flag=True, help="Start over instead of going on."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def make_setup(
    task: str,
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
) -> Setup:
    """The Setup that the shared options describe, for a base of `task`."""
    from minicnn.base import config
    from minicnn.data.store import Store
    from minicnn.data_prep.demo.store import ensure_demo
    from minicnn.devices import device as devices
    from minicnn.training.transfer import Setup

    store = data or ensure_demo()
    chosen = recipe or config.recipe_for(Store(store).image_size)
    named = [f"network.precision={precision}"] if precision else []
    resolved = config.override(config.load_recipe(chosen), [*settings, *named])
    dev = devices.get(device, threads)
    split = split or default_split(task)
    return Setup(store, dev, resolved, split, seed, runs, groups, typed())


def typed() -> tuple[str, ...]:
    """The words of the command line, but for those that only this command knows."""
    context = click.get_current_context()
    shared = {each.name for each in train_base.params} - {"task", "fresh"}
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if name in shared and source is click.core.ParameterSource.COMMANDLINE:
            value = context.params[name]
            for each in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(each)]
    return tuple(words)


def report(run: Run, already: bool) -> None:
    """Prints what a finished run came to."""
    result = run.result
    assert result is not None
    if already:
        click.echo(f"{run.name} is done already; --fresh trains it again.")
    frozen = result["frozen_layers"]
    if frozen:
        click.echo(f"Frozen layers 1..{frozen}: bytes unchanged (SHA-256).")
    best10 = result["top1_mean_of_10_best"]
    best = "" if best10 is None else f"; mean of the 10 best top-1 {best10:.1%}"
    click.echo(
        f"{run.name}: top-1 {result['top1']:.1%}, top-5 {result['top5']:.1%}, loss "
        f"{result['loss']:.3f} on {result['val_images']} validation images{best}. In "
        f"{run.folder}."
    )


def print_layers(run: Run) -> None:
    """Prints which layers were copied or drawn, frozen or trained."""
    rows = run.layers()
    click.echo(f"{'layer':7}{'weights':18}{'origin':20}state")
    for row in rows:
        if row["tensor"].endswith(".w"):
            shape = "x".join(map(str, row["shape"]))
            name = row["tensor"][:-2]
            click.echo(f"{name:7}{shape:18}{row['origin']:20}{row['state']}")


def print_spans(run: Run) -> None:
    """Prints as much in one line."""
    spans: dict[tuple[str, str], list[int]] = {}
    for row in run.layers():
        spans.setdefault((row["origin"], row["state"]), []).append(row["layer"])
    parts = [
        f"layers {min(layers)}..{max(layers)} {origin}, {state}"
        for (origin, state), layers in spans.items()
    ]
    click.echo(f"{run.name}: {'; '.join(parts)}.")


def announce(setup: Setup, trainer: Trainer) -> None:
    """Prints what is about to be trained, if anything is."""
    unfinished = [each.folder for each in trainer.trainees]
    runs = [run for run in trainer.runs if run.folder in unfinished]
    if not runs:
        return
    names = ", ".join(run.name for run in runs)
    one_pass = " in one pass" if len(runs) > 1 else ""
    click.echo(
        f"{names}{one_pass}: {setup.arch.name}, {len(runs[0].classes)} "
        f"classes, {len(trainer.loader.train)} training and {len(trainer.loader.val)} "
        f"validation images of {setup.store}, device {setup.dev.name} with "
        f"{setup.dev.threads} threads."
    )
    batch, images = setup.config.solver.batch, len(trainer.loader.train)
    if batch > images:
        click.echo(
            f"warning: solver.batch {batch} is more than the {images} training images: "
            f"each update sees some of them twice; --set solver.batch={images} or less",
            err=True,
        )
    for run in runs:
        if len(runs) > 1:
            print_spans(run)
        elif run.about["source"]:
            print_layers(run)


def train(
    setup: Setup, planned: list[list[Treatment]], fresh: bool, log: str | None
) -> None:
    """Trains pass after pass, and reports on their runs."""
    from minicnn.results.event_log import EventLog
    from minicnn.training import transfer

    def ended(trainer: Trainer) -> None:
        trained = [each.folder for each in trainer.trainees]
        for run in trainer.runs:
            if run.result is not None:
                report(run, run.folder not in trained)

    def began(trainer: Trainer) -> None:
        announce(setup, trainer)
        for trainee in trainer.trainees if log else []:
            trainee.observers.append(EventLog(trainee))

    transfer.execute(setup, planned, fresh, began, ended)


@cli.command("train-base")
@click.option("--task", required=True, help="A, B, or all.")
@setup_options
def train_base(task: str, fresh: bool, log: str | None, **options: Any) -> None:
    """Train the base net of a task."""
    from minicnn.training.treatment import Treatment

    train(make_setup(task, **options), [[Treatment(task)]], fresh, log)


@cli.command()
@click.option(
    "--from", "source", required=True, help="Task of the base: A, B; or random."
)
@click.option(
    "--to", "target", help="Task to learn; default: the other one; B for random."
)
@click.option(
    "--n", "depths", required=True, help="Layers to copy, such as 3, 1-7 or 1,3,5."
)
@click.option("--finetune", is_flag=True, help="Train the copied layers as well.")
@click.option(
    "--finetune-after", default=0, metavar="N", help="But not in the first N updates."
)
@click.option(
    "--keep", default=0, metavar="K", help="Copy K layers more, and train these on."
)
@click.option(
    "--share-trunk",
    is_flag=True,
    help="Train all depths in one pass over the data, frozen layers run once.",
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
    """Copy the first N layers of a base net and train the rest on a task.

    Several depths are trained one after another, or by --share-trunk together: the
    same results, bit for bit on the CPU, from one reading of the data.
    """
    from minicnn.training.treatment import parse_depths, passes

    setup = make_setup(source, **options)
    numbers = parse_depths(depths, setup.arch.depth - 1)
    more = target, finetune or finetune_after > 0, keep, share_trunk, finetune_after
    planned = passes(source, numbers, *more)
    train(setup, planned, fresh, log)


cli.add_command(cli_data.data)
cli.add_command(cli_data.splits)
for each in [
    *cli_look.COMMANDS,
    *cli_prove.COMMANDS,
    *cli_analyse.COMMANDS,
    *cli_report.COMMANDS,
    *cli_study.COMMANDS,
]:
    cli.add_command(each)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; `argv` as for `program.run`."""
    program.run(cli, argv)
