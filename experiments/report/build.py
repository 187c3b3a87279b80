"""Makes a report: the page, the figures as files, and the tables as CSV.

The page is one HTML file, of the template page.html, that needs no network, no script
and no other file: pictures are inlined as data.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import jinja2

from minicnn import __version__
from minicnn.base.errors import MinicnnError
from minicnn.base.files import make_folder, write_atomically
from minicnn.base.progress import Progress, duration
from minicnn.experiments import plotting
from minicnn.experiments.analyses import panels
from minicnn.experiments.report import (
    checks,
    claims,
    figures,
    intervals,
    run_figures,
    tables,
)
from minicnn.experiments.report.contents import Contents, read
from minicnn.experiments.report.curves import SCORES, by_unit
from minicnn.experiments.study import records
from minicnn.experiments.study.folder import some
from minicnn.experiments.study.records import Net
from minicnn.training.run import BEST

PAGE = "report.html"
PUBLISHED = "published, Yosinski et al. 2014: ImageNet, CaffeNet"


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: of its files, without suffix.
        alt: what it shows, for who cannot see it.
        content: of its files by suffix: .png; .svg, but for what is made of pixels;
            .csv, the numbers of an analysis.
        title, caption: plain text; the paper's figures have theirs in the template.
    """

    name: str
    alt: str
    content: dict[str, bytes]
    title: str = ""
    caption: str = ""

    @property
    def data(self) -> str:
        """The picture as an address."""
        suffix, kind = (
            (".svg", "svg+xml") if ".svg" in self.content else (".png", "png")
        )
        return f"data:image/{kind};base64,{b64encode(self.content[suffix]).decode()}"


@dataclass(frozen=True)
class Built:
    """What was written.

    Attributes:
        files: all, the page among them.
        left_out: run folders that do not count, and why.
        findings: of the claims: ours, or the published where there is no study.
    """

    page: Path
    files: list[Path]
    left_out: dict[str, str]
    findings: list[claims.Finding]


def _picture(
    name: str, drawn: figures.Drawn | None, source: str, title: str = ""
) -> list[Picture]:
    """A drawn figure, if there is one, with the line below it."""
    if drawn is None:
        return []
    # Filters are made of pixels.
    kinds = [".png"] if name.startswith("filters-") else [".png", ".svg"]
    figure, alt = drawn
    content = {kind: plotting.content(figure, kind, source) for kind in kinds}
    return [Picture(name, alt, content, title)]


def _paper_figures(
    nets: list[Net], behind: list[Net], score: str, source: str
) -> list[Picture]:
    """The paper's figures, the published nets `behind` them, if there are any."""
    source += f". Pale: {PUBLISHED}" if behind else ""
    units = by_unit(nets, score), by_unit(behind, score)
    drawn = {name: draw(*units) for name, draw in figures.OF_UNITS.items()}
    drawn["reduced"] = figures.reduced(nets, behind, score)
    return [p for name, d in drawn.items() for p in _picture(name, d, source)]


@cache
def _published_figures() -> dict[str, Picture]:
    """Figures of the published numbers, to stand beside ours, by the names of those."""
    drawn = _paper_figures(records.published(), [], "best10", PUBLISHED)
    return {each.name: replace(each, name=f"{each.name}-published") for each in drawn}


def _run_pictures(contents: Contents, found: list[checks.Check]) -> list[Picture]:
    """Training curves of each split and seed, and the bases' filters."""
    source, sheets = tables.source(contents), run_figures.sheets(contents)
    bases = [each for each in contents.entries if each.net.kind == "base"]
    pictures: list[Picture] = []
    with Progress(len(sheets) + len(bases), "figures", "drawing") as bar:
        for (split, seed), entries in sheets.items():
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in split)
            name, title = f"curves-{safe}-seed{seed}", f"{split}, seed {seed}"
            pictures += _picture(name, run_figures.curves(entries), source, title)
            bar.update(1)
        for base in bases:
            name = f"filters-{base.id.replace('/', '-')}"
            drawn = run_figures.filters(base, contents, found)
            pictures += _picture(name, drawn, source, base.id)
            bar.update(1)
    return pictures


