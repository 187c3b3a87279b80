"""`minicnn bench`: what is counted, what is recorded, how it is timed and shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import CliRunner

from minicnn.base.precision import BF16, Precision
from minicnn.cli.main import cli
from minicnn.devices import device
from minicnn.devices.meter import Ceilings, Cost, HostMeter
from minicnn.experiments.bench import ops as bench
from minicnn.experiments.bench.roofline import cost
from minicnn.nn import architectures
from minicnn.ops import Op, augment, lrn, pool, pool_lrn, sgd
from minicnn.ops.conv import conv
from minicnn.ops.conv.shape import ConvShape
from tests.support.dry_device import DryDevice
from tests.support.runs import MINIATURE

CONV = ["conv.forward", "conv.backward_weights"]


@pytest.fixture(autouse=True)
def miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture small enough for the emulator."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_a_convolutions_cost() -> None:
    # CaffeNet's conv1: 55·55 places × 96 features × 11·11·3 taps, twice; 4 bytes each.
    shape = ConvShape(2, 227, 227, 3, 96, 11, 11, (4, 4))
    x, w = floats(2, 227, 227, 3), floats(96, 11, 11, 3)
    b, y = floats(96), floats(2, 55, 55, 96)
    flops = 2 * 2 * 55 * 55 * 96 * 363
    given = {"x": x, "w": w, "b": b, "y": y, "shape": shape, "relu": True}
    moved = 4 * (2 * 227 * 227 * 3 + 96 * 363 + 96 + 2 * 55 * 55 * 96)
    assert cost(conv.forward, given) == Cost(flops, moved)
    assert cost(conv.forward, {**given, "b": None}) == Cost(flops, moved - 4 * 96)
    grouped = ConvShape(2, 13, 13, 384, 256, 3, 3, (1, 1), (1, 1), groups=2)
    x, y, w = floats(2, 13, 13, 384), floats(2, 13, 13, 256), floats(256, 3, 3, 192)
    # The ReLU's output must be read too, whose sign decides.
    given = {"dy": y, "w": w, "dx": x, "shape": grouped, "relu_y": x}
    flops = 2 * 2 * 169 * 256 * 9 * 192
    moved = 4 * (2 * 169 * (2 * 384 + 256) + 256 * 9 * 192)
    assert cost(conv.backward_data, given) == Cost(flops, moved)
    # bfloat16 is half as wide; a weight gradient remains float32.
    x, y = x.astype(BF16), y.astype(BF16)
    given = {"x": x, "dy": y, "dw": w, "db": floats(256), "shape": grouped}
    moved = 2 * 2 * 169 * (384 + 256) + 4 * (256 * 9 * 192 + 256)
    assert cost(conv.backward_weights, given) == Cost(flops, moved)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_precision_changes_no_operations(name: str) -> None:
    dev, batch = DryDevice(), 2
    calls = bench.Step(dev, "caffenet", batch, name, seed=None).recorded()
    conv1 = [each for each in calls if each.name in CONV and each.place == "conv1"]
    assert [call.name for call in conv1] == CONV
    # In bf16 conv1 multiplies 3·3·48 taps for 11·11·3: the rest by zeros.
    for call in conv1:
        assert call.arguments["shape"].taps == (363 if name == "fp32" else 432)
        flops = cost(call.op, call.arguments).flops
        assert flops == 2 * batch * 55 * 55 * 96 * 363


def test_other_ops_cost() -> None:
    a, bytes_ = floats(10), np.zeros(10, np.uint8)
    # An update reads w, g and v and writes w and v; the table of segments is nothing.
    given = {"w": a, "g": a, "v": a, "segments": None, "lr": floats(1), "copy": None}
    assert cost(sgd.update, given) == Cost(0, 5 * 40)
    given |= {"g": floats(30), "copy": np.zeros(10, BF16)}  # slices, and a copy
    assert cost(sgd.update, given) == Cost(0, 4 * 40 + 120 + 20)
    assert cost(conv.relu_backward, {"y": a, "dy": a}) == Cost(0, 3 * 40)
    given = {"x": a, "y": a, "argmax": bytes_, "shape": None}
    assert cost(pool.forward, given) == Cost(0, 40 + 40 + 10)
    # Forward's y is not needed: it is x · scale^-beta.
    given = {"x": a, "y": a, "scale": a, "dy": a, "dx": a, "size": 5}
    assert cost(lrn.backward, given) == Cost(0, 4 * 40)
    # One pass over pooling's input, its output twice (before and after LRN), a byte for
    # each place.
    x, u = np.zeros((2, 4, 4, 8), BF16), np.zeros((2, 2, 2, 8), BF16)
    place = np.zeros(u.shape, np.uint8)
    given = {"x": x, "u": u, "argmax": place, "y": u, "shape": None, "size": 5}
    assert cost(pool_lrn.forward, given) == Cost(0, 2 * (256 + 2 * 64) + 64)
    # A byte for each number of the crop, whatever the image's size.
    given = {"images": np.zeros((2, 256, 256, 3), np.uint8), "y": floats(2, 7, 7, 3)}
    assert cost(augment.crop_mirror, given) == Cost(0, 2 * 147 * (1 + 4))


@pytest.mark.parametrize("native", [True, False])
def test_every_op_of_a_step_is_recorded_with_its_layer(native: bool) -> None:
    call = Op.__call__
    dev = device.get("cpu")
    # NumPy forms of ops call other ops: those are their own.
    dev.native &= native
    step = bench.Step(dev, "miniature", 2)
    calls = step.recorded()
    assert Op.__call__ is call
    names = [(each.place, each.name) for each in calls]
    assert names[0] == ("", "augment.crop_mirror")
    assert names[1:3] == [("conv1", "conv.forward"), ("pool1", "pool_lrn.forward")]
    assert names[-1] == ("", "sgd.update")
    assert names.count(("fc7", "conv.backward_weights")) == 1
    kinds = Counter(name for _, name in names)
    assert kinds == {
        "augment.crop_mirror": 1,
        "conv.forward": 8,
        "pool_lrn.forward": 2,
        "pool.forward": 1,
        "dropout.apply": 4,
        "softmax.cross_entropy": 1,
        "conv.backward_data": 7,
        "conv.backward_weights": 8,
        "pool.backward": 1,
        "pool_lrn.backward": 2,
        "sgd.update": 1,
    }
    # The arrays are the network's own: repeating a call repeats what the step did.
    conv1 = calls[1].arguments
    assert conv1["w"] is step.network.params[0].value
    assert conv1["shape"].n == 2
    # Afterwards the layers are as they were.
    step.whole()
    assert len(calls) == len(names)


def test_repeating_a_step_leaves_the_weights_alone() -> None:
    step = bench.Step(device.get("cpu"), "miniature", 2)
    before = step.network.hashes(8)
    for call in step.recorded():
        call.op(step.dev, **call.arguments)
    step.resident()
    assert step.network.hashes(8) == before


class Meter:
    """Says that a record of eight calls takes a quarter of a second, a step 1 or 2.

    In all of five rounds but the third the machine has a tenth of its speed.
    """

    def __init__(self) -> None:
        self.rounds = 0

    def seconds(self, work: Callable[[], object], cold: bool = True) -> float:
        work()
        if not cold:
            return self.slow * (1 if work.__name__ == "resident" else 2)
        return self.slow * 0.25

    def ceilings(self, wanted: Precision) -> Ceilings:
        self.rounds += 1
        self.slow = 1 if self.rounds == 3 else 10
        return Ceilings(1e12 / self.slow, 1e11 / self.slow, wanted.name)


def test_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    dev = device.get("cpu")
    monkeypatch.setattr(dev, "meter", Meter)
    report = bench.bench(dev, "miniature", 4, "tf32")
    assert (report["step"], report["upload"]) == (1.0, 2.0)
    conv1 = next(row for row in report["rows"] if row["op"] == "conv.forward")
    # conv1: 16·16 places × 6 features × 5·5·3 taps × 4 images, at 1,000 GFLOP/s.
    gflop = 2 * 4 * 256 * 6 * 75 / 1e9
    moved = 4 * (4 * 20 * 20 * 3 + 6 * 75 + 6 + 4 * 256 * 6) / 1e9
    assert (conv1["gflop"], conv1["gbyte"]) == pytest.approx((gflop, moved))
    assert conv1["seconds"] == 0.25 / 8
    assert conv1["share"] == pytest.approx(max(gflop / 1e3, moved / 100) / 0.25 * 8)
    assert report["images_per_second"] == 4.0
    assert report["environment"]["device"] == "cpu"
    table = bench.table(report)
    assert "caches are not flushed" in table
    assert "100 GB/s copy, 1,000 GFLOP/s product in tf32." in table
    assert "1000.000 ms, 4.0 images/s" in table
    assert len(table.splitlines()) == len(report["rows"]) + 8


@pytest.mark.parametrize("name", ["cpu", "emulated"])
def test_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicnn.devices.meter.SECONDS", 0.001)
    ceilings, rounds = HostMeter.ceilings, []

    def counted(self: HostMeter, precision: Precision) -> Ceilings:
        rounds.append(precision)
        return ceilings(self, precision)

    monkeypatch.setattr(HostMeter, "ceilings", counted)
    argv = ["bench", "--arch=miniature", "--batch=1", "--json", f"--device={name}"]
    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 0, done.output
    assert ("say nothing about a GPU" in done.stderr) == (name == "emulated")
    assert len(rounds) == (5 if name == "cpu" else 1)
    record = json.loads(done.stdout)
    assert record["batch"] == 1
    assert all(row["seconds"] > 0 for row in record["rows"])
    assert record["ceilings"]["bytes"] > 0
