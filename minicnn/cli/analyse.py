"""The command `analyse`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from minicnn.base.errors import MinicnnError
from minicnn.cli.look import device_options
from minicnn.cli.output import json_option, put

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument(
    "targets", metavar="STUDY|RUN...", nargs=-1, required=True, type=_FOLDER
)
@click.option("--only", help="Some of probe,reset,cka,line,distance,logme.")
@click.option(
    "-o", "--output", type=_FOLDER, help="Default: analyses in the first target."
)
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Image store; default: the runs' own.",
)
@click.option(
    "--images", default=2000, show_default=True, help="Most validation images."
)
@click.option(
    "--train-images",
    default=5000,
    show_default=True,
    help="Most training images, for probes and LogME.",
)
@device_options
@json_option
def analyse(
    targets: tuple[Path, ...],
    only: str | None,
    output: Path | None,
    data: Path | None,
    images: int,
    train_images: int,
    device: str,
    threads: int | None,
) -> None:
    """Analyse finished nets, layer by layer.

    Linear probes, layers set back, CKA, lines between nets, distances, LogME. Earlier
    calls' results are kept."""
    from minicnn.devices import device as devices
    from minicnn.experiments.analyses.run import ANALYSES, analyse
    from minicnn.experiments.analyses.units import Budget

    names = only.split(",") if only else []
    for name in names:
        if name not in ANALYSES:
            raise MinicnnError(f"--only {name}: one of {', '.join(ANALYSES)}")
    for option, value in (("images", images), ("train-images", train_images)):
        if value < 4:
            raise MinicnnError(f"--{option} {value}: must be at least 4")
    output = output or targets[0] / "analyses"
    dev, budget = devices.get(device, threads), Budget(images, train_images)
    written = analyse(targets, dev, output, names, budget, data)
    put({"written": written}, "\n".join(map(str, written)))


COMMANDS = [analyse]
