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
KINDS = ("png", "svg", "csv")
"""Suffixes of a picture's files."""
PUBLISHED = "published, Yosinski et al. 2014: ImageNet, CaffeNet"


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: of its files, without suffix.
        alt: what it shows, for who cannot see it.
        png, svg: its bytes; no SVG for what is made of pixels.
        csv: the numbers that it shows, for a panel of the analyses.
        title, caption: plain text; the paper's figures have theirs in the template.
    """

    name: str
    alt: str
    png: bytes
    svg: bytes | None = None
    csv: bytes | None = None
    title: str = ""
    caption: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        """Its files, by name."""
        content = zip(KINDS, (self.png, self.svg, self.csv), strict=True)
        return {f"{self.name}.{kind}": data for kind, data in content if data}

    @property
    def data(self) -> str:
        """The picture as an address."""
        kind = "svg+xml" if self.svg else "png"
        return f"data:image/{kind};base64,{b64encode(self.svg or self.png).decode()}"


@dataclass(frozen=True)
class Built:
    """What was written.

    Attributes:
        page: the HTML file.
        files: all files, the page among them.
        left_out: run folders that do not count, and why.
        findings: of the claims: ours, or the published where there is no study.
    """

    page: Path
    files: list[Path]
    left_out: dict[str, str]
    findings: list[claims.Finding]


def _picture(
    name: str, drawn: figures.Drawn | None, source: str, title: str = ""
) -> Picture | None:
    """A drawn figure with the line below it; filters, made of pixels, have no SVG."""
    if drawn is None:
        return None
    figure, alt = drawn
    png, svg = (plotting.content(figure, kind, source) for kind in (".png", ".svg"))
    pixels = name.startswith("filters-")
    return Picture(name, alt, png, None if pixels else svg, title=title)


def _paper_figure(
    name: str, nets: list[Net], behind: list[Net], score: str, source: str
) -> Picture | None:
    """One of the paper's figures, the published nets `behind` it, if there are any."""
    source += f". Pale: {PUBLISHED}" if behind else ""
    if name == "reduced":
        drawn = figures.reduced(nets, behind, score)
    else:
        drawn = figures.OF_UNITS[name](by_unit(nets, score), by_unit(behind, score))
    return _picture(name, drawn, source)


@cache
def _published_figure(name: str) -> Picture | None:
    """A figure of the published numbers, to stand beside ours."""
    found = _paper_figure(name, records.published(), [], "best10", PUBLISHED)
    return found and replace(found, name=f"{name}-published")


def _run_pictures(contents: Contents, found: list[checks.Check]) -> list[Picture]:
    """Training curves of each split and seed, and the bases' filters."""
    source, sheets = tables.source(contents), run_figures.sheets(contents)
    bases = [each for each in contents.entries if each.net.kind == "base"]
    pictures = []
    with Progress(len(sheets) + len(bases), "figures", "drawing") as bar:
        for (split, seed), entries in sheets.items():
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in split)
            name, title = f"curves-{safe}-seed{seed}", f"{split}, seed {seed}"
            drawn = run_figures.curves(entries)
            pictures.append(_picture(name, drawn, source, title))
            bar.update(1)
        for base in bases:
            name = f"filters-{base.id.replace('/', '-')}"
            drawn = run_figures.filters(base, contents, found)
            pictures.append(_picture(name, drawn, source, base.id))
            bar.update(1)
    return [each for each in pictures if each]


def _analyses(study: Path) -> list[Picture]:
    """What `minicnn analyse STUDY` drew, with its numbers."""
    found = []
    for name, title in panels.TITLES.items():
        png, svg, csv = (study / "analyses" / f"{name}.{k}" for k in KINDS)
        if png.is_file() and svg.is_file() and csv.is_file():
            files = png.read_bytes(), svg.read_bytes(), csv.read_bytes()
            words = f"{title}. Means over splits, seeds and directions, with intervals."
            found.append(Picture(name, words, *files, caption=words))
    return found


def build(study: Path | None, output: Path, score: str = "final") -> Built:
    """Writes the report of a study, or of the published numbers alone.

    Args:
        study: the study folder; None for the published numbers.
        output: folder to write to; made if it is not there.
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
        drawn = [_paper_figure(n, nets, behind, score, source) for n in figures.NAMES]
        ours = [each for each in drawn if each]
        apart = ours if contents and not comparable else []
        beside = {each.name: _published_figure(each.name) for each in apart}
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
        content |= picture.files if picture else {}
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
