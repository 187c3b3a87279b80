"""The commands that prove and measure the arithmetic: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from minicnn.base.errors import counted
from minicnn.cli.look import device_options, precision_option
from minicnn.cli.output import json_option, put


@click.command()
@device_options
@click.option(
    "--op",
    "ops",
    multiple=True,
    help="Only conv, relu, pool, lrn, pool_lrn, space_to_depth, dropout, softmax, sgd, "
    "augment or network; may be repeated.",
)
@json_option
@click.pass_context
def gradcheck(
    context: click.Context,
    ops: tuple[str, ...],
    device: str,
    threads: int | None,
) -> None:
    """Check the gradients of every op and of small networks.

    Gradients are compared with central differences in float64, outputs with those of
    the cpu device in float64, which the tests hold to plain loops. Exit status 1 if a
    check fails.
    """
    from dataclasses import asdict

    from minicnn.base.progress import Progress
    from minicnn.devices import device as devices
    from minicnn.experiments.proofs import gradcheck as checks

    dev = devices.get(device, threads)
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
    context.exit(1 if failed else 0)


@click.command()
@device_options
@click.option("--arch", default="caffenet", show_default=True, help="Architecture.")
@click.option("--batch", type=int, help="Images; default: 256, on a CPU fewer.")
@precision_option
@click.option(
    "--against",
    type=click.Choice(["torch"]),
    help="Also time the step in all modes of PyTorch; takes minutes.",
)
@click.option(
    "--json", "file", type=click.Path(path_type=Path), help="JSON file to write."
)
def bench(
    arch: str,
    batch: int | None,
    precision: str | None,
    against: str | None,
    file: Path | None,
    device: str,
    threads: int | None,
) -> None:
    """Time a training step and its ops beside the roofline."""
    from minicnn.base.files import check_target, write_json
    from minicnn.devices import device as devices
    from minicnn.experiments.bench import against_torch
    from minicnn.experiments.bench import ops as benches
    from minicnn.experiments.bench.comparison import table

    if file:
        check_target(file)
    dev = devices.get(device, threads)
    if against:
        against_torch.require(dev)
    record = benches.bench(dev, arch, batch, precision or "fp32")
    click.echo(benches.table(record))
    if file:
        write_json(file, record)
    if against:
        comparison = against_torch.compare(dev, arch, record["batch"])
        click.echo("\n" + table(comparison))
        if file:
            write_json(file, {**record, "against_torch": comparison})


COMMANDS = [gradcheck, bench]
