"""`minicnn analyse`: runs what is missing, and writes rows, summaries and pictures.

| in OUTPUT | content |
| --- | --- |
| `units/ANALYSIS/GROUP/NETS.json` | rows of one net or pair; kept by its weights |
| `ANALYSIS.csv` | all rows of an analysis, of all splits but those below |
| `ANALYSIS.png`, `.svg` | its picture |
| `ANALYSIS-natural-manmade.*`, `ANALYSIS-all.*` | of those splits |
| `summary.json` | means over splits, seeds and directions, with 95 % intervals |
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError, Stopped
from minicnn.base.files import make_folder, read_json, write_atomically, write_json
from minicnn.base.interrupt import raising
from minicnn.base.progress import Progress
from minicnn.devices.device import Device
from minicnn.experiments.analyses import panels
from minicnn.experiments.analyses.units import Analyst, Budget, Group, Row, Unit
from minicnn.experiments.report.curves import family_of
from minicnn.experiments.report.intervals import Interval, of_mean
from minicnn.experiments.report.tables import as_csv
from minicnn.training.run import Run

SUMMARY = "summary.json"
# Of each analysis the columns that tell its cases apart, and those whose mean over the
# units of a case is taken.
ANALYSES = {
    "probe": (("own", "layer"), ("top1",)),
    "reset": (("treatment", "n", "to", "layer"), ("top1", "change")),
    "cka": (("pair", "n", "row", "column"), ("cka",)),
    "line": (("treatment", "n", "share"), ("loss", "top1", "barrier")),
    "distance": (("treatment", "n", "layer"), ("distance",)),
    "logme": (("layer",), ("logme", "top1", "tau")),
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


def _rows(unit: Unit, file: Path) -> list[Row]:
    """The rows of a unit, kept in a file or made and kept there."""
    with suppress(MinicnnError):  # absent, cut off or edited: made again
        found = read_json(file)
        if found.get("key") == unit.key:
            return found["rows"]
    began = time.perf_counter()
    rows = unit.work()
    taken = round(time.perf_counter() - began, 2)
    make_folder(file.parent)
    write_json(file, {"key": unit.key, "seconds": taken, "rows": rows})
    return rows


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
            "probes need a base; lines and cka a fine-tuned net and, beside it, the "
            "base of its own task, also where --from PATH names another source"
        )
    make_folder(output)
    rows: dict[tuple[str, str], list[Row]] = {}
    try:
        with raising(), Progress(len(units), "nets", "analyse") as bar:
            for unit in units:
                file = output / "units" / unit.analysis / f"{unit.name}.json"
                for row in _rows(unit, file):
                    place = unit.analysis, family_of(row["split"])
                    rows.setdefault(place, []).append(row)
                bar.update(1, f"{unit.analysis} {unit.name}")
    except Stopped:
        print(
            f"What is done is kept in {output}; the same command goes on",
            file=sys.stderr,
        )
        raise
    summary: dict[str, list[Row]] = {}
    files: dict[str, bytes] = {}
    for (name, family), found in rows.items():
        stem, cases = panels.stem(name, family), summed_up(name, found)
        summary.setdefault(name, []).extend({"tasks": family} | c for c in cases)
        files[f"{stem}.csv"] = as_csv(found, found[0])
        pictures = panels.drawn(name, family, cases)
        files |= {f"{stem}{suffix}": data for suffix, data in pictures.items()}
    for name, content in files.items():
        write_atomically(output / name, content)
    known = read_json(output / SUMMARY) if (output / SUMMARY).exists() else {}
    for name, cases in summary.items():  # those of other splits stay
        made = {None, *(case["tasks"] for case in cases)}
        cases += [c for c in known.get(name, ()) if c.get("tasks") not in made]
        cases.sort(key=itemgetter("tasks"))
    write_json(output / SUMMARY, known | summary)
    return [output / name for name in (*files, SUMMARY)]


def summed_up(name: str, rows: Sequence[Row]) -> list[Row]:
    """The cases of an analysis: units, and each value's mean with its interval.

    A value that a unit has not, as τ of nets that are all alike, is NaN there, and so
    left out of the mean.
    """
    by, values = ANALYSES[name]
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cases.setdefault(tuple(row[column] for column in by), []).append(row)
    summary = []
    for case in sorted(cases, key=str):
        of = {**dict(zip(by, case, strict=True)), "units": len(cases[case])}
        for value in values:
            known = [r[value] for r in cases[case] if not math.isnan(r[value])]
            of[value] = asdict(of_mean(known) if known else Interval(math.nan))
        summary.append(of)
    return summary
