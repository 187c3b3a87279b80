"""Short real trainings that prove a device: same bits again, resumed, and like the CPU.

    python experiments/compare_devices.py [--device cuda] [--data STORE]
        [--iterations 300] [--compared 50] [--json FILE]

Trains a base net on the device; again, which must end with the same bits; a third time,
stopped by SIGTERM half-way and resumed, likewise; and on the CPU for the first losses,
which are put side by side. Exits 1 where bits differ or the first losses do not agree.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if __name__ == "__main__":  # runs from a tree that is not installed, too
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from minicnn.device import Device
    from minicnn.transfer import Setup

# Devices add in other orders: the first updates differ by roundings alone, and training
# multiplies such differences with every step.
FIRST, AGREE = 10, 1e-3


def make_setup(
    store: Path, runs: Path, dev: Device, iterations: int, batch: int, split: str
) -> Setup:
    """The demo recipe, cut short, with every loss in its metrics."""
    from minicnn import config
    from minicnn.store import Store
    from minicnn.transfer import Setup

    recipe = config.load_recipe(config.recipe_for(Store(store).image_size))
    settings = [
        f"solver.iterations={iterations}",
        f"schedule.evaluate_every={iterations}",
        f"schedule.checkpoint_every={iterations}",
        "schedule.log_every=1",
        *([f"solver.batch={batch}"] if batch else []),
    ]
    return Setup(store, dev, config.override(recipe, settings), split, runs=runs)


def few_classes(store: Path, count: int, folder: Path) -> str:
    """A split whose task A is the first `count` classes; "random-0" for all of them."""
    from minicnn.store import Store

    if not count:
        return "random-0"
    wnids = list(Store(store).wnids)
    lists = {"A": wnids[:count], "B": wnids[count : 2 * count]}
    path = folder / "few.toml"
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in lists.items()))
    return f"file:{path}"


def train(setup: Setup, stop_at: int | None = None) -> dict[str, Any]:
    """Trains task A's base net.

    Args:
        stop_at: the step at which SIGTERM comes, after which training is resumed.

    Returns:
        Its losses, its weights' fingerprints, its score and images a second.
    """
    from minicnn import transfer
    from minicnn.trainer import Stopped
    from minicnn.transfer import Treatment

    trainer = transfer.start(setup, Treatment("A"))
    if stop_at is not None:
        train_batch = trainer.loader.train_batch

        def stopping(step: int) -> Any:
            if step == stop_at:
                signal.raise_signal(signal.SIGTERM)
            return train_batch(step)

        trainer.loader.train_batch = stopping  # type: ignore[method-assign]
        try:
            trainer.run()
            raise click.ClickException(f"SIGTERM at step {stop_at} stopped nothing")
        except Stopped:
            trainer = transfer.start(setup, Treatment("A"))
    began = time.perf_counter()
    trainer.run()
    taken = time.perf_counter() - began
    run = trainer.opened()
    assert run.result is not None
    return {
        "losses": [r["loss"] for r in run.metrics() if "loss" in r],
        "weights": run.result["weights_sha256"],
        "top1": run.result["top1"],
        "seconds": round(taken, 2),
    }


def side_by_side(ours: list[float], cpu: list[float]) -> list[float]:
    """The losses' relative differences."""
    return [abs(a - b) / abs(b) for a, b in zip(ours, cpu, strict=False)]


@click.command()
@click.option("--device", "name", default="cuda", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Store; default: demo.")
@click.option("--iterations", default=300, show_default=True)
@click.option("--compared", default=50, show_default=True, help="Losses on the CPU.")
@click.option("--batch", default=0, help="Images a step; 0: the recipe's.")
@click.option("--classes", default=0, help="Only so many classes; 0: half of them.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(
    name: str,
    data: Path | None,
    iterations: int,
    compared: int,
    batch: int,
    classes: int,
    out: Path | None,
) -> None:
    """Short real trainings that prove a device."""
    from minicnn import device
    from minicnn.data_prep.demo import ensure_demo

    store = (data or ensure_demo()).resolve()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        split = few_classes(store, classes, folder)

        def run(dev: str, runs: str, count: int, stop: int | None = None) -> Any:
            how = device.get(dev), count, batch, split
            return train(make_setup(store, folder / runs, *how), stop)

        first = run(name, "first", iterations)
        again = run(name, "again", iterations)
        resumed = run(name, "resumed", iterations, iterations // 2)
        cpu = run("cpu", "cpu", min(compared, iterations))
    differences = side_by_side(first["losses"], cpu["losses"])
    result = {
        "device": name,
        "iterations": iterations,
        "seconds": first["seconds"],
        "top1": first["top1"],
        "same_bits_again": again["weights"] == first["weights"],
        "same_bits_resumed": resumed["weights"] == first["weights"],
        "losses": first["losses"],
        "cpu_losses": cpu["losses"],
        "largest_difference": max(differences),
        f"largest_difference_of_first_{FIRST}": max(differences[:FIRST]),
    }
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(f"{'step':>5}{name:>12}{'cpu':>12}{'difference':>12}")
    for step, difference in enumerate(differences):
        losses = first["losses"][step], cpu["losses"][step]
        click.echo(f"{step + 1:5}{losses[0]:12.6f}{losses[1]:12.6f}{difference:12.1e}")
    click.echo(
        f"{iterations} updates in {first['seconds']} s, top-1 {first['top1']:.1%}; "
        f"same bits again: {result['same_bits_again']}; resumed after SIGTERM: "
        f"{result['same_bits_resumed']}; largest difference from the CPU's first "
        f"{len(differences)} losses: {max(differences):.1e}"
    )
    agree = max(differences[:FIRST]) <= AGREE
    bits = result["same_bits_again"] and result["same_bits_resumed"]
    sys.exit(0 if agree and bits else 1)


if __name__ == "__main__":
    main()
