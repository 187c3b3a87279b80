"""Short real trainings that prove a device: same bits again, resumed, and like the CPU.

    python -m minicnn.experiments.proofs.compare_devices [--device cuda] [--data STORE]
        [--iterations 300] [--compared 50] [--precision fp32] [--json FILE]

Trains a base net on the device; again, which must end with the same bits; a third time,
stopped by SIGTERM half-way and resumed, likewise; and on the CPU for the first losses,
which are put side by side. Exits 1 where bits differ or the first losses do not agree.

In float32 two places of a pooling window, or a ReLU's input and zero, now and then lie
within a rounding of each other; devices that round in another order choose otherwise,
and training multiplies the difference. With --precision fp64, where hardly any lie so
close, only the first losses are compared, and must be equal to rounding.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from minicnn.base import config
from minicnn.data.store import Store
from minicnn.data_prep.demo.store import ensure_demo
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.experiments.bench.provenance import json_option, keep, provenance
from minicnn.experiments.printing import columns
from minicnn.training import advice, transfer
from minicnn.training.setup import Setup
from minicnn.training.trainer import Stopped
from minicnn.training.transfer import Treatment

Record = dict[str, Any]
# Devices add in other orders: the first updates differ by roundings alone, and training
# multiplies such differences with every step.
FIRST, AGREE = 10, 1e-3
# Roundings of float64, and room for what some updates make of them.
AGREE_FLOAT64 = 1e-9


def make_setup(
    store: Path, runs: Path, dev: Device, iterations: int, settings: Sequence[str]
) -> Setup:
    """The recipe of the store's images, cut short, with every loss in its metrics."""
    opened = Store(store)
    recipe = advice.choose(opened, range(len(opened.wnids)), gpu=False).config
    names = "solver.iterations", "schedule.evaluate_every", "schedule.checkpoint_every"
    short = [f"{name}={iterations}" for name in names]
    changed = config.override(recipe, [*short, "schedule.log_every=1", *settings])
    return Setup(store, dev, changed, runs=runs)


def train(setup: Setup, stop_at: int | None = None) -> Record:
    """Trains task A's base net.

    Args:
        stop_at: the step at which SIGTERM comes, after which training is resumed.

    Returns:
        Its losses, its weights' fingerprints, its score and how many seconds it took.
    """
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
    for diverged in trainer.run():
        raise diverged
    taken = time.perf_counter() - began
    run = trainer.runs[0]
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


def report(result: Record, differences: list[float]) -> str:
    """The losses side by side, and what was proven."""
    rows = zip(result["losses"], result["cpu_losses"], differences, strict=False)
    lines = [
        {
            "step": step,
            result["device"]: f"{ours:.6f}",
            "cpu": f"{cpu:.6f}",
            "difference": f"{off:.1e}",
        }
        for step, (ours, cpu, off) in enumerate(rows, 1)
    ]
    said = [columns(lines)]
    if "seconds" in result:
        said.append(
            f"{result['iterations']} updates in {result['seconds']} s, top-1 "
            f"{result['top1']:.1%}; same bits again: {result['same_bits_again']}; "
            f"resumed after SIGTERM: {result['same_bits_resumed']}"
        )
    said.append(
        f"{result['precision']}: largest difference from the CPU's first "
        f"{len(differences)} losses: {max(differences):.1e}"
    )
    return "\n".join(said)


def proven(result: Record, differences: list[float]) -> bool:
    """Whether losses agree as they must, and bits where they were compared."""
    if result["precision"] == "fp64":
        return max(differences) <= AGREE_FLOAT64
    bits = result["same_bits_again"] and result["same_bits_resumed"]
    return bits and max(differences[:FIRST]) <= AGREE


@click.command()
@click.option("--device", "name", default="cuda", show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Store; default: the demo set's."
)
@click.option("--iterations", default=300, show_default=True)
@click.option("--compared", default=50, show_default=True, help="Losses on the CPU.")
@click.option("--batch", default=0, help="Images a step; 0: the recipe's.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp64"]),
    default="fp32",
    show_default=True,
    help="fp64: compares the first losses alone.",
)
@json_option
def main(
    name: str,
    data: Path | None,
    iterations: int,
    compared: int,
    batch: int,
    precision: str,
    out: Path | None,
) -> None:
    """Short real trainings that prove a device."""
    store, exact = (data or ensure_demo()).resolve(), precision == "fp64"
    iterations = compared if exact else iterations
    settings = [f"network.precision={precision}"]
    settings += [f"solver.batch={batch}"] if batch else []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def run(runs: str, dev: str, length: int, stop_at: int | None = None) -> Record:
            how = folder / runs, device.get(dev), length, settings
            return train(make_setup(store, *how), stop_at)

        first = run("first", name, iterations)
        result: Record = {"losses": first["losses"]}
        if not exact:
            again = run("again", name, iterations)
            resumed = run("resumed", name, iterations, iterations // 2)
            result |= {
                "seconds": first["seconds"],
                "top1": first["top1"],
                "same_bits_again": again["weights"] == first["weights"],
                "same_bits_resumed": resumed["weights"] == first["weights"],
            }
        cpu = run("cpu", "cpu", min(compared, iterations))
    differences = side_by_side(first["losses"], cpu["losses"])
    result = {
        **provenance(),
        **{"device": name, "precision": precision, "iterations": iterations},
        **result,
        "cpu_losses": cpu["losses"],
        "largest_difference": max(differences),
        f"largest_difference_of_first_{FIRST}": max(differences[:FIRST]),
    }
    keep(out, result)
    click.echo(report(result, differences))
    sys.exit(0 if proven(result, differences) else 1)


if __name__ == "__main__":
    main()
