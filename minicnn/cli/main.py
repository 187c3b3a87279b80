"""The command line: parse, call, print; nothing else.

Heavy modules are imported inside the commands, so that `minicnn --help` answers at
once.
"""

from __future__ import annotations

import click

from minicnn import __version__
from minicnn.cli import analyse as cli_analyse
from minicnn.cli import data as cli_data
from minicnn.cli import look as cli_look
from minicnn.cli import program
from minicnn.cli import prove as cli_prove
from minicnn.cli import report as cli_report
from minicnn.cli import start as cli_start
from minicnn.cli import study as cli_study
from minicnn.cli import train as cli_train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="minicnn")
def cli() -> None:
    """Train AlexNet-style convnets with hand-written kernels, and measure how
    transferable each layer's features are (Yosinski et al. 2014)."""


for each in [
    *cli_start.COMMANDS,
    cli_data.data,
    cli_data.splits,
    *cli_train.COMMANDS,
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
