"""How cost grows: steps, preparing, studies, opening stores; tables and a figure.

    python -m minicnn.experiments.bench.scaling [--only PARTS] [--points N]
        [--json FILE] [--figure FILE.png]

Each point is measured in a process of its own (`scaling_points.py`). Growth is the
exponent e of n^e: over all points by least squares on logarithms, and between the last
two, where fixed costs weigh least. "each" is what a unit costs on average; of memory,
what each unit adds to the first point. Two minutes on two cores.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

POINTS = Path(__file__).resolve().parent / "scaling_points.py"
if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
PREFIXES = {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}
BATCHES = {"caffenet64": (8, 16, 32, 64, 128, 256), "caffenet": (4, 8, 16, 32)}
# caffenet64's layers on larger and smaller inputs; its own is the second.
SIZED, CROPS, SIZED_BATCH = "caffenet64", (28, 56, 84, 112, 168, 224), 16
IMAGES, PREPARED = (250, 500, 1000, 2000, 4000), 64  # and the store's image size
NETS, STUDIED = (2, 4, 8, 16), 400  # and the store's rows
ROWS, OPENED = (1_000, 10_000, 100_000, 1_000_000), 64  # and the images' size


@dataclass(frozen=True)
class Measure:
    """A quantity of every point.

    Attributes:
        key: in the rows.
        name: in the tables.
        unit: "s" or "B".
        marginal: whether a unit's share is what it adds to the first point.
    """

    key: str
    name: str
    unit: str
    marginal: bool = False


TIME = Measure("seconds", "time", "s")
MEMORY = Measure("memory", "memory", "B", True)


@dataclass(frozen=True)
class Table:
    """One way in which cost grows.

    Attributes:
        title: what is measured.
        unit: what n counts.
        measures: of every row; the first one is drawn.
        measure: the rows, each with its series' name, by ascending n: (points of each
            series at most, folder to work in).
        lengths: how many points each series has.
    """

    title: str
    unit: str
    measures: tuple[Measure, ...]
    measure: Callable[[int, Path], Rows]
    lengths: tuple[int, ...]


def point(kind: str, **arguments: Any) -> Row:
    """Measures one point in a process of its own.

    Raises:
        ClickException: it failed; with the last thing it said.
    """
    command = [sys.executable, str(POINTS), kind, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise click.ClickException(f"{kind} of {arguments}: {said[-1]}")
    return json.loads(done.stdout)


def batches(points: int, folder: Path) -> Rows:
    """A training step, by the images of a batch."""
    for arch, counts in BATCHES.items():
        for n in counts[:points]:
            yield arch, {"n": n, **point("step", arch=arch, batch=n)}


def sizes(points: int, folder: Path) -> Rows:
    """A training step, by the products' operations of a batch as its images grow."""
    for crop in CROPS[:points]:
        row = point("step", arch=SIZED, batch=SIZED_BATCH, crop=crop)
        n = round(SIZED_BATCH * row["flops"] / 1e9, 2)
        yield (
            f"{SIZED}, batch {SIZED_BATCH}",
            {"n": n, "label": f"{crop}×{crop}", **row},
        )


def preparing(points: int, folder: Path) -> Rows:
    """`minicnn data prepare`, by the images, with one process and with two."""
    counts = IMAGES[:points]
    point("draw_jpegs", folder=str(folder), counts=counts)
    for jobs, name in ((1, "1 process"), (2, "2 processes")):
        for n in counts:
            paths = {"source": f"{folder}/{n}", "target": f"{folder}/{n}-{jobs}.h5"}
            row = point("prepare", **paths, jobs=jobs, size=PREPARED)
            yield name, {"n": n, **row}


def studies(points: int, folder: Path) -> Rows:
    """`minicnn study run`, by the nets, one by one and in one pass for all depths."""
    store = str(folder / "store.h5")
    point("make_store", path=store, rows=STUDIED, size=32)
    for share, name in ((False, "apart"), (True, "--share-trunk")):
        for n in NETS[:points]:
            place = str(folder / f"{n}-{share}")
            row = point("study", folder=place, store=store, nets=n, share=share)
            yield name, {"n": n, **row}


