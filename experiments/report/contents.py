"""What a study folder holds: finished nets with their records, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.experiments.study import records
from minicnn.experiments.study.folder import State, Study, read_study
from minicnn.experiments.study.graph import differences
from minicnn.experiments.study.records import Net
from minicnn.training.run import Run

# What a report reads of result.json beside the scores that `Run` looks for.
_NEEDED = ("top5", "frozen_layers", "frozen_unchanged")


def sharers(session: dict[str, Any]) -> int:
    """How many nets were trained in a session's one pass over the data."""
    return len(session.get("trained_together", ())) or 1


@dataclass(frozen=True)
class Entry:
    """A finished net.

    Attributes:
        id: GROUP/NAME.
        result: what result.json holds.
        sessions: of env.json: when, where and how fast it was trained; none if lost.
    """

    id: str
    net: Net
    run: Run
    result: dict[str, Any]
    sessions: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """Its share of all its sessions, evaluations and checkpoints included.

        Nets that were trained in one pass share its seconds alike.
        """
        return sum(each["seconds"] / sharers(each) for each in self.sessions)

    @property
    def rate(self) -> float | None:
        """Training images a second, over all sessions; None if unknown."""
        images = time = 0.0
        for each in self.sessions:
            steps = each["last_step"] - each["first_step"]
            if rate := each["images_per_second"]:
                images += self.run.config.solver.batch * steps
                time += self.run.config.solver.batch * steps / rate
        return images / time if time else None


@dataclass(frozen=True)
class Contents:
    """A study, read.

    Attributes:
        entries: the finished nets, in the plan's order; others after them.
        unfinished: nets of the plan that have no result yet, and how far they are.
        left_out: run folders that cannot be read, or whose settings are not the
            plan's, and why.
        unplanned: ids of finished nets that the plan does not name.
    """

    study: Study
    entries: list[Entry]
    unfinished: dict[str, State]
    left_out: dict[str, str]
    unplanned: list[str]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Those of all its nets."""
        return [each for entry in self.entries for each in entry.sessions]


def _entry(folder: Path) -> Entry | None:
    """A run folder's entry; None while it is unfinished.

    Raises:
        MinicnnError: it is damaged.
    """
    run = Run(folder)
    result = run.result
    if result is None:
        return None
    try:
        net = records.of_run(run, result)
        for key in _NEEDED:
            result[key]  # a KeyError where it is not there
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        lacks = f"they lack {error}" if isinstance(error, KeyError) else str(error)
        raise MinicnnError(
            f"{folder}: its records are damaged, {lacks}; make the run again with "
            "--fresh"
        ) from None
    name = f"{folder.parent.name}/{folder.name}"
    return Entry(name, net, run, result, records.sessions(folder))


def read(folder: Path) -> Contents:
    """Reads a study folder; run folders that must be left out are listed, not fatal.

    Raises:
        MinicnnError: it is no study folder.
    """
    study = read_study(folder)
    found: dict[str, Entry] = {}
    left_out: dict[str, str] = {}
    for each in sorted(path.parent for path in folder.glob("runs/*/*/config.toml")):
        try:
            entry = _entry(each)
        except MinicnnError as error:
            left_out[f"{each.parent.name}/{each.name}"] = str(error)
            continue
        if entry is None:
            continue
        node = study.by_id.get(entry.id)
        different = differences(node.config, entry.run.config) if node else []
        if different:
            left_out[entry.id] = (
                f"{each}: trained by other settings: {'; '.join(different)}"
            )
        else:
            found[entry.id] = entry
    unplanned = [each for each in found if each not in study.by_id]
    return Contents(
        study=study,
        entries=[found[each] for each in [*study.by_id, *unplanned] if each in found],
        unfinished={
            name: study.state(node, found.keys())
            for name, node in study.by_id.items()
            if name not in found and name not in left_out
        },
        left_out=left_out,
        unplanned=unplanned,
    )
