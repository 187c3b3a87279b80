"""What one pass for all depths saves: separate runs against a shared trunk.

    python -m minicnn.experiments.bench.share_trunk [--data STORE] [--depths 1-7]
        [--rounds 2] [--device cpu] [--threads 1] [--set solver.batch=32] [--json FILE]

Trains a base net of task A, then its transfers to task B at all depths: one after
another, and in one pass, in turns, so that a machine that slows down slows both. Exits
1 where the runs' weights or metrics differ between the two.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minicnn.experiments.bench.provenance import (
    columns,
    data_option,
    json_option,
    keep,
    shortened,
    store_of,
)

if TYPE_CHECKING:
    from minicnn.training.trainer import Trainer
    from minicnn.training.transfer import Setup

WAYS = {False: "one after another", True: "one pass"}


class Reader:
    """Counts the images that trainers read."""

    def __init__(self) -> None:
        self.images = 0

    def watch(self, trainer: Trainer) -> None:
        """Counts what this trainer's loader hands out from now on."""
        loader = trainer.loader
        train_batch, val_batches = loader.train_batch, loader.val_batches

        def training(step: int) -> Any:
            batch = train_batch(step)
            self.images += len(batch.labels)
            return batch

        def validation() -> Iterator[Any]:
            for batch in val_batches():
                self.images += len(batch.labels)
                yield batch

        loader.train_batch = training  # type: ignore[method-assign]
        loader.val_batches = validation  # type: ignore[method-assign]


def measure(setup: Setup, depths: list[int], share: bool) -> dict[str, Any]:
    """Trains A1B, A2B, ... from the beginning.

    Returns:
        seconds by the clock and of all cores, images read, and the runs' `result.json`
        and metrics.
    """
    from minicnn.training import transfer
    from minicnn.training.treatment import passes

    reader = Reader()
    planned = passes("A", depths, share_trunk=share)
    began, cpu = time.perf_counter(), time.process_time()
    runs = transfer.execute(setup, planned, began=reader.watch)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "images_read": reader.images,
        "ended": [[run.result, run.metrics()] for run in runs],
    }


def compare(setup: Setup, depths: list[int], rounds: int) -> dict[str, Any]:
    """Both ways in turns: the median figures of each, and whether the runs agree."""
    from minicnn.training import transfer

    assert setup.runs is not None
    transfer.train_base(setup, "A")
    found: dict[bool, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for share in WAYS:
            runs = setup.runs.parent / f"{number}-{share}"
            shutil.copytree(setup.runs, runs)
            found[share].append(measure(replace(setup, runs=runs), depths, share))
            shutil.rmtree(runs)
    ended = [each["ended"] for ways in found.values() for each in ways]
    keys = ("seconds", "cpu_seconds", "images_read")
    figures = {
        WAYS[way]: {key: statistics.median(each[key] for each in ways) for key in keys}
        for way, ways in found.items()
    }
    return {"same_runs": all(each == ended[0] for each in ended), **figures}


@click.command()
@data_option
@click.option("--recipe", help="Built-in or TOML; default: by image size.")
@click.option("--set", "settings", multiple=True, help="Change a setting.")
@click.option("--depths", default="1-7", show_default=True, help="Layers copied.")
@click.option("--iterations", default=60, show_default=True, help="Updates a run.")
@click.option("--rounds", default=2, show_default=True, help="Times each way runs.")
@click.option("--device", "name", default="cpu", show_default=True, help="Where.")
@click.option("--threads", type=int, help="CPU threads; default: all cores.")
@json_option
def main(
    data: Path | None,
    recipe: str | None,
    settings: tuple[str, ...],
    depths: str,
    iterations: int,
    rounds: int,
    name: str,
    threads: int | None,
    out: Path | None,
) -> None:
    """What one pass for all depths saves."""
    from minicnn.devices import device
    from minicnn.training.environment import describe
    from minicnn.training.transfer import Setup
    from minicnn.training.treatment import parse_depths

    store = store_of(data)
    resolved = shortened(store, iterations, settings, recipe)
    numbers, dev = parse_depths(depths), device.get(name, threads)
    with tempfile.TemporaryDirectory() as place:
        setup = Setup(store, dev, resolved, runs=Path(place) / "runs")
        result = compare(setup, numbers, rounds)
    about = {"depths": numbers, "rounds": rounds, **describe(dev)}
    result = {**about, "settings": resolved.to_dict(), **result}
    keep(out, result)
    rows = [{"": way, **result[way]} for way in WAYS.values()]
    click.echo(columns(rows))
    click.echo(f"same results and metrics: {result['same_runs']}")
    sys.exit(0 if result["same_runs"] else 1)


if __name__ == "__main__":
    main()
