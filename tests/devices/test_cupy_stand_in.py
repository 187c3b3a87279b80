"""The stand-in for CuPy has no more than CuPy, and bench runs on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.devices import meter
from tests.support import cupy_stand_in
from tests.support.cupy_stand_in import arrays, kernels, streams


def lacking(mine: Any, cupys: Any) -> Iterator[str]:
    """The public names that a module or class of the stand-in has, and CuPy's lacks."""
    names = vars(mine) if isinstance(mine, ModuleType | SimpleNamespace) else dir(mine)
    for name in (each for each in names if not each.startswith("_")):
        if not hasattr(cupys, name):
            yield name
            continue
        inner = getattr(mine, name)
        if isinstance(inner, type | ModuleType | SimpleNamespace):
            yield from lacking(inner, getattr(cupys, name))


def test_it_has_nothing_that_cupy_lacks() -> None:
    real, modules = pytest.importorskip("cupy"), cupy_stand_in.modules()
    assert not list(lacking(modules["cupy"], real))
    assert not list(lacking(modules["cupyx"], pytest.importorskip("cupyx")))
    for mine in kernels.RawKernel, streams.Graph, arrays.MemoryPointer:
        cupys = getattr(real, mine.__name__, None) or getattr(real.cuda, mine.__name__)
        assert not list(lacking(mine, cupys))


def test_bench_runs(cupy: Any, compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few calls are timed, little memory is flushed before each, no product is large.
    monkeypatch.setattr(meter, "SECONDS", 0.0)
    monkeypatch.setattr(arrays, "TOTAL", 128 << 20)
    monkeypatch.setattr(meter, "CudaMeter", partial(meter.CudaMeter, side=16))
    command = "bench --device cuda --arch miniature --batch 2 --precision bf16"
    done = CliRunner().invoke(cli, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert re.search(r"conv1 +conv\.forward", done.output)
