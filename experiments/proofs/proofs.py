"""Writes docs/proofs.md: what is proven of the kernels, measured by this very run.

    python -m minicnn.experiments.proofs.proofs [--out docs/proofs.md]

Runs the tests of every op, of the emulator and of the sanitizers, the gradient checks
on the emulated device, and NVRTC for each architecture; takes half an hour on two
cores that have other work too, and needs the `test` extra. Nothing is written where
any of it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import jinja2

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import FOLDER
from minicnn.devices import device, nvrtc
from minicnn.devices.nvrtc import KernelReport
from minicnn.experiments import printing
from minicnn.experiments.bench.provenance import ROOT, provenance
from minicnn.experiments.proofs.gradcheck import Check, gradcheck
from minicnn.training.environment import DIRTY

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
Cells = dict[tuple[str, ...], dict[str, str]]  # by a row's names, then by column


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns all stand left."""
    return printing.markdown(head, rows, mark="---")


def by_column(names: Sequence[str], cells: Cells) -> str:
    """A table of rows by their names, and of what each has in a column."""
    columns = list(dict.fromkeys(c for row in cells.values() for c in row))
    rows = [[*key, *(row.get(c, "–") for c in columns)] for key, row in cells.items()]
    return markdown([*names, *columns], rows)


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
    kernels = sorted(FOLDER.glob("*.cu"))
    emulator = "emulator", "emulated_instructions", "sanitizers"
    return [
        *(f"ops/test_{path.stem}.py" for path in kernels),
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
    cells: Cells = {}
    for each in reports:
        spills = each.spill_stores + each.spill_loads + each.stack_bytes
        used = each.registers, each.shared_bytes, spills, each.instructions
        row = cells.setdefault((f"`{each.name}`",), {})
        row[each.arch] = ", ".join(map(str, used))
    return by_column(["kernel"], cells)


def error_table(worst: Mapping[tuple[str, str, str, str], Any]) -> str:
    """Each output's worst error on each device and dtype, and its share of the limit.

    Args:
        worst: `tests.support.helpers.WORST`.
    """
    kinds = sorted({key[1:3] for key in worst})
    cells: Cells = {}
    for op, result in sorted({(op, result) for op, _, _, result in worst}):
        row = cells[op, result] = {}
        for device_name, dtype in kinds:
            if found := worst.get((op, device_name, dtype, result)):
                share = f"{found.error:.1e} ({found.error / found.tolerance:.0%})"
                row[f"{device_name} {dtype}"] = share if found.error else "0"
            else:
                row[f"{device_name} {dtype}"] = "–"
    return by_column(["op", "output"], cells)


def gradient_table(checks: Sequence[Check]) -> str:
    """Each op's worst errors in `minicnn gradcheck`."""
    against = {"differences": "differences", "reference": "cpu"}
    cases: dict[str, set[str]] = {}
    worst: dict[str, dict[str, float]] = {}
    for check in checks:
        cases.setdefault(check.op, set()).add(check.case)
        kind = f"against {against[check.against]}, {check.dtype}"
        row = worst.setdefault(check.op, {})
        row[kind] = max(row.get(kind, 0.0), check.error)
    cells: Cells = {
        (op, str(len(cases[op]))): {kind: f"{each:.1e}" for kind, each in row.items()}
        for op, row in worst.items()
    }
    return by_column(["op", "cases"], cells)


def mistake_table(outcomes: Outcomes) -> str:
    """The planted mistakes, and how many of them were caught."""
    rows = []
    for test, mistake in MISTAKES.items():
        counts = outcomes.count(f"::{test}")
        caught = f"{counts.get('passed', 0)} of {sum(counts.values())}"
        rows.append([mistake, f"`{test}…`", caught])
    return markdown(["planted", "test", "caught"], rows)


def page(outcomes: Outcomes, **found: Any) -> str:
    """The page, of the template proofs.md.jinja.

    Args:
        outcomes: of the tests.
        found: what else the template names.
    """
    template = jinja2.Template(PAGE.read_text(), keep_trailing_newline=True)
    return template.render(
        **found,
        ended=", ".join(f"{n} {how}" for how, n in outcomes.count().items()),
        mistakes=mistake_table(outcomes),
    )


def collect() -> str:
    """Runs everything; the page.

    Raises:
        ClickException: something failed, NVRTC is absent, or the code that runs is not
            committed: proofs are of code that others can get.
    """
    about = provenance()
    if about["commit"].endswith(DIRTY):
        raise click.ClickException(
            f"docs/proofs.md: made from changes to commit "
            f"{about['commit'].removesuffix(DIRTY)} that nobody else has; commit them, "
            "then: make proofs"
        )
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
    from tests.support import helpers

    return page(
        outcomes,
        about=about,
        examples=helpers.FUZZ_EXAMPLES,
        errors=error_table(helpers.WORST),
        checks=len(checks),
        gradients=gradient_table(checks),
        nvrtc=version,
        kernels=compile_table(reports),
    )


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "proofs.md",
    help="File to write; default: docs/proofs.md.",
)
def main(out: Path) -> None:
    """Write docs/proofs.md afresh."""
    out.write_text(collect())
    click.echo(f"Written: {out}")


if __name__ == "__main__":
    main()
