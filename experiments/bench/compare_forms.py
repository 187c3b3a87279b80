"""What the cpu device's compiled code brings, op by op: a profile before and after.

    python -m minicnn.experiments.bench.compare_forms [--net ARCH IMAGES]...
        [--threads N] [--rounds 9] [--before CHECKOUT] [--json FILE]

Times a training step and each of its ops in NumPy's form, which is what runs without a
compiler, and in compiled form; with --before in the compiled code of another checkout
(git worktree add ../before COMMIT) and of this one. Each of the two has a process of
its own (`timed_step.py`), of which one waits while the other runs a step and its ops,
round after round: a machine whose clock changes meets both alike. The least of the
rounds counts, since whatever else the machine does only adds; sums are by kind of op,
and by layer and direction. Two processes of the same code differ by some per cent: in
where their memory lies.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from minicnn.compile import native
from minicnn.devices import device
from minicnn.experiments import printing
from minicnn.experiments.bench.provenance import (
    NETS,
    ROOT,
    json_option,
    keep,
    nets_option,
    provenance,
)
from minicnn.training.environment import describe

Record = dict[str, Any]
Sums = dict[str, Any]  # by name: seconds before and after


def measure(
    before: Path | None, threads: int, arch: str, batch: int, rounds: int
) -> Record:
    """Least seconds: of each op in both forms or checkouts, and of the whole step.

    Raises:
        ClickException: one of them failed, or their steps have other ops.
    """
    ways = {"NumPy": (ROOT, "NumPy"), "compiled": (ROOT, "compiled")}
    if before:
        ways = {"before": (before.resolve(), "compiled"), "after": (ROOT, "compiled")}
    script = [sys.executable, str(Path(__file__).with_name("timed_step.py"))]
    children = {
        name: subprocess.Popen(
            [*script, str(folder), form, arch, str(batch), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, (folder, form) in ways.items()
    }

    def told(child: subprocess.Popen[str]) -> Any:
        assert child.stdout
        if line := child.stdout.readline():
            return json.loads(line)
        raise click.ClickException(f"{child.args!r} failed")

    try:
        first, second = map(told, children.values())
        if first["ops"] != second["ops"]:
            raise click.ClickException(f"{before}: its step of {arch} has other ops")
        # The first round is a warm-up.
        times: dict[str, list[list[float]]] = {name: [] for name in children}
        for _ in range(rounds + 1):
            for name, child in children.items():
                assert child.stdin
                print("again", file=child.stdin, flush=True)
                times[name].append(told(child))
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    least = {name: np.min(taken[1:], axis=0).tolist() for name, taken in times.items()}
    rows = [
        {"place": place, "op": op} | {n: each[number] for n, each in least.items()}
        for number, (place, op) in enumerate(second["ops"], 1)
    ]
    about = {"before": first["commit"]} if before else {}
    step = {name: each[0] for name, each in least.items()}
    return {"arch": arch, "batch": batch, **about, "ops": rows, "step": step}


def summed(ops: Sequence[Record]) -> tuple[Sums, Sums]:
    """Sums of both columns by kind of op, and by layer, forward and backward.

    Fully connected layers are a kind apart. Backward begins with the loss; a ReLU's
    gradient is part of the layer above, which takes it.
    """
    kinds: Sums = {}
    layers: Sums = {}
    way = "forward"
    for row in ops:
        place, op, *seconds = row.values()
        if op == "softmax.cross_entropy":
            way = "backward"
        of, _, form = op.partition(".")
        kind = f"{place[:-1]} {form}" if of == "conv" else op
        kinds[kind] = kinds.get(kind, 0) + np.array(seconds)
        if place:
            layer = f"layer {place[-1]} {way}"
            layers[layer] = layers.get(layer, 0) + np.array(seconds)
    in_order = sorted(layers.items(), key=lambda item: item[0].split()[1])
    return kinds, dict(in_order)


def markdown(result: Record) -> str:
    """One network's tables: by kind of op, and by layer."""
    title = f"{result['arch']}, batch {result['batch']}"
    head = [title, *(f"{name} ms" for name in result["step"]), "times as fast"]
    kinds, layers = summed(result["ops"])
    kinds["whole step"] = result["step"].values()
    tables = [
        [
            (name, f"{before * 1e3:.1f}", f"{after * 1e3:.1f}", f"{before / after:.2f}")
            for name, (before, after) in rows.items()
        ]
        for rows in (kinds, layers)
    ]
    return "\n\n".join(printing.markdown(head, rows) for rows in tables)


@click.command()
@nets_option
@click.option("--threads", type=int, help="CPU threads; default: all cores.")
@click.option("--rounds", default=9, show_default=True)
@click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout, to compare this one with.",
)
@json_option
def main(
    nets: tuple[tuple[str, int], ...],
    threads: int | None,
    rounds: int,
    before: Path | None,
    out: Path | None,
) -> None:
    """Each op of a training step in its compiled and NumPy forms, or in two commits."""
    if why := native.missing():
        raise click.ClickException(f"nothing to compare: {why}")
    if before and not (before / "minicnn/experiments/bench/ops.py").is_file():
        raise click.ClickException(f"{before}: no checkout of minicnn")
    dev = device.get("cpu", threads)
    about = provenance()
    found = [measure(before, dev.threads, *net, rounds) for net in nets or NETS["cpu"]]
    click.echo("\n\n".join(map(markdown, found)))
    click.echo(
        f"\nLeast of {rounds} rounds; {dev.threads} threads, {about['machine']}; "
        f"{about['date']}, commit {about['commit']}"
        f"{' after ' + found[0]['before'] if before else ''}: `{about['command']}`"
    )
    keep(out, {"provenance": about, "environment": describe(dev), "nets": found})


if __name__ == "__main__":
    main()
