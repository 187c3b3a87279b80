"""The whole program, for click's runner."""

from __future__ import annotations

import click

from minicnn.cli import main as cli


class Program(click.Command):
    """The whole program as click's runner calls a command."""

    def main(self, args: list[str], **_: object) -> None:  # type: ignore[override]
        """Runs it; see `cli.main`."""
        cli.main(args)
