"""The command line: parse, call, print; nothing else.

Heavy modules are imported inside the commands, so that `minicnn --help` answers at
once.
"""

from __future__ import annotations

import sys

import click

from minicnn import __version__
from minicnn.cli import data, doctor, look, program, prove, start, study, train

# Of all commands: a command has its parent's.
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="minicnn")
def cli() -> None:
    """Train AlexNet-style convnets with hand-written kernels, and measure how
    transferable each layer's features are (Yosinski et al. 2014)."""


for module in (start, data, train, look, doctor, prove, study):
    for each in module.COMMANDS:
        cli.add_command(each)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits; `argv` as for `program.run`."""
    sys.exit(program.run(cli, argv))
