"""What the commands of benchmarks and proofs share: a result's origin, its file."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from minicnn.base.cores import available_cores
from minicnn.base.files import write_json
from minicnn.training import environment

ROOT = Path(__file__).resolve().parents[2]
STAT = Path("/proc/stat")
json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Result file."
)
nets_option = click.option(
    "--net",
    "nets",
    type=(str, click.IntRange(1)),
    multiple=True,
    metavar="ARCH IMAGES",
    help="A network and its batch; may be repeated; default: by device.",
)
# What is measured unless asked for otherwise, by kind of device: networks and images.
SMALL = "caffenet32"
NETS = {
    "cpu": [("caffenet", 32), ("caffenet64", 128), (SMALL, 32), (SMALL, 128)],
    "cuda": [("caffenet", 256), ("caffenet64", 256)],
}


def provenance() -> dict[str, str]:
    """What a result file says of the program that is running now."""
    spec = sys.modules["__main__"].__spec__  # of `python -m`
    program = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return {
        "date": str(datetime.date.today()),
        "machine": f"{available_cores()} cores of {environment.processor()}",
        "command": shlex.join(["python", *program, *sys.argv[1:]]),
        "commit": environment.commit(),
    }


def keep(out: Path | None, result: Any) -> None:
    """Writes a result where `--json` said, if it did."""
    if out:
        write_json(out, result)


def busy_cores() -> float | None:
    """How many processors are kept busy while this process sleeps for a second.

    None where the system does not say.
    """

    def ticks() -> tuple[int, int]:
        # user, nice, system, idle, waiting for disks, interrupts, stolen; guests are
        # counted among users.
        times = [int(each) for each in STAT.read_text().split()[1:9]]
        return sum(times), times[3] + times[4]

    try:
        total, idle = ticks()
        time.sleep(1)
        total_after, idle_after = ticks()
    except OSError:
        return None
    busy = 1 - (idle_after - idle) / (total_after - total)
    return max(0.0, busy) * (os.cpu_count() or 1)


def insert(page: str, mark: str, table: str) -> str:
    """The page with what stands at that mark replaced."""
    before, begin, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise click.ClickException(f"the page has no place marked <!-- {mark} -->")
    return f"{before}{begin}{table}\n{end}{after}"
