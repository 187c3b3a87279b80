"""What `gpu_check.py` measured beside the goals: met, not met, or not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from minicnn.experiments.bench import torch_step
from minicnn.experiments.checkup import Record

NET, BATCH = "caffenet", 256
STEP = 4.2e-3  # seconds of a step in bf16, at most
# PyTorch's best time of the same run over minicnn's, by precision, at least.
RATIOS = {"bf16": 2.0, "tf32": 1.5, "fp32": 1.5}
MET, NOT_MET, NOT_MEASURED = "met", "not met", "not measured"


@dataclass(frozen=True)
class Verdict:
    """Of one goal.

    Attributes:
        goal: what is to be reached.
        found: what was measured, or why nothing was.
        verdict: MET, NOT_MET or NOT_MEASURED.
    """

    goal: str
    found: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.goal}: {self.verdict} ({self.found})"


def verdicts(results: Mapping[str, Record]) -> list[Verdict]:
    """One for each goal.

    Args:
        results: each section's record, by name.
    """
    return [_of_step(results), *(_of_ratio(results, kind) for kind in RATIOS)]


def _of_step(results: Mapping[str, Record]) -> Verdict:
    goal = f"a step of {NET}, batch {BATCH}, bf16, in at most {STEP * 1e3:.1f} ms"
    for each in results.values():
        about = each.get("arch"), each.get("batch"), each.get("precision")
        if about == (NET, BATCH, "bf16") and _on_gpu(each["environment"]):
            met = each["step"] <= STEP
            said = f"{each['step'] * 1e3:.2f} ms"
            return Verdict(goal, said, MET if met else NOT_MET)
    return Verdict(goal, "no such step was timed on a GPU", NOT_MEASURED)


def _of_ratio(results: Mapping[str, Record], precision: str) -> Verdict:
    """Of the ratio to PyTorch's best, which may be any of its modes.

    Where one was not tried, the others can only show that a goal is missed.
    """
    least = RATIOS[precision]
    goal = f"{NET}, batch {BATCH}, {precision}: at least {least} × PyTorch's best"
    nets = list(_compared(results))
    # Of minicnn's precisions that are as exact the fastest: another one than PyTorch's
    # if the tests passed, which measure its errors on this card.
    passed = results.get("tests", {}).get("state") == "ok"
    ratios = {
        each["name"]: max(
            (ratio, kind)
            for kind, ratio in each["ratios"].items()
            if kind == precision or passed
        )
        for net in nets
        for each in net["theirs"]
        if each["precision"] == precision
    }
    if not ratios:
        return Verdict(goal, "nothing was compared on a GPU", NOT_MEASURED)
    best = min(ratios, key=ratios.__getitem__)
    ratio, kind = ratios[best]
    said = f"{ratio:.2f}, {best}, of minicnn's {kind}"
    if ratio < least:
        return Verdict(goal, said, NOT_MET)
    tried = {each["mode"] for net in nets for each in net["tried"]}
    for mode in torch_step.modes(True):
        if mode.precision == precision and mode.name not in tried:
            return Verdict(goal, f"{said}; {mode.name} was not tried", NOT_MEASURED)
    return Verdict(goal, said, MET)


def _compared(results: Mapping[str, Record]) -> Iterator[Record]:
    """What `bench_torch.py` found of the net on a GPU, in whichever modes."""
    for record in results.values():
        for net in record.get("nets", ()):
            if (net["arch"], net["batch"]) == (NET, BATCH) and _on_gpu(net):
                yield net


def _on_gpu(about: Mapping[str, object]) -> bool:
    return str(about.get("device", "")).startswith("cuda")
