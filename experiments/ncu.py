"""Every kernel of a training step under Nsight Compute: times, and what limits them."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minicnn.compile.kernel_source import FOLDER, KernelSource
from minicnn.experiments.checkup import Checkup, Record, Skipped, tail

# Sections hold what every GPU and release measures; a metric's name may be unknown.
SECTIONS = ("SpeedOfLight", "Occupancy", "LaunchStats", "WarpStateStats")
# Clocks stay as they are: it is the step's times that are to be explained.
OPTIONS = ("--clock-control", "none", "--csv", "--page", "details")
UNITS = ("--print-units", "base")
NANOSECONDS = {"ns", "nsecond"}
# One step as written: every kernel is launched once. CuPy's own fill buffers before.
STEP = """
from minicnn.devices import device
from minicnn.experiments.bench import ops as bench
dev = device.get({device!r})
bench.Step(dev, {arch!r}, {batch}, {precision!r}).recorded()
dev.synchronize()
"""


def profile(check: Checkup, arch: str, batch: int, precision: str) -> list[Record]:
    """The kernels of a step, in order of launch.

    Returns:
        For each "name", "grid", "block", "seconds", and "metrics" by ncu's names, in
        base units.

    Raises:
        Skipped: there is no ncu, or it cannot measure here.
        Failed: it took too long.
    """
    if not shutil.which("ncu"):
        raise Skipped("no ncu to profile with")
    log = check.folder / "ncu.csv"
    code = STEP.format(device=check.device, arch=arch, batch=batch, precision=precision)
    sections = [word for name in SECTIONS for word in ("--section", name)]
    tool = "ncu", *OPTIONS, *UNITS, *sections, "--log-file", str(log)
    status, said = check.child("-c", code, under=tool)
    found = list(read(log)) if log.exists() else []
    kernels = [each for each in found if any(name in each["name"] for name in ours())]
    if status or not kernels:
        # What it lacks, such as the right to read counters, is in either.
        log_said = log.read_text() if log.exists() else ""
        raise Skipped(f"ncu measured nothing\n{tail(log_said + said)}")
    return kernels


def ours() -> set[str]:
    """The names of minicnn's kernels."""
    files = map(KernelSource.read, FOLDER.glob("*.cu"))
    return {name.partition("<")[0] for file in files for name in file.instances}


def read(log: Path) -> Iterator[Record]:
    """The kernels in what ncu printed, which has one row a metric."""
    lines = log.read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith('"ID"')]
    if not starts:
        return
    kernels: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(lines[starts[0] :]):
        if not row["Metric Name"]:  # advice
            continue
        kernel = kernels.setdefault(
            row["ID"],
            {
                "name": row["Kernel Name"],
                "grid": row["Grid Size"],
                "block": row["Block Size"],
                "seconds": 0.0,
                "metrics": {},
            },
        )
        try:
            value = float(row["Metric Value"].replace(",", ""))
        except ValueError:  # a name, such as of a cache's setting
            continue
        name, unit = row["Metric Name"], row["Metric Unit"]
        if name == "Duration" and unit in NANOSECONDS:
            kernel["seconds"] = value * 1e-9
        kernel["metrics"][f"{name} [{unit}]" if unit else name] = value
    yield from kernels.values()
