"""`minicnn analyse`: runs what is missing, and writes rows, summaries and pictures.

| in OUTPUT | content |
| --- | --- |
| `units/ANALYSIS/GROUP/NETS.json` | rows of one net or pair; kept by its weights |
| `ANALYSIS.csv` | all rows of an analysis |
| `summary.json` | means over splits, seeds and directions, with 95 % intervals |
| `ANALYSIS.png`, `.svg` | its picture |
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError, Stopped
from minicnn.base.files import make_folder, read_json, write_atomically, write_json
from minicnn.base.interrupt import raising
from minicnn.base.progress import Progress
from minicnn.devices.device import Device
from minicnn.experiments.analyses import panels
from minicnn.experiments.analyses.units import Analyst, Budget, Group, Row, Unit
from minicnn.experiments.report.intervals import Interval, of_mean
from minicnn.experiments.report.tables import as_csv
from minicnn.training.run import Run

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Analysis:
    """How an analysis' rows are summed up.

    Attributes:
        by: columns that tell its cases apart.
        values: columns whose mean over the units of a case is taken.
    """

    by: tuple[str, ...]
    values: tuple[str, ...]


ANALYSES = {
    "probe": Analysis(("own", "layer"), ("top1",)),
    "reset": Analysis(("treatment", "n", "to", "layer"), ("top1", "change")),
    "cka": Analysis(("pair", "n", "row", "column"), ("cka",)),
    "line": Analysis(("treatment", "n", "share"), ("loss", "top1", "barrier")),
    "distance": Analysis(("treatment", "n", "layer"), ("distance",)),
    "logme": Analysis(("layer",), ("logme", "top1", "tau")),
}


def groups_of(targets: Sequence[Path]) -> list[Group]:
    """The runs of study folders, of run folders with the bases beside them, by group.

    Raises:
        MinicnnError: a target is neither, or no run there is finished.
    """
    found: dict[Path, dict[str, Run]] = {}
    for target in targets:
        if (target / "config.toml").is_file():
            bases = sorted(target.parent.glob("base*/config.toml"))
            folders = [target, *(each.parent for each in bases)]
        else:
            folders = [each.parent for each in target.glob("runs/*/*/config.toml")]
        if not folders:
            raise MinicnnError(
                f"{target}: neither a study nor a run folder; 'minicnn study run' and "
                "'minicnn train-base' make them"
            )
        for folder in folders:
            run = Run(folder)
            # Bases on few images share a name with others, and no net copies from them.
            if run.result and not run.config.data.images_per_class:
                found.setdefault(folder.parent, {})[run.name] = run
    if not found:
        raise MinicnnError(f"{targets[0]}: no finished run yet; finish one first")
    return [Group(folder, runs) for folder, runs in sorted(found.items())]


def _kept(file: Path, unit: Unit) -> list[Row] | None:
    """The rows of a unit that an earlier call made of the same weights."""
    if not file.exists():
        return None
    try:
        found = read_json(file)
    except MinicnnError:
        return None  # cut off or edited: made again
    return found.get("rows") if found.get("key") == unit.key else None


def analyse(
    targets: Sequence[Path],
    dev: Device,
    output: Path,
    only: Sequence[str] = (),
    budget: Budget | None = None,
    store: Path | None = None,
) -> list[Path]:
    """Does what is missing of the analyses, and writes all files.

    Args:
        targets: study folders or run folders.
        only: names of `ANALYSES`; none takes all.
        store: the image store, where the runs' own has moved.

    Returns:
        The files written, but for the units'.

    Raises:
        MinicnnError: there is nothing to analyse, or a store is missing.
        Stopped: by Ctrl-C or SIGTERM; finished units are kept.
    """
    names = [name for name in ANALYSES if not only or name in only]
    groups = groups_of(targets)
    units = list(Analyst(groups, dev, budget or Budget(), store).units(names))
    if not units:
        raise MinicnnError(
            f"{targets[0]}: no net there is one that {', '.join(names)} can look at; "
            "probes need a base, lines a fine-tuned copy of one"
        )
    make_folder(output)
    rows: dict[str, list[Row]] = {name: [] for name in names}
    try:
        with raising(), Progress(len(units), "nets", "analyse") as bar:
            for unit in units:
                file = output / "units" / unit.analysis / f"{unit.name}.json"
                found = _kept(file, unit)
                if found is None:
                    began = time.perf_counter()
                    found = unit.work()
                    taken = round(time.perf_counter() - began, 2)
                    make_folder(file.parent)
                    write_json(file, {"key": unit.key, "seconds": taken, "rows": found})
                rows[unit.analysis] += found
                bar.update(1, f"{unit.analysis} {unit.name}")
    except Stopped:
        print(
            f"What is done is kept in {output}; the same command goes on",
            file=sys.stderr,
        )
        raise
    return _write(output, {name: made for name, made in rows.items() if made})


def _write(output: Path, rows: dict[str, list[Row]]) -> list[Path]:
    summary = {name: summed_up(name, made) for name, made in rows.items()}
    files = {f"{name}.csv": as_csv(made, made[0]) for name, made in rows.items()}
    for name, cases in summary.items():
        drawn = panels.drawn(name, cases).items()
        files |= {f"{name}{suffix}": content for suffix, content in drawn}
    for name, content in files.items():
        write_atomically(output / name, content)
    known = read_json(output / SUMMARY) if (output / SUMMARY).exists() else {}
    write_json(output / SUMMARY, known | summary)
    return [output / name for name in (*files, SUMMARY)]


def _mean(values: Sequence[float]) -> Interval:
    known = [each for each in values if not math.isnan(each)]
    return of_mean(known) if known else Interval(math.nan)


def summed_up(name: str, rows: Sequence[Row]) -> list[Row]:
    """The cases of an analysis: units, and each value's mean with its interval.

    A value that a unit has not, as τ of nets that are all alike, is NaN there, and so
    left out of the mean.
    """
    by, values = ANALYSES[name].by, ANALYSES[name].values
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cases.setdefault(tuple(row[column] for column in by), []).append(row)
    return [
        {**dict(zip(by, case, strict=True)), "units": len(cases[case])}
        | {value: asdict(_mean([r[value] for r in cases[case]])) for value in values}
        for case in sorted(cases, key=str)
    ]
