"""Writes docs/proofs.md: what is proven of the kernels, measured by this very run.

    python -m minicnn.experiments.proofs.proofs [--out docs/proofs.md] [--examples 300]

Runs the tests of every op, of the emulator and of the sanitizers, the gradient checks
on the emulated device, and NVRTC for each architecture; takes half an hour on two
cores that have other work too, and needs the `test` extra. Nothing is written where
any of it fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jinja2

from minicnn.experiments import printing
from minicnn.experiments.bench.provenance import ROOT, provenance

if TYPE_CHECKING:
    from minicnn.devices.nvrtc import KernelReport
    from minicnn.experiments.proofs.gradcheck import Check

PAGE = Path(__file__).with_suffix(".md.jinja")
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
# Planted mistakes, by the beginning of the test that plants them.
MISTAKES = {
    "test_removed_barrier_shows": "a `__syncthreads` or `__syncwarp` removed",
    "test_barrier_that_not_all_reach": "a barrier in a divergent branch, or after a "
    "return; a lane missing from a shuffle or an `mma`; a mask without its caller",
    "test_unwritten_output_stays_nan": "an output left unwritten",
    "test_shared_memory_starts_as_nan": "shared memory read before it is written",
    "test_missing_cp_async_wait_shows": "a missing `cp.async` wait",
    "test_value_of_another_size": "a `float` passed as a `double`",
    "test_index_past_the_end": "an index one past the end of global, shared or dynamic "
    "shared memory; a misaligned vector",
    "test_an_index_astray": "an index off by one in minicnn's own kernels, in one of "
    "each file",
    "test_write_past_shared_memory": "a write past shared memory, found without "
    "sanitizers",
}
STEPS = (1, 2, 5, 10, 20, 30, 40, 50)  # of the losses that are shown

markdown = partial(printing.markdown, mark="---")


class Outcomes:
    """A plugin that keeps how each test ended, by its id."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for the set-up, the call and the end of each test."""
        if report.when == "call" or report.outcome != "passed":
            self.of[report.nodeid] = report.outcome

    def count(self, name: str = "") -> dict[str, int]:
        """How many tests with that in their name ended how."""
        ended = [how for test, how in self.of.items() if name in test]
        return {how: ended.count(how) for how in sorted(set(ended))}


def tested() -> list[str]:
    """The files whose tests prove the kernels, below tests/."""
    oracles = sorted((ROOT / "tests" / "support" / "reference").glob("[!_]*.py"))
    emulator = "emulator", "emulated_instructions", "sanitizers"
    return [
        *(f"ops/test_{path.stem}.py" for path in oracles),
        *(f"compile/test_{name}.py" for name in emulator),
        "devices/test_nvrtc.py",
    ]


