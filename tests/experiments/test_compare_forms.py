"""The profile of compiled and NumPy forms: sums by hand, and one of a small net."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.compile import native
from minicnn.experiments.bench import compare_forms, timed_step
from minicnn.training import environment

ROOT = Path(__file__).resolve().parents[2]


def row(place: str, op: str, numpy: float, compiled: float) -> dict[str, Any]:
    return {"place": place, "op": op, "NumPy": numpy, "compiled": compiled}


OPS = [
    row("", "augment.crop_mirror", 64.0, 16.0),
    row("conv1", "conv.forward", 1.0, 0.5),
    row("pool1", "pool_lrn.forward", 0.5, 0.125),
    row("conv2", "conv.forward", 2.0, 0.25),
    row("fc6", "conv.forward", 4.0, 4.0),
    row("", "softmax.cross_entropy", 16.0, 2.0),
    row("fc6", "conv.backward_data", 8.0, 8.0),
    row("conv1", "conv.backward_weights", 32.0, 16.0),
    row("", "sgd.update", 8.0, 1.0),
]


def test_sums_by_layer() -> None:
    kinds, layers = compare_forms.summed(OPS)
    # In the order of the layers, not of the calls.
    assert [(name, *seconds) for name, seconds in layers.items()] == [
        ("layer 1 forward", 1.5, 0.625),
        ("layer 1 backward", 32.0, 16.0),
        ("layer 2 forward", 2.0, 0.25),
        ("layer 6 forward", 4.0, 4.0),
        ("layer 6 backward", 8.0, 8.0),
    ]
    assert kinds["conv forward"].tolist() == [3.0, 0.75]
    assert kinds["fc forward"].tolist() == [4.0, 4.0]


@pytest.mark.parametrize("form", ["NumPy", "compiled"])
def test_a_child_runs_its_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why := native.missing():
        pytest.skip(f"ops run in NumPy: {why}")
    compiled, original, said = [], native.Function.__call__, io.StringIO()

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(native.Function, "__call__", counted)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", ["again"])
    monkeypatch.setattr(sys, "stdout", said)
    timed_step.main(str(ROOT), form, "miniature", "2", "1")
    about, seconds = map(json.loads, said.getvalue().splitlines())
    assert len(seconds) == 1 + len(about["ops"])
    assert bool(compiled) == (form == "compiled")


@pytest.mark.parametrize("before", [True, False])
def test_the_command(before: bool, tmp_path: Path) -> None:
    if why := native.missing():
        pytest.skip(f"ops run in NumPy: {why}")
    out = tmp_path / "versions.json"
    few = "--net", "caffenet32", "1", "--rounds=1", "--threads=1"
    argv = [*few, *[f"--before={ROOT}"] * before, f"--json={out}"]
    done = CliRunner().invoke(compare_forms.main, argv)
    assert done.exit_code == 0, done.output
    (net,) = json.loads(out.read_text())["nets"]
    assert net.get("before") == (environment.commit() if before else None)
    names = ("before", "after") if before else ("NumPy", "compiled")
    assert f"| caffenet32, batch 1 | {names[0]} ms | {names[1]} ms |" in done.stdout
    for each in [*net["ops"], net["step"]]:
        assert all(each[name] > 0 for name in names)
    for row in "whole step", "layer 8 forward", "layer 8 backward":
        assert f"| {row} |" in done.stdout
