"""What is about to be trained, and what that takes."""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress

import click

from minicnn.base.errors import MinicnnError, counted
from minicnn.cli.shared import say
from minicnn.experiments.bench.ops import Step
from minicnn.experiments.study import cost
from minicnn.training.run import Run
from minicnn.training.setup import Setup
from minicnn.training.trainer import Trainer

LONG = 2 * 3600  # seconds; longer trainings are told smaller choices
BATCH = 32  # images of the step that is timed on a host, at most


def _rate(setup: Setup) -> float:
    """Images a second of a net with no frozen layer, by its third step on noise."""
    network, batch = setup.config.network, setup.config.solver.batch
    if setup.dev.on_host:
        batch = min(batch, BATCH)
    step = Step(setup.dev, setup.arch, batch, network.precision, seed=None)
    for _ in range(3):
        began = time.monotonic()
        step.whole()
        setup.dev.synchronize()
    rate = batch / (time.monotonic() - began)
    del step
    gc.collect()  # a record of the step refers to it, and it to the record
    return rate


def seconds(setup: Setup, trainer: Trainer) -> float:
    """Seconds of a pass from its first update on, at the rate of a step."""
    solver, network = setup.config.solver, setup.config.network
    layers = cost.layer_flops(network.arch, trainer.runs[0].outputs)
    images = solver.iterations * solver.batch
    scored = cost.evaluations(setup.config) * len(trainer.loader.val)
    depths = [each.network.frozen for each in trainer.trainees]
    work = cost.work(layers, depths, images, scored)
    return work / cost.training_flops(layers) / _rate(setup)


def period(length: float) -> str:
    """Seconds as a person says them."""
    for unit, least in ("days", 86400), ("hours", 3600), ("minutes", 60):
        if length >= 2 * least:
            return f"{length / least:.0f} {unit}"
    return f"{max(length, 1):.0f} s"


def tell(setup: Setup, trainer: Trainer) -> None:
    """Says the number of updates and their time; if long, smaller choices."""
    solver = setup.config.solver
    told = f"{counted(solver.iterations, 'update')} of {counted(solver.batch, 'image')}"
    if setup.dev.name == "emulated":
        say(f"{told}, on the emulated device: slow.")
        return
    length = 0.0
    with suppress(MinicnnError):  # a GPU may hold the run, but no net trained whole
        length = seconds(setup, trainer)
    say(f"{told}: about {period(length)} from the first on." if length else f"{told}.")
    if length < LONG or not sys.stderr.isatty():
        return
    fewer = max(1, round(solver.iterations * LONG / 4 / length))
    smaller = [f"fewer updates: --set solver.iterations={fewer}"]
    if setup.arch.size > 64:
        smaller.append("smaller images: minicnn data prepare ... --size 64, or 32")
    if solver.iterations > 1500:
        smaller.append("the recipe for some thousand images: --recipe small")
    say(f"Smaller choices: {'; '.join(smaller)}. Ctrl-C stops and saves at any time.")


def _say_layers(run: Run) -> None:
    """Says which layers were copied or drawn, frozen or trained."""
    say(f"{'layer':7}{'weights':18}{'origin':27}state")
    for row in run.layers():
        if row["tensor"].endswith(".w"):
            shape = "x".join(map(str, row["shape"]))
            say(f"{row['tensor'][:-2]:7}{shape:18}{row['origin']:27}{row['state']}")


def _say_spans(run: Run) -> None:
    """Says the same of a run's layers in one line."""
    spans: dict[tuple[str, str], list[int]] = {}
    for row in run.layers():
        spans.setdefault((row["origin"], row["state"]), []).append(row["layer"])
    parts = [
        f"layers {min(layers)}..{max(layers)} {origin}, {state}"
        for (origin, state), layers in spans.items()
    ]
    say(f"{run.name}: {'; '.join(parts)}.")


def announce(setup: Setup, why: str, trainer: Trainer) -> None:
    """Says what is about to be trained, if anything is."""
    unfinished = [each.folder for each in trainer.trainees]
    runs = [run for run in trainer.runs if run.folder in unfinished]
    if not runs:
        return
    names = ", ".join(run.name for run in runs)
    one_pass = " in one pass" if len(runs) > 1 else ""
    say(f"{why}.")
    say(
        f"{names}{one_pass}: {setup.arch.name}, {len(runs[0].classes)} "
        f"classes, {len(trainer.loader.train):,} training and "
        f"{counted(len(trainer.loader.val), 'validation image')} of {setup.store}, "
        f"device {setup.dev.name} with {counted(setup.dev.threads, 'thread')}."
    )
    batch, images = setup.config.solver.batch, len(trainer.loader.train)
    if batch > images:
        click.echo(
            f"warning: solver.batch {batch} is more than the {images} training images: "
            f"each update sees some of them twice; --set solver.batch={images} or less",
            err=True,
        )
    for run in runs:
        if len(runs) > 1:
            _say_spans(run)
        elif run.about["source"]:
            _say_layers(run)
    tell(setup, trainer)
