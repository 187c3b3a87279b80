"""The report's CSV files, and tables as HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from html import escape
from pathlib import Path
from typing import Any

from minicnn.base.progress import duration
from minicnn.experiments.report.claims import Finding
from minicnn.experiments.report.contents import Entry
from minicnn.experiments.report.units import twin
from minicnn.experiments.study.records import Net
from minicnn.training.run import BEST

NONE = "–"
FEW_EVALUATIONS = f"{NONE} for best 10: fewer than {BEST} evaluations."


def number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """A number with a true minus sign; a dash for None."""
    if value is None:
        return NONE
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if v is None else v for v in row] for row in rows)
    return text.getvalue().encode()


def nets_csv(
    nets: Sequence[Net],
    entries: Sequence[Entry],
    published: Sequence[Net],
    study: Path | None,
) -> bytes:
    """One row a net: its fields, both scores, and the published net beside it.

    Args:
        nets: the rows.
        entries: their entries, in the same order; none for published rows.
        published: to find each net's counterpart in; empty where none corresponds.
        study: folders are given relative to it.
    """
    names = [field.name for field in fields(Net)]
    more = ["evaluations", "top5", "seconds", "images_per_second"]
    more += ["published_name", "published_top1"]
    rows = []
    for place, net in enumerate(nets):
        row = asdict(net)
        if study and net.folder:
            row["folder"] = net.folder.relative_to(study).as_posix()
        other = twin(net, published)
        extra: list[Any] = [None] * 4
        if entries:
            entry = entries[place]
            rate = entry.rate
            extra = [entry.result[name] for name in more[:2]]
            extra.append(round(entry.seconds, 3) or None)
            extra.append(None if rate is None else round(rate, 1))
        extra += [other.name, other.best10] if other else [None, None]
        rows.append([row[name] for name in names] + extra)
    header = {"best10": "top1_mean_of_10_best", "final": "top1_final"}
    return _csv([header.get(name, name) for name in names] + more, rows)


def _numbers(finding: Finding) -> list[Any]:
    """Estimate, interval, units, depths, verdict, reason; in hundredths."""
    found = finding.estimate
    shown = (found.mean, found.low, found.high) if found else (None, None, None)
    return [
        *(None if value is None else round(100 * value, 4) for value in shown),
        " and ".join(map(str, finding.units)),
        " ".join(map(str, finding.depths)),
        finding.verdict,
        finding.why,
    ]


def claims_csv(
    findings: Sequence[Finding], published: Sequence[Finding], score: str
) -> bytes:
    """One row a claim; estimates in points, or in % of the base's accuracy.

    Args:
        findings: ours.
        published: the same claims on the published rows.
        score: that ours were computed on.
    """
    shown = ("estimate", "low", "high", "units", "depths", "verdict", "why")
    header = ["claim", "title", "text", "quantity", "unit", "score", *shown]
    header += [f"published_{name}" for name in shown]
    rows = [
        [
            each.claim.number,
            each.claim.title,
            each.claim.text,
            each.claim.formula,
            unit_of(each),
            score,
            *_numbers(each),
            *_numbers(other),
        ]
        for each, other in zip(findings, published, strict=True)
    ]
    return _csv(header, rows)


def unit_of(finding: Finding) -> str:
    """What a claim's numbers are in."""
    if finding.claim.relative:
        return "% of the base's accuracy above chance"
    return "points of accuracy"


class Html(str):
    """Text that is HTML already."""


