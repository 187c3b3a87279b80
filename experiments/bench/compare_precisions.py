"""Whether reduced precision costs accuracy: demo trainings over several seeds.

    python -m minicnn.experiments.bench.compare_precisions [--device auto]
        [--first 5] [--seeds 5] [--jobs 2] [--data STORE] [--json FILE]

Each seed draws its own weights, order, crops and masks, and trains the base net of task
A once in float32 and once in each other precision: pairs that differ by roundings
alone. Two trainings part soon whatever the roundings, so a single pair says little;
what counts is the 95 % interval of the mean difference over three seeds or more. Inside
MARGINS it shows both to be equivalent, all outside that they are different; an interval
that crosses a margin decides nothing, and more seeds narrow it. The exit status is 1
where a precision is different. On devices without kernels bfloat16 is simulated by
rounding every number that a GPU would store so.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click

from minicnn.experiments.bench.provenance import (
    columns,
    data_option,
    json_option,
    keep,
    provenance,
    store_of,
)
from minicnn.experiments.report.intervals import Interval, of_mean

EXACT = "fp32"
# Differences that do not matter: 2.5 and 2.8 times what seeds 0 to 4 of float32 differ
# by (experiments/results/2026-11-24-precisions.json: 0.012 and 0.029), and a little
# more than the intervals that they gave bf16. So those seeds judge nothing.
MARGINS = {"top1": 0.03, "loss": 0.08}


def train(
    store: Path,
    device: str,
    threads: int,
    precision: str,
    seed: int,
    settings: tuple[str, ...],
) -> dict[str, Any]:
    """One demo training, in a folder that is gone afterwards; its result.

    Args:
        store: the demo set's.
    """
    from minicnn.base import config
    from minicnn.devices import device as devices
    from minicnn.training.transfer import Setup, train_base

    recipe = config.load_recipe("demo")
    named = [f"network.precision={precision}", *settings]
    with tempfile.TemporaryDirectory() as folder:
        dev = devices.get(device, threads)
        resolved = config.override(recipe, named)
        setup = Setup(store, dev, resolved, seed=seed, runs=Path(folder))
        run = train_base(setup, "A")
        assert run.result is not None
        losses = [record["loss"] for record in run.metrics() if "loss" in record]
        return {
            "precision": precision,
            "seed": seed,
            "losses": losses,
            **{key: run.result[key] for key in ("top1", "top5", "loss")},
        }


def verdict(found: Interval, margin: float) -> str:
    """What an interval of differences shows: "equivalent", "different", "undecided"."""
    if found.low is None or found.high is None:
        return "undecided"
    if -margin < found.low and found.high < margin:
        return "equivalent"
    apart = found.low > margin or found.high < -margin
    return "different" if apart else "undecided"


def compare(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each other precision against float32: paired differences over the seeds."""
    by_run = {(each["precision"], each["seed"]): each for each in runs}
    seeds = sorted({seed for _, seed in by_run})
    names = [name for name in dict.fromkeys(n for n, _ in by_run) if name != EXACT]
    rows = []
    for name, (key, margin) in product(names, MARGINS.items()):
        exact = [by_run[EXACT, seed][key] for seed in seeds]
        other = [by_run[name, seed][key] for seed in seeds]
        found = of_mean([b - a for a, b in zip(exact, other, strict=True)])
        row = {"precision": name, "score": key, EXACT: fmean(exact)}
        row |= {"other": fmean(other), "difference": found.mean}
        row |= {"low": found.low, "high": found.high, "margin": margin}
        spread = stdev(exact) if len(seeds) > 1 else None
        row |= {"spread_of_fp32_over_seeds": spread, "verdict": verdict(found, margin)}
        rows.append(row)
    return rows


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", "names", multiple=True, default=["bf16"])
@click.option("--first", default=5, show_default=True, help="The first seed.")
@click.option(
    "--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many."
)
@click.option("--jobs", default=0, help="Trainings at a time; 0: one a core on a CPU.")
@data_option
@click.option("--set", "settings", multiple=True, help="As for train-base.")
@json_option
def main(
    device: str,
    names: tuple[str, ...],
    first: int,
    seeds: int,
    jobs: int,
    data: Path | None,
    settings: tuple[str, ...],
    out: Path | None,
) -> None:
    """Accuracy of reduced precision over seeds."""
    from minicnn.base.cores import available_cores
    from minicnn.devices import device as devices

    dev, cores = devices.get(device), available_cores()
    store = store_of(data)  # once, not by each of the processes
    jobs = jobs or (cores if dev.name == "cpu" else 1)
    threads = max(1, cores // jobs)
    drawn = range(first, first + seeds)
    wanted = [(name, seed) for seed in drawn for name in (EXACT, *names)]
    # A forked process cannot use the GPU that this one has opened.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, fresh) as pool:
        waiting = [
            pool.submit(train, store, dev.name, threads, name, seed, settings)
            for name, seed in wanted
        ]
        runs: list[dict[str, Any]] = []
        for each in waiting:
            run = each.result()
            runs.append(run)
            click.echo(
                f"{run['precision']} seed {run['seed']}: top-1 {run['top1']:.1%}, "
                f"loss {run['loss']:.4f}"
            )
            done, rest = divmod(len(runs), 1 + len(names))
            if rest:
                continue
            rows = compare(runs)
            # After each seed, for whoever has no time for all.
            about = {**provenance(), "device": dev.name, "seeds": done}
            keep(out, {**about, "comparison": rows, "runs": runs})
    click.echo(columns(rows))
    sys.exit(any(row["verdict"] == "different" for row in rows))


if __name__ == "__main__":
    main()
