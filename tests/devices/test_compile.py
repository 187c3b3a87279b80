"""Every kernel, compiled for real GPUs without one: registers, spills, shared memory.

`pytest tests/devices/test_compile.py -s` prints the table.
"""

from __future__ import annotations

import functools
import os
import re

import pytest

from minicnn.base.precision import BF16
from minicnn.compile.kernel_source import FOLDER
from minicnn.devices import nvrtc
from minicnn.experiments.proofs import proofs
from minicnn.ops.conv.plan import TILES, WEIGHTS, Plan
from tests.support.helpers import needs_nvrtc

pytestmark = needs_nvrtc
FILES = sorted(path.name for path in FOLDER.glob("*.cu"))
# One takes a minute: unless all are asked for, the oldest, the newest, and one between.
every = bool(os.environ.get("MINICNN_ALL_ARCHITECTURES"))
ARCHITECTURES = proofs.ARCHITECTURES if every else ("sm_80", "sm_90", "sm_120")
# Static shared memory that a block may have on every architecture.
SHARED_BYTES = 48 * 1024


def budget(name: str, tensor_cores: bool) -> int:
    """The registers a thread may use, as the kernel file's head names it."""
    words = r"tensor cores (\d+):" if tensor_cores else r"(\d+) registers"
    found = re.search(
        rf"^// Budget\s.*?{words}", (FOLDER / name).read_text(), re.M | re.S
    )
    assert found, f"{name}: names no budget"
    return int(found[1])


@functools.cache
def reports(name: str, arch: str) -> list[nvrtc.KernelReport]:
    """What the compiler says of a file's kernels."""
    return nvrtc.compile_report(name, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", FILES)
def test_kernels_keep_to_their_budget(name: str, arch: str) -> None:
    assert reports(name, arch)
    for report in reports(name, arch):
        print(
            f"{report.name:45} {arch:7} {report.registers:4} registers "
            f"{report.shared_bytes:6} bytes shared {report.spill_stores:3} spilled"
        )
        assert (report.spill_stores, report.spill_loads) == (0, 0), report.name
        assert report.stack_bytes == 0, report.name
        limit = budget(name, report.uses("mma.sync"))
        assert report.registers <= limit, report.name
        assert report.shared_bytes <= SHARED_BYTES, report.name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FILES)
def test_float_and_double_need_no_ampere(name: str, dtype: str) -> None:
    for report in nvrtc.compile_report(name, "sm_75", dtype):
        spilled = report.stack_bytes, report.spill_stores, report.spill_loads
        assert spilled == (0, 0, 0), report.name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tensor_cores_multiply(arch: str) -> None:
    found = {report.name: report for report in reports("conv.cu", arch)}
    kinds = (BF16, "bf16", 2, 1), ("tf32", "tf32", 4, 1), ("tf32x3", "tf32x3", 4, 3)
    for kind, name, bytes_of_k, products in kinds:
        for kernel, tiles in TILES[kind].items():
            for tile in tiles:
                report = found.pop(f"{kernel}<{name}, {', '.join(map(str, tile))}>")
                how = Plan(kernel, kind, tile, 1, 1)
                assert f".maxntid {how.threads}, 1, 1" in report.ptx, report.name
                # A step of a warp, written once: 64 bytes of K are two of an mma's.
                warps = how.threads // 32
                mma = products * 2 * tile[0] * tile[1] // (16 * 8 * warps)
                mma *= 2 if kernel == WEIGHTS else 1  # with and without sums for db
                words = {2: "m16n8k16.row.col.f32.bf16", 4: "m16n8k8.row.col.f32.tf32"}
                instruction = f"mma.sync.aligned.{words[bytes_of_k]}"
                assert report.ptx.count(instruction) == mma, report.name
                assert report.uses("cp.async.cg") == (tile[2] > 1), report.name
                # ldmatrix reads what lies along K, and transposes what is 2 bytes long.
                read = report.uses("ldmatrix"), "x4.trans" in report.ptx
                across = kernel != "conv_forward"
                along = kernel != WEIGHTS
                assert read == (along or name == "bf16", across and name == "bf16")
    assert not any(report.uses("mma.sync") for report in found.values())
