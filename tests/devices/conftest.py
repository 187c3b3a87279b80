"""The stand-in for CuPy, for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import cupy_stand_in
from tests.support.cupy_stand_in import arrays


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, in place of CuPy."""
    for name, module in cupy_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("MINICNN_DEBUG", raising=False)
    yield sys.modules["cupy"]
    arrays.Device().synchronize()
