"""The profile of compiled and NumPy forms: sums by hand, and one of a small net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.compile import native
from minicnn.experiments.bench import compare_forms
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


def both(numpy: float, compiled: float) -> dict[str, float]:
    return {"NumPy": numpy, "compiled": compiled}


def test_sums_by_layer() -> None:
    found = compare_forms.by_layer(OPS)
    assert found == {
        "layer 1 forward": both(1.5, 0.625),
        "layer 1 backward": both(32.0, 16.0),
        "layer 2 forward": both(2.0, 0.25),
        "layer 6 forward": both(4.0, 4.0),
        "layer 6 backward": both(8.0, 8.0),
    }
    # In the order of the layers, not of the calls.
    assert [name.split()[1] for name in found] == ["1", "1", "2", "6", "6"]


def test_a_small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if why := native.missing():
        pytest.skip(why)
    # Work takes a second for each call of compiled code, and a tenth without any.
    compiled, original = [], native.Function.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled.append(self)
        return original(self, *args, **kwargs)

    def seconds(work: Any, *given: Any, **named: Any) -> float:
        compiled.clear()
        work(*given, **named)
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
    for layer in range(1, 9):
        for way in "forward", "backward":
            assert f"| layer {layer} {way} |" in done.stdout


def test_two_checkouts(tmp_path: Path) -> None:
    if why := native.missing():
        pytest.skip(why)
    out = tmp_path / "versions.json"
    few = "--arch=caffenet32", "--batch=1", "--rounds=1", "--threads=1"
    argv = [*few, f"--before={ROOT}", f"--json={out}"]
    done = CliRunner().invoke(compare_forms.main, argv)
    assert done.exit_code == 0, done.output
    (net,) = json.loads(out.read_text())["nets"]
    assert net["before"] == environment.commit()
    for row in [*net["ops"], net["step"]]:
        assert row["before"] > 0
        assert row["after"] > 0
    assert "| caffenet32, batch 1 | before ms | after ms |" in done.stdout
