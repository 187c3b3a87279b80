"""A study folder: the resolved plan, the run folders, the logs, how far each net is.

| in STUDY | content |
| --- | --- |
| `plan.toml` | everything that decides the numbers; another plan is refused |
| `runs/GROUP/NAME/` | ordinary run folders |
| `logs/GROUP/NAME.log` | what the processes that trained it printed |
| `logs/GROUP/NAME.failed` | how the last of them ended, if badly |
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from minicnn.base.config import Config, from_dict, read_toml
from minicnn.base.errors import MinicnnError, counted
from minicnn.base.files import (
    held_alone,
    holds_only,
    make_folder,
    partial,
    read_json,
    write_atomically,
)
from minicnn.data.splits import task_classes
from minicnn.data.store import Store
from minicnn.experiments.study.graph import Node, Plan, differences
from minicnn.experiments.study.protocol import difference_from_paper
from minicnn.training.run import Run
from minicnn.training.treatment import Treatment

PLAN = "plan.toml"
LOCK = ".lock"
TAIL = 4096
"""Bytes of a metrics file that hold its last line."""
STATES = ("done", "running", "failed", "stopped", "ready", "waiting")
_TREATMENT = ("target", "source", "n", "finetune", "keep")


@dataclass(frozen=True)
class State:
    """How far a net is.

    Attributes:
        state: one of STATES: stopped can go on, waiting waits for its base.
        step: updates so far, as its metrics tell.
        top1, best10: of a finished net: final, and mean of the 10 best evaluations.
        error, log: of a failed net, its last line of output, and its log file.
    """

    state: str
    step: int = 0
    top1: float | None = None
    best10: float | None = None
    error: str = ""
    log: str = ""


@dataclass(frozen=True)
class Study:
    """A study folder with its resolved plan.

    Attributes:
        recipe: that the nets' commands name.
        published: whether protocol and data are the paper's.
        identity: of the store's content.
        tasks: a hash of each task's classes, by "SPLIT/TASK".
        groups: a groups file for natural-manmade.
    """

    folder: Path
    name: str
    recipe: str
    published: bool
    store: Path
    identity: str
    tasks: Mapping[str, str]
    groups: Path | None
    nodes: tuple[Node, ...]

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """The nodes by their ids."""
        return {node.id: node for node in self.nodes}

    def runs(self, node: Node) -> Path:
        """The folder that the node's run folder lies in."""
        return self.folder / "runs" / node.group

    def run(self, node: Node) -> Path:
        """The node's run folder."""
        return self.runs(node) / node.name

    def log(self, name: str) -> Path:
        """Where the processes of a task print to, by its id."""
        return self.folder / "logs" / f"{name}.log"

    def failure(self, node: Node) -> Path:
        """File that says why the node failed, and names its log, until it starts."""
        return self.folder / "logs" / f"{node.id}.failed"

    def finished(self, node: Node) -> bool:
        """Whether the node is done, by these very settings."""
        if not (self.run(node) / "result.json").exists():
            return False
        try:
            run = Run(self.run(node))
            return run.config == node.config and run.result is not None
        except MinicnnError:
            return False  # its command says what is wrong with it

    def state(self, node: Node, done: Set[str]) -> State:
        """How far a node is, where `done` holds the ids of the finished ones."""
        if node.id in done:
            result = Run(self.run(node)).result
            assert result is not None
            best10 = result["top1_mean_of_10_best"]
            return State("done", node.config.solver.iterations, result["top1"], best10)
        step = last_step(self.run(node))
        if held(self.run(node)):
            return State("running", step)
        with suppress(MinicnnError):  # there is none, or it goes this very instant
            return State("failed", step, **read_json(self.failure(node)))
        if step:
            return State("stopped", step)
        return State("ready" if node.base in ("", *done) else "waiting")

    def states(self) -> dict[str, State]:
        """How far every node is, by its id."""
        done = {node.id for node in self.nodes if self.finished(node)}
        return {node.id: self.state(node, done) for node in self.nodes}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and holds it alone.

        Raises:
            MinicnnError: another engine works in it.
        """
        make_folder(self.folder)
        refusal = (
            f"{self.folder}: another 'minicnn study run' works in it; wait for it, or "
            "choose another folder by -o"
        )
        with held_alone(self.folder / LOCK, refusal):
            yield

    def write(self) -> None:
        """Writes plan.toml, unless it is there."""
        path, text = self.folder / PLAN, tomli_w.dumps(self.to_dict()).encode()
        if not path.exists() or path.read_bytes() != text:
            write_atomically(path, text)

    def to_dict(self) -> dict[str, Any]:
        """The resolved plan, as plan.toml has it."""
        # A node can add factors of layers to the common settings, but take none away.
        common = self.nodes[0].config
        common = replace(common, solver=replace(common.solver, layers={}))
        about = {
            "name": self.name,
            "recipe": self.recipe,
            "published": self.published,
            "groups": str(self.groups or ""),
            "store": {"path": str(self.store), "identity": self.identity},
            "tasks": dict(self.tasks),
            "settings": common.to_dict(),
        }
        return {**about, "nodes": [_node_entry(node, common) for node in self.nodes]}


def held(run: Path) -> bool:
    """Whether a process trains in a run folder.

    The lock is tried as a shared one, which filelock has not: several may look at once,
    and no lock file is made.
    """
    try:
        with (run / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_step(run: Path) -> int:
    """Updates so far: the step of the last whole line of a run's metrics."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["step"])
    return 0


