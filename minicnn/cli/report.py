"""The command `report`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from minicnn.base.errors import MinicnnError


@click.command()
@click.argument(
    "study", required=False, type=click.Path(file_okay=False, path_type=Path)
)
@click.option(
    "--published", is_flag=True, help="Report on the published numbers alone."
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
def report(study: Path | None, published: bool, output: Path, score: str) -> None:
    """Draw a study's figures, check the paper's claims, and write it all as a page."""
    if (study is None) != published:
        raise MinicnnError(
            "report: give a study folder, as 'minicnn study run' makes them, or "
            "--published" + (", not both" if study else "")
        )
    from minicnn.experiments.report.build import build

    built = build(study, output, score)
    for error in built.left_out.values():
        click.echo(f"warning: left out: {error}", err=True)
    for each in built.findings:
        click.echo(f"{each.claim.number:4}{each.verdict:17}{each.claim.title}")
    click.echo(f"Written: {built.page} and {len(built.files) - 1} files beside it.")


COMMANDS = [report]
