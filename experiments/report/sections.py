"""The words and tables of the report's sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minicnn.base.progress import duration
from minicnn.experiments.report import page, tables
from minicnn.experiments.report.checks import Check
from minicnn.experiments.report.claims import Finding, unpaired_boost
from minicnn.experiments.report.contents import Contents, sharers
from minicnn.experiments.report.drawing import Picture
from minicnn.experiments.report.intervals import LEAST, RESAMPLES
from minicnn.experiments.report.tables import NONE, Html
from minicnn.experiments.study.records import Net

# Of env.json's sessions: what differs from session to session, and is told elsewhere.
_PASSING = {"began", "seconds", "first_step", "last_step", "images_per_second"}
_PASSING |= {"trained_together"}
_VERSIONS = 3
"""Versions that a figure names before the rest is counted."""
_SHOWN = 40
"""Missing nets that are named before the rest is counted."""


def group_name(split: str, seed: int) -> str:
    """A name for files: random-0-seed1."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in split)
    return f"{safe}-seed{seed}"


def _distinct(values: Iterable[object]) -> str:
    """The different values, in order, in one line."""
    return ", ".join(dict.fromkeys(str(each) for each in values)) or NONE


def lead(contents: Contents) -> str:
    """What the study is, and how much of it there is."""
    done = len(contents.entries) - len(contents.unplanned)
    text = (
        "Base nets are trained on one task each; new nets copy their first n layers, "
        "frozen or trained on, and learn the same task again or another one. "
        f"{done} of {len(contents.study.nodes)} nets of the plan are finished."
    )
    if contents.unfinished or contents.left_out:
        text += " This report shows what there is."
    return text


def source(contents: Contents) -> str:
    """What a figure's numbers come from, in a line."""
    study = contents.study
    nets = _distinct(node.config.network.arch for node in study.nodes)
    sessions = [each for entry in contents.entries for each in entry.sessions]
    versions = list(dict.fromkeys(_version(each) for each in sessions)) or [NONE]
    more = len(versions) - _VERSIONS
    made = "; ".join(versions[:_VERSIONS]) + (f" and {more} more" if more > 0 else "")
    return f"Study “{study.name}”, data {study.store.name}, net {nets}, minicnn {made}"


def what_was_run(contents: Contents) -> list[Html]:
    """The plan, the data, the net, its budget, and what is missing."""
    study, entries = contents.study, contents.entries
    configs = [node.config for node in study.nodes]
    sessions = [each for entry in entries for each in entry.sessions]
    solvers = [
        f"{c.solver.iterations:,} updates of {c.solver.batch} images, learning rate "
        f"{c.solver.lr:g}"
        for c in configs
    ]
    pairs: list[tuple[str, object]] = [
        ("plan", f"{study.name}, recipe {study.recipe}"),
        ("data", f"{study.store.name}, content {study.identity}"),
        ("network", _distinct(c.network.arch for c in configs)),
        ("budget", _distinct(solvers)),
        ("splits", _distinct(node.split for node in study.nodes)),
        ("seeds", _distinct(sorted({node.seed for node in study.nodes}))),
        ("treatments", _distinct(node.kind for node in study.nodes)),
        (
            "published",
            "same protocol: the published numbers are laid under ours"
            if study.published
            else "another protocol than the paper's: its numbers are shown apart",
        ),
        ("device", _distinct(each.get("device", NONE) for each in sessions)),
        ("minicnn", _distinct(_version(each) for each in sessions)),
        ("trained", _days(sessions)),
        ("training time", duration(sum(entry.seconds for entry in entries))),
    ]
    return [page.facts(pairs), *_missing(contents)]


def _version(session: dict[str, Any]) -> str:
    commit = session.get("commit")
    return f"{session.get('minicnn', NONE)}" + (f", commit {commit}" if commit else "")


def _days(sessions: list[dict[str, Any]]) -> str:
    """The first day and the last."""
    days = sorted({str(each["began"])[:10] for each in sessions if "began" in each})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else NONE


def _missing(contents: Contents) -> list[Html]:
    """What the plan names and the folder lacks, by name."""
    parts = []
    lines = []
    for name, state in contents.unfinished.items():
        total = contents.study.by_id[name].config.solver.iterations
        step = f", {state.step:,} of {total:,} updates" if state.step else ""
        error = f": {state.error}" if state.error else ""
        lines.append(f"{name} ({state.state}{step}){error}")
    if lines:
        more = len(lines) - _SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        text = f"{len(lines)} nets of the plan are missing, and in nothing below:"
        parts += [page.paragraph(text, "warning")]
        parts += [page.bullets([*lines[:_SHOWN], *rest])]
    if contents.left_out:
        text = f"{len(contents.left_out)} run folders are left out:"
        parts += [page.paragraph(text, "warning")]
        parts += [page.bullets(contents.left_out.values())]
    if contents.unplanned:
        names = ", ".join(contents.unplanned)
        text = f"Beside the plan, and counted in: {names}."
        parts += [page.paragraph(text, "warning")]
    return parts


