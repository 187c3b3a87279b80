"""The profile of compiled and NumPy forms: sums by hand, and one of a small net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn import architectures, native
from minicnn.experiments import compare_forms
from tests.runs import MINIATURE


def test_sums_by_kind() -> None:
    ops = [
        {"place": "conv1", "op": "conv.forward", "NumPy": 1.0, "compiled": 0.5},
        {"place": "conv2", "op": "conv.forward", "NumPy": 2.0, "compiled": 0.25},
        {"place": "fc6", "op": "conv.forward", "NumPy": 4.0, "compiled": 4.0},
        {"place": "", "op": "sgd.update", "NumPy": 8.0, "compiled": 1.0},
    ]
    assert compare_forms.by_kind(ops) == {
        "conv forward": {"NumPy": 3.0, "compiled": 0.75},
        "fc forward": {"NumPy": 4.0, "compiled": 4.0},
        "sgd.update": {"NumPy": 8.0, "compiled": 1.0},
    }
    step = {"NumPy": 0.3, "compiled": 0.1}
    result = {"arch": "net", "batch": 2, "ops": ops, "step": step}
    lines = compare_forms.markdown(result).splitlines()
    assert lines[2] == "| conv forward | 3000.0 | 750.0 | 4.0 |"
    assert lines[-1] == "| whole step | 300.0 | 100.0 | 3.0 |"


def test_a_small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if why := native.missing():
        pytest.skip(why)
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)
    # Work takes a second for each call of compiled code, and a tenth without any.
    compiled, original = [], native.Function.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled.append(self)
        return original(self, *args, **kwargs)

    def seconds(work: Any) -> float:
        compiled.clear()
        work()
        return float(len(compiled)) or 0.1

    monkeypatch.setattr(native.Function, "__call__", counted)
    monkeypatch.setattr(compare_forms, "seconds", seconds)
    out = tmp_path / "forms.json"
    argv = [
        "--arch=miniature",
        "--batch=2",
        "--rounds=1",
        "--threads=1",
        f"--json={out}",
    ]
    done = CliRunner().invoke(compare_forms.main, argv)
    assert done.exit_code == 0, done.output
    (net,) = json.loads(out.read_text())["nets"]
    assert {row["NumPy"] for row in net["ops"]} == {0.1}
    taken = {row["op"]: row["compiled"] for row in net["ops"]}
    for op in ("conv.forward", "pool_lrn.backward", "dropout.apply", "sgd.update"):
        assert taken[op] >= 1.0, op
    assert net["step"]["NumPy"] == 0.1
    assert net["step"]["compiled"] >= len(taken)
    assert "| whole step |" in done.stdout
