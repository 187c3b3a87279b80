"""The command `report`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from minicnn.base.errors import MinicnnError, counted
from minicnn.cli.output import json_option, put


@click.command()
@click.argument(
    "study", required=False, type=click.Path(file_okay=False, path_type=Path)
)
@click.option(
    "--published", is_flag=True, help="Report on the published numbers instead."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder to write the page, figures and tables to.",
)
@click.option(
    "--score",
    type=click.Choice(["final", "best10"]),
    default="final",
    show_default=True,
    help="Score to draw and to judge by: the final top-1, or the published mean of the "
    "10 best.",
)
@json_option
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


COMMANDS = [report]
