"""The launch code of cuda without a GPU.

The tests marked gpu run on a GPU, where there is one. Here they run on
tests/support/cupy_stand_in, but for those that take long; `make rehearse` runs all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minicnn.devices import device

# How kernels are launched. The emulated device is asked what they compute.
QUICK = (
    "devices",
    "nn",
    "training",
    "results",
    "ops/test_augment.py",
    "ops/test_sgd.py",
)


@pytest.mark.usefixtures("compiler")
def test_what_is_marked_gpu_passes() -> None:
    if device.cuda_count():
        pytest.skip("a GPU answers here, and the tests marked gpu run on it")
    options = "-p", "no:cacheprovider", "-p", "tests.support.cupy_stand_in"
    tests = [f"tests/{name}" for name in QUICK]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-m", "gpu", *tests],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MINICNN_FUZZ_EXAMPLES": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Nothing else in that line: no test was skipped.
    found = re.search(r"^(\d+) passed, \d+ deselected in", done.stdout, re.MULTILINE)
    assert found, done.stdout
    assert int(found[1]) > 120