def stores(points: int, folder: Path) -> Rows:
    """Opening a store, by its rows."""
    for n in ROWS[:points]:
        path = folder / f"{n}.h5"
        point("make_store", path=str(path), rows=n, size=OPENED)
        row = point("open_store", path=str(path))
        path.unlink()
        label = human(row["pixels"], "B")
        yield f"{OPENED}×{OPENED} images", {"n": n, "label": label, **row}


PLANNED = Measure("planned", "planned", "B", True)
TABLES = {
    "batch": Table(
        "A training step, by its images",
        "images",
        (TIME, MEMORY, PLANNED),
        batches,
        tuple(map(len, BATCHES.values())),
    ),
    "size": Table(
        "A training step, by its products",
        "GFLOP",
        (TIME, MEMORY, PLANNED),
        sizes,
        (len(CROPS),),
    ),
    "prepare": Table(
        "Preparing a store, by its images",
        "images",
        (TIME, MEMORY, Measure("worker", "worker", "B", True)),
        preparing,
        (len(IMAGES),) * 2,
    ),
    "study": Table("A study, by its nets", "nets", (TIME,), studies, (len(NETS),) * 2),
    "store": Table(
        "Opening a store, by its rows",
        "rows",
        (TIME, Measure("order", "order", "s"), Measure("batch", "batch", "s"), MEMORY),
        stores,
        (len(ROWS),),
    ),
}


def exponent(ns: Sequence[float], values: Sequence[float]) -> float | None:
    """e of the best n^e by least squares on logarithms; None if there is none."""
    if len(ns) < 2 or min(values) <= 0:
        return None
    logs = [[math.log(each) for each in numbers] for numbers in (ns, values)]
    return statistics.linear_regression(*logs).slope


def growth(rows: Sequence[Row], key: str) -> dict[str, float | None]:
    """The exponents of one quantity, over all rows and between the last two."""
    ns, values = [row["n"] for row in rows], [row[key] for row in rows]
    return {"all": exponent(ns, values), "last": exponent(ns[-2:], values[-2:])}


def each(rows: Sequence[Row], measure: Measure) -> list[float | None]:
    """By row, a unit's share."""
    if not measure.marginal:
        return [row[measure.key] / row["n"] for row in rows]
    first, key = rows[0], measure.key
    added = [(row[key] - first[key]) / (row["n"] - first["n"]) for row in rows[1:]]
    return [None, *added]


