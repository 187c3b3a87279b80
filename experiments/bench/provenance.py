"""What benchmarks' commands share: a result's origin, its file, its tables."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from minicnn.base.files import write_json

ROOT = Path(__file__).resolve().parents[2]
json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Result file."
)


def machine() -> str:
    """Such as "2 cores of Intel(R) Xeon(R) Processor"."""
    from minicnn.base.cores import available_cores
    from minicnn.training.environment import processor

    return f"{available_cores()} cores of {processor()}"


def provenance() -> dict[str, str]:
    """What a result file says of the program that is running now."""
    from minicnn.training.environment import commit

    program = Path(sys.argv[0]).resolve()
    inside = program.is_relative_to(ROOT)
    path = program.relative_to(ROOT) if inside else Path(program.name)
    return {
        "date": str(datetime.date.today()),
        "machine": machine(),
        "command": shlex.join(["python", str(path), *sys.argv[1:]]),
        "commit": commit(),
    }


def keep(out: Path | None, result: Any) -> None:
    """Writes a result where `--json` said, if it did."""
    if out:
        write_json(out, result)


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns under their keys, for people; floats to three digits."""
    heads = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return "" if value is None else str(value)

    whole = []
    for head in heads:
        values = [row.get(head) for row in rows]
        cells = [head, *map(cell, values)]
        width = max(map(len, cells))
        text = any(isinstance(each, str) for each in values)
        whole.append([c.ljust(width) if text else c.rjust(width) for c in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*whole, strict=True))


def markdown(
    head: Sequence[str], rows: Iterable[Sequence[str]], mark: str = "---:"
) -> str:
    """Cells as a table of Markdown.

    Args:
        mark: what aligns all columns but the first, which stands left.
    """
    marks = ["---", *[mark] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))
