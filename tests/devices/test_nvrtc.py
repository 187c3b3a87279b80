"""The real compiler's reports: registers, spills, instructions, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.devices import nvrtc
from tests.support.emulated import PLANTED
from tests.support.helpers import needs_nvrtc


@needs_nvrtc
def test_nvrtc_compiles_and_reports() -> None:
    reports = {
        report.name: report
        for name in ("primitives.cu", "missing_wait.cu")
        for report in nvrtc.compile_report(PLANTED / name)
    }
    assert {r.spill_stores + r.spill_loads for r in reports.values()} == {0}
    assert all(8 <= r.registers <= 128 for r in reports.values())
    assert reports["mma_bf16<false>"].shared_bytes == 2 * 16 * 16 + 2 * 16 * 8
    assert reports["mma_bf16<true>"].uses("mma.sync.aligned.m16n8k16")
    assert reports["mma_bf16<true>"].uses("ldmatrix")
    assert reports["copy_tiles<0>"].uses("cp.async.cg.shared.global")
    assert not reports["copy_tiles<0>"].uses("mma.sync")


@needs_nvrtc
def test_nvrtc_sees_spills_and_errors(tmp_path: Path) -> None:
    spills = tmp_path / "spills.cu"
    spills.write_text(
        "__global__ void __launch_bounds__(1024, 2) f(float* y, int n) {\n"
        "  float a[96];\n"
        "#pragma unroll\n  for (int i = 0; i < 96; i++) a[i] = y[i];\n"
        "  for (int j = 0; j < n; j++)\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 96; i++) a[i] += a[(i + 7) % 96] * y[j];\n"
        "#pragma unroll\n  for (int i = 0; i < 96; i++) y[i] = a[i];\n}\n"
    )
    (report,) = nvrtc.compile_report(spills)
    assert report.registers <= 32
    assert report.spill_stores > 0
    wrong = tmp_path / "wrong.cu"
    wrong.write_text("__global__ void f(int* y) {\n  y[0] = nothing;\n}\n")
    with pytest.raises(
        MinicnnError, match=r'wrong\.cu\(2\): error: identifier "nothing"'
    ):
        nvrtc.compile_report(wrong)