def to_dict(table: Table, found: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """A measured table, for JSON."""
    return {
        "title": table.title,
        "unit": table.unit,
        "series": [
            {
                "name": name,
                "rows": rows,
                "each": {m.key: each(rows, m) for m in table.measures},
                "exponents": {m.key: growth(rows, m.key) for m in table.measures},
            }
            for name, rows in found.items()
        ],
    }


def human(value: float | None, unit: str) -> str:
    """Three digits and a prefix: "12.3 ms"."""
    if not value:
        return "–"
    size = abs(value)
    prefix = next((name for name, least in PREFIXES.items() if size >= least), "n")
    number = value / PREFIXES[prefix]
    digits = max(0, 3 - len(f"{abs(number):.0f}"))
    return f"{number:.{digits}f} {prefix}{unit}"


def text(table: Table, found: Mapping[str, Any]) -> str:
    """A measured table, for people."""

    def line(name: str, cells: Sequence[str]) -> str:
        return f"  {name:>24}" + "".join(f"{cell:>11}" for cell in cells)

    lines = [table.title]
    for series in found["series"]:
        heads = [cell for m in table.measures for cell in (m.name, "each")]
        lines.append(line(series["name"], heads))
        for number, row in enumerate(series["rows"]):
            amount = f"{row['n']:,}" if isinstance(row["n"], int) else f"{row['n']:.3g}"
            cells = [
                human(value, m.unit)
                for m in table.measures
                for value in (row[m.key], series["each"][m.key][number])
            ]
            name = f"{row.get('label', '')}  {amount} {table.unit}"
            lines.append(line(name, cells))
        slopes = [series["exponents"][m.key] for m in table.measures]
        found_slopes = [value for both in slopes for value in both.values()]
        cells = ["–" if e is None else f"n^{e:.2f}" for e in found_slopes]
        lines.append(line("over all; last two", cells))
    return "\n".join(lines)


def draw(tables: Mapping[str, Any], path: Path, about: Mapping[str, str]) -> None:
    """A panel a table: the first measure of each series, on logarithms.

    Args:
        about: where the numbers come from, as `provenance` says it.
    """
    from matplotlib.figure import Figure

    from minicnn.base.files import write_atomically
    from minicnn.experiments.plotting import QUIET, content, grid, styled

    columns = min(3, len(tables))
    lines = -(-len(tables) // columns)
    with styled():
        figure = Figure((3.1 * columns, 2.9 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
        for axes, (name, found) in zip(panels, tables.items(), strict=False):
            _panel(axes, TABLES[name], found)
            grid(axes)
        for axes in panels[len(tables) :]:
            axes.axis("off")
        figure.supxlabel("dotted: in proportion", color=QUIET, fontsize=8.5)
        source = f"{about['machine']}, {about['date']}, commit {about['commit']}"
        write_atomically(path, content(figure, ".png", source))


def _panel(axes: Axes, table: Table, found: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from minicnn.experiments.plotting import QUIET, log_axis
    from minicnn.results.pictures import COLOURS, DASHES, MARKERS

    key, amounts, heights = table.measures[0].key, set(), []
    looks = zip(COLOURS, MARKERS, DASHES, strict=False)
    for series, (colour, marker, dash) in zip(found["series"], looks, strict=False):
        ns = [row["n"] for row in series["rows"]]
        values = [row[key] for row in series["rows"]]
        slope = series["exponents"][key]["all"]
        name = series["name"]
        label = name if slope is None else f"{name}: $n^{{{slope:.2f}}}$"
        axes.plot(ns, values, dash, color=colour, marker=marker, ms=4.5, label=label)
        # Behind, what is in proportion to the last point.
        ends = [ns[0] / ns[-1] * values[-1], values[-1]]
        axes.plot([ns[0], ns[-1]], ends, ":", color=QUIET, lw=0.9, zorder=1)
        amounts |= set(ns)
        heights += values
    axes.set_yscale("log")
    # At least a decade, lest noise look like growth; above it the legend.
    low, high = math.log10(min(heights)), math.log10(max(heights))
    spare = max(0, 1 - (high - low)) / 2
    low, high = low - spare - 0.1, high + spare + 0.1
    axes.set_ylim(10**low, 10 ** (high + 0.35 * (high - low)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    log_axis(axes, sorted(amounts))
    axes.set_title(table.title)
    axes.set_xlabel(table.unit)
    axes.set_ylabel("seconds")
    axes.legend(loc="upper left", fontsize=8)


def _wanted(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in TABLES:
            raise click.BadParameter(f"{name!r}: choose of {', '.join(TABLES)}")
    return names


@click.command()
@click.option(
    "--only",
    "names",
    default=",".join(TABLES),
    show_default=True,
    callback=_wanted,
    help="Which tables.",
)
@click.option(
    "--points", default=10, show_default=True, help="Of each table: its smallest."
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where files are made.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG to draw.")
def main(
    names: list[str],
    points: int,
    folder: Path | None,
    out: Path | None,
    figure: Path | None,
) -> None:
    """How cost grows."""
    from minicnn.base.progress import Progress
    from minicnn.experiments.bench.provenance import provenance

    tables = {}
    total = sum(min(points, n) for name in names for n in TABLES[name].lengths)
    with Progress(total, "points", "measuring") as bar:
        for name in names:
            table, found = TABLES[name], dict[str, list[Row]]()
            with tempfile.TemporaryDirectory(dir=folder) as place:
                for series, row in table.measure(points, Path(place)):
                    found.setdefault(series, []).append(row)
                    bar.update(1, name)
            tables[name] = to_dict(table, found)
    about = provenance()
    if out:
        out.write_text(json.dumps({"provenance": about, "tables": tables}, indent=2))
    if figure:
        draw(tables, figure, about)
    click.echo(f"{about['machine']}, {about['date']}, commit {about['commit']}")
    for name in names:
        click.echo("\n" + text(TABLES[name], tables[name]))


if __name__ == "__main__":
    main()
