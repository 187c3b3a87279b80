"""What the commands of benchmarks and proofs share: a result's origin, its file."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from minicnn.base.files import write_json

ROOT = Path(__file__).resolve().parents[2]
json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Result file."
)


def provenance() -> dict[str, str]:
    """What a result file says of the program that is running now."""
    from minicnn.base.cores import available_cores
    from minicnn.training.environment import commit, processor

    spec = sys.modules["__main__"].__spec__  # of `python -m`
    program = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return {
        "date": str(datetime.date.today()),
        "machine": f"{available_cores()} cores of {processor()}",
        "command": shlex.join(["python", *program, *sys.argv[1:]]),
        "commit": commit(),
    }


def keep(out: Path | None, result: Any) -> None:
    """Writes a result where `--json` said, if it did."""
    if out:
        write_json(out, result)
