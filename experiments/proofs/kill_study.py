"""Kill -9 a study at random moments and resume: the same results as never killed.

    python -m minicnn.experiments.proofs.kill_study [--kills 10] [--json FILE]

Runs a small study of the demo set once undisturbed; then again in fresh folders, killed
at random moments and started again by the same command until it ends, as often as it
takes to reach the number of kills. By turns a kill hits the engine and all of its nets
at once, or the engine alone; then the nets notice, save and exit. plan.toml and every
file of every run folder must be equal, but for env.json (times) and the checkpoint
before the last, which may be of the step that a net was stopped at. Exits 1 when one is
not.
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
from pathlib import Path
from typing import Any

import click

# Short, with checkpoints and evaluations out of step with each other.
PLAN = """
name = "killed"
data = "demo"
recipe = "demo"
[settings]
solver.iterations = 30
solver.batch = 16
schedule.log_every = 7
schedule.evaluate_every = 25
schedule.checkpoint_every = 5
[[nets]]
split = "random-0"
treatments = ["selffer", "transfer", "transfer+", "random"]
targets = ["B"]
depths = [1, 4]
"""


def command(plan: Path, study: Path, *options: str) -> list[str]:
    """The command that runs the study, into a folder."""
    base = [sys.executable, "-m", "minicnn", "study", "run", str(plan), "-o"]
    return [*base, str(study), *options]


def fingerprints(study: Path) -> dict[str, str]:
    """SHA-256 of each file that must not depend on kills."""
    files = [study / "plan.toml", *sorted(study.glob("runs/**/*"))]
    last = {max(each.iterdir()) for each in study.glob("runs/*/*/checkpoints")}
    return {
        str(path.relative_to(study)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
        and path.name not in ("env.json", ".lock")
        and (path.suffix != ".safetensors" or path in last)
    }


def run_killed(
    argv: list[str], longest: float, kills: list[str], rng: random.Random
) -> int:
    """Runs a command until it ends by itself, killed as planned while it runs.

    Args:
        longest: seconds; a kill comes after some part of them.
        kills: who is hit, "all" or "engine", one after another.

    Returns:
        How many kills hit it while it ran.
    """
    hits = 0
    while True:
        process = subprocess.Popen(
            argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            wait = rng.uniform(0, longest) if hits < len(kills) else None
            process.wait(wait)
        except subprocess.TimeoutExpired:
            # The session's group is the engine and its nets.
            kill = os.killpg if kills[hits] == "all" else os.kill
            kill(process.pid, signal.SIGKILL)
            process.wait()
            hits += 1
            continue
        assert process.stderr is not None
        said = process.stderr.read()
        if process.returncode:
            raise click.ClickException(f"{' '.join(argv)}: {said.decode()}")
        return hits


def check(kills: int, seed: int, place: Path, text: str, *options: str) -> dict:
    """Runs a study undisturbed and killed, and compares.

    Args:
        kills: how often to kill.
        seed: of the random moments.
        place: an empty folder.
        text: the plan.
        options: of `minicnn study run`.

    Returns:
        What was done, and the files that differ.
    """
    rng = random.Random(seed)
    plan = place / "plan.toml"
    plan.write_text(text)
    whole = command(plan, place / "whole", *options)
    began = time.monotonic()
    subprocess.run(whole, check=True, capture_output=True)
    seconds = time.monotonic() - began
    expected = fingerprints(place / "whole")
    left = [("all", "engine")[number % 2] for number in range(kills)]
    hit: list[str] = []
    trials, odd = 0, []
    while left:
        study = place / f"killed-{trials}"
        # Undisturbed it takes as long; a kill may come after it has ended.
        hits = run_killed(command(plan, study, *options), seconds, left, rng)
        hit, left = hit + left[:hits], left[hits:]
        trials += 1
        found = fingerprints(study)
        names = sorted(found.keys() | expected.keys())
        odd += [f"{study.name}/{n}" for n in names if found.get(n) != expected.get(n)]
    return {
        "kills": len(hit),
        "of_engine_and_nets": hit.count("all"),
        "of_engine_alone": hit.count("engine"),
        "studies": trials,
        "nets": len(list((place / "whole").glob("runs/*/*/result.json"))),
        "files_compared": len(expected),
        "differing": odd,
        "seconds_undisturbed": round(seconds, 1),
    }


@click.command()
@click.option("--kills", default=10, show_default=True, help="How often to kill.")
@click.option("--seed", default=0, show_default=True, help="Of the random moments.")
@click.option("--share-trunk", is_flag=True, help="As minicnn study run takes it.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(kills: int, seed: int, share_trunk: bool, out: Path | None) -> None:
    """Kill -9 a study at random moments and resume: the same results as unkilled."""
    from minicnn.experiments.bench.provenance import provenance

    options = ["--share-trunk"] if share_trunk else []
    with tempfile.TemporaryDirectory() as place:
        result: dict[str, Any] = check(kills, seed, Path(place), PLAN, *options)
    result = {"provenance": provenance(), **result, "share_trunk": share_trunk}
    click.echo(json.dumps(result))
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if result["differing"] else 0)


if __name__ == "__main__":
    main()
