"""What a study folder holds: finished nets with their records, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.base.files import read_json
from minicnn.experiments.study import records
from minicnn.experiments.study.folder import State, Study, read_study
from minicnn.experiments.study.graph import differences
from minicnn.experiments.study.records import Net
from minicnn.training.run import Run


def sharers(session: dict[str, Any]) -> int:
    """How many nets were trained in a session's one pass over the data."""
    return len(session.get("trained_together", ())) or 1


@dataclass(frozen=True)
class Entry:
    """A finished net.

    Attributes:
        id: GROUP/NAME.
        net: its row.
        run: its run folder.
        result: what result.json holds.
        sessions: of env.json: when, where and how fast it was trained; none if lost.
    """

    id: str
    net: Net
    run: Run
    result: dict[str, Any]
    sessions: list[dict[str, Any]]

    @property
    def group(self) -> str:
        """The folder that its run folder lies in."""
        return self.id.partition("/")[0]

    @property
    def seconds(self) -> float:
        """Its share of all its sessions, evaluations and checkpoints included.

        Nets that were trained in one pass share its seconds alike.
        """
        return sum(each["seconds"] / sharers(each) for each in self.sessions)

    @property
    def rate(self) -> float | None:
        """Training images a second, over all sessions; None if unknown."""
        batch = self.run.config.solver.batch
        images = time = 0.0
        for each in self.sessions:
            seen = batch * (each["last_step"] - each["first_step"])
            if seen and each["images_per_second"]:
                images += seen
                time += seen / each["images_per_second"]
        return images / time if time else None


@dataclass(frozen=True)
class Contents:
    """A study, read.

    Attributes:
        study: the resolved plan.
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
    def nets(self) -> list[Net]:
        """The rows of the finished nets."""
        return [entry.net for entry in self.entries]

    def base_of(self, entry: Entry) -> Entry | None:
        """The finished base that a net copied layers from."""
        if not entry.net.source:
            return None
        wanted = f"{entry.group}/base{entry.net.source}"
        return next((each for each in self.entries if each.id == wanted), None)


# What a report reads of result.json beside the scores that `Run` looks for.
_NEEDED = ("top5", "frozen_layers", "frozen_sha256", "frozen_unchanged")
_SESSION = ("seconds", "first_step", "last_step", "images_per_second")


def _sessions(folder: Path) -> list[dict[str, Any]]:
    """The sessions of a run's env.json; it is for people, so none if damaged."""
    try:
        found = read_json(folder / "env.json")["sessions"]
        return [
            each
            for each in found
            if all(isinstance(each[key], int | float) for key in _SESSION)
        ]
    except (MinicnnError, KeyError, TypeError):
        return []


def _entry(folder: Path) -> Entry | None:
    """A run folder's entry; None while it is unfinished.

    Raises:
        MinicnnError: it is damaged.
    """
    run = Run(folder)
    try:
        net = records.of_run(run)
        if net is None:
            return None
        result = run.result or {}
        named = [result[key] for key in _NEEDED]
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        lacks = f"they lack {error}" if isinstance(error, KeyError) else str(error)
        raise MinicnnError(
            f"{folder}: its records are damaged, {lacks}; make the run again with "
            "--fresh"
        ) from None
    del named  # they are there: that was the question
    return Entry(
        f"{folder.parent.name}/{folder.name}", net, run, result, _sessions(folder)
    )


def read(folder: Path) -> Contents:
    """Reads a study folder; run folders that must be left out are listed, not fatal.

    Raises:
        MinicnnError: it is no study folder.
    """
    study = read_study(folder)
    found: dict[str, Entry] = {}
    left_out: dict[str, str] = {}
    for each in records.run_folders(folder):
        try:
            entry = _entry(each)
        except MinicnnError as error:
            left_out[f"{each.parent.name}/{each.name}"] = str(error)
            continue
        node = study.by_id.get(entry.id) if entry else None
        odd = differences(node.config, entry.run.config) if entry and node else []
        if odd:
            left_out[entry.id] = f"{each}: trained by other settings: {'; '.join(odd)}"
        elif entry:
            found[entry.id] = entry
    planned = [node.id for node in study.nodes]
    unplanned = [each for each in found if each not in study.by_id]
    done = frozenset(found)
    return Contents(
        study=study,
        entries=[found[each] for each in [*planned, *unplanned] if each in found],
        unfinished={
            each: study.state(study.by_id[each], done)
            for each in planned
            if each not in found and each not in left_out
        },
        left_out=left_out,
        unplanned=unplanned,
    )