def _node_entry(node: Node, common: Config) -> dict[str, Any]:
    """A node as plan.toml has it: what its settings differ in, and all the rest."""
    usual, settings = common.to_dict(), dict[str, Any]()
    for section, values in node.config.to_dict().items():
        changed = {k: v for k, v in values.items() if v != usual[section].get(k)}
        settings |= {section: changed} if changed else {}
    entry = {"id": node.id, "split": node.split, "seed": node.seed}
    entry |= {name: getattr(node.treatment, name) for name in _TREATMENT}
    return entry | ({"settings": settings} if settings else {})


def _node(entry: Mapping[str, Any], common: Config, where: str) -> Node:
    treatment = Treatment(**{name: entry[name] for name in _TREATMENT})
    config = from_dict(entry.get("settings", {}), where, common)
    return Node(entry["split"], entry["seed"], treatment, config)


def read_study(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        MinicnnError: there is none, or its plan.toml is damaged.
    """
    path = folder / PLAN
    if not path.is_file():
        raise MinicnnError(
            f"{folder}: no study folder (it has no {PLAN}); 'minicnn study run' makes "
            "them"
        )
    table = read_toml(path)
    try:
        common = from_dict(table["settings"], str(path))
        return Study(
            folder=folder,
            name=table["name"],
            recipe=table["recipe"],
            published=table["published"],
            store=Path(table["store"]["path"]),
            identity=table["store"]["identity"],
            tasks=table["tasks"],
            groups=Path(table["groups"]) if table["groups"] else None,
            nodes=tuple(_node(each, common, str(path)) for each in table["nodes"]),
        )
    except (KeyError, TypeError) as error:
        raise MinicnnError(
            f"{path}: damaged, {error} is missing or of the wrong kind; delete it and "
            "run the plan again"
        ) from None


def _task_hashes(plan: Plan, store: Store, groups: Path | None) -> dict[str, str]:
    """A short hash of the classes of each task, by "SPLIT/TASK"."""
    found = {}
    for split, name in plan.tasks():
        classes = task_classes(split, name, store.classes, groups).classes
        wnids = "\n".join(store.wnids[each] for each in classes)
        found[f"{split}/{name}"] = hashlib.sha256(wnids.encode()).hexdigest()[:16]
    return found


def open_study(
    folder: Path, plan: Plan, store_path: Path, groups: Path | None = None
) -> Study:
    """The study of a plan in a folder, which may hold it already; writes nothing.

    A plan may grow: that its nets are more than those in the folder is no difference.

    Raises:
        MinicnnError: the folder holds something else, or another plan.
    """
    store = Store(store_path)
    study = Study(
        folder=folder,
        name=plan.name,
        recipe=plan.recipe,
        published=plan.published and not difference_from_paper(plan, store, groups),
        store=store_path.resolve(),
        identity=store.identity,
        tasks=_task_hashes(plan, store, groups),
        groups=groups.resolve() if groups else None,
        nodes=plan.nodes,
    )
    if (folder / PLAN).exists():
        different = _plan_differences(read_study(folder), study)
        if different:
            raise MinicnnError(
                f"{folder}: made by another plan: {'; '.join(different)}; choose "
                "another folder by -o"
            )
    elif not holds_only(folder, {LOCK, partial(folder / PLAN).name}):
        raise MinicnnError(
            f"{folder}: neither empty nor a study folder; choose another by -o"
        )
    return study


def _plan_differences(old: Study, new: Study) -> list[str]:
    """What makes another plan of it."""
    different = []
    if old.identity != new.identity:
        different.append(f"store was {old.identity!r}, now {new.identity!r}")
    if old.published != new.published:
        different.append(f"published was {old.published!r}, now {new.published!r}")
    different += [
        f"the classes of task {task} differ"
        for task, value in old.tasks.items()
        if new.tasks.get(task, value) != value
    ]
    lost = [node.id for node in old.nodes if node.id not in new.by_id]
    if lost:
        different.append(f"it lacks {some(lost)} (--only trains a part of a plan)")
    changed: Counter[str] = Counter()
    for node in old.nodes:
        now = new.by_id.get(node.id, node)
        if now.split != node.split:
            changed[f"split was {node.split}, now {now.split}"] = 1
        else:
            changed.update(differences(node.config, now.config))
    texts = [f"{text} ({counted(count, 'net')})" for text, count in changed.items()]
    return different + ([some(texts)] if texts else [])


def some(texts: Iterable[str], most: int = 3, between: str = ", ") -> str:
    """The first few, and how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more
