"""Makes a report: the page, the figures as files, and the tables as CSV.

The page is one HTML file, of the template page.html, that needs no network, no script
and no other file: pictures are inlined as data.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jinja2

from minicnn import __version__
from minicnn.base.errors import MinicnnError
from minicnn.base.files import make_folder, write_atomically
from minicnn.base.progress import Progress, duration
from minicnn.experiments import plotting
from minicnn.experiments.analyses import panels
from minicnn.experiments.report import claims, figures, intervals, run_figures, tables
from minicnn.experiments.report.contents import Entry, read
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
        title: of what the page has no other words for.
    """

    name: str
    alt: str
    content: dict[str, bytes]
    title: str = ""

    @property
    def data(self) -> str:
        """The picture as an address."""
        svg = self.content.get(".svg")
        kind, shown = ("svg+xml", svg) if svg else ("png", self.content[".png"])
        return f"data:image/{kind};base64,{b64encode(shown).decode()}"


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
    kinds = [".png"] if name == "filters" else [".png", ".svg"]
    figure, alt = drawn
    content = {kind: plotting.content(figure, kind, source) for kind in kinds}
    return [Picture(name, alt, content, title)]


def _paper_figures(
    nets: list[Net], behind: list[Net], score: str, source: str, suffix: str = ""
) -> list[Picture]:
    """The paper's figures, the published nets `behind` them, if there are any."""
    source += f". Pale: {PUBLISHED}" if behind else ""
    units = by_unit(nets, score), by_unit(behind, score)
    drawn = {name: draw(*units) for name, draw in figures.OF_UNITS.items()}
    drawn["reduced"] = figures.reduced(nets, behind, score)
    return [p for name, d in drawn.items() for p in _picture(name + suffix, d, source)]


def _curves(entries: list[Entry], source: str) -> list[Picture]:
    """Training curves of each split and seed."""
    sheets: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        sheets.setdefault((entry.net.split, entry.net.seed), []).append(entry)
    pictures: list[Picture] = []
    with Progress(len(sheets), "figures", "drawing") as bar:
        for (split, seed), members in sheets.items():
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in split)
            name, title = f"curves-{safe}-seed{seed}", f"{split}, seed {seed}"
            pictures += _picture(name, run_figures.curves(members), source, title)
            bar.update(1)
    return pictures


def _analyses(study: Path) -> list[Picture]:
    """What `minicnn analyse STUDY` drew, with its numbers."""
    found = []
    for kind, family in product(panels.TITLES, panels.FAMILIES):
        name = panels.stem(kind, family)
        files = {k: study / "analyses" / f"{name}{k}" for k in (".png", ".svg", ".csv")}
        if all(path.is_file() for path in files.values()):
            content = {k: path.read_bytes() for k, path in files.items()}
            title = panels.TITLES[kind] + panels.FAMILIES[family]
            words = f"{title}. Means over splits, seeds and directions, with intervals."
            found.append(Picture(name, words, content, words))
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
    apart = published if contents and not comparable else []
    bases = [each for each in entries if each.net.kind == "base"]
    with plotting.styled():
        ours = _paper_figures(nets, behind, score, source)
        known = _paper_figures(apart, [], "best10", PUBLISHED, "-published")
        curves = _curves(entries, source)
        filters = _picture("filters", run_figures.filters(bases), source)
    drawn: list[Picture] = []
    for each in ours:
        beside = [other for other in known if other.name == f"{each.name}-published"]
        drawn += [each, *beside]
    analyses = _analyses(study) if study else []
    findings = claims.find_all(nets, score)
    theirs = claims.find_all(published, "best10")
    rows = tables.nets_rows(nets, entries, behind, study)
    page = _page(
        contents=contents,
        score=score,
        figures=drawn,
        analyses=analyses,
        curves=curves,
        filters=filters,
        findings=list(zip(findings, theirs, strict=True)),
        boosts=tables.boosts(nets, score, published),
        rows=rows,
    )
    content = {
        "nets.csv": tables.as_csv(rows, tables.NETS),
        "claims.csv": tables.claims_csv(findings, theirs, score),
    }
    for picture in (*drawn, *curves, *filters, *analyses):
        content |= {f"{picture.name}{k}": data for k, data in picture.content.items()}
    for name, data in (content | {PAGE: page.encode()}).items():
        write_atomically(output / name, data)
    files = [output / name for name in (*content, PAGE)]
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
