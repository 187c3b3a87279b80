"""Kill -9 at random moments and resume: the same bytes as never killed.

    python -m minicnn.experiments.proofs.kills training [--kills 20] [--json FILE]
    python -m minicnn.experiments.proofs.kills study [--share-trunk]
    python -m minicnn.experiments.proofs.kills prepare SOURCE [--size 256]

Runs the command once undisturbed, with the options that are not of this script; then
again in fresh folders, killed at random moments and started again by the same command
until it ends, as often as it takes to reach the number of kills. By turns a kill hits
all of its processes, or the first alone: then a study's nets notice, save and end, and
the workers of `data prepare` end within ten seconds. All files must be equal, but for
what `fingerprints` leaves out. Exits 1 when one is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from minicnn.experiments.bench.provenance import json_option, keep, provenance

# Short, with checkpoints, evaluations and log lines out of step with each other.
SETTINGS = {
    "solver.batch": 16,
    "schedule.log_every": 7,
    "schedule.evaluate_every": 25,
    "schedule.checkpoint_every": 5,
}
PLAN = """
name = "killed"
data = "demo"
recipe = "demo"
[settings]
solver.iterations = 30
{settings}
[[nets]]
split = "random-0"
treatments = ["selffer", "transfer", "transfer+", "random"]
targets = ["B"]
depths = [1, 4]
""".format(settings="\n".join(f"{key} = {n}" for key, n in SETTINGS.items()))
PATIENCE = 10.0  # seconds in which orphans must end


def command(work: str, folder: Path, options: list[str]) -> list[str]:
    """The command line of a piece of work, which writes into that folder."""
    base = [sys.executable, "-m", "minicnn"]
    if work == "prepare":
        folder.mkdir(exist_ok=True)
        return [*base, "data", "prepare", *options, "-o", str(folder / "store.h5")]
    if work == "study":
        plan = folder.parent / "plan.toml"
        if not plan.exists():
            plan.write_text(PLAN)
        return [*base, "study", "run", str(plan), "-o", str(folder), *options]
    settings = {"solver.iterations": 60, **SETTINGS}.items()
    named = [f"--set={name}={value}" for name, value in settings]
    return [*base, "train-base", "--task=A", f"--runs={folder}", *named, *options]


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that must not depend on kills.

    env.json has times. Of a study plan.toml and the runs count, but for checkpoints
    before the last, which may be of the step that a net was stopped at.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if (folder / "plan.toml").exists():
        last = {max(each.iterdir()) for each in folder.glob("runs/*/*/checkpoints")}
        runs = [path for path in files if folder / "runs" in path.parents]
        known = [each for each in runs if each.suffix != ".safetensors" or each in last]
        files = [folder / "plan.toml", *known]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in ("env.json", ".lock")
    }


def wait_for_orphans(group: int) -> None:
    """Waits for the end of a process group whose first process is killed.

    Raises:
        ClickException: one outlived it by PATIENCE.
    """
    until = time.monotonic() + PATIENCE
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.01)
        os.killpg(group, signal.SIGKILL)
        raise click.ClickException(f"a process outlived its parent by {PATIENCE} s")


def run_killed(
    argv: list[str], longest: float, kills: list[str], rng: random.Random, wait: bool
) -> int:
    """Runs a command until it ends by itself, killed as planned while it runs.

    Args:
        longest: seconds; a kill comes after some part of them.
        kills: who is hit, "all" or "first", one after another.
        wait: whether the next begins only when all processes have ended.

    Returns:
        How many kills hit it while it ran.
    """
    for hits in range(len(kills) + 1):
        with tempfile.TemporaryFile("w+") as said:
            how: Any = {"stdout": said, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(argv, start_new_session=True, **how)
            try:
                more = hits < len(kills)
                process.wait(rng.uniform(0, longest) if more else None)
            except subprocess.TimeoutExpired:
                kill = os.killpg if kills[hits] == "all" else os.kill
                kill(process.pid, signal.SIGKILL)
                process.wait()
                if wait:
                    wait_for_orphans(process.pid)
                continue
            except KeyboardInterrupt:  # it has a session of its own
                os.killpg(process.pid, signal.SIGKILL)
                raise
            if process.returncode:
                said.seek(0)
                raise click.ClickException(f"{' '.join(argv)}: {said.read()}")
            break
    return hits


def check(
    work: str, kills: int, seed: int, place: Path, options: list[str]
) -> dict[str, Any]:
    """Runs a command undisturbed and killed, and compares; see `main`.

    Args:
        place: an empty folder; of a study it may have another plan.toml.

    Returns:
        What was done, and the files that differ.
    """
    rng = random.Random(seed)

    def run(name: str, kills: list[str], longest: float = 0) -> int:
        argv = command(work, place / name, options)
        return run_killed(argv, longest, kills, rng, work == "prepare")

    began = time.monotonic()
    run("whole", [])
    seconds = time.monotonic() - began
    expected = fingerprints(place / "whole")
    left = [("all", "first")[number % 2] for number in range(kills)]
    runs, odd = 0, []
    while left:
        # Undisturbed it takes as long; a kill may come after it has ended.
        left = left[run(f"killed-{runs}", left, seconds) :]
        found = fingerprints(place / f"killed-{runs}")
        names = sorted(found.keys() | expected.keys())
        odd += [f"killed-{runs}/{n}" for n in names if found.get(n) != expected.get(n)]
        runs += 1
    return {
        "work": work,
        "options": options,
        "kills": kills,
        "runs": runs,
        "files_compared": len(expected),
        "differing": odd,
        "seconds_undisturbed": round(seconds, 1),
    }


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("work", type=click.Choice(["training", "study", "prepare"]))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--kills", default=20, show_default=True, help="How often to kill.")
@click.option("--seed", default=0, show_default=True, help="Of the random moments.")
@json_option
def main(
    work: str, options: tuple[str, ...], kills: int, seed: int, out: Path | None
) -> None:
    """Kill -9 at random moments and resume: the same bytes as never killed."""
    with tempfile.TemporaryDirectory() as place:
        result = check(work, kills, seed, Path(place), list(options))
    result = {"provenance": provenance(), **result}
    click.echo(json.dumps(result))
    keep(out, result)
    sys.exit(1 if result["differing"] else 0)


if __name__ == "__main__":
    main()
