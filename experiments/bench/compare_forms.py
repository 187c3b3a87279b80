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
from functools import partial
from pathlib import Path
from typing import Any

import click

from minicnn.experiments.bench.timed_step import seconds

ROOT = Path(__file__).resolve().parents[2]

FORMS = {"NumPy": False, "compiled": True}
VERSIONS = ("before", "after")


def measure(dev: Any, arch: str, batch: int, rounds: int) -> dict[str, Any]:
    """Medians in seconds: of each op in both forms, and of the whole step."""
    from minicnn.experiments.bench.ops import Step

    step = Step(dev, arch, batch)
    calls = step.recorded()
    times: dict[str, list[list[float]]] = {name: [[] for _ in calls] for name in FORMS}
    whole: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(rounds + 1):
        for name, native in FORMS.items():
            dev.native = native
            taken = seconds(step.resident)
            ops = [seconds(partial(c.op, dev, **c.arguments)) for c in calls]
            if number:  # the first is a warm-up
                whole[name].append(taken)
                for each, one in zip(times[name], ops, strict=True):
                    each.append(one)
    places = [(call.place, call.name) for call in calls]
    return {"arch": arch, "batch": batch} | _medians(places, times, whole)


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
        assert isinstance(child.args, list)
        raise click.ClickException(f"{' '.join(child.args)} failed")

    try:
        first, second = map(told, children)
        places = second["ops"]
        if first["ops"] != places:
            raise click.ClickException(f"{before}: its step of {arch} has other ops")
        times: dict[str, list[list[float]]] = {
            n: [[] for _ in places] for n in VERSIONS
        }
        whole: dict[str, list[float]] = {name: [] for name in VERSIONS}
        for number in range(rounds + 1):
            for name, child in zip(VERSIONS, children, strict=True):
                assert child.stdin
                print("again", file=child.stdin, flush=True)
                step, *ops = told(child)
                if number:  # the first is a warm-up
                    whole[name].append(step)
                    for each, one in zip(times[name], ops, strict=True):
                        each.append(one)
    finally:
        for child in children:
            child.kill()
            child.wait()
    about = {"arch": arch, "batch": batch, "before": first["commit"]}
    return about | _medians(places, times, whole)


def _medians(
    places: Sequence[Sequence[str]],
    times: dict[str, list[list[float]]],
    whole: dict[str, list[float]],
) -> dict[str, Any]:
    rows = [
        {"place": place, "op": op}
        | {name: statistics.median(each[number]) for name, each in times.items()}
        for number, (place, op) in enumerate(places)
    ]
    return {
        "ops": rows,
        "step": {name: statistics.median(each) for name, each in whole.items()},
    }


def names_of(row: dict[str, Any]) -> list[str]:
    """What was compared: the two columns of an op's row."""
    return [key for key in row if key not in ("place", "op")]


def by_kind(ops: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Sums of both forms' seconds by kind of op; fully connected layers apart."""
    found: dict[str, dict[str, float]] = {}
    for row in ops:
        kind = row["op"]
        if kind.startswith("conv."):
            kind = f"{row['place'][:-1]} {kind.partition('.')[2]}"
        sums = found.setdefault(kind, dict.fromkeys(names_of(row), 0.0))
        for name in sums:
            sums[name] += row[name]
    return found


def by_layer(ops: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Likewise by layer, forward and backward, which begins after the loss.

    A ReLU's gradient is part of the layer above, which takes it.
    """
    found: dict[str, dict[str, float]] = {}
    loss = [row["op"] for row in ops].index("softmax.cross_entropy")
    for number, row in enumerate(ops):
        if not row["place"]:
            continue
        way = "forward" if number < loss else "backward"
        key = f"layer {row['place'][-1]} {way}"
        sums = found.setdefault(key, dict.fromkeys(names_of(row), 0.0))
        for name in sums:
            sums[name] += row[name]
    return dict(sorted(found.items(), key=lambda item: item[0].split()[1]))


def markdown(result: dict[str, Any]) -> str:
    """One network's tables: by kind of op, and by layer."""
    title = f"{result['arch']}, batch {result['batch']}"
    kinds = by_kind(result["ops"]) | {"whole step": result["step"]}
    return f"{_table(title, kinds)}\n\n{_table(title, by_layer(result['ops']))}"


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    heads = [f"{name} ms" for name in next(iter(rows.values()))]
    lines = [
        f"| {title} | {' | '.join(heads)} | times as fast |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, both in rows.items():
        before, after = (each * 1e3 for each in both.values())
        cells = name, f"{before:.1f}", f"{after:.1f}", f"{before / after:.2f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
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
    from minicnn.experiments.bench.provenance import provenance
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
    if out:
        record = {"provenance": about, "environment": describe(dev), "nets": nets}
        out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
