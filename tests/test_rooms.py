"""The house: which room may import which, no circle of files, lines of each room."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import minicnn

PACKAGE = Path(minicnn.__file__).parent
# Each room imports only those before it, and lines of .py that it may have at most.
# A commit that raises a budget says why.
BUDGETS = {"base": 850, "compile": 1090, "devices": 1480, "data": 1080, "ops": 2230}
BUDGETS |= {"nn": 1360, "training": 1900, "results": 1110, "data_prep": 2870}
BUDGETS |= {"experiments": 7460, "cli": 1670}
ROOMS = list(BUDGETS)


def modules() -> dict[str, Path]:
    """Every file of the rooms by its module's name."""
    files = (path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("") for path in files}
    return {".".join(p.parts).removesuffix(".__init__"): f for f, p in parts.items()}


def imported(path: Path) -> Iterator[str]:
    """The names a file imports, anywhere in it; both "a.b" and "a.b.c" of `from`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (node.module or "", *names)


def imports() -> dict[str, set[str]]:
    """Module → modules of the house that it imports."""
    known = modules()
    return {m: {*imported(path)} & known.keys() - {m} for m, path in known.items()}


def test_rooms_import_only_rooms_below_them() -> None:
    def room(module: str) -> str:
        return module.split(".")[1]

    wrong = [
        f"{m} imports {name}"
        for m, names in imports().items()
        for name in names
        if ROOMS.index(room(name)) > ROOMS.index(room(m))
    ]
    assert not wrong


def test_no_circle_of_files() -> None:
    graphlib.TopologicalSorter(imports()).prepare()


def test_rooms_keep_their_budgets() -> None:
    lines = dict.fromkeys(ROOMS, 0)
    for module, path in modules().items():
        lines[module.split(".")[1]] += len(path.read_text("utf-8").splitlines())
    over = {room: n for room, n in lines.items() if n > BUDGETS[room]}
    assert not over
