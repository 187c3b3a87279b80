"""What the cpu device's compiled code brings, op by op: a profile before and after.

    python experiments/compare_forms.py [--arch caffenet,caffenet64] [--batch 32,128]
        [--threads N] [--rounds 9] [--json FILE]

Records a training step's calls, then runs each by turns in its compiled form and in its
NumPy form, which is what runs without a compiler, round after round: a machine whose
clock changes meets both alike. Medians over the rounds, summed by kind of op, and by
layer and direction.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

if __name__ == "__main__":  # runs from a tree that is not installed, too
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

FORMS = {"NumPy": False, "compiled": True}


def measure(dev: Any, arch: str, batch: int, rounds: int) -> dict[str, Any]:
    """Medians in seconds: of each op in both forms, and of the whole step."""
    from minicnn.bench import Step

    step = Step(dev, arch, batch)
    calls = step.recorded()
    times: dict[str, list[list[float]]] = {name: [[] for _ in calls] for name in FORMS}
    whole: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(rounds + 1):
        for name, native in FORMS.items():
            dev.native = native
            taken = seconds(step.resident)
            ops = [seconds(lambda c=c: c.op(dev, **c.arguments)) for c in calls]
            if number:  # the first is a warm-up
                whole[name].append(taken)
                for each, one in zip(times[name], ops, strict=True):
                    each.append(one)
    rows = [
        {"place": call.place, "op": call.name}
        | {name: statistics.median(times[name][number]) for name in FORMS}
        for number, call in enumerate(calls)
    ]
    medians = {name: statistics.median(each) for name, each in whole.items()}
    return {"arch": arch, "batch": batch, "ops": rows, "step": medians}


def seconds(work: Any) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def by_kind(ops: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Sums of both forms' seconds by kind of op; fully connected layers apart."""
    found: dict[str, dict[str, float]] = {}
    for row in ops:
        kind = row["op"]
        if kind.startswith("conv."):
            kind = f"{row['place'][:-1]} {kind.partition('.')[2]}"
        sums = found.setdefault(kind, dict.fromkeys(FORMS, 0.0))
        for name in FORMS:
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
        sums = found.setdefault(key, dict.fromkeys(FORMS, 0.0))
        for name in FORMS:
            sums[name] += row[name]
    return dict(sorted(found.items(), key=lambda item: item[0].split()[1]))


def markdown(result: dict[str, Any]) -> str:
    """One network's tables: by kind of op, and by layer."""
    title = f"{result['arch']}, batch {result['batch']}"
    kinds = by_kind(result["ops"]) | {"whole step": result["step"]}
    return f"{_table(title, kinds)}\n\n{_table(title, by_layer(result['ops']))}"


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    lines = [
        f"| {title} | NumPy ms | compiled ms | times as fast |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, both in rows.items():
        before, after = (both[form] * 1e3 for form in FORMS)
        cells = name, f"{before:.1f}", f"{after:.1f}", f"{before / after:.1f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--arch", default="caffenet,caffenet64", show_default=True)
@click.option("--batch", default="32,128", show_default=True, help="One for each.")
@click.option("--threads", type=int, help="CPU threads; default: all cores.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(
    arch: str, batch: str, threads: int | None, rounds: int, out: Path | None
) -> None:
    """Each op of a training step in its compiled and in its NumPy form."""
    from minicnn import device, native
    from minicnn.environment import describe
    from minicnn.experiments.provenance import provenance

    if why := native.missing():
        raise click.ClickException(f"nothing to compare: {why}")
    dev = device.get("cpu", threads)
    pairs = zip(arch.split(","), map(int, batch.split(",")), strict=True)
    nets = [measure(dev, *pair, rounds) for pair in pairs]
    about = provenance()
    click.echo("\n\n".join(map(markdown, nets)))
    click.echo(
        f"\nMedians of {rounds} rounds; {dev.threads} threads, {about['machine']}; "
        f"{about['date']}, commit {about['commit']}: `{about['command']}`"
    )
    if out:
        record = {"provenance": about, "environment": describe(dev), "nets": nets}
        out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
