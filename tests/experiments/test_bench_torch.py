"""The comparison with PyTorch: the same network and step, its modes, turns, tables."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from minicnn.base.errors import MinicnnError
from minicnn.cli.main import cli
from minicnn.devices import device
from minicnn.experiments.bench import against_torch, provenance, torch_step
from minicnn.experiments.bench.ops import Step
from minicnn.experiments.bench.torch_step import Mode
from minicnn.nn.torch_layout import to_torch

EAGER = [mode for mode in torch_step.modes(False) if not mode.compiled]
IMPOSSIBLE = Mode("fp32", graph=True)  # there is no GPU to capture on


@pytest.fixture
def torch() -> Any:
    """PyTorch, or the test is skipped."""
    return pytest.importorskip("torch", reason="needs PyTorch (extra: compare)")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny architecture, short turns, and nothing that compiles."""
    monkeypatch.setattr(against_torch, "TURN", 0.001)
    monkeypatch.setattr(against_torch, "PAUSE", 0.0)
    monkeypatch.setattr(against_torch, "busy_cores", lambda: 0.5)
    monkeypatch.setattr("minicnn.devices.meter.SECONDS", 0.001)
    monkeypatch.setattr(torch_step, "modes", lambda cuda: EAGER)


def test_another_computation_is_refused(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = torch_step.optimizer

    def other(torch: Any, net: Any, lr: float) -> Any:
        """A bias learns like a weight."""
        made = optimizer(torch, net, lr)
        made.param_groups[1]["lr"] = lr
        return made

    monkeypatch.setattr(torch_step, "optimizer", other)
    with pytest.raises(MinicnnError, match=r"the losses are .* in PyTorch"):
        against_torch.measure(device.get("cpu"), [("miniature", 6)])


def test_torchs_step_is_ours(torch: Any) -> None:
    """Weights after three updates, from the optimizer that is timed."""
    lr = 0.01
    step = Step(device.get("cpu"), "miniature", 4, lr=lr)
    network, arch = step.network, step.network.arch
    net = torch_step.build(torch, arch, 1000).eval()
    held = to_torch(arch, network.tensors())
    weights = {name: values.copy() for name, values in held.items()}
    net.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()})
    update = torch_step.optimizer(torch, net, lr)
    x, labels = step.inputs.fill(step.batch)
    images, targets = torch_step.batch_of(torch, step)
    for _ in range(3):
        network.forward(x)
        network.scored(labels, gradient=True)
        network.backward()
        step.solver.set_rate(0)
        step.solver.update()
        update.zero_grad()
        torch.nn.functional.cross_entropy(net(images), targets).backward()
        update.step()
    moved = to_torch(arch, network.tensors())
    for name, theirs in net.state_dict().items():
        change = np.linalg.norm(moved[name] - weights[name])
        off = np.linalg.norm(theirs.numpy() - moved[name])
        # float32 rounds the weights, and what they change by is some 1e-3 of them.
        assert off < 1e-3 * change, name
    assert update.param_groups[0]["weight_decay"] == 5e-4
    assert update.param_groups[1]["weight_decay"] == 0
    assert update.param_groups[1]["lr"] == 2 * lr