def _analyses(study: Path) -> list[Picture]:
    """What `minicnn analyse STUDY` drew, with its numbers."""
    found = []
    for name, title in panels.TITLES.items():
        files = {k: study / "analyses" / f"{name}{k}" for k in (".png", ".svg", ".csv")}
        if all(path.is_file() for path in files.values()):
            content = {kind: path.read_bytes() for kind, path in files.items()}
            words = f"{title}. Means over splits, seeds and directions, with intervals."
            found.append(Picture(name, words, content, caption=words))
    return found


def build(study: Path | None, output: Path, score: str = "final") -> Built:
    """Writes the report of a study, or of the published numbers alone.

    Args:
        study: the study folder; None for the published numbers.
        score: "final" or "best10": which of our scores is drawn and judged.

    Raises:
        MinicnnError: it is no study folder, its nets lack that score, or the report
            cannot be written.
    """
    if score not in SCORES:
        raise MinicnnError(f"--score {score}: choose {' or '.join(SCORES)}")
    contents = read(study) if study else None
    entries = contents.entries if contents else []
    few = [each.id for each in entries if each.net.best10 is None]
    if few and score == "best10":
        raise MinicnnError(
            f"--score best10: {len(few)} of {len(entries)} nets have fewer than {BEST} "
            f"evaluations, so no mean of the {BEST} best: {some(few, 5)}; take --score "
            "final, or train with a smaller schedule.evaluate_every"
        )
    make_folder(output)
    published = records.published()
    nets = [each.net for each in entries] if contents else published
    score = score if contents else "best10"
    source = tables.source(contents) if contents else PUBLISHED
    comparable = contents is not None and contents.study.published
    behind = published if comparable else []
    with plotting.styled():
        ours = _paper_figures(nets, behind, score, source)
        known = _published_figures() if contents and not comparable else {}
        beside = {each.name: known[each.name] for each in ours if each.name in known}
        found = checks.check_all(contents) if contents else []
        runs = _run_pictures(contents, found) if contents else []
    analyses = _analyses(study) if study else []
    findings = claims.find_all(nets, score)
    theirs = claims.find_all(published, "best10")
    rows = tables.nets_rows(nets, entries, behind, study)
    page = _page(
        contents=contents,
        score=score,
        figures=ours,
        beside=beside,
        runs=runs,
        panels=analyses,
        findings=list(zip(findings, theirs, strict=True)),
        boosts=tables.boosts(nets, score, published),
        checks=found,
        rows=rows,
    )
    content = {
        "nets.csv": tables.as_csv(rows, tables.NETS),
        "claims.csv": tables.claims_csv(findings, theirs, score),
    }
    for picture in (*ours, *beside.values(), *runs, *analyses):
        content |= {f"{picture.name}{k}": data for k, data in picture.content.items()}
    files = _write(output, content, page)
    return Built(output / PAGE, files, contents.left_out if contents else {}, findings)


def _number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """A number with a true minus sign; a dash for None."""
    if value is None:
        return tables.NONE
    return f"{value:{'+' * signed}.{digits}f}".replace("-", "−")


def _percent(share: float | None, digits: int = 1, signed: bool = False) -> str:
    return _number(None if share is None else 100 * share, digits, signed)


def _page(**found: Any) -> str:
    """The page, of what the template names."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters |= {"number": _number, "percent": _percent, "duration": duration}
    names = {"tables": tables, "intervals": intervals, "version": __version__}
    return env.get_template("page.html").render(found, best=BEST, **names)


def _write(output: Path, content: dict[str, bytes], page: str) -> list[Path]:
    """Writes all files, the page last, and removes figures of the page before."""
    before = _figures_of(output / PAGE)
    for name, data in content.items():
        write_atomically(output / name, data)
    # While the old page is there to name them: a kill leaves no stray behind.
    for name in before - content.keys():
        (output / name).unlink(missing_ok=True)
    write_atomically(output / PAGE, page.encode())
    return [output / name for name in (*content, PAGE)]


def _figures_of(page: Path) -> set[str]:
    """Files of the figures that a page of ours names: no other is taken for one."""
    text = page.read_text("utf-8", "replace") if page.is_file() else ""
    if "<footer><p>Made by minicnn " not in text:
        return set()
    names = map(unescape, re.findall('<figure id="([^"]*)"', text))
    files = {f"{name}{kind}" for name in names for kind in (".png", ".svg")}
    files |= {*map(unescape, re.findall('<a href="([^"]*[.]csv)"', text))}
    return {name for name in files if "/" not in name}