def html(value: object) -> str:
    """Text for the page: escaped, unless it is HTML already."""
    return value if isinstance(value, Html) else escape(str(value))


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str,
    numeric: Iterable[int] = (),
    style: str = "",
) -> Html:
    """A table that scrolls by itself where the page is narrower.

    Args:
        header: of the columns.
        rows: text, or Html.
        caption: what it is.
        numeric: columns that are aligned to the right.
        style: CSS class.
    """
    right = set(numeric)

    def cell(place: int, value: object) -> str:
        kind = ' class="n"' if place in right else ""
        name = f' data-label="{escape(header[place])}"'
        return f"<td{kind}{name}>{html(value)}</td>"

    head = "".join(
        f'<th scope="col"{" class=n" if place in right else ""}>{escape(name)}</th>'
        for place, name in enumerate(header)
    )
    body = "\n".join(
        "<tr>" + "".join(cell(*pair) for pair in enumerate(row)) + "</tr>"
        for row in rows
    )
    label = escape(caption)
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="{style}"><caption>{label}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def nets_table(
    nets: Sequence[Net], entries: Sequence[Entry], published: Sequence[Net]
) -> Html:
    """Every net, with both scores."""
    header = ["net", "split", "seed", "treatment", "from → to", "n", "images/class"]
    header += ["top-1 final %", "top-1 best 10 %"]
    if entries:
        header += ["top-5 %", "images/s", "time"]
    if published:
        header += ["published net", "published best 10 %"]
    rows = []
    for place, net in enumerate(nets):
        final = None if net.final is None else 100 * net.final
        row: list[object] = [net.name, net.split, net.seed, net.kind]
        row += [f"{net.source or NONE} → {net.target}", net.n or NONE]
        row += [number(net.images_per_class, 0), number(final, 2)]
        row.append(number(_percent(net.best10), 2))
        if entries:
            entry = entries[place]
            row += [number(100 * entry.result["top5"], 2), number(entry.rate, 0)]
            row.append(duration(entry.seconds) if entry.sessions else NONE)
        if published:
            other = twin(net, published)
            score = other.best10 if other else None
            row += [other.name if other else NONE, number(_percent(score), 2)]
        rows.append(row)
    words = ("net", "split", "treatment", "from → to", "published net")
    numeric = [place for place, name in enumerate(header) if name not in words]
    caption = f"All {len(nets)} nets."
    if any(net.best10 is None for net in nets):
        caption += f" {FEW_EVALUATIONS}"
    return table(header, rows, caption, numeric)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _estimate(finding: Finding) -> Html:
    """Estimate, interval and number of units, as a cell."""
    found = finding.estimate
    if found is None:
        return Html(NONE)
    mark = " %" if finding.claim.relative else ""
    text = f"<strong>{number(100 * found.mean, 2, True)}{mark}</strong>"
    if found.low is not None and found.high is not None:
        low, high = (number(100 * each, 2, True) for each in (found.low, found.high))
        text += f" [{low}, {high}]"
    units = " and ".join(map(str, finding.units))
    word = "unit" if finding.units == (1,) else "units"
    return Html(
        f'<span class="whole">{text}</span> <span class="small">{units} {word}</span>'
    )


def _verdict(finding: Finding) -> Html:
    style = finding.verdict.replace(" ", "-")
    return Html(
        f'<span class="verdict {style}">{finding.verdict}</span> '
        f'<span class="small">{escape(finding.why)}</span>'
    )


def claims_table(findings: Sequence[Finding], published: Sequence[Finding]) -> Html:
    """The claims, our numbers, and the published by the same function.

    Args:
        findings: ours; empty to show the published alone.
        published: the same claims on the published rows.
    """
    header = ["", "claim and quantity"]
    header += ["this study", "verdict"] if findings else []
    header += ["published"] + ([] if findings else ["verdict"])
    rows = []
    for place, other in enumerate(published):
        claim = other.claim
        depths = (findings[place] if findings else other).depths
        words = f"{claim.formula}; in {unit_of(other)}"
        over = f"; n here: {_span(depths)}" if depths else ""
        text = Html(
            f"<strong>{escape(claim.title)}</strong>: {escape(claim.text)}."
            f'<br><span class="small">{escape(words + over)}</span>'
        )
        row: list[object] = [claim.number, text]
        if findings:
            row += [_estimate(findings[place]), _verdict(findings[place])]
        row += [_estimate(other)] + ([] if findings else [_verdict(other)])
        rows.append(row)
    caption = "The paper's claims. Brackets: 95 % intervals."
    return table(header, rows, caption, style="claims")


def _span(depths: Sequence[int]) -> str:
    """1, 2, 3, 5 as "1 to 3, 5"."""
    groups: list[list[int]] = []
    for n in depths:
        if groups and n == groups[-1][-1] + 1:
            groups[-1].append(n)
        else:
            groups.append([n])
    return ", ".join(
        f"{each[0]} to {each[-1]}" if len(each) > 2 else ", ".join(map(str, each))
        for each in groups
    )
