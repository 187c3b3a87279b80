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

from minicnn.base.errors import MinicnnError
from minicnn.compile import host_compiler
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


@pytest.fixture(autouse=True, scope="module")
def compiler() -> None:
    try:
        host_compiler.compiler()
    except MinicnnError as error:
        pytest.skip(str(error))


def rehearse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest on the stand-in, in a process of its own."""
    options = "-p", "no:cacheprovider", "-p", "tests.support.cupy_stand_in"
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def no_gpu() -> None:
    if device.cuda_count():
        pytest.skip("a GPU answers here, and the tests marked gpu run on it")


@pytest.mark.usefixtures("no_gpu")
def test_what_is_marked_gpu_passes() -> None:
    tests = [f"tests/{name}" for name in QUICK]
    done = rehearse("-m", "gpu", *tests, MINICNN_FUZZ_EXAMPLES="1")
    assert done.returncode == 0, done.stdout + done.stderr
    # Nothing else in that line: no test was skipped.
    found = re.search(r"^(\d+) passed, \d+ deselected in", done.stdout, re.MULTILINE)
    assert found, done.stdout
    assert int(found[1]) > 120


@pytest.mark.parametrize("gpus", [0, 1])
def test_it_takes_the_place_of_a_cupy_without_a_gpu_alone(
    gpus: int, tmp_path: Path
) -> None:
    (tmp_path / "cupy.py").write_text(
        "from types import SimpleNamespace as N\n"
        f"cuda = N(runtime=N(getDeviceCount=lambda: {gpus}))\n"
    )
    test = tmp_path / "test_it.py"
    test.write_text("def test_it():\n    import cupy\n    cupy.ndarray\n")
    done = rehearse(str(test), PYTHONPATH=str(tmp_path))
    assert done.returncode == (pytest.ExitCode.USAGE_ERROR if gpus else 0), done.stdout
    said = "ERROR: tests.support.cupy_stand_in: a GPU answers; leave it out"
    assert done.stderr.strip() == said * gpus


@pytest.mark.usefixtures("no_gpu")
def test_without_a_compiler_it_says_so() -> None:
    done = rehearse("-m", "gpu", CXX="no-such-compiler")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    (said,) = done.stderr.split("\n")[:-2]
    assert said.startswith(
        "ERROR: tests.support.cupy_stand_in: CXX=no-such-compiler not found"
    )


@pytest.mark.usefixtures("no_gpu")
def test_what_a_test_leaves_queued_can_fail_it(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "def test_it():\n    import cupy\n"
        "    cupy.cuda.Stream(non_blocking=True).begin_capture()\n"
    )
    done = rehearse(str(test))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "cudaErrorStreamCaptureUnsupported" in done.stdout
