"""How the figures look: size, type, colours, markers; and their bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minicnn.results.pictures import FORMATS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYER = "layer n at which the network is cut and retrained"
ACCURACY = "top-1 accuracy (%)"
LOSS = "top-1 accuracy minus base (points)"
QUIET, FAINT = "0.35", "0.88"
BASE_DASHES = (0, (6, 3))
# A square on its point looks larger than others of its size, and hides more.
_SIZES = {"D": 0.82}
# A note's share of the height of an axis, and of what keeps it apart.
_NOTE = 0.13
# Of the line that says where numbers come from: its size in points, its height in
# inches, and letters an inch.
_SOURCE_SIZE, _SOURCE_LINE, _SOURCE_LETTERS = 6.5, 0.13, 19
# How far the published numbers step back behind ours.
PALE = 0.3

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "minicnn",
}


@dataclass(frozen=True)
class Look:
    """How one kind of nets is drawn.

    Attributes:
        label: in the legend.
        colour: of Okabe and Ito's, told apart by colour-blind eyes.
        marker, dash: tell it apart in grey.
        filled: whether its markers are.
        shift: to the right, in layers, so that kinds do not hide one another.
    """

    label: str
    colour: str
    marker: str
    dash: Any = "-"
    filled: bool = True
    shift: float = 0.0

    def line(self, pale: float = 1.0) -> dict[str, Any]:
        """Keywords of a line through means."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "ls": self.dash,
            "mfc": self.colour if self.filled else "white",
            "ms": 5.5 * _SIZES.get(self.marker, 1.0),
            "alpha": pale,
        }

    def points(self, pale: float = 1.0) -> dict[str, Any]:
        """Keywords of single nets, of which several may lie together."""
        style = self.line(0.75 * pale)
        return {**style, "ls": "none", "ms": 0.87 * style["ms"], "mew": 0.9}


BLACK, BLUE, SKY = "#000000", "#0072B2", "#56B4E9"
RED, ORANGE, GREEN, PURPLE = "#D55E00", "#E69F00", "#009E73", "#CC79A7"

BASE = Look("base", BLACK, "o", filled=False)
TREATMENTS = {
    "selffer": Look("selffer, frozen (BnB)", BLUE, "o", "-", True, -0.24),
    "selffer+": Look("selffer, fine-tuned (BnB+)", SKY, "^", "--", False, -0.08),
    "transfer": Look("transfer, frozen (AnB)", RED, "D", "-", True, 0.08),
    "transfer+": Look("transfer, fine-tuned (AnB+)", ORANGE, "s", "--", False, 0.24),
}
# Not dotted, as chance is, nor dashed, as the bases' mean is.
RANDOM = Look("random filters", GREEN, "X", (0, (7, 1.5, 1.2, 1.5, 1.2, 1.5)))
NATURAL = Look("target natural", BLUE, "^", "-.", True, 0.05)
MANMADE = Look("target man-made", PURPLE, "v", "--", True, -0.05)
BOTH = Look("mean of both targets", QUIET, ".")
DISSIMILAR = Look("natural/man-made", PURPLE, "v", "--", True, 0.06)
FEW = Look("bases on few images", BLUE, "o")


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: of its files, without suffix.
        title, caption: for the page; the caption is plain text.
        alt: what it shows, for who cannot see it.
        png, svg: its bytes; no SVG for what is made of pixels.
        beside: name of the figure that it belongs beside; "" for none.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    svg: bytes | None
    beside: str = ""


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings of all figures, for a while."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def drawable(text: str) -> str:
    r"""The text with each character that the font lacks as \\u and its number."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(_STYLE["font.family"]))
    return "".join(
        each if font.get_char_index(ord(each)) else ascii(each)[1:-1] for each in text
    )


def content(figure: Figure, suffix: str, source: str) -> bytes:
    """The figure as ".png" or ".svg"; equal figures give equal bytes.

    Args:
        source: where its numbers come from: written in a strip that is added below it,
            for a figure that is taken out of its report.
    """
    from matplotlib.transforms import Bbox

    width, height = figure.get_size_inches()
    lines = textwrap.wrap(drawable(source), int(width * _SOURCE_LETTERS))
    strip = _SOURCE_LINE * (len(lines) + 0.5)
    place = {"x": 1 - 0.06 / width, "y": (0.25 * _SOURCE_LINE - strip) / height}
    style: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": _SOURCE_SIZE}
    style["parse_math"] = False  # a name may hold a $
    words = figure.text(**place, s="\n".join(lines), color=QUIET, **style)
    target = io.BytesIO()
    whole = Bbox([[0, -strip], [width, height]])
    figure.savefig(target, format=suffix[1:], bbox_inches=whole, **FORMATS[suffix])
    words.remove()
    return target.getvalue()


def grid(axes: Axes) -> None:
    """Faint horizontal lines."""
    axes.grid(axis="y", color=FAINT, lw=0.7)


def layer_axis(axes: Axes, label: bool = True) -> None:
    """The x axis of depths: base at 0, then layers 1..7."""
    axes.set_xlim(-0.5, 7.5)
    axes.set_xticks(range(8), ["base", *map(str, range(1, 8))])
    if label:
        axes.set_xlabel(LAYER)


def chance_line(axes: Axes, classes: Iterable[int]) -> None:
    """A guess's accuracy, where the axis reaches near it, and its words.

    The words stand below all that is drawn, in nothing's way. Call it when all else is
    drawn: it looks at the limits of the axes.

    Args:
        classes: of the tasks shown.
    """
    chances = sorted({100 / each for each in classes})
    if not chances:
        return
    low, high = axes.get_ylim()
    text = f"chance {chances[0]:.2g} %"
    if chances[-1] - chances[0] > 0.05 * chances[0]:
        text = f"chance {chances[0]:.2g} to {chances[-1]:.2g} %"
    lowest = axes.dataLim.y0
    # An axis that starts close above is drawn down to it.
    if low - chances[0] > 0.5 * (high - low):
        text += ": below this axis"
    else:
        lowest = min(lowest, chances[0])
        for chance in chances:
            axes.axhline(chance, color=QUIET, ls=":", lw=1.1, zorder=1)
    axes.set_ylim(min(low, lowest - _NOTE * (high - lowest)), high)
    place: dict[str, Any] = {"transform": axes.transAxes, "color": QUIET, "fontsize": 8}
    box = {"facecolor": "white", "lw": 0, "pad": 0.5}
    axes.text(0.01, 0.015, text, bbox=box, **place)


def line_label(axes: Axes, height: float, text: str) -> None:
    """Words above a horizontal line, at its left end."""
    axes.annotate(
        text,
        (0, height),
        xycoords=("axes fraction", "data"),
        xytext=(4, 2.5),
        textcoords="offset points",
        va="bottom",
        color=QUIET,
        fontsize=8,
    )


def note(axes: Axes, x: float, height: float, text: str) -> None:
    """Words above a point of the data, and to its right."""
    axes.annotate(
        text,
        (x, height),
        xytext=(-3, 7),
        textcoords="offset points",
        va="bottom",
        color=QUIET,
        fontsize=8,
    )


def base_line(axes: Axes, height: float) -> None:
    """The bases' mean, across the whole axis."""
    axes.axhline(height, color=QUIET, lw=0.9, ls=BASE_DASHES, zorder=1)
