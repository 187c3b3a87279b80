"""Pictures of runs: conv1's filters, and curves of training."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.base.files import write_atomically
from minicnn.training.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Options of savefig by suffix; without time stamps equal pictures are equal bytes.
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"metadata": {"Software": None}, "dpi": 200},
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}
# Okabe and Ito's colours, told apart by colour-blind eyes, without yellow, which is
# lost on paper. Each line has a marker and a dash pattern too, for prints in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.")
CHANCE = "0.45"
# Markers of a line of many points, and columns of the legend.
MARKS, COLUMNS = 10, 4


def content(figure: Figure, suffix: str, **options: Any) -> bytes:
    """The figure as a file, by more options of savefig; equal figures, equal bytes."""
    import matplotlib

    made = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minicnn"}):
        figure.savefig(made, format=suffix[1:], **FORMATS[suffix], **options)
    return made.getvalue()


def _write(figure: Figure, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise MinicnnError(
            f"{path}: unknown kind of picture {path.suffix or '(no suffix)'}; end the "
            f"name in {', '.join(FORMATS)}"
        )
    write_atomically(path, content(figure, suffix))


def mosaic(w: NDArray[np.floating], pixels: int = 8) -> NDArray[np.float64]:
    """First-layer filters side by side, as RGB.

    Each filter is scaled by its own largest magnitude: a weight of 0 is grey 0.5, the
    largest magnitude black or full colour. Rows of filters, one white line between.

    Args:
        w: (K,R,S,3).
        pixels: height and width of one weight.

    Returns:
        (height, width, 3) in 0..1.
    """
    count, r, s, _ = w.shape
    least = math.ceil(math.sqrt(count * 1.5))
    # Full rows, if a slightly wider picture has them.
    full = [n for n in range(least, least + 4) if count % n == 0]
    columns = full[0] if full else least
    rows = -(-count // columns)
    gap = max(1, pixels // 2)
    height, width = r * pixels + gap, s * pixels + gap
    picture = np.ones((rows * height - gap, columns * width - gap, 3))
    for number, each in enumerate(w.astype(np.float64)):
        largest = np.abs(each).max() or 1.0
        shown = (0.5 + 0.5 * each / largest).repeat(pixels, 0).repeat(pixels, 1)
        top, left = number // columns * height, number % columns * width
        picture[top : top + r * pixels, left : left + s * pixels] = shown
    return picture


def filters(run: Run, path: Path) -> None:
    """Draws conv1's filters, each scaled so that it can be seen: .png, .svg or .pdf.

    Raises:
        MinicnnError: no checkpoint, another suffix, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    w = run.checkpoint.weights["conv1.w"]
    largest = np.abs(w).reshape(len(w), -1).max(axis=1)
    count, r, s, _ = w.shape
    title = (
        f"{run.name}, step {run.checkpoint.step:,}: conv1, {count} filters {r}×{s}×3\n"
        f"weights {_range(w)}; grey is 0, each filter scaled by its own largest "
        f"({_range(largest)})"
    )
    picture = mosaic(w)
    # In inches: the picture, its margin, and the title above it.
    width, margin, top = 6.4, 0.15, 0.3
    height = width * picture.shape[0] / picture.shape[1]
    whole, total = width + 2 * margin, height + 2 * margin + top
    figure = Figure((whole, total))
    box = (margin / whole, margin / total, width / whole, height / total)
    axes = figure.add_axes(box)
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)
    _write(figure, path)


def _range(values: NDArray[np.floating]) -> str:
    return f"{values.min():.2g} to {values.max():.2g}".replace("-", "−")


def curves(runs: Sequence[Run], path: Path) -> None:
    """Draws loss and validation top-1 against iterations: .png, .svg or .pdf.

    Raises:
        MinicnnError: no run, a run without metrics, another suffix, or the file cannot
            be written.
    """
    from matplotlib.figure import Figure

    if not runs:
        raise MinicnnError("curves: no run given; give one run folder or more")
    figure = Figure((9.6, 4.2), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    names = [run.name for run in runs]
    for number, run in enumerate(runs):
        label = run.name if names.count(run.name) == 1 else str(run.folder)
        _draw_run(run, label, number, loss, top1)
    for classes in sorted({len(run.classes) for run in runs}):
        style: dict[str, Any] = {"color": CHANCE, "ls": ":", "lw": 1.2, "zorder": 1}
        loss.axhline(math.log(classes), **style)
        top1.axhline(100 / classes, **style, label=f"chance, {classes} classes")
    for axes, title in ((loss, "training loss"), (top1, "validation top-1 (%)")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration")
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    named = top1.get_legend_handles_labels()
    place: Any = {"loc": "outside lower center", "ncols": min(COLUMNS, len(named[1]))}
    figure.legend(*named, **place, frameon=False)
    _write(figure, path)


def follow(runs: Sequence[Run], path: Path, seconds: float = 2.0) -> None:
    """Draws `curves` anew whenever metrics grow, until all runs are done.

    Args:
        seconds: between looks at the metrics.
    """
    drawn: list[int] = []
    while True:
        done = all(run.result is not None for run in runs)
        counts = [len(run.metrics()) for run in runs]
        if (counts != drawn and all(counts)) or done:
            curves(runs, path)
            drawn = counts
        if done:
            return
        time.sleep(seconds)


def _draw_run(run: Run, label: str, number: int, loss: Axes, top1: Axes) -> None:
    records = run.metrics()
    trained = [(r["step"], r["loss"]) for r in records if "loss" in r]
    scored = [(r["step"], 100 * r["val_top1"]) for r in records if "val_top1" in r]
    if not trained and not scored:
        raise MinicnnError(
            f"{run.folder}: no metrics yet; let it train for some iterations first"
        )
    style: dict[str, Any] = {"lw": 1.4, "ms": 4.5, "label": label, "clip_on": False}
    style["color"] = COLOURS[number % len(COLOURS)]
    style["ls"] = DASHES[number // len(COLOURS) % len(DASHES)]
    style["marker"] = MARKERS[number % len(MARKERS)]
    for axes, points in ((loss, trained), (top1, scored)):
        every = max(1, len(points) // MARKS)
        # Markers of several runs at the same iterations would hide one another.
        start = number * every // len(MARKERS) % every
        steps, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(steps, values, markevery=(start, every), **style)