def claims(
    findings: Sequence[Finding],
    published: Sequence[Finding],
    nets: Sequence[Net],
    published_nets: Sequence[Net],
    score: str,
) -> list[Html]:
    """The table of claims, and how to read it."""
    final = "the final top-1" if score == "final" else "the mean of the 10 best"
    words = "Scores are means of the 10 best evaluations."
    if findings:
        words = (
            f"Our scores here are {final}; the published ones are means of the 10 best "
            "evaluations, which select on the validation part and so lie a little high."
        )
    return [
        page.paragraph(
            "A unit is one split, seed and target, and every quantity is first taken "
            "within a unit, against its own base. Similar tasks are all splits into A "
            "and B but that into natural and man-made. Brackets hold 95 % intervals "
            "over units: the wider of a percentile bootstrap "
            f"({RESAMPLES:,} resamples, always the same) and Student's t, since a "
            "bootstrap over few units is too narrow. They take units for independent, "
            "which is not quite so: on one split and seed the transfer nets of each "
            "target copy from the other target's base, and with one seed nets of one "
            "name draw the same initial weights and random filters on every split. "
            f"With fewer than {LEAST} units there is no interval and no "
            "verdict. A claim is supported only where the whole interval lies on its "
            f"side; no allowance is made for there being {len(published)} of them. "
            f"{words}"
        ),
        tables.claims_table(findings, published),
        page.paragraph(_boost(nets, published_nets, score), "small"),
    ]


def _boost(nets: Sequence[Net], published: Sequence[Net], score: str) -> str:
    """The paper's own figure for claim 6, and ours made in the same way."""
    rows = []
    for least in (1, 5):
        theirs = unpaired_boost(published, "best10", least)
        ours = unpaired_boost(nets, score, least)
        text = "" if theirs is None else f"{100 * theirs:.1f} points published"
        text += "" if ours is None else f", {tables.number(100 * ours)} here"
        rows.append(f"{text} (n ≥ {least})")
    return (
        "Claims 6a and 6b pair each net with the base of its own split. The paper's "
        "table 1 does not: it takes the mean of all fine-tuned transfer nets minus the "
        f"mean of all bases, which comes to {'; '.join(rows)}."
    )


def folds(pictures: Iterable[Picture], kind: str) -> list[Html]:
    """The pictures of one kind, folded but for the first."""
    mine = [each for each in pictures if each.name.startswith(f"{kind}-")]
    return [
        page.folded(each.title, [page.figure(_untitled(each), True)], opened=place == 0)
        for place, each in enumerate(mine)
    ]


def _untitled(picture: Picture) -> Picture:
    from dataclasses import replace

    return replace(picture, title="")


def frozen(contents: Contents, found: Sequence[Check]) -> list[Html]:
    """The checks of frozen and copied layers."""
    if not found:
        return []
    words = {True: "yes", False: "no", None: NONE}
    verdicts = {True: "as it must be", None: "no readable checkpoint"}
    verdicts[False] = Html("<strong>WRONG</strong>")
    rows = []
    for each in found:
        moved = None if each.conv1_moved is None else 100 * each.conv1_moved
        rows.append(
            [
                each.id,
                each.layers,
                each.tensors,
                words[each.unchanged],
                words[each.recomputed],
                words[each.as_base],
                number_or_zero(moved),
                verdicts[each.right],
            ]
        )
    held = [each for each in found if "frozen" in each.layers]
    wrong = [each.id for each in found if each.right is False]
    equal = sum(each.as_base is True for each in held)
    compared = sum(each.as_base is not None for each in held)
    text = (
        f"{len(held)} nets have frozen layers. Their SHA-256 were taken before and "
        "after training; here they are taken again from the checkpoints, and compared "
        f"with those of the bases: {equal} of {compared} hold the base's bytes. "
        "Fine-tuned nets must differ."
    )
    if wrong:
        text += f" Wrong: {', '.join(wrong)}."
    header = ["net", "layers", "tensors", "unchanged in training"]
    header += ["checkpoint as recorded", "equal to base", "conv1 moved %", "verdict"]
    table = tables.table(header, rows, "Frozen and copied layers.", (2, 6))
    title = f"All {len(found)} nets with copied or frozen layers"
    return [
        page.paragraph(text, "warning" if wrong else ""),
        page.folded(title, [table], opened=bool(wrong)),
    ]


def number_or_zero(value: float | None) -> str:
    """A percentage; a zero is exactly zero."""
    return "0" if value == 0 else tables.number(value)


def cost(contents: Contents) -> list[Html]:
    """Where the nets were trained, how fast, and for how long."""
    entries = contents.entries
    sessions = [each for entry in entries for each in entry.sessions]
    keys = dict.fromkeys(key for each in sessions for key in each)
    pairs: list[tuple[str, object]] = [
        (key.replace("_", " "), _distinct(s.get(key, NONE) for s in sessions))
        for key in keys
        if key not in _PASSING
    ]
    rates = [entry.rate for entry in entries if entry.rate]
    images = sum(e.net.iterations * e.run.config.solver.batch for e in entries)
    speed = f"{min(rates):,.0f} to {max(rates):,.0f} a second" if rates else NONE
    pairs += [
        ("training images in all", f"{images:,}"),
        ("images a second", speed),
        ("time of all nets", duration(sum(entry.seconds for entry in entries))),
        ("sessions", f"{len(sessions)} of {len(entries)} nets"),
    ]
    shared = sum(any(sharers(s) > 1 for s in entry.sessions) for entry in entries)
    if shared:
        pairs.append(("shared a pass", f"{shared} nets, each at its part of the time"))
    unknown = sum(not entry.sessions for entry in entries)
    if unknown:
        pairs.append(("without a record", f"{unknown} nets"))
    return [
        page.paragraph(
            "Times are the sum over nets, with evaluations and checkpoints; nets that "
            "trained side by side share a machine. Each net's own is in the table of "
            "all nets."
        ),
        page.facts(pairs),
    ]
