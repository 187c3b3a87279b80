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
            help="Only nets of such a name, like 'A*B+' or 'random-0/*', and the bases "
            "they need; may be repeated.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change a setting of all nets, such as solver.iterations=100.",
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
    """Train all the nets of a study: the paper's own, or a plan of yours.

    PLAN is paper, tiny-imagenet, demo, or a TOML file like those.
    """


@study.command()
@plan_options
@click.option(
    "--workers", default=8, show_default=True, help="GPUs, or jobs, to reckon with."
)
@click.option(
    "--rate",
    type=float,
    metavar="IMAGES/S",
    help="Of a base net's training on one worker; default: as measured in the study "
    "folder.",
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
    about = shows.plan_dict(found.plan, found.nodes, found.cost, found.left)
    lines = [
        shows.plan_table(found.plan, found.nodes),
        "\nWhat copies from what:\n",
        *shows.dependency_lines(found.nodes),
        "",
        shows.cost_table(found.cost, found.left, found.sizes_known),
    ]
    put(about, "\n".join(lines))


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
    help="Of a running Ray cluster: auto, or HOST:PORT; default: start one.",
)
@click.option(
    "-j",
    "--jobs",
    type=int,
    help="Nets at a time; default: one a GPU, or one a core; not with --address.",
)
@click.option(
    "--threads-per-job",
    "threads",
    type=int,
    help="CPU threads of each; default: the cores shared out.",
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
    """Train what is left of a plan; stopped at any moment, the same command goes on.

    Each net is trained by an ordinary minicnn command, found with all it printed in
    STUDY/logs. A net that fails does not stop the others, and is tried again by the
    next call; status 1 tells of it.
    """
    from minicnn.experiments.study import run as runs
    from minicnn.experiments.study import status as shows
    from minicnn.experiments.study.engine import summary

    request = runs.Request(**options)
    try:
        done = runs.execute(request, engine, device, jobs, threads, address)
    except Stopped:
        click.echo("What ran has saved; the same command goes on from there.", err=True)
        raise
    states = done.study.states()
    told = summary(done.outcome, done.nodes, states)
    put(shows.to_dict(done.study, states), f"{shows.table(done.study, states)}\n{told}")
    context.exit(1 if done.outcome.failed else 0)


@study.command()
@click.argument("folder", metavar="STUDY", type=_FOLDER)
@json_option
def status(folder: Path) -> None:
    """Show how far a study is: a line for each treatment, a column for each depth."""
    from minicnn.experiments.study import status as shows
    from minicnn.experiments.study.folder import read_study

    found = read_study(folder)
    states = found.states()
    put(shows.to_dict(found, states), shows.table(found, states))


COMMANDS = [study]
