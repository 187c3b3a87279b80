"""Kill -9 training at random moments and resume: the same bytes as never killed.

    python -m minicnn.experiments.proofs.kill_training [--kills 20] [--json FILE]

Trains a base net of the demo set once undisturbed; then again in fresh folders, killed
at random moments and started again by the same command until it ends, as often as it
takes to reach the number of kills. Every file of the run folder but env.json (times)
must be equal. Exits 1 when one is not.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

# Short, with checkpoints, evaluations and log lines out of step with each other.
SETTINGS = {
    "solver.iterations": 60,
    "solver.batch": 16,
    "schedule.log_every": 7,
    "schedule.evaluate_every": 25,
    "schedule.checkpoint_every": 5,
}


def command(runs: Path) -> list[str]:
    """The training command, into a folder of runs."""
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    base = [sys.executable, "-m", "minicnn", "train-base", "--task", "A"]
    return [*base, f"--runs={runs}", *settings]


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that must not depend on kills."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("env.json", ".lock")
    }


def run_killed(argv: list[str], longest: float, left: int, rng: random.Random) -> int:
    """Runs a command until it ends by itself, killing it at most `left` times.

    Returns:
        How many kills hit it while it ran.
    """
    kills = 0
    while True:
        process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            wait = rng.uniform(0, longest) if kills < left else None
            _, said = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        if process.returncode:
            raise click.ClickException(f"{' '.join(argv)}: {said.decode()}")
        return kills


@click.command()
@click.option("--kills", default=20, show_default=True, help="How often to kill.")
@click.option("--seed", default=0, show_default=True, help="Of the random moments.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(kills: int, seed: int, out: Path | None) -> None:
    """Kill -9 training at random moments and resume: the same bytes as never killed."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        subprocess.run(command(Path(place, "whole")), check=True, capture_output=True)
        seconds = time.monotonic() - began
        expected = fingerprints(Path(place, "whole", "baseA"))
        hits, trials, odd = 0, 0, []
        while hits < kills:
            runs = Path(place, f"killed-{trials}")
            hits += run_killed(command(runs), seconds, kills - hits, rng)
            trials += 1
            found = fingerprints(runs / "baseA")
            names = found.keys() | expected.keys()
            odd += [n for n in sorted(names) if found.get(n) != expected.get(n)]
    result: dict[str, Any] = {
        "kills": hits,
        "runs": trials,
        "files_compared": len(expected),
        "differing": odd,
        "seconds_undisturbed": round(seconds, 1),
    }
    click.echo(json.dumps(result))
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if odd else 0)


if __name__ == "__main__":
    main()
