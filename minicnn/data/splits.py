"""Splits: how the classes of a store are divided into task A and task B.

| split | A | B |
| --- | --- | --- |
| `random-S` | K // 2 classes drawn with seed S | the rest, one more if K is odd |
| `natural-manmade` | natural | man-made |
| `file:PATH` | the list A in a TOML file | its list B; other classes are left out |
| `all` | | (the one task is called `all`: every class) |

On ILSVRC2012's classes `random-0` … `random-3` and `natural-manmade` are the halves of
Yosinski et al. 2014. Their rule is `random.seed([S])`, `random.choice(1000, 500,
replace=False)`, sorted: the seed is a list of one number, and a plain number would give
other halves. NumPy keeps the numbers of its legacy `RandomState` for good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.data.classes import ClassList, group_classes, read_class_lists

_RANDOM = re.compile(r"random-(0|[1-9][0-9]*)")
_KNOWN = "random-S (S = 0, 1, ...), natural-manmade, file:PATH.toml or all"


@dataclass(frozen=True)
class Task:
    """The classes that one network tells apart.

    Attributes:
        split: name of the split.
        name: "A", "B" or "all".
        classes: ascending class indices; the i-th is the network's output i.
    """

    split: str
    name: str
    classes: tuple[int, ...]


def other(task: str) -> str:
    """The task's counterpart in its split.

    Raises:
        MinicnnError: it has none.
    """
    if task not in ("A", "B"):
        raise MinicnnError(f"task {task!r}: has no counterpart; only A and B have one")
    return "B" if task == "A" else "A"


def task_classes(
    split: str, task: str, classes: ClassList, groups_file: Path | None = None
) -> Task:
    """A task of a split.

    Args:
        split: as in the table above.
        task: "A" or "B", or "all" for the split "all".
        classes: all K of them.
        groups_file: TOML with the lists `natural` and `manmade` of class ids or names,
            for `natural-manmade`; it overrides the classes' own groups.

    Raises:
        MinicnnError: an unknown split or task, a bad file, a class in no group, or a
            task without classes.
    """
    known = ("all",) if split == "all" else ("A", "B")
    task_of = _tasks(split, classes, groups_file)
    if task not in known:
        raise MinicnnError(
            f"task {task!r}: split {split} has {' and '.join(known)}; choose one"
            + (", or add --split all" if task == "all" else "")
        )
    chosen = tuple(sorted(index for index, each in task_of.items() if each == task))
    if not chosen:
        raise MinicnnError(
            f"split {split}: no class of {len(classes.wnids)} is in task {task}; use "
            "another split or more classes"
        )
    return Task(split, task, chosen)


def _tasks(split: str, classes: ClassList, groups_file: Path | None) -> dict[int, str]:
    """The task of each class that is in one."""
    count = len(classes.wnids)
    if split == "all":
        return dict.fromkeys(range(count), "all")
    if match := _RANDOM.fullmatch(split):
        seed = int(match[1])
        if seed >= 2**32:
            raise MinicnnError(f"split random-{seed}: the seed must be below 2^32")
        half = np.random.RandomState([seed]).choice(count, count // 2, replace=False)
        return dict.fromkeys(range(count), "B") | dict.fromkeys(half.tolist(), "A")
    if split == "natural-manmade":
        groups = group_classes(classes, groups_file)
        if "" in groups:
            first, total = groups.index(""), groups.count("")
            more = f", nor are {total - 1} others" if total > 1 else ""
            raise MinicnnError(
                f"split natural-manmade: class {classes.wnids[first]} "
                f"({classes.names[first]}) is in no group{more}; list it in a file, "
                "--groups FILE.toml, under natural = [...] or manmade = [...]"
            )
        task_of = {"natural": "A", "manmade": "B"}
        return {index: task_of.get(group, "") for index, group in enumerate(groups)}
    if split.startswith("file:") and split != "file:":
        return read_class_lists(Path(split[5:]), ("A", "B"), classes)
    raise MinicnnError(f"split {split!r}: unknown; use {_KNOWN}")


def split_report(task: Task, classes: ClassList) -> dict[str, Any]:
    """A task as JSON: `split`, `task` and, for each class, `index`, `wnid`, `name`."""
    return {
        "split": task.split,
        "task": task.name,
        "classes": [
            {"index": i, "wnid": classes.wnids[i], "name": classes.names[i]}
            for i in task.classes
        ],
    }


def split_table(report: dict[str, Any]) -> str:
    """What `split_report` tells, for people: one class a line."""
    rows = report["classes"]
    width = max(len(row["wnid"]) for row in rows)
    lines = [f"split {report['split']}, task {report['task']}: {len(rows)} classes"]
    lines += [f"{row['index']:5}  {row['wnid']:{width}}  {row['name']}" for row in rows]
    return "\n".join(lines)
