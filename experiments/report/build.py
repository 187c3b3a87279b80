"""Makes a report: the page, the figures as files, and the tables as CSV."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from minicnn import __version__
from minicnn.base.errors import MinicnnError
from minicnn.base.files import make_folder, write_atomically
from minicnn.base.progress import Progress
from minicnn.experiments.report import (
    checks,
    claims,
    drawing,
    figures,
    page,
    run_figures,
    sections,
    tables,
)
from minicnn.experiments.report.contents import Contents, read
from minicnn.experiments.report.drawing import Picture
from minicnn.experiments.report.tables import Html
from minicnn.experiments.report.units import SCORES, units
from minicnn.experiments.study import records
from minicnn.experiments.study.records import Net
from minicnn.training.run import BEST

PAGE = "report.html"
_NAMED = 5
"""Nets that a refusal names before the rest is counted."""
PAPER = (
    "Yosinski, Clune, Bengio, Lipson, “How transferable are features in deep neural "
    "networks?”, NIPS 2014"
)

PUBLISHED = "published, Yosinski et al. 2014: ImageNet, CaffeNet"

# Title and caption of each of the paper's figures, by the name of its files.
FIGURES = {
    "transfer": (
        "Accuracy against the number of layers copied",
        "Above, every net; below, the means. Dashed: mean of the bases. Error bars: "
        "95 % intervals of the mean difference from the base of the same split, seed "
        "and target (the wider of a bootstrap and Student's t), where there are three "
        "or more. After the paper's figure 2.",
    ),
    "panels": (
        "Dissimilar tasks, and random filters",
        "Frozen layers copied between natural and man-made classes, by target; and "
        "frozen layers left as drawn at random. Means and intervals as above; where "
        "only both targets together have enough for one, it stands at their mean. "
        "After the paper's figure 3, upper row.",
    ),
    "relative": (
        "What is lost, compared",
        "Accuracy minus that of the base of the same split, seed and target: frozen "
        "layers from a similar task, from a dissimilar one, and random ones. Intervals "
        "as above; of those smaller than a marker the ends stand out beside it. After "
        "the paper's figure 3, lower row.",
    ),
    "preserved": (
        "Keeping k more layers",
        "Layers 1 to n frozen, the next k copied as well and trained on: less is lost "
        "where features of neighbouring layers fit one another. Not in the paper.",
    ),
    "reduced": (
        "Bases on few images",
        "Accuracy against training images per class, logarithmic.",
    ),
}
_DRAW = {
    "transfer": figures.transfer,
    "panels": figures.panels,
    "relative": figures.relative,
    "preserved": figures.preserved,
}


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


def _score_words(nets: list[Net], score: str) -> str:
    """Which score the figure shows, said below it."""
    if all(net.final is None for net in nets) or score == "best10":
        return "Scores: means of the 10 best evaluations."
    return "Scores: final top-1."


def paper_figure(
    name: str, nets: list[Net], behind: list[Net], score: str, source: str
) -> Picture | None:
    """One of the paper's figures, of some nets; None where there are no such nets.

    Args:
        name: of FIGURES.
        nets: of a study, or the published.
        behind: published nets to lay pale under them; empty for none.
        score: "final" or "best10".
        source: of the nets, for the line below the figure.
    """
    if name == "reduced":
        drawn = figures.reduced(nets, behind, score)
    else:
        drawn = _DRAW[name](units(nets, score), units(behind, score))
    if drawn is None:
        return None
    figure, alt = drawn
    title, caption = FIGURES[name]
    words = f"{caption} {_score_words(nets, score)}"
    if behind:
        words += " Pale: published, means of the 10 best evaluations."
        source += f". Pale: {PUBLISHED}"
    png, svg = (drawing.content(figure, kind, source) for kind in (".png", ".svg"))
    return Picture(name, title, words, alt, png, svg)


def paper_figures(
    nets: list[Net], behind: list[Net], score: str, source: str
) -> list[Picture]:
    """All of the paper's figures that there are nets for."""
    found = (paper_figure(name, nets, behind, score, source) for name in FIGURES)
    return [each for each in found if each]


@cache
def _published(name: str) -> Picture | None:
    """A figure of the published numbers, to stand beside ours."""
    found = paper_figure(name, records.published(), [], "best10", PUBLISHED)
    if found is None:
        return None
    return replace(
        found,
        name=f"{name}-published",
        title=f"Published: {found.title[0].lower()}{found.title[1:]}",
        caption="The published results of 2014, on ImageNet with 450,000 updates of "
        "256 images (200,000 for bases on few images): another protocol, so on axes of "
        "their own. Means of the 10 best evaluations.",
        beside=name,
    )


