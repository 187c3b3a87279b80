"""Where a recorded result comes from: date, machine, command and commit."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
