"""What the figures of benches and reports share: style, axes, and a figure's bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minicnn.results import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUIET, FAINT = "0.35", "0.88"
_STYLE: dict[Any, Any] = {
    **{"font.family": "DejaVu Sans", "font.size": 9},
    **{"axes.labelsize": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8},
    **{"axes.axisbelow": True, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5},
    **{"legend.fontsize": 8.5, "legend.frameon": False, "lines.linewidth": 1.4},
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings of all figures, for a while."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def drawable(text: str) -> str:
    r"""The text with each character that the font lacks as \\u and its number."""
    from matplotlib.font_manager import findfont, get_font

    has = get_font(findfont(_STYLE["font.family"])).get_char_index
    return "".join(each if has(ord(each)) else ascii(each)[1:-1] for each in text)


def content(figure: Figure, suffix: str, source: str) -> bytes:
    """The figure as ".png" or ".svg"; equal figures give equal bytes.

    Args:
        source: where its numbers come from: written in a strip that is added below it,
            for a figure that is taken out of its report.
    """
    from matplotlib.transforms import Bbox

    width, height = figure.get_size_inches()
    # 19 letters an inch, 0.13 inches a line.
    lines = textwrap.wrap(drawable(source), int(width * 19))
    strip = 0.13 * (len(lines) + 0.5)
    place = {"x": 1 - 0.06 / width, "y": (0.25 * 0.13 - strip) / height}
    style: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 6.5}
    style |= {"color": QUIET, "parse_math": False}  # a name may hold a $
    words = figure.text(**place, s="\n".join(lines), **style)
    whole = Bbox([[0, -strip], [width, height]])
    made = pictures.content(figure, suffix, bbox_inches=whole)
    words.remove()
    return made


def grid(axes: Axes) -> None:
    """Faint horizontal lines."""
    axes.grid(axis="y", color=FAINT, lw=0.7)
