"""The commands of studies, `study`, `report` and `analyse`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minicnn.base.errors import MinicnnError, Stopped, counted
from minicnn.cli import shared
from minicnn.cli.shared import put

if TYPE_CHECKING:
    from minicnn.devices.device import Device

plan_options = shared.together(
    click.argument("plan", metavar="PLAN"),
    click.option(
        "-o",
        "--study",
        "folder",
        type=shared.FOLDER,
        help="Study folder; default: studies/NAME-OF-THE-PLAN.",
    ),
    shared.data_option("the plan's"),
    shared.groups_option,
    click.option(
        "--only",
        "patterns",
        multiple=True,
        metavar="GLOB",
        help="Only nets of matching names, such as 'A*B+' or 'random-0/*', and the "
        "bases they need; may be repeated.",
    ),
    shared.set_option,
    click.option(
        "--share-trunk",
        is_flag=True,
        help="Train all depths of a frozen treatment in one pass over the data.",
    ),
)


@click.group()
def study() -> None:
    """Train all the nets of a study.

    PLAN is paper (the published nets), tiny-imagenet, demo, or a TOML file of yours.
    """


@study.command()
@plan_options
@click.option("--workers", default=8, help="GPUs, or jobs on CPUs.")
@click.option(
    "--rate",
    type=float,
    metavar="IMAGES/S",
    help="Speed of a base net on one worker; default: as measured in the study folder.",
)
@click.option("--measure", is_flag=True, help="Measure the rate now, on --device.")
@shared.device_options
@shared.json_option
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

    measure_on = (device, threads) if measure else None
    found = runs.preview(runs.Request(**options), workers, rate, measure_on)
    put(shows.plan_dict(found), shows.plan_text(found))


@study.command()
@plan_options
@shared.choice_option(
    "--engine",
    ["local", "ray"],
    "Processes on this machine, or tasks of a Ray cluster.",
)
@click.option(
    "--address", help="A running Ray cluster, auto or HOST:PORT; default: start one."
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
@shared.device_option
@shared.json_option
def run(
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
    if done.failed:
        raise click.exceptions.Exit(1)


@study.command()
@click.argument("folder", metavar="STUDY", type=shared.FOLDER)
@shared.json_option
def status(folder: Path) -> None:
    """Show how far each net of a study is: treatments by depths."""
    from minicnn.experiments.study import status as shows
    from minicnn.experiments.study.folder import read_study

    found = read_study(folder)
    states = found.states()
    put(shows.to_dict(found, states), shows.table(found, states))


@click.command()
@click.argument("study", required=False, type=shared.FOLDER)
@click.option(
    "--published", is_flag=True, help="Report on the published numbers instead."
)
@shared.output_option("Folder to write the page, figures and tables to.", shared.FOLDER)
@shared.choice_option(
    "--score",
    ["final", "best10"],
    "Score to draw and to judge by: the final top-1, or the published mean of the 10 "
    "best.",
)
@shared.json_option
def report(study: Path | None, published: bool, output: Path, score: str) -> None:
    """Write a page of a study: figures, the paper's claims, tables."""
    if (study is None) != published:
        raise MinicnnError(
            "report: give a study folder, as 'minicnn study run' makes them, or "
            "--published" + (", not both" if study else "")
        )
    from minicnn.experiments.report.build import build

    built = build(study, output, score)
    for error in built.left_out.values():
        click.echo(f"warning: left out: {error}", err=True)
    claims = [
        {"claim": e.claim.number, "verdict": e.verdict, "title": e.claim.title}
        for e in built.findings
    ]
    lines = ["{claim:4}{verdict:17}{title}".format(**each) for each in claims]
    lines.append(
        f"Written: {built.page} and {counted(len(built.files) - 1, 'file')} beside it."
    )
    told = {"page": built.page, "files": built.files, "claims": claims}
    put({**told, "left_out": built.left_out}, "\n".join(lines))


@click.command()
@click.argument(
    "targets", metavar="STUDY|RUN...", nargs=-1, required=True, type=shared.FOLDER
)
@click.option(
    "--only",
    multiple=True,
    help="Some of probe,reset,cka,line,distance,logme; may be repeated.",
)
@click.option(
    "-o", "--output", type=shared.FOLDER, help="Default: analyses in the first target."
)
@shared.data_option("the runs' own")
@click.option("--images", default=2000, help="Most validation images.")
@click.option(
    "--train-images", default=5000, help="Most training images, for probes and LogME."
)
@shared.on_device
@shared.json_option
def analyse(
    targets: tuple[Path, ...],
    only: tuple[str, ...],
    output: Path | None,
    data: Path | None,
    images: int,
    train_images: int,
    dev: Device,
) -> None:
    """Analyse finished nets, layer by layer.

    Linear probes, layers set back, CKA, lines between nets, distances, LogME. Earlier
    calls' results are kept."""
    from minicnn.experiments.analyses.run import ANALYSES, analyse
    from minicnn.experiments.analyses.units import Budget

    names = ",".join(only).split(",") if only else []
    for name in names:
        if name not in ANALYSES:
            raise MinicnnError(f"--only {name}: one of {', '.join(ANALYSES)}")
    for option, value in (("images", images), ("train-images", train_images)):
        if value < 4:
            raise MinicnnError(f"--{option} {value}: must be at least 4")
    output = output or targets[0] / "analyses"
    written = analyse(targets, dev, output, names, Budget(images, train_images), data)
    put({"written": written}, "\n".join(map(str, written)))


COMMANDS = [report, study, analyse]
