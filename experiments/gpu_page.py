"""Writes what `gpu_check.py` recorded into docs/performance.md, beside the predictions.

    python experiments/gpu_page.py experiments/results/FILE.json

The place is marked `<!-- gpu-check -->` there. Sections that were not run leave their
table out; without NVRTC nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from minicnn.base.errors import MinicnnError
from minicnn.base.files import read_json
from minicnn.devices import nvrtc
from minicnn.experiments import predict
from minicnn.experiments.bench import step_against_torch as bench_torch
from minicnn.experiments.checkup import Record
from minicnn.experiments.compile_tables import markdown
from minicnn.experiments.gpu_goals import BATCH, NET, verdicts

Rows = list[list[str]]
# Of ncu's metrics those that say what a kernel waits for, and their columns.
METRICS = {
    "Compute (SM) Throughput [%]": "compute %",
    "Memory Throughput [%]": "memory %",
    "DRAM Throughput [%]": "DRAM %",
    "L2 Cache Throughput [%]": "L2 %",
    "Achieved Occupancy [%]": "occupancy %",
}


def page(results: dict[str, Record], name: str) -> str:
    """All of it as Markdown.

    Args:
        results: what gpu_check wrote.
        name: of its file, in experiments/results.
    """
    about = results["environment"]
    torch = f", PyTorch {about['torch']}" if about.get("torch") else ""
    where = (
        f"{about['gpu']}, driver {about['cuda_driver']}, CuPy {about['cupy']}{torch}; "
        f"{about['date']}, commit {about['commit']}: `experiments/gpu_check.py`, "
        f"[figures](../experiments/results/{name})."
    )
    states = [
        [key, each["state"], each["summary"].replace("|", "/")]
        for key, each in results.items()
        if isinstance(each, dict) and "state" in each
    ]
    goals = [f"- {each}" for each in verdicts(of_sections(results))]
    parts = [where, "\n".join(goals), markdown(["section", "state", "found"], states)]
    tables = (steps(results), ops(results), tiles(results), kernels(results))
    return "\n\n".join([*parts, *filter(None, tables)])


def of_sections(results: dict[str, Any]) -> dict[str, Record]:
    """The sections' records, without what stands beside them."""
    return {key: each for key, each in results.items() if isinstance(each, dict)}


def benches(results: dict[str, Any]) -> Iterator[Record]:
    """The records of `minicnn bench`."""
    for each in of_sections(results).values():
        if {"arch", "precision", "step"} <= each.keys():
            yield each


def steps(results: dict[str, Any]) -> str:
    """Each network and precision: minicnn's step, and PyTorch's fastest beside it."""
    rivals: dict[tuple[str, int, str], tuple[float, str, float]] = {}
    for record in of_sections(results).values():
        for net in record.get("nets", ()):
            for each in net["theirs"]:
                for kind, ratio in each["ratios"].items():
                    key = net["arch"], net["batch"], kind
                    found = each["median"], each["name"], ratio
                    rivals[key] = min(rivals.get(key, found), found)
    rows: Rows = []
    for each in benches(results):
        key = each["arch"], each["batch"], each["precision"]
        row = [key[0], str(key[1]), key[2], f"{each['step'] * 1e3:.2f}"]
        row.append(f"{each['images_per_second']:,.0f}")
        median, name, ratio = rivals.get(key, (0.0, "–", 0.0))
        theirs = [name, f"{median * 1e3:.2f}", f"{ratio:.2f}"]
        rows.append(row + (theirs if median else ["–"] * 3))
    if not rows:
        return ""
    head = "network, batch, precision, minicnn ms, images/s, PyTorch's best, ms, ratio"
    return (
        markdown(head.split(", "), rows) + "\n\nThe ratio is of turns in one process."
    )


def ops(results: dict[str, Any]) -> str:
    """Each op of a step in bf16: measured, predicted, and its share of the roofline."""
    about = NET, BATCH, "bf16"
    found = [
        row
        for each in benches(results)
        if (each["arch"], each["batch"], each["precision"]) == about
        for row in each["rows"]
    ]
    if not found:
        return ""
    guesses = predicted("bf16") if nvrtc.available() else {}
    rows: Rows = []
    for row in found:
        guess = guesses.get((row["place"], row["op"]))
        rows.append([row["place"], row["op"], f"{row['seconds'] * 1e6:.0f}"])
        rows[-1].append(f"{guess * 1e6:.0f}" if guess else "–")
        rows[-1].append(f"{row['share']:.0%}")
    head = ["layer", "op, bf16", "µs", "µs predicted for an H200", "roofline"]
    return markdown(head, rows)


def predicted(precision: str) -> dict[tuple[str, str], float]:
    """Seconds of each op of a step of NET at BATCH, by layer and op."""
    reports = predict.compiled()
    sums: dict[tuple[str, str], float] = {}
    for each in predict.predictions(reports, NET, BATCH, precision):
        key = each.place, each.op
        sums[key] = sums.get(key, 0.0) + each.seconds
    return sums


def tiles(results: dict[str, Any]) -> str:
    """Where another tile than the plan's was faster."""
    rows: Rows = []
    for precision, timed in results.get("tiles", {}).get("tiles", {}).items():
        passes: dict[tuple[str, str], list[Record]] = {}
        for each in timed:
            passes.setdefault((each["layer"], each["kernel"]), []).append(each)
        for (layer, kernel), each in passes.items():
            best = min(each, key=lambda one: one["seconds"])
            (plan,) = [one for one in each if one["chosen"]]
            if best is plan:
                continue
            cells = [
                f"{one['tile']}: {one['seconds'] * 1e6:.0f}" for one in (plan, best)
            ]
            rows.append([precision, layer, kernel, *cells])
    head = ["precision", "layer", "kernel", "the plan's tile: µs", "the fastest: µs"]
    return markdown(head, rows) if rows else ""


def kernels(results: dict[str, Any]) -> str:
    """What ncu says of each kernel."""
    rows = [
        [
            each["name"],
            each["grid"],
            f"{each['seconds'] * 1e6:.0f}",
            *(
                f"{each['metrics'][name]:.0f}" if name in each["metrics"] else "–"
                for name in METRICS
            ),
        ]
        for each in results.get("profile", {}).get("kernels", ())
    ]
    head = ["kernel under ncu", "grid", "µs", *METRICS.values()]
    return markdown(head, rows) if rows else ""


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
def main(file: Path) -> None:
    """Write a record of gpu_check.py into docs/performance.md."""
    try:
        text = page(read_json(file), file.name)
    except MinicnnError as error:
        raise click.ClickException(str(error)) from None
    except KeyError as error:
        raise click.ClickException(
            f"{file}: no record of gpu_check.py on a GPU: it has no {error}"
        ) from None
    written = bench_torch.PAGE
    written.write_text(bench_torch.insert(written.read_text(), "gpu-check", text))
    click.echo(f"Written: {written}")


if __name__ == "__main__":
    main()
