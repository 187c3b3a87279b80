"""Whether reduced precision costs accuracy: demo trainings over several seeds.

    python -m minicnn.experiments.bench.compare_precisions [--device auto]
        [--first 5] [--seeds 5] [--jobs 2] [--data STORE] [--json FILE]

Each seed draws its own weights, order, crops and masks, and trains the base net of task
A once in float32 and once in each other precision: pairs that differ by roundings
alone. Two trainings part soon whatever the roundings, so a single pair says little;
what counts is the 95 % interval of the mean difference over seeds. Inside MARGINS it
shows both to be equivalent, all outside that they are different; an interval that
crosses a margin decides nothing, and more seeds narrow it. The exit status is 1 where a
precision is different. On devices without kernels bfloat16 is simulated by rounding
every number that a GPU would store so.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
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

EXACT = "fp32"
HEADS = ("fp32", "other", "difference", "low", "high")  # scores, in a table
# Differences that do not matter: 2.5 and 2.8 times what seeds 0 to 4 of float32 differ
# by (experiments/results/2026-11-24-precisions.json: 0.012 and 0.029), and a little
# more than the intervals that they gave bf16. So those seeds judge nothing.
MARGINS = {"top1": 0.03, "loss": 0.08}
# Student's t, two-sided 95 %, by degrees of freedom 1 to 9; of more, the last.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by Student's t."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = T95[min(len(values) - 2, len(T95) - 1)]
    half *= statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def verdict(low: float, high: float, margin: float) -> str:
    """What an interval of differences shows: "equivalent", "different", "undecided"."""
    if -margin < low and high < margin:
        return "equivalent"
    return "different" if low > margin or high < -margin else "undecided"


def compare(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each other precision against float32: paired differences over the seeds."""
    found = {(each["precision"], each["seed"]): each for each in runs}
    seeds = sorted({seed for _, seed in found})
    names = [name for name in dict.fromkeys(n for n, _ in found) if name != EXACT]
    rows = []
    for name in names:
        for key, margin in MARGINS.items():
            exact = [found[EXACT, seed][key] for seed in seeds]
            other = [found[name, seed][key] for seed in seeds]
            gaps = [b - a for a, b in zip(exact, other, strict=True)]
            mean, low, high = interval(gaps)
            spread = statistics.stdev(exact) if len(seeds) > 1 else math.nan
            rows.append(
                {
                    "precision": name,
                    "score": key,
                    "fp32": statistics.mean(exact),
                    "other": statistics.mean(other),
                    "difference": mean,
                    "low": low,
                    "high": high,
                    "spread_of_fp32_over_seeds": spread,
                    "margin": margin,
                    "verdict": verdict(low, high, margin),
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison for people."""

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        numbers = {key: f"{value:+.4f}" for key, value in row.items() if key in HEADS}
        return {**row, **numbers}

    return columns(list(map(shown, rows)))


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
    click.echo(table(rows))
    sys.exit(any(row["verdict"] == "different" for row in rows))


if __name__ == "__main__":
    main()
