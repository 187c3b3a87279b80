"""What the sections of `gpu_check.py` share: processes, and the time they may take."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TAIL = 25  # lines of a failed process that are shown
Record = dict[str, Any]


class Failed(Exception):
    """A section did not do what it should; the text says what.

    Args:
        said: all that a process printed before it failed.
        status: its exit status; None where it took too long.
    """

    def __init__(self, text: str, said: str = "", status: int | None = None) -> None:
        super().__init__(text)
        self.said, self.status = said, status


class Skipped(Exception):
    """A section cannot be run here; the text says why."""


@dataclass
class Checkup:
    """What all sections share.

    Attributes:
        gpu: whether a GPU answers.
        folder: for files, gone in the end.
        deadline: by time.monotonic().
        data: a store, or None for the demo set.
        results: each section's record, by name.
        reserved: seconds before the deadline that later sections need.
    """

    gpu: bool
    folder: Path
    deadline: float
    data: Path | None = None
    results: dict[str, Record] = field(default_factory=dict)
    reserved: float = 0.0

    @property
    def device(self) -> str:
        """The device that is checked."""
        return "cuda" if self.gpu else "emulated"

    def left(self) -> float:
        """Seconds that are left to the section that runs."""
        return self.deadline - self.reserved - time.monotonic()

    def child(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        grace: float = 0.0,
        under: Sequence[str] = (),
    ) -> tuple[int, str]:
        """Runs Python on these arguments, for as long as is left.

        Args:
            env: more environment variables.
            grace: seconds before the end at which it is interrupted, as by Ctrl-C, so
                that it can write what it has.
            under: a program, with its options, that runs Python.

        Returns:
            Exit status, and what it printed on both streams.

        Raises:
            Failed: it took too long; it and all that it started are ended.
        """
        limit = max(self.left(), 0.0)
        with interruptible():
            process = subprocess.Popen(
                [*under, sys.executable, *arguments],
                cwd=ROOT,
                env={**environment(), **(env or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # a group of its own, to end what it starts too
            )
        try:
            said, _ = process.communicate(timeout=max(limit - grace, 0.0))
        except subprocess.TimeoutExpired:
            said = ended(process, grace)
            text = f"took over {limit:.0f} s\n{tail(said)}"
            raise Failed(text, said) from None
        return process.returncode, said

    def tried(self, *arguments: str) -> tuple[Record, Failed | None]:
        """Runs Python on these arguments and --json; the record that it writes.

        Returns:
            The record, and what went wrong after it was written, or None.

        Raises:
            Failed: it took too long, failed, or wrote none.
        """
        file = self.folder / f"{time.monotonic_ns()}.json"
        problem = None
        try:
            status, said = self.child(*arguments, "--json", str(file))
            if status:
                text = f"ended with status {status}\n{tail(said)}"
                problem = Failed(text, said, status)
        except Failed as failure:
            problem = failure
        if not file.exists():
            raise problem or Failed("wrote no result")
        return json.loads(file.read_text()), problem

    def measured(self, *arguments: str) -> Record:
        """The record of `tried`; what went wrong after it is its "problem"."""
        record, problem = self.tried(*arguments)
        return {**record, "problem": str(problem)} if problem else record


def environment() -> dict[str, str]:
    """The environment of child processes: this tree first, stand-ins if need be."""
    path = [str(ROOT)]
    if importlib.util.find_spec("tomli_w") is None:
        path.append(str(ROOT / "experiments" / "stand_ins"))
    path += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def tail(text: str) -> str:
    """The last lines of a process's output."""
    return "\n".join(text.rstrip().splitlines()[-TAIL:])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Processes started within obey SIGINT, also from the background of a script.

    There a shell has them ignore it, and what they start inherits that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ended(process: subprocess.Popen[str], grace: float) -> str:
    """Ends a process and all that it started; what it printed.

    Args:
        grace: seconds to come to an end by itself, interrupted; 0: none.
    """
    said = None
    if grace:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(timeout=grace)
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0] if said is None else said