def test_a_mode_that_fails_stops_no_other(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = [IMPOSSIBLE, *EAGER, Mode("bf16", True)]
    monkeypatch.setattr(torch_step, "modes", lambda cuda: modes)
    dev, nets = device.get("cpu", 1), [("miniature", 3)]
    made = against_torch.measure(dev, nets, 2)
    (net,) = made["nets"]
    assert list(net["failed"]) == [IMPOSSIBLE.name]
    assert f"PyTorch failed in {IMPOSSIBLE.name}: " in against_torch.report(made)
    assert [each["name"] for each in net["theirs"]] == [mode.name for mode in modes[1:]]
    assert [each["precision"] for each in net["ours"]] == ["fp32", "bf16"]
    assert all(len(each["seconds"]) == 2 for each in (*net["ours"], *net["theirs"]))
    with pytest.raises(MinicnnError, match="no mode of PyTorch works"):
        against_torch.measure(dev, nets, 1, lambda mode: mode == IMPOSSIBLE)
    with pytest.raises(MinicnnError, match="cpu has none of that precision"):
        against_torch.measure(dev, nets, 1, lambda mode: False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cpu", "pip install 'minicnn-transfer[compare]'"),
        ("emulated", "compare with nothing"),
    ],
)
def test_without_pytorch(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    argv = ["bench", "--against=torch", "--arch=miniature", f"--device={name}"]
    refused = CliRunner().invoke(cli, argv)
    assert isinstance(refused.exception, MinicnnError)
    assert said in str(refused.exception)
    assert refused.stdout == ""  # before anything is measured


def test_the_command(torch: Any) -> None:
    options = ["--arch=miniature", "--batch=2", "--device=cpu", "--json"]
    done = CliRunner().invoke(cli, ["bench", "--against=torch", *options])
    assert done.exit_code == 0, done.output
    assert "conv.forward" in done.stderr
    assert "| miniature | 2 | fp32 |" in done.stderr
    assert "0.5 processors busy with other programs" in done.stderr
    record = json.loads(done.stdout)
    assert record["step"] > 0
    assert record["against_torch"]["theirs"][0]["median"] > 0


def test_the_benchmark(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(against_torch.PAGE.read_text())
    monkeypatch.setattr(against_torch, "PAGE", page)
    monkeypatch.setattr(against_torch, "RESULTS", tmp_path)
    nets = ["--net", "miniature", "2", "--net", "miniature", "3"]
    more = ["--rounds=1", "--record", "--threads=1", "--layers", "--precision=fp32"]
    done = CliRunner().invoke(against_torch.main, [*nets, *more])
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.glob("*-bench-torch-cpu.json")
    result = json.loads(file.read_text())
    assert [net["batch"] for net in result["nets"]] == [2, 3]
    assert {"date", "machine", "command", "commit"} <= result["provenance"].keys()
    table = against_torch.report(result)
    assert table.count("| miniature |") == 2
    layers = result["nets"][0]["layers"]
    names = [f"layer {number}" for number in range(1, 9)]
    assert list(layers) == [*names, "loss", "update"]
    assert all(seconds > 0 for pair in layers.values() for seconds in pair)
    assert table.count("| layer 8 |") == 2
    assert done.stdout.endswith(table + "\n")
    before, after = page.read_text().split(table)
    assert before.endswith("<!-- bench-torch cpu -->\n")
    assert after.startswith("\n<!-- end -->")
    assert "Not yet measured: `make bench-torch ARGS" in after  # the GPU's place


def test_what_was_measured_before_a_failure_is_kept(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Mode] = []

    def make(torch: Any, net: Any, images: Any, labels: Any, mode: Mode) -> Any:
        def step() -> None:
            steps.append(mode)
            # In the second of two rounds.
            if len(steps) == torch_step.WARM_UP + 1 + 2:
                raise RuntimeError("out of memory")
            time.sleep(2 * against_torch.TURN)

        return step

    monkeypatch.setattr(torch_step, "make", make)
    monkeypatch.setattr(torch_step, "modes", lambda cuda: EAGER[:1])
    file = tmp_path / "result.json"
    options = ["--net", "miniature", "2", "--rounds=2", f"--json={file}"]
    done = CliRunner().invoke(against_torch.main, options)
    assert str(done.exception) == "out of memory"
    (net,) = json.loads(file.read_text())["nets"]
    assert [len(each["seconds"]) for each in net["theirs"]] == [1]


def test_busy_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu 10 0 0 90 0 0 0 0 0 0\n")
    after = "cpu 20 5 5 160 10 0 0 0 0 0\ncpu0 0"
    monkeypatch.setattr(provenance, "STAT", stat)
    monkeypatch.setattr("time.sleep", lambda _: stat.write_text(after))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    # 20 of 100 ticks of 4 processors.
    assert provenance.busy_cores() == pytest.approx(0.8)
    stat.unlink()
    assert provenance.busy_cores() is None
