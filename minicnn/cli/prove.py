"""The commands that prove and measure the arithmetic: parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from minicnn.base.errors import counted
from minicnn.cli import shared
from minicnn.cli.shared import put, say

if TYPE_CHECKING:
    from minicnn.devices.device import Device


@click.command()
@shared.on_device
@click.option(
    "--op",
    "ops",
    multiple=True,
    help="Only conv, relu, pool, lrn, pool_lrn, space_to_depth, dropout, softmax, sgd, "
    "augment or network; may be repeated.",
)
@shared.json_option
def gradcheck(ops: tuple[str, ...], dev: Device) -> None:
    """Check the gradients of every op and of small networks.

    Gradients are compared with central differences in float64, outputs with those of
    the cpu device in float64, which the tests hold to plain loops. Exit status 1 if a
    check fails.
    """
    from minicnn.base.progress import Progress
    from minicnn.experiments.proofs import gradcheck as checks

    planned, done = checks.plan(ops), []
    with Progress(len(planned), "cases", f"gradcheck {dev.name}") as bar:
        for name, check in planned:
            done += check(dev)
            bar.update(1, name)
    failed = sum(not each.ok for each in done)
    records = [{**asdict(each), "ok": each.ok} for each in done]
    verdict = f"{counted(len(done), 'check')} on {dev.name}, {failed} failed."
    told = {"device": dev.name, "checks": records}
    put(told, f"{checks.table(done)}\n\n{verdict}")
    if failed:
        raise click.exceptions.Exit(1)


@click.command()
@shared.on_device
@click.option("--arch", default="caffenet", help="Architecture.")
@click.option("--batch", type=int, help="Images; default: 256, on a CPU fewer.")
@shared.precision_option
@click.option(
    "--against",
    type=click.Choice(["torch"]),
    help="Also time the step in all modes of PyTorch; takes minutes.",
)
@shared.json_option
def bench(
    arch: str,
    batch: int | None,
    precision: str | None,
    against: str | None,
    dev: Device,
) -> None:
    """Time a training step and its ops beside the roofline."""
    from minicnn.experiments.bench import against_torch, torch_step
    from minicnn.experiments.bench import ops as benches

    if against:
        torch_step.require(dev)
    record = benches.bench(dev, arch, batch, precision or "fp32")
    say(benches.table(record))
    if against:
        compared = against_torch.measure(dev, [(arch, record["batch"])])
        say("\n" + against_torch.report(compared))
        (record["against_torch"],) = compared["nets"]
    put(record)


COMMANDS = [gradcheck, bench]
