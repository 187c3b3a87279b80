"""Tables of kernels compiled for GPUs: what they use, and what they should take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from minicnn.devices.nvrtc import KernelReport
from minicnn.experiments.predict import LAUNCH, Prediction, by_kernel, total


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compile_table(
    reports: Sequence[KernelReport], predicted: Mapping[str, Sequence[Prediction]]
) -> str:
    """Registers, shared memory, spills, instructions of each kernel, and its time.

    Args:
        predicted: a step's launches, by precision.
    """
    found = {(report.name, report.arch): report for report in reports}

    def cell(name: str, arch: str) -> str:
        report = found[name, arch]
        spills = report.spill_stores + report.spill_loads + report.stack_bytes
        used = report.registers, report.shared_bytes, spills, report.instructions
        return ", ".join(map(str, used))

    def time(name: str, sums: Mapping[str, tuple[int, float]]) -> str:
        if name not in sums:
            return "–"
        count, seconds = sums[name]
        return f"{seconds * 1e6:.0f}" + (f" ({count})" if count > 1 else "")

    architectures = list(dict.fromkeys(arch for _, arch in found))
    times = [by_kernel(launches) for launches in predicted.values()]
    rows = [
        [
            f"`{name}`",
            *(cell(name, arch) for arch in architectures),
            *(time(name, sums) for sums in times),
        ]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    heads = [f"{precision} µs, predicted" for precision in predicted]
    return markdown(["kernel", *architectures, *heads], rows)


def prediction_table(predicted: Mapping[str, Sequence[Prediction]]) -> str:
    """A step in each precision: its launches, and where its time should go."""
    rows = []
    for precision, launches in predicted.items():
        bounds = dict.fromkeys(launches[0].parts, 0.0)
        for each in launches:
            bounds[each.bound] += each.parts[each.bound]
        cells = [*bounds.values(), LAUNCH * len(launches), total(launches)]
        ms = [f"{seconds * 1e3:.2f}" for seconds in cells]
        rows.append([precision, str(len(launches)), *ms])
    parts = next(iter(predicted.values()))[0].parts
    return markdown(["precision", "kernels", *parts, "launches", "ms a step"], rows)
