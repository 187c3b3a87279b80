"""Kernels under Nsight Compute: what it prints, what is made of it, where it fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from minicnn.experiments import gpu_check, ncu
from minicnn.experiments.checkup import Checkup
from minicnn.experiments.gpu_sections import SECTIONS

# As ncu 2025.3 prints it, with the columns that are read and one more.
HEAD = '"ID","Process ID","Kernel Name","Block Size","Grid Size","Section Name",'
PRINTED = f"""==PROF== Connected to process 71
==PROF== Disconnected from process 71
{HEAD}"Metric Name","Metric Unit","Metric Value","Rule Name"
"0","71","conv_forward","(256, 1, 1)","(54, 2, 1)","S","Duration","ns","12,345",""
"0","71","conv_forward","(256, 1, 1)","(54, 2, 1)","S","Memory Throughput","%","71.5",""
"0","71","conv_forward","(256, 1, 1)","(54, 2, 1)","S","Cache","","PreferNone",""
"0","71","conv_forward","(256, 1, 1)","(54, 2, 1)","S","","","","HighTail"
"1","71","cupy_fill","(256, 1, 1)","(99, 1, 1)","S","Duration","ns","55",""
"1","71","cupy_fill","(256, 1, 1)","(99, 1, 1)","S","Registers","","40",""
"""
# Runs what follows ncu's options, and writes its log.
STAND_IN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
log = words[words.index("--log-file") + 1]
command = words[words.index("--log-file") + 2:]
assert command[1] == "-c" and "recorded()" in command[2], command
{work}
"""


def test_a_row_is_a_metric(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(PRINTED)
    first, second = ncu.read(log)
    assert (first["name"], first["block"]) == ("conv_forward", "(256, 1, 1)")
    assert first["seconds"] == pytest.approx(12345e-9)
    assert first["metrics"] == {"Duration [ns]": 12345, "Memory Throughput [%]": 71.5}
    assert second["metrics"]["Registers"] == 40
    log.write_text("==ERROR== no permission\n")
    assert list(ncu.read(log)) == []


@pytest.mark.parametrize(
    ("work", "state", "summary"),
    [
        (f"open(log, 'w').write({PRINTED!r})", "ok", "1 kernels, 0.01 ms, most of it"),
        ("open(log, 'w').write('ERR_NVGPUCTRPERM'); sys.exit(1)", "skipped", "ncu"),
        ("sys.exit(9)", "skipped", "ncu measured nothing"),
    ],
)
def test_a_profile_or_why_there_is_none(
    work: str, state: str, summary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Checkup(True, tmp_path, time.monotonic() + 60)
    monkeypatch.setenv("PATH", str(tmp_path))
    record = gpu_check.run(check, "profile", SECTIONS["profile"].work)
    assert record["summary"] == "no ncu to profile with"
    tool = tmp_path / "ncu"
    tool.write_text(STAND_IN.format(python=sys.executable, work=work))
    tool.chmod(0o755)
    record = gpu_check.run(check, "profile", SECTIONS["profile"].work)
    assert record["state"] == state, record
    assert record["summary"].startswith(summary)
    if state == "ok":
        assert record["summary"].endswith("conv_forward: 12 µs")
    elif "PERM" in work:
        assert "ERR_NVGPUCTRPERM" in record["why"]
