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
from minicnn.experiments.bench import step_against_torch as bench_torch
from minicnn.experiments.bench.ops import Step
from minicnn.experiments.bench.torch_step import Mode
from minicnn.nn.torch_layout import to_torch


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
    eager = [mode for mode in torch_step.modes(False) if not mode.compiled]
    monkeypatch.setattr(torch_step, "modes", lambda cuda: eager)


@pytest.mark.parametrize("mistake", ["mean pooling", "a bias learns like a weight"])
def test_another_computation_is_refused(
    mistake: str, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, optimizer = torch_step.build, torch_step.optimizer

    def otherwise(torch: Any, arch: Any, outputs: int) -> Any:
        net = build(torch, arch, outputs)
        net.pool1 = torch.nn.AvgPool2d(3, 2, ceil_mode=True)
        return net

    def other(torch: Any, net: Any, lr: float) -> Any:
        made = optimizer(torch, net, lr)
        made.param_groups[1]["lr"] = lr
        return made

    if mistake == "mean pooling":
        monkeypatch.setattr(torch_step, "build", otherwise)
    else:
        monkeypatch.setattr(torch_step, "optimizer", other)
    with pytest.raises(MinicnnError, match=r"the losses are .* in PyTorch"):
        against_torch.compare(device.get("cpu"), "miniature", 6)


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
    images, targets = against_torch.batch_of(torch, torch.device("cpu"), step)
    assert images.numpy() == pytest.approx(x.transpose(0, 3, 1, 2), rel=1e-5, abs=1e-4)
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


def test_a_comparison(torch: Any) -> None:
    dev = device.get("cpu", 1)
    impossible = Mode("fp32", graph=True)  # there is no GPU to capture on
    last = Mode(channels_last=True)
    modes = [impossible, Mode(), last, last, Mode("bf16", True)]
    made = against_torch.compare(dev, "miniature", 3, 2, modes)
    failed, *others = made["tried"]
    assert [each["mode"] for each in made["tried"]] == [mode.name for mode in modes]
    assert failed["seconds"] is None
    assert failed["error"]
    assert "\n" not in failed["error"]
    assert all(each["seconds"] and not each["error"] for each in others)
    # The two fastest of three, and the only one.
    assert [each["precision"] for each in made["theirs"]] == ["fp32", "fp32", "bf16"]
    times = sorted((each["seconds"], each["mode"]) for each in others[:3])
    best = [*(name for _, name in times[:2]), "bf16 channels_last"]
    assert [each["name"] for each in made["theirs"]] == best
    rounds = [len(each["seconds"]) for each in (*made["ours"], *made["theirs"])]
    assert rounds == [2] * 5
    with pytest.raises(MinicnnError, match="failed in all"):
        against_torch.compare(dev, "miniature", 3, 1, [impossible])
    for how in ((0, 1), (1, 0)):
        with pytest.raises(MinicnnError, match="0: must be at least 1"):
            against_torch.compare(dev, "miniature", *how)


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
    ops, modes, turns = done.stderr.split("\n\n")[1], *done.stderr.split("\n\n")[-2:]
    assert "conv.forward" in ops
    assert "fp32 channels_last" in modes
    assert "ratio" in turns
    assert "Other programs kept 0.5 processors busy" in turns
    record = json.loads(done.stdout)
    assert record["step"] > 0
    assert record["against_torch"]["theirs"][0]["ratios"]["fp32"] > 0


def test_the_benchmark(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(bench_torch.PAGE.read_text())
    monkeypatch.setattr(bench_torch, "PAGE", page)
    monkeypatch.setattr(bench_torch, "RESULTS", tmp_path)
    options = ["--arch=miniature,miniature", "--batch=2,3", "--rounds=1", "--record"]
    more = ["--threads=1", "--layers"]
    done = CliRunner().invoke(bench_torch.main, [*options, *more])
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.glob("*-bench-torch-cpu.json")
    result = json.loads(file.read_text())
    assert [net["batch"] for net in result["nets"]] == [2, 3]
    assert {"date", "machine", "command", "commit"} <= result["provenance"].keys()
    table = bench_torch.report(result)
    assert table.count("| miniature |") == 2
    layers = result["nets"][0]["layers"]
    names = [f"layer {number}" for number in range(1, 9)]
    assert list(layers) == [*names, "loss", "update"]
    assert all(seconds > 0 for pair in layers.values() for seconds in pair)
    assert table.count("| layer 8 |") == 2
    assert done.stdout.endswith(table + "\n")
    before, after = bench_torch.PAGE.read_text().split(table)
    assert before.endswith("<!-- bench-torch cpu -->\n")
    assert after.startswith("\n<!-- end -->")
    assert "Not yet measured: `make bench-torch ARGS" in after  # the GPU's place


def test_the_benchmarks_options() -> None:
    usual = [("caffenet", 32), ("caffenet64", 128)]
    small = [("caffenet32", 32), ("caffenet32", 128)]
    assert bench_torch.wanted(None, None, "cpu") == usual + small
    assert bench_torch.wanted("caffenet32,mine", None, "cpu") == [*small, ("mine", 128)]
    given = bench_torch.wanted("caffenet32,caffenet", "8", "cuda")
    assert given == [("caffenet32", 8), ("caffenet", 8)]
    for option, said in (
        ("--batch=8,9", "8,9: give a number of images"),
        ("--batch=x", "x: give a number"),
        ("--modes=bf16", "bf16: unknown; choose from all, eager, compiled, fp32 NCHW"),
    ):
        done = CliRunner().invoke(bench_torch.main, ["--arch=caffenet", option])
        assert done.exit_code == 2
        assert said in done.output
    done = CliRunner().invoke(bench_torch.main, ["--device=emulated"])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1


def test_what_was_measured_before_a_failure_is_kept(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Mode] = []

    def make(torch: Any, net: Any, images: Any, labels: Any, mode: Mode) -> Any:
        def step() -> None:
            steps.append(mode)
            # Settled alone, then in turns; two rounds.
            if len(steps) == 2 * (torch_step.WARM_UP + 3) + 2:
                raise RuntimeError("out of memory")
            time.sleep(2 * against_torch.TURN)

        return step

    monkeypatch.setattr(torch_step, "make", make)
    file = tmp_path / "result.json"
    options = ["--arch=miniature", "--batch=2", "--modes=fp32 NCHW", f"--json={file}"]
    done = CliRunner().invoke(bench_torch.main, options)
    assert done.exit_code == bench_torch.TORCH_FAILED, done.output
    (net,) = json.loads(file.read_text())["nets"]
    assert [each["mode"] for each in net["tried"]] == ["fp32 NCHW"]
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
