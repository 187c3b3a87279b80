"""Every kernel, compiled for real GPUs without one: registers, spills, shared memory.

`pytest tests/test_compile.py -s` prints the table.
"""

from __future__ import annotations

import re

import pytest

from minicnn import nvrtc
from minicnn.errors import MinicnnError
from minicnn.kernel_source import FOLDER

FILES = sorted(path.name for path in FOLDER.glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
# Static shared memory that a block may have on every architecture.
SHARED_BYTES = 48 * 1024


def budget(name: str) -> int:
    """The registers a thread may use, as the kernel file's head names it."""
    found = re.search(
        r"^// Budget\s+(\d+) registers", (FOLDER / name).read_text(), re.M
    )
    assert found, f"{name}: names no budget"
    return int(found[1])


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", FILES)
def test_kernels_keep_to_their_budget(name: str, arch: str) -> None:
    try:
        reports = nvrtc.compile_report(name, arch)
    except MinicnnError as error:
        if "NVRTC" in str(error) and "install" in str(error):
            pytest.skip(str(error))
        raise
    assert reports
    for report in reports:
        print(
            f"{report.name:45} {arch:7} {report.registers:4} registers "
            f"{report.shared_bytes:6} bytes shared {report.spill_stores:3} spilled"
        )
        assert (report.spill_stores, report.spill_loads) == (0, 0), report.name
        assert report.stack_bytes == 0, report.name
        assert report.registers <= budget(name), report.name
        assert report.shared_bytes <= SHARED_BYTES, report.name
