"""What an engine runs: one `minicnn` command a task, in an order that ends soonest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from minicnn.base.config import load_recipe
from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.graph import Node, assignments


@dataclass(frozen=True)
class Task:
    """The nets that one command trains: one; or, sharing their trunk, several depths.

    Attributes:
        nodes: of one group, kind, source and target, by rising n.
    """

    nodes: tuple[Node, ...]

    @property
    def depths(self) -> str:
        """Such as "3", "1-7" or "1,3,5": what --n takes."""
        numbers = [node.treatment.n for node in self.nodes]
        first, last = numbers[0], numbers[-1]
        if len(numbers) > 1 and numbers == list(range(first, last + 1)):
            return f"{first}-{last}"
        return ",".join(map(str, numbers))

    @property
    def id(self) -> str:
        """The node's id, or for several nodes such as "random-0/A1-7B"."""
        first = self.nodes[0]
        if len(self.nodes) == 1:
            return first.id
        return f"{first.group}/{first.treatment.family.replace('*', self.depths)}"

    @property
    def base(self) -> str:
        """Id of the node that must be finished before; "" for none."""
        return self.nodes[0].base

    def arguments(self, study: Study, device: str, threads: int) -> list[str]:
        """What `minicnn` is called with."""
        node = self.nodes[0]
        t, config = node.treatment, node.config
        if t.source:
            # One word each: a shell needs no quotes, and nothing looks like an option.
            argv = ["transfer", f"--from={t.source}", f"--to={t.target}"]
            argv += [f"--n={self.depths}"]
            argv += ["--finetune"] if t.finetune else []
            argv += [f"--keep={t.keep}"] if t.keep else []
            argv += ["--share-trunk"] if len(self.nodes) > 1 else []
        else:
            argv = ["train-base", f"--task={t.target}"]
        argv += [f"--data={study.store}", f"--split={node.split}"]
        argv += [f"--groups={study.groups}"] if study.groups else []
        argv += [f"--seed={node.seed}", f"--recipe={study.recipe}"]
        changed = assignments(config, load_recipe(study.recipe))
        argv += [f"--set={text}" for text in changed]
        argv += [f"--runs={study.runs(node).resolve()}"]
        return [*argv, f"--device={device}", f"--threads={threads}"]


def make_tasks(nodes: Iterable[Node], share_trunk: bool = False) -> list[Task]:
    """The tasks that train these nodes.

    Args:
        share_trunk: whether frozen nets that differ in n alone become one task.
    """
    families: dict[object, list[Node]] = {}
    for node in nodes:
        t = node.treatment
        shares = share_trunk and t.frozen > 0
        key = (node.group, t.family, node.config) if shares else node.id
        families.setdefault(key, []).append(node)
    return [
        Task(tuple(sorted(members, key=lambda node: node.treatment.n)))
        for members in families.values()
    ]


class Queue:
    """The queue of tasks: chooses the next one.

    It takes the ready task with the longest path to the end, dependents included. So
    bases come first, and short nets last, to fill workers that would idle.

    Args:
        tasks: not finished yet.
        work: how long each takes, in any unit.
        done: ids of finished nodes; who finishes one adds it.

    Attributes:
        left: tasks not taken: at the end, those whose base failed.
        critical_path: length of the longest path.
    """

    def __init__(
        self, tasks: Sequence[Task], work: Callable[[Task], float], done: set[str]
    ) -> None:
        self.done = done
        longest: dict[str, float] = {}
        for task in tasks:
            longest[task.base] = max(longest.get(task.base, 0.0), work(task))

        def path(task: Task) -> float:
            # A net that copies is never copied from: paths have at most two nets.
            return work(task) + max(longest.get(node.id, 0.0) for node in task.nodes)

        self.left = sorted(tasks, key=path, reverse=True)
        self.critical_path = max(map(path, tasks), default=0.0)

    def take(self) -> Task | None:
        """The next task, which is then no longer waiting; None where none is ready."""
        for task in self.left:
            if not task.base or task.base in self.done:
                self.left.remove(task)
                return task
        return None


def makespan(
    tasks: Sequence[Task], work: Callable[[Task], float], workers: int
) -> float:
    """How long `workers` need for the tasks in the engine's order, in work's unit."""
    there = {node.id for task in tasks for node in task.nodes}
    queue = Queue(tasks, work, {t.base for t in tasks if t.base not in there})
    now, started = 0.0, 0
    running: list[tuple[float, int, Task]] = []
    while True:
        while len(running) < workers and (task := queue.take()):
            heappush(running, (now + work(task), started, task))
            started += 1
        if not running:
            return now
        now, _, ended = heappop(running)
        queue.done |= {node.id for node in ended.nodes}
