"""Processors: how many other programs keep busy."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.cores import busy_cores


def test_busy_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    busy = busy_cores(0.01)
    assert busy is None or busy >= 0
    lines = iter(["cpu 10 0 0 90 0 0 0 0 0 0", "cpu 20 5 5 160 10 0 0 0 0 0"])

    def stat(name: str, **_: Any) -> Any:
        place = tmp_path / "stat"
        place.write_text(next(lines) + "\n")
        return real(place, encoding="ascii")

    real = builtins.open
    monkeypatch.setattr(builtins, "open", stat)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    # 20 of 100 ticks of 4 processors.
    assert busy_cores(0) == pytest.approx(0.8)
