"""The emulator for kernels of the tests' own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from minicnn.compile.emulator import EmulatedLauncher


@pytest.fixture(params=[1, 3], ids=lambda count: f"{count} workers")
def dev(request: pytest.FixtureRequest) -> Any:
    """An emulated device, on one and on several operating-system threads."""
    return SimpleNamespace(launcher=EmulatedLauncher(workers=request.param))
