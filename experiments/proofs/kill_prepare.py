"""Kills `minicnn data prepare` with SIGKILL at random moments, and lets it go on.

Each trial starts afresh, kills the whole run at a moment drawn evenly from the time an
undisturbed run takes, then gives the same command again and lets it end. The store must
be byte for byte that of the undisturbed run. A last trial kills one run ten times.

    python -m minicnn.experiments.proofs.kill_prepare SOURCE --json result.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_COMMAND = "from minicnn.cli.data import data; data()"


@dataclass
class Trial:
    """One killed run and how it went on.

    Attributes:
        after: seconds from start to kill, for every kill.
        journal: finished chunks that the (last) kill left behind.
        kept: images that the resumed run did not do again.
        seconds: what the resumed run took.
        same: whether the store equals the undisturbed one, byte for byte.
    """

    after: list[float]
    journal: int
    kept: int
    seconds: float
    same: bool


def start(source: Path, store: Path, options: list[str]) -> subprocess.Popen[str]:
    """Begins a run in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "prepare", source, "-o", store, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finish(source: Path, store: Path, options: list[str]) -> tuple[int, float]:
    """Runs to the end; images kept from before, and seconds."""
    began = time.monotonic()
    process = start(source, store, options)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"prepare ended with status {process.returncode}: {output}")
    kept = re.search(r"(\d+) kept", output)
    return int(kept[1]) if kept else 0, time.monotonic() - began


def kill_after(source: Path, store: Path, options: list[str], seconds: float) -> None:
    """Begins a run and kills its first process; the workers must follow by themselves.

    Raises:
        SystemExit: a worker outlived it by ten seconds.
    """
    process = start(source, store, options)
    time.sleep(seconds)
    process.kill()
    process.wait()  # not until its output ends: an orphan would keep that open
    assert process.stdout is not None
    process.stdout.close()
    for _ in range(1000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    raise SystemExit("a worker process outlived its parent")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        whole = hashlib.sha256()
        while piece := file.read(1 << 20):
            whole.update(piece)
    return whole.hexdigest()


def trial(
    source: Path, folder: Path, options: list[str], delays: list[float], right: str
) -> Trial:
    """Kills a run after each of the delays in turn, then lets it end."""
    store = folder / "killed.h5"
    for path in folder.glob("killed.h5*"):
        path.unlink()
    for delay in delays:
        kill_after(source, store, options, delay)
    journal = store.with_name(store.name + ".partial.journal")
    lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
    kept, seconds = finish(source, store, options)
    left = sorted(path.name for path in folder.glob("killed.h5?*"))
    if left:
        raise SystemExit(f"left behind: {left}")
    return Trial(delays, max(lines - 1, 0), kept, seconds, digest(store) == right)


def run(
    source: Path, kills: int, folder: Path, options: list[str], seed: int = 0
) -> tuple[float, list[Trial]]:
    """The undisturbed run, `kills` trials, and one run that is killed ten times.

    Returns:
        Seconds of the undisturbed run, and the trials.
    """
    source = source.resolve()
    calm = folder / "calm.h5"
    _, seconds = finish(source, calm, options)
    right = digest(calm)
    calm.unlink()
    draw = random.Random(seed)
    trials = []
    for _ in range(kills):
        delay = draw.uniform(0, seconds)
        trials.append(trial(source, folder, options, [delay], right))
        print(row(len(trials), trials[-1]), flush=True)
    delays = [draw.uniform(0, seconds / 3) for _ in range(min(kills, 10))]
    trials.append(trial(source, folder, options, delays, right))
    print(row(len(trials), trials[-1]), flush=True)
    return seconds, trials


def row(number: int, trial: Trial) -> str:
    """A line of the table."""
    moments = f"{trial.after[0]:.2f} s" if len(trial.after) == 1 else "many"
    verdict = "same bytes" if trial.same else "DIFFERENT"
    return (
        f"{number:5}  {moments:>9}  {trial.journal:6} chunks  {trial.kept:8} kept  "
        f"{trial.seconds:7.2f} s  {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the stores go")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments, options = parser.parse_known_args()
    print("trial  killed at   found in journal   resumed run")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        seconds, trials = run(
            arguments.source, arguments.kills, Path(folder), options, arguments.seed
        )
    same = sum(trial.same for trial in trials)
    print(f"{same} of {len(trials)} stores equal; undisturbed: {seconds:.1f} s")
    if arguments.json:
        result = {"undisturbed_seconds": seconds, "trials": list(map(asdict, trials))}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(same != len(trials))


if __name__ == "__main__":
    main()