def _run_pictures(contents: Contents, found: list[checks.Check]) -> list[Picture]:
    """Training curves of each split and seed, and the bases' filters."""
    pictures = []
    source = sections.source(contents)
    sheets = run_figures.sheets(contents)
    bases = [each for each in contents.entries if each.net.kind == "base"]
    with Progress(len(sheets) + len(bases), "figures", "drawing") as bar:
        for (split, seed), entries in sheets.items():
            drawn = run_figures.curves(entries)
            bar.update(1)
            if drawn:
                name = f"curves-{sections.group_name(split, seed)}"
                title = f"{split}, seed {seed}"
                kinds = (".png", ".svg")
                png, svg = (drawing.content(drawn[0], s, source) for s in kinds)
                pictures.append(Picture(name, title, "", drawn[1], png, svg))
        for base in bases:
            drawn = run_figures.filters(base, contents, found)
            bar.update(1)
            if drawn:
                name = f"filters-{base.id.replace('/', '-')}"
                png = drawing.content(drawn[0], ".png", source)
                pictures.append(Picture(name, base.id, "", drawn[1], png, None))
    return pictures


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
    if contents and score == "best10":
        _need_best10(contents)
    make_folder(output)
    with drawing.styled():
        if contents:
            return _of_study(contents, output, score)
        return _of_published(output)


def _need_best10(contents: Contents) -> None:
    """Refuses a study some of whose nets have too few evaluations for that score."""
    few = [each.id for each in contents.entries if each.net.best10 is None]
    if not few:
        return
    more = len(few) - _NAMED
    names = ", ".join(few[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    raise MinicnnError(
        f"--score best10: {len(few)} of {len(contents.entries)} nets have fewer than "
        f"{BEST} evaluations, so no mean of the {BEST} best: {names}; take --score "
        "final, or train with a smaller schedule.evaluate_every"
    )


def _of_study(contents: Contents, output: Path, score: str) -> Built:
    published = records.published()
    comparable = contents.study.published
    nets = contents.nets
    behind = published if comparable else []
    ours = paper_figures(nets, behind, score, sections.source(contents))
    apart = [] if comparable else [_published(each.name) for each in ours]
    beside = [each for each in apart if each]
    found = checks.check_all(contents)
    runs = _run_pictures(contents, found)
    findings = claims.find_all(nets, score)
    theirs = claims.find_all(published, "best10")
    twins = published if comparable else []
    parts = [
        ("What was run", sections.what_was_run(contents)),
        ("The paper's figures", _pairs(ours, beside)),
        (
            "The paper's claims",
            sections.claims(findings, theirs, nets, published, score),
        ),
        ("Training curves", sections.folds(runs, "curves")),
        ("First-layer filters", sections.folds(runs, "filters")),
        ("Frozen layers", sections.frozen(contents, found)),
        ("All nets", [tables.nets_table(nets, contents.entries, twins)]),
        ("Machines and cost", sections.cost(contents)),
    ]
    text = page.page(
        f"How transferable are the features? Study “{contents.study.name}”",
        sections.lead(contents),
        parts if nets else parts[:1],
        f"Made by minicnn {__version__}. The paper: {PAPER}.",
    )
    csv = {
        "nets.csv": tables.nets_csv(
            nets, contents.entries, twins, contents.study.folder
        ),
        "claims.csv": tables.claims_csv(findings, theirs, score),
    }
    files = _write(output, text, [*ours, *beside, *runs], csv)
    return Built(output / PAGE, files, contents.left_out, findings)


def _of_published(output: Path) -> Built:
    nets = records.published()
    shown = paper_figures(nets, [], "best10", PUBLISHED)
    findings = claims.find_all(nets, "best10")
    text = page.page(
        "How transferable are the features? The published results",
        f"The {len(nets)} nets whose results were published with {PAPER}, drawn and "
        "judged as minicnn does its own.",
        [
            ("The paper's figures", _pairs(shown, [])),
            ("The paper's claims", sections.claims([], findings, [], nets, "best10")),
            ("All nets", [tables.nets_table(nets, [], [])]),
        ],
        f"Made by minicnn {__version__} from the published numbers alone.",
    )
    csv = {
        "nets.csv": tables.nets_csv(nets, [], [], None),
        "claims.csv": tables.claims_csv(findings, findings, "best10"),
    }
    files = _write(output, text, shown, csv)
    return Built(output / PAGE, files, {}, findings)


def _pairs(ours: list[Picture], beside: list[Picture]) -> list[Html]:
    """Each of our figures with the published one beside it, if it stands apart."""
    rows = []
    for picture in ours:
        pair = [picture, *(each for each in beside if each.beside == picture.name)]
        rows.append(page.row(page.figure(each) for each in pair))
    return rows


def _write(
    output: Path, text: str, pictures: list[Picture], csv: dict[str, bytes]
) -> list[Path]:
    """Writes all files, the page last, and removes figures of the page before."""
    content = dict(csv)
    for picture in pictures:
        content[f"{picture.name}.png"] = picture.png
        if picture.svg is not None:
            content[f"{picture.name}.svg"] = picture.svg
    before = _figures_of(output / PAGE)
    for name, data in content.items():
        write_atomically(output / name, data)
    # While the old page is there to name them: a kill leaves no stray behind.
    for name in before - content.keys():
        (output / name).unlink(missing_ok=True)
    content[PAGE] = text.encode()
    write_atomically(output / PAGE, content[PAGE])
    return [output / name for name in content]


def _figures_of(report: Path) -> set[str]:
    """Names of the figures' files beside a report that was written before.

    The page names them, so that no other file is taken for one.
    """
    if not report.is_file():
        return set()
    text = report.read_text(encoding="utf-8", errors="replace")
    names = page.figure_names(text)
    return {f"{name}{kind}" for name in names for kind in (".png", ".svg")}
