"""Tables for people: aligned columns, and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r"[-−+]?[\d.,:%e+-]*")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns under their keys; numbers stand right.

    Floats have three digits; a missing or None value is an empty cell.
    """
    whole = []
    for head in dict.fromkeys(key for row in rows for key in row):
        cells = [_cell(row.get(head)) for row in rows]
        width = max(map(len, [head, *cells]))
        right = all(map(_NUMBER.fullmatch, cells))
        whole.append([f"{c:{'>' if right else '<'}{width}}" for c in [head, *cells]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*whole, strict=True))


def markdown(
    head: Sequence[str], rows: Iterable[Sequence[str]], mark: str = "---:"
) -> str:
    """Cells as a table of Markdown.

    Args:
        mark: what aligns all columns but the first, which stands left.
    """
    marks = ["---", *[mark] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))
