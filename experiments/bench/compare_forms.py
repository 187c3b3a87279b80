"""What the cpu device's compiled code brings, op by op: a profile before and after.

    python -m minicnn.experiments.bench.compare_forms [--arch NAMES] [--batch SIZES]
        [--threads N] [--rounds 9] [--before CHECKOUT] [--json FILE]

Records a training step's calls, then runs each by turns in its compiled form and in its
NumPy form, which is what runs without a compiler, round after round: a machine whose
clock changes meets both alike. Medians over the rounds, summed by kind of op, and by
layer and direction.

With --before the two are the compiled code of another checkout (git worktree add
../before COMMIT) and of this one, each in a process of its own (`timed_step.py`), of
which one waits while the other runs a step and its ops. Two processes of the same code
differ by some per cent: in where their memory lies.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click

from minicnn.experiments import printing
from minicnn.experiments.bench.provenance import ROOT, json_option, keep, provenance
from minicnn.experiments.bench.timed_step import seconds

FORMS = {"NumPy": False, "compiled": True}
VERSIONS = ("before", "after")
# By form or version: of each round, seconds of the whole step, then of each op.
Times = dict[str, list[list[float]]]
Sums = dict[str, dict[str, float]]


def measure(dev: Any, arch: str, batch: int, rounds: int) -> dict[str, Any]:
    """Medians in seconds: of each op in both forms, and of the whole step."""
    from minicnn.experiments.bench.ops import Step

    step = Step(dev, arch, batch)
    calls = step.recorded()
    times: Times = {name: [] for name in FORMS}
    for _, (name, native) in product(range(rounds + 1), FORMS.items()):
        dev.native = native
        dev.outdate_records()
        ops = (seconds(c.op, dev, **c.arguments) for c in calls)
        times[name].append([seconds(step.resident), *ops])
    places = [(call.place, call.name) for call in calls]
    return {"arch": arch, "batch": batch} | _medians(places, times)


def measure_versions(
    before: Path, threads: int, arch: str, batch: int, rounds: int
) -> dict[str, Any]:
    """Likewise of two checkouts, `before` and this one.

    Raises:
        ClickException: one of them failed, or their steps have other ops.
    """
    if not (before / "minicnn/experiments/bench/ops.py").is_file():
        raise click.ClickException(f"{before}: no checkout of minicnn")
    script = str(Path(__file__).with_name("timed_step.py"))
    children = [
        subprocess.Popen(
            [sys.executable, script, str(folder), arch, str(batch), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in (before.resolve(), ROOT)
    ]

    def told(child: subprocess.Popen[str]) -> Any:
        assert child.stdout
        if line := child.stdout.readline():
            return json.loads(line)
        raise click.ClickException(f"{child.args!r} failed")

    try:
        first, second = map(told, children)
        places = second["ops"]
        if first["ops"] != places:
            raise click.ClickException(f"{before}: its step of {arch} has other ops")
        times: Times = {name: [] for name in VERSIONS}
        both = list(zip(VERSIONS, children, strict=True))
        for _, (name, child) in product(range(rounds + 1), both):
            assert child.stdin
            print("again", file=child.stdin, flush=True)
            times[name].append(told(child))
    finally:
        for child in children:
            child.kill()
            child.wait()
    about = {"arch": arch, "batch": batch, "before": first["commit"]}
    return about | _medians(places, times)


def _medians(places: Sequence[Sequence[str]], times: Times) -> dict[str, Any]:
    """Medians over the rounds but the first, a warm-up."""
    medians = {
        name: [statistics.median(each) for each in zip(*taken[1:], strict=True)]
        for name, taken in times.items()
    }
    rows = [
        {"place": place, "op": op, **{name: medians[name][number] for name in medians}}
        for number, (place, op) in enumerate(places, 1)
    ]
    return {"ops": rows, "step": {name: each[0] for name, each in medians.items()}}


def _summed(ops: Sequence[dict[str, Any]], keys: Sequence[str]) -> Sums:
    """Sums of both columns of seconds by key; rows whose key is "" are left out."""
    found: Sums = {}
    for row, key in zip(ops, keys, strict=True):
        names = [name for name in row if name not in ("place", "op")]
        sums = found.setdefault(key, dict.fromkeys(names, 0.0))
        for name in names:
            sums[name] += row[name]
    found.pop("", None)
    return found


def by_kind(ops: Sequence[dict[str, Any]]) -> Sums:
    """Sums of both forms' seconds by kind of op; fully connected layers apart."""

    def kind(row: dict[str, Any]) -> str:
        of, _, way = row["op"].partition(".")
        return f"{row['place'][:-1]} {way}" if of == "conv" else row["op"]

    return _summed(ops, list(map(kind, ops)))


def by_layer(ops: Sequence[dict[str, Any]]) -> Sums:
    """Likewise by layer, forward and backward, which begins after the loss.

    A ReLU's gradient is part of the layer above, which takes it.
    """
    loss = [row["op"] for row in ops].index("softmax.cross_entropy")
    ways = ["forward"] * loss + ["backward"] * (len(ops) - loss)
    keys = [
        f"layer {row['place'][-1]} {way}" if row["place"] else ""
        for row, way in zip(ops, ways, strict=True)
    ]
    return dict(sorted(_summed(ops, keys).items(), key=lambda item: item[0].split()[1]))


def markdown(result: dict[str, Any]) -> str:
    """One network's tables: by kind of op, and by layer."""
    title = f"{result['arch']}, batch {result['batch']}"
    kinds = by_kind(result["ops"]) | {"whole step": result["step"]}
    return f"{_table(title, kinds)}\n\n{_table(title, by_layer(result['ops']))}"


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    heads = [f"{name} ms" for name in next(iter(rows.values()))]
    times = {name: list(both.values()) for name, both in rows.items()}
    cells = [
        (name, f"{before * 1e3:.1f}", f"{after * 1e3:.1f}", f"{before / after:.2f}")
        for name, (before, after) in times.items()
    ]
    return printing.markdown([title, *heads, "times as fast"], cells)


@click.command()
@click.option("--arch", default="caffenet,caffenet64", show_default=True)
@click.option("--batch", default="32,128", show_default=True, help="One for each.")
@click.option("--threads", type=int, help="CPU threads; default: all cores.")
@click.option("--rounds", default=9, show_default=True)
@click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout, to compare this one with.",
)
@json_option
def main(
    arch: str,
    batch: str,
    threads: int | None,
    rounds: int,
    before: Path | None,
    out: Path | None,
) -> None:
    """Each op of a training step in its compiled and NumPy forms, or in two commits."""
    from minicnn.compile import native
    from minicnn.devices import device
    from minicnn.training.environment import describe

    if why := native.missing():
        raise click.ClickException(f"nothing to compare: {why}")
    dev = device.get("cpu", threads)
    pairs = zip(arch.split(","), map(int, batch.split(",")), strict=True)
    about = provenance()
    if before:
        nets = [measure_versions(before, dev.threads, *pair, rounds) for pair in pairs]
    else:
        nets = [measure(dev, *pair, rounds) for pair in pairs]
    click.echo("\n\n".join(map(markdown, nets)))
    click.echo(
        f"\nMedians of {rounds} rounds; {dev.threads} threads, {about['machine']}; "
        f"{about['date']}, commit {about['commit']}"
        f"{' after ' + nets[0]['before'] if before else ''}: `{about['command']}`"
    )
    keep(out, {"provenance": about, "environment": describe(dev), "nets": nets})


if __name__ == "__main__":
    main()
