"""Fixtures and options of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.compile import host_compiler, native
from minicnn.devices import device
from minicnn.nn import architecture_files
from tests.support import helpers, runs

# So that settings may name it.
architecture_files.register(runs.MINIATURE)

# Markers that keep a device's tests apart: `pytest -m gpu` runs those on a GPU alone.
MARKS = {"cuda": pytest.mark.gpu}
DEVICES = [
    pytest.param(name, marks=MARKS.get(name, ()))
    for name in device.NAMES
    if name != "auto"
]
# The cpu device in NumPy alone, as where there is no compiler.
IN_NUMPY = "cpu-numpy"
# Each has threads, and PyTorch, of its own: more only fill the memory.
PROCESSES = 8
# The files that take longest come first, so that processes end together.
SLOWEST = (
    *("sanitizers", "rehearsal", "compile"),
    *("report", "report_studies", "report_damage"),
    *("gpu_check", "study", "study_jobs", "conv"),
)


def _open(name: str) -> device.Device:
    try:
        dev = device.get("cpu" if name == IN_NUMPY else name)
    except MinicnnError as error:
        pytest.skip(f"no device {name}: {error}")
    if name == IN_NUMPY:
        if not dev.native:
            pytest.skip(f"cpu is in NumPy: {native.missing()}")
        dev.native = False
    return helpers.poisoned(dev)


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips the test where there is no C++ compiler."""
    try:
        host_compiler.compiler()
    except MinicnnError as error:
        pytest.skip(f"nothing compiles C++: {error}")


@pytest.fixture(scope="session", params=[*DEVICES, IN_NUMPY])
def dev(request: pytest.FixtureRequest) -> device.Device:
    """Each device there is, with unwritten memory poisoned; the cpu's both ways."""
    return _open(request.param)


@pytest.fixture(scope="session", params=[d for d in DEVICES if "cpu" not in d.values])
def kernel_dev(request: pytest.FixtureRequest) -> device.Device:
    """Each device that runs kernels: they know bfloat16, the NumPy forms do not."""
    return _open(request.param)


@pytest.fixture(
    scope="session", params=[np.float32, np.float64], ids=lambda t: t.__name__
)
def dtype(request: pytest.FixtureRequest) -> type:
    """Each type of floats."""
    return request.param


def _typed() -> Iterator[Any]:
    for each in (*DEVICES, pytest.param(IN_NUMPY)):
        types = [np.float32, np.float64]
        if "cpu" not in str(each.values[0]):  # the NumPy forms know no bfloat16
            types.append(BF16.type)
        for dtype in types:
            name = f"{each.values[0]}-{np.dtype(dtype).name}"
            yield pytest.param((*each.values, dtype), id=name, marks=each.marks)


@pytest.fixture(scope="session", params=list(_typed()))
def typed(request: pytest.FixtureRequest) -> tuple[device.Device, type]:
    """Each device as `dev`, with each type that its ops know."""
    name, dtype = request.param
    return _open(name), dtype


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option --worst-errors."""
    parser.addoption(
        "--worst-errors",
        action="store_true",
        help="print each op's worst error against its float64 oracle, and where",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` takes: one a core, as each uses threads too."""
    return min(available_cores(), PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first, and leaves all others in their order."""
    places = {f"test_{name}.py": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_configure(config: pytest.Config) -> None:
    """Refuses what does not go together."""
    if config.getoption("--worst-errors") and config.getoption("numprocesses", 0):
        raise pytest.UsageError("--worst-errors: add -n 0, for one process sees all")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints the table of --worst-errors."""
    if not config.getoption("--worst-errors"):
        return
    terminalreporter.section("worst relative errors against the float64 oracles")
    for (op, *where), worst in sorted(helpers.WORST.items()):
        terminalreporter.write_line(
            f"{op:8} {' '.join(f'{part:8}' for part in where)} {worst.error:8.1e} "
            f"of {worst.tolerance:7.1e} allowed, in {worst.case}"
        )
