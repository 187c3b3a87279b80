"""The report's CSV files, and the facts of a study that its page lists."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minicnn.base.errors import counted
from minicnn.base.progress import duration
from minicnn.experiments.report.claims import Finding, unpaired_boost
from minicnn.experiments.report.contents import Contents, Entry, sharers
from minicnn.experiments.report.curves import twin
from minicnn.experiments.study.folder import some
from minicnn.experiments.study.graph import Node
from minicnn.experiments.study.records import Net

NONE = "–"
Pairs = list[tuple[str, str]]
# Keys of env.json that differ between sessions, and are reported elsewhere.
_PASSING = {"began", "seconds", "first_step", "last_step", "images_per_second"}
_PASSING |= {"trained_together"}
_HEADER = {"best10": "top1_mean_of_10_best", "final": "top1_final"}


def as_csv(rows: Sequence[Mapping[str, Any]], header: Iterable[str]) -> bytes:
    """CSV of rows under a header, also without rows; None is an empty cell."""
    text, names = io.StringIO(newline=""), list(header)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_HEADER.get(name, name) for name in names])
    writer.writerows([row[name] for name in names] for row in rows)
    return text.getvalue().encode()


NETS = [*Net.__dataclass_fields__, "evaluations", "top5", "seconds"]
NETS += ["images_per_second", "published_name", "published_top1", "frozen_unchanged"]


def nets_rows(
    nets: Sequence[Net],
    entries: Sequence[Entry],
    published: Sequence[Net],
    study: Path | None,
) -> list[dict[str, Any]]:
    """One row a net, by NETS: its fields, its run, and the published net beside it.

    Args:
        entries: of the nets, in the same order; none for published ones.
        study: folders are given relative to it.
    """
    rows = []
    for place, net in enumerate(nets):
        row, other = dict.fromkeys(NETS) | asdict(net), twin(net, published)
        if study and net.folder:
            row["folder"] = net.folder.relative_to(study).as_posix()
        if entries:
            entry, result = entries[place], entries[place].result
            row |= {"evaluations": result["evaluations"], "top5": result["top5"]}
            row["seconds"] = round(entry.seconds, 3) or None
            row["images_per_second"] = entry.rate and round(entry.rate, 1)
            if result["frozen_layers"]:
                row["frozen_unchanged"] = result["frozen_unchanged"]
        if other:
            row |= {"published_name": other.name, "published_top1": other.best10}
        rows.append(row)
    return rows


def _numbers(finding: Finding) -> dict[str, Any]:
    """Estimate and interval, in hundredths, and what they rest on."""
    found: dict[str, Any] = asdict(finding.estimate) if finding.estimate else {}
    shown = {
        name: None if found.get(key) is None else round(100 * found[key], 4)
        for name, key in (("estimate", "mean"), ("low", "low"), ("high", "high"))
    }
    shown["units"] = " and ".join(map(str, finding.units))
    shown["depths"] = " ".join(map(str, finding.depths))
    return {**shown, "verdict": finding.verdict, "why": finding.why}


def claims_csv(ours: list[Finding], published: list[Finding], score: str) -> bytes:
    """One row a claim; estimates in points, or in % of the base's accuracy."""
    rows = []
    for each, other in zip(ours, published, strict=True):
        claim = each.claim
        row = {"claim": claim.number, "title": claim.title, "text": claim.text}
        row |= {"quantity": claim.formula, "unit": claim.unit, "score": score}
        theirs = {f"published_{k}": value for k, value in _numbers(other).items()}
        rows.append(row | _numbers(each) | theirs)
    return as_csv(rows, rows[0])


def boosts(
    nets: list[Net], score: str, published: list[Net]
) -> list[tuple[int, float | None, float | None]]:
    """The paper's own figure for claim 6 by least n: of our nets, and as published."""
    return [
        (n, unpaired_boost(nets, score, n), unpaired_boost(published, "best10", n))
        for n in (1, 5)
    ]


def _distinct(values: Iterable[object]) -> str:
    """The different values, in order, in one line."""
    return ", ".join(dict.fromkeys(str(each) for each in values)) or NONE


def _version(session: dict[str, Any]) -> str:
    commit = session.get("commit")
    return f"{session.get('minicnn', NONE)}" + (f", commit {commit}" if commit else "")


def source(contents: Contents) -> str:
    """What a figure's numbers come from, in a line."""
    study = contents.study
    nets = _distinct(node.config.network.arch for node in study.nodes)
    made = some(dict.fromkeys(map(_version, contents.sessions)), between="; ") or NONE
    return f"Study “{study.name}”, data {study.store.name}, net {nets}, minicnn {made}"


def _budget(node: Node) -> str:
    solver = node.config.solver
    updates = f"{solver.iterations:,} updates of {solver.batch} images"
    return f"{updates}, learning rate {solver.lr:g}"


def facts(contents: Contents) -> Pairs:
    """The plan, what of it is missing, and where, how fast and how long it trained."""
    study, entries, sessions = contents.study, contents.entries, contents.sessions
    nodes, rates = study.nodes, [entry.rate for entry in entries if entry.rate]
    under = "same protocol: the published numbers are laid under ours"
    apart = "another protocol than the paper's: its numbers are shown apart"
    days = sorted({str(each["began"])[:10] for each in sessions if "began" in each})
    images = sum(e.net.iterations * e.run.config.solver.batch for e in entries)
    speed = f"{min(rates):,.0f} to {max(rates):,.0f}" if rates else NONE
    shared = sum(any(sharers(s) > 1 for s in entry.sessions) for entry in entries)
    unknown = sum(not entry.sessions for entry in entries)
    keys = dict.fromkeys(key for each in sessions for key in each)
    pairs = [
        ("plan", f"{study.name}, recipe {study.recipe}"),
        ("missing, and in nothing below", some(_missing(contents), 40, "; ")),
        ("left out", "; ".join(contents.left_out.values())),
        ("beside the plan, and counted in", ", ".join(contents.unplanned)),
        ("data", f"{study.store.name}, content {study.identity}"),
        ("network", _distinct(node.config.network.arch for node in nodes)),
        ("budget", _distinct(map(_budget, nodes))),
        ("splits", _distinct(node.split for node in nodes)),
        ("seeds", _distinct(sorted({node.seed for node in nodes}))),
        ("treatments", _distinct(node.kind for node in nodes)),
        ("published", under if study.published else apart),
        ("trained", " to ".join(dict.fromkeys([*days[:1], *days[-1:]]))),
        *(
            (key.replace("_", " "), _distinct(s.get(key, NONE) for s in sessions))
            for key in keys
            if key not in _PASSING
        ),
        ("training images in all", f"{images:,}"),
        ("images a second", speed),
        (
            "time of all nets, with evaluations",
            duration(sum(entry.seconds for entry in entries)),
        ),
        ("sessions", f"{len(sessions)} of {len(entries)} nets"),
        (
            "shared a pass",
            f"{shared} nets, each at its part of the time" * (shared > 0),
        ),
        ("without a record", counted(unknown, "net") * (unknown > 0)),
    ]
    return [(name, value) for name, value in pairs if value]


def _missing(contents: Contents) -> list[str]:
    """Nets of the plan that are missing, and how far each is."""
    lines = []
    for name, state in contents.unfinished.items():
        total = contents.study.by_id[name].config.solver.iterations
        step = f", {state.step:,} of {total:,} updates" if state.step else ""
        error = f": {state.error}" if state.error else ""
        lines.append(f"{name} ({state.state}{step}){error}")
    return lines
