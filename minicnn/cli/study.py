"""The commands `minicnn study plan`, `run` and `status`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from minicnn.base.errors import Stopped
from minicnn.cli.look import device_options
from minicnn.cli.output import json_option, put

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is to be trained."""
    options: list[Callable[[Callable[..., Any]], Any]] = [
        click.argument("plan", metavar="PLAN"),
        click.option(
            "-o",
            "--study",
            "folder",
            type=_FOLDER,
            help="Study folder; default: studies/NAME-OF-THE-PLAN.",
        ),
        click.option("--data", type=_FILE, help="Image store; default: the plan's."),
        click.option(
            "--groups", type=_FILE, help="Groups file for the split natural-manmade."
        ),
        click.option(
            "--only",
            "patterns",
            multiple=True,
            metavar="GLOB",
            help="Only nets of matching names, such as 'A*B+' or 'random-0/*', and the "
            "bases they need; may be repeated.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change a setting of all nets, such as solver.iterations=100; may be "
            "repeated.",
        ),
        click.option(
            "--share-trunk",
            is_flag=True,
            help="Train all depths of a frozen treatment in one pass over the data.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def study() -> None:
    """Train all the nets of a study.

    PLAN is paper (the published nets), tiny-imagenet, demo, or a TOML file of yours.
    """


@study.command()
@plan_options
@click.option("--workers", default=8, show_default=True, help="GPUs, or jobs on CPUs.")
@click.option(
    "--rate",
    type=float,
    metavar="IMAGES/S",
    help="Speed of a base net on one worker; default: as measured in the study folder.",
)
@click.option("--measure", is_flag=True, help="Measure the rate now, on --device.")
@device_options
@json_option
def plan(
    workers: int,
    rate: float | None,
    measure: bool,
    device: str,
    threads: int | None,
    **options: Any,
) -> None:
    """Show what a plan would train, and what that costs; trains nothing."""
    from minicnn.experiments.study import run as runs
    from minicnn.experiments.study import status as shows

    request = runs.Request(**options)
    measure_on = (device, threads) if measure else None
    found = runs.preview(request, workers, rate, measure_on)
    put(shows.plan_dict(found), shows.plan_text(found))


@study.command()
@plan_options
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes on this machine, or tasks of a Ray cluster.",
)
@click.option(
    "--address",
    help="A running Ray cluster, auto or HOST:PORT; default: start one.",
)
@click.option(
    "-j",
    "--jobs",
    type=int,
    help="Nets trained at once; default: one a GPU or core; not with --address.",
)
@click.option(
    "--threads-per-job",
    "threads",
    type=int,
    help="CPU threads of each net; default: an equal share of the cores.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N or emulated.",
)
@json_option
@click.pass_context
def run(
    context: click.Context,
    engine: str,
    address: str | None,
    jobs: int | None,
    threads: int | None,
    device: str,
    **options: Any,
) -> None:
    """Train all unfinished nets of a plan.

    A command that was stopped goes on when given again. Each net is trained by a
    minicnn command; STUDY/logs has it and its output. A net that fails does not stop
    the others: the next call tries it again. Exit status 1 says that one failed.
    """
    from minicnn.experiments.study import run as runs
    from minicnn.experiments.study import status as shows

    request = runs.Request(**options)
    try:
        done = runs.execute(request, engine, device, jobs, threads, address)
    except Stopped:
        click.echo("What ran has saved; the same command goes on from there.", err=True)
        raise
    states = done.study.states()
    told = f"{shows.table(done.study, states)}\n{done.summary(states)}"
    put(shows.to_dict(done.study, states), told)
    context.exit(1 if done.failed else 0)


@study.command()
@click.argument("folder", metavar="STUDY", type=_FOLDER)
@json_option
def status(folder: Path) -> None:
    """Show how far each net of a study is: treatments by depths."""
    from minicnn.experiments.study import status as shows
    from minicnn.experiments.study.folder import read_study

    found = read_study(folder)
    states = found.states()
    put(shows.to_dict(found, states), shows.table(found, states))


COMMANDS = [study]