def run_tests() -> Outcomes:
    """The tests of every op on every device here, of the emulator, and sanitized ones.

    Raises:
        ClickException: some failed.
    """
    import pytest

    outcomes = Outcomes()
    files = [str(ROOT / "tests" / name) for name in tested()]
    # So that pytest reads this tree's settings, wherever it is started from.
    options = ["--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    if pytest.main([*options, *files], plugins=[outcomes]):
        raise click.ClickException("tests failed")
    return outcomes


def compile_table(reports: Sequence[KernelReport]) -> str:
    """Registers, shared memory, spills and instructions of each kernel."""
    found = {(report.name, report.arch): report for report in reports}

    def cell(name: str, arch: str) -> str:
        report = found[name, arch]
        spills = report.spill_stores + report.spill_loads + report.stack_bytes
        used = report.registers, report.shared_bytes, spills, report.instructions
        return ", ".join(map(str, used))

    architectures = list(dict.fromkeys(arch for _, arch in found))
    rows = [
        [f"`{name}`", *(cell(name, arch) for arch in architectures)]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    return markdown(["kernel", *architectures], rows)


def error_table(worst: Mapping[tuple[str, str, str, str], Any]) -> str:
    """Each output's worst error on each device and dtype, and its share of the limit.

    Args:
        worst: `tests.support.helpers.WORST`.
    """
    columns = sorted({(device, dtype) for _, device, dtype, _ in worst})
    outputs = sorted({(op, output) for op, _, _, output in worst})
    rows = []
    for op, output in outputs:
        cells = []
        for column in columns:
            found = worst.get((op, *column, output))
            share = f"{found.error / found.tolerance:.0%}" if found else ""
            exact = "0" if found and not found.error else ""
            error = f"{found.error:.1e} ({share})" if found else "–"
            cells.append(exact or error)
        rows.append([op, output, *cells])
    return markdown(["op", "output", *(f"{d} {t}" for d, t in columns)], rows)


def gradient_table(checks: Sequence[Check]) -> str:
    """Each op's worst errors in `minicnn gradcheck`."""
    kinds = {
        "against differences, float64": ("differences", "float64"),
        "against cpu, float64": ("reference", "float64"),
        "against cpu, float32": ("reference", "float32"),
    }
    rows = []
    for op in dict.fromkeys(check.op for check in checks):
        mine = [check for check in checks if check.op == op]
        cells = [op, str(len({check.case for check in mine}))]
        for kind in kinds.values():
            errors = [c.error for c in mine if (c.against, c.dtype) == kind]
            cells.append(f"{max(errors):.1e}" if errors else "–")
        rows.append(cells)
    return markdown(["op", "cases", *kinds], rows)


def mistake_table(outcomes: Outcomes) -> str:
    """The planted mistakes, and how many of them were caught."""
    rows = []
    for test, mistake in MISTAKES.items():
        counts = outcomes.count(f"::{test}")
        if not counts:
            raise click.ClickException(f"no test's name begins with {test}")
        caught = f"{counts.get('passed', 0)} of {sum(counts.values())}"
        rows.append([mistake, f"`{test}…`", caught])
    return markdown(["planted", "test", "caught"], rows)


def precision_of(result: Mapping[str, Any]) -> str:
    """The precision of a recorded training."""
    return result.get("precision", "fp32")


def loss_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Recorded losses beside the CPU's, at some steps.

    Args:
        results: what `compare_devices.py --json` wrote.
    """
    head, rows = ["step"], [[str(step)] for step in STEPS]
    for result in results:
        precision = precision_of(result)
        head += [f"emulated, {precision}", f"cpu, {precision}", "difference"]
        pairs = list(zip(result["losses"], result["cpu_losses"], strict=False))
        for row, step in zip(rows, STEPS, strict=True):
            ours, cpu = pairs[step - 1]
            row += [f"{ours:.6f}", f"{cpu:.6f}", f"{abs(ours - cpu) / abs(cpu):.1e}"]
    largest = [f"{result['largest_difference']:.1e}" for result in results]
    rows.append(["largest", *(cell for each in largest for cell in ("", "", each))])
    return markdown(head, rows)


def refuse_changes(commit: str, what: str, again: str) -> None:
    """Proofs are of code that others can get.

    Raises:
        ClickException: the commit says that there were changes.
    """
    from minicnn.training.environment import DIRTY

    if commit.endswith(DIRTY):
        raise click.ClickException(
            f"{what}: made from changes to commit {commit.removesuffix(DIRTY)} that "
            f"nobody else has; commit them, then: {again}"
        )


def recorded_losses() -> dict[str, dict[str, Any]]:
    """What `compare_devices.py --json` wrote, by file name; float32 first.

    Raises:
        ClickException: one is of code that was not committed.
    """
    folder = ROOT / "experiments" / "results"
    files = sorted(folder.glob("*emulated-losses*.json"))
    found = {path.name: json.loads(path.read_text()) for path in files}
    for name, each in found.items():
        refuse_changes(each["commit"], name, each["command"])
    return dict(sorted(found.items(), key=lambda item: precision_of(item[1])))


def loss_sources(losses: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the recorded losses come from."""
    return "\n".join(
        f"- [`{name}`](../experiments/results/{name}): `{each['command']}`; "
        f"{each['machine']}, {each['date']}, commit {each['commit']}"
        for name, each in losses.items()
    )


def page(
    about: Mapping[str, str],
    examples: int,
    outcomes: Outcomes,
    worst: Mapping[tuple[str, str, str, str], Any],
    checks: Sequence[Check],
    losses: Mapping[str, Mapping[str, Any]],
    nvrtc: str,
    reports: Sequence[KernelReport],
) -> str:
    """The page, of the template proofs.md.jinja.

    Args:
        about: `provenance` of this run.
        examples: random shapes an op.
        outcomes: of the tests.
        worst: `tests.support.helpers.WORST`.
        checks: of `minicnn gradcheck --device emulated`.
        losses: what `compare_devices.py --json` wrote, by file name.
        nvrtc: its version.
        reports: of every kernel.
    """
    ended = outcomes.count().items()
    template = jinja2.Template(PAGE.read_text(), keep_trailing_newline=True)
    return template.render(
        about=about,
        examples=examples,
        ended=", ".join(f"{number} {how}" for how, number in ended),
        errors=error_table(worst),
        checks=len(checks),
        gradients=gradient_table(checks),
        losses=loss_table(list(losses.values())),
        loss_sources=loss_sources(losses),
        mistakes=mistake_table(outcomes),
        nvrtc=nvrtc,
        kernels=compile_table(reports),
    )


def collect(examples: int) -> str:
    """Runs everything; the page.

    Raises:
        ClickException: something failed, or NVRTC is absent.
    """
    os.environ["MINICNN_FUZZ_EXAMPLES"] = str(examples)
    from minicnn.base.errors import MinicnnError
    from minicnn.compile.kernel_source import FOLDER
    from minicnn.devices import device, nvrtc
    from minicnn.experiments.proofs.gradcheck import gradcheck

    about, losses = provenance(), recorded_losses()
    refuse_changes(about["commit"], "docs/proofs.md", "make proofs")
    try:
        version = nvrtc.version()
        reports = [
            report
            for file in sorted(FOLDER.glob("*.cu"))
            for arch in ARCHITECTURES
            for report in nvrtc.compile_report(file, arch)
        ]
        checks = gradcheck(device.get("emulated"))
    except MinicnnError as error:
        raise click.ClickException(str(error)) from None
    if not all(check.ok for check in checks):
        raise click.ClickException("minicnn gradcheck --device emulated failed")
    outcomes = run_tests()
    from tests.support.helpers import WORST

    return page(about, examples, outcomes, WORST, checks, losses, version, reports)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "proofs.md",
    help="File to write; default: docs/proofs.md.",
)
@click.option("--examples", default=300, show_default=True, help="Random shapes an op.")
def main(out: Path, examples: int) -> None:
    """Write docs/proofs.md afresh."""
    out.write_text(collect(examples))
    click.echo(f"Written: {out}")


if __name__ == "__main__":
    main()
