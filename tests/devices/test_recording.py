"""Steps that are recorded and repeated: the same bits, and no hidden host state."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.loader import Loader
from minicnn.devices import device
from minicnn.devices.recording import RecordedStep
from minicnn.experiments.bench.ops import Step
from minicnn.nn.layers import ConvLayer
from minicnn.ops import dropout, softmax
from minicnn.training import transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup
from tests.support.runs import make_store
from tests.support.training import contents, copied, make_setup, stopped_at

# Steps on both sides of a drop of the learning rate, with an evaluation between, whose
# batches are smaller: eager, recorded, then repeated.
SETTINGS = (
    "solver.iterations=8",
    "solver.step_size=5",
    "schedule.evaluate_every=4",
    "schedule.checkpoint_every=3",
)


@pytest.fixture(
    scope="module",
    params=["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Setup:
    """A folder with baseA of a device with kernels, by recorded steps."""
    store = make_store(tmp_path_factory.mktemp("store") / "tiny.h5")
    runs = tmp_path_factory.mktemp("base")
    try:
        setup = make_setup(store, runs, *SETTINGS, device=request.param)
    except MinicnnError as error:
        pytest.skip(f"no device {request.param}: {error}")
    transfer.train_base(setup, "A")
    return setup


def train(base: Setup, runs: Path, *settings: str) -> list[Run]:
    """The same training in another folder."""
    options = *SETTINGS, *settings
    setup = make_setup(base.store, runs, *options, device=base.dev.name)
    return [transfer.train_base(setup, "A")]


def train_in_blocks(base: Setup, runs: Path) -> list[Run]:
    return train(base, runs, "network.precision=bf16")


def again(base: Setup, runs: Path) -> dict[str, str]:
    """What the same training leaves in another folder."""
    return contents(train(base, runs)[0].folder)


def ended(base: Setup) -> dict[str, str]:
    assert base.runs is not None
    return contents(base.runs / "baseA")


def train_above(
    base: Setup, folder: Path, depths: list[int], stops: bool = False
) -> list[Run]:
    """Trainings above frozen layers, side by side.

    Args:
        stops: the last has been stopped in its fourth step, and joins the others.
    """
    runs = copied(base, folder).runs
    assert runs is not None
    setup = make_setup(base.store, runs, *SETTINGS, device=base.dev.name)
    if stops:
        with stopped_at(3, signal.SIGINT):
            transfer.transfer(setup, "A", depths[-1])
    return transfer.transfer_depths(setup, "A", depths, share_trunk=len(depths) > 1)


# How often a last layer runs forward while training, with records and without: once
# eager, once to be recorded; at each of 8 steps.
TRAINED: dict[str, tuple[Callable[[Setup, Path], list[Run]], int, int]] = {
    "a base": (train, 2, 8),
    "bf16": (train_in_blocks, 2, 8),
    "frozen": (partial(train_above, depths=[3]), 2, 8),
    "together": (partial(train_above, depths=[2, 6]), 4, 16),
    "joining later": (partial(train_above, depths=[2, 6], stops=True), 8, 16),
}


@pytest.mark.parametrize("name", TRAINED)
def test_repeated_steps_give_the_bits_of_eager_ones(
    name: str, base: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, *forwards = TRAINED[name]
    found, counts, forward = [], Counter[str](), ConvLayer.forward

    def counted(self: ConvLayer, x: Any, context: Any) -> Any:
        counts[self.spec.name] += context is not None
        return forward(self, x, context)

    monkeypatch.setattr(ConvLayer, "forward", counted)
    for kind, expected in zip(("recorded", "eager"), forwards, strict=True):
        runs = run(base, tmp_path / kind)
        found.append([contents(each.folder) for each in runs])
        assert counts["fc8"] == expected
        counts.clear()
        monkeypatch.setenv("MINICNN_GRAPH", "0")
    assert found[0] == found[1]
    if name == "a base":
        assert found[0] == [ended(base)]
        rates = [record["lr"] for record in runs[0].metrics() if "lr" in record]
        assert rates == pytest.approx([0.002, 0.0002])


# float64 differs by roundings alone; in float32 places of a pooling window may lie
# within a rounding of each other.
@pytest.mark.parametrize(("name", "off"), [("fp64", 1e-9), ("fp32", 1e-3)])
def test_losses_follow_the_cpus(
    name: str, off: float, base: Setup, tmp_path: Path
) -> None:
    settings = *SETTINGS, f"network.precision={name}", "schedule.log_every=1"
    ours = make_setup(base.store, tmp_path / "a", *settings, device=base.dev.name)
    cpu = make_setup(base.store, tmp_path / "b", *settings)
    cpu.dev.native = False  # NumPy's forms
    losses = []
    for setup in ours, cpu:
        metrics = transfer.train_base(setup, "A").metrics()
        losses.append([line["loss"] for line in metrics if "loss" in line])
    assert len(losses[0]) == 8
    assert losses[0] == pytest.approx(losses[1], rel=off)


def test_a_resumed_run_is_recorded_anew(base: Setup, tmp_path: Path) -> None:
    setup = copied(base, tmp_path)
    assert setup.runs is not None
    folder = setup.runs / "baseA"
    (folder / "result.json").unlink()
    for path in sorted((folder / "checkpoints").iterdir())[1:]:
        path.unlink()
    assert again(base, setup.runs) == ended(base)


def test_a_step_that_depends_on_the_host_shows(
    base: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = dropout.apply

    def as_number(dev: Any, x: Any, y: Any, rate: float, *key: Any) -> None:
        """The host reads the step, and hands it on as it is now."""
        *rest, step = key
        now = np.array([int(step[0])], np.int64)
        original(dev, x, y, rate, *rest, dev.from_host(now))

    monkeypatch.setattr(dropout, "apply", as_number)
    if base.dev.name == "cuda":
        with pytest.raises(MinicnnError, match="MINICNN_GRAPH=0"):
            again(base, tmp_path)
        return
    assert again(base, tmp_path / "recorded") != ended(base)
    monkeypatch.setenv("MINICNN_GRAPH", "0")
    assert again(base, tmp_path / "eager") == ended(base)


def test_images_on_the_device_and_streamed_give_the_same_bits(
    base: Setup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if base.dev.on_host:
        pytest.skip("the cpu device reads images where they lie")
    batches: list[Any] = []
    for name in ("train_batch", "_centred"):
        make = getattr(Loader, name)

        def kept(self: Loader, *args: Any, make: Any = make) -> Any:
            batches.append(make(self, *args))
            return batches[-1]

        monkeypatch.setattr(Loader, name, kept)
    assert again(base, tmp_path / "resident") == ended(base)
    # 48 + 20 images of 36×36 pixels.
    said = capsys.readouterr().err
    assert said.count("images on the device: 0.000264 GB") == 1
    assert len(batches) == 8 + 2 * 3
    assert all(batch.images is None for batch in batches)
    batches.clear()
    monkeypatch.setattr(type(base.dev), "has_room", lambda self, size: False)
    assert again(base, tmp_path / "streamed") == ended(base)
    assert f"images streamed from {base.store}" in capsys.readouterr().err
    assert all(batch.images is not None for batch in batches)


def test_a_record_is_dropped_when_buffers_are_let_go() -> None:
    dev, calls = device.get("emulated", 1), []
    total, repeated = dev.zeros((3,), np.float64), RecordedStep(dev)
    scores = dev.scratch("scores", (3, 4), np.float64)
    scores[...] = 1

    def work() -> None:
        calls.append(dev.scratch("scores", (3, 4), np.float64))
        softmax.KERNELS.get("add_scores")(dev, 3, 128, (calls[-1], total, 4))

    for _ in range(4):
        repeated("key", work)
    assert total.tolist() == [16] * 3
    assert len(calls) == 2
    # Another key is another record.
    repeated("other key", work)
    assert len(calls) == 3
    # Scratch that grows is another buffer, and what lay in the old one is of no use.
    dev.scratch("scores", (3, 5), np.float64)
    grown = dev.scratch("scores", (3, 4), np.float64)
    assert not np.shares_memory(grown, scores)
    grown[...] = 10
    for _ in range(3):
        repeated("key", work)
    assert total.tolist() == [20 + 120] * 3
    assert len(calls) == 5
    dev.scratch("scores", (3, 4), np.float64)  # fits
    repeated("key", work)
    assert len(calls) == 5


def test_a_record_is_dropped_when_a_network_is_planned_anew() -> None:
    step = Step(device.get("emulated", 1), "miniature", 2)
    for _ in range(3):
        step.whole()
    held, calls = step.network.logits, []
    step.network.plan(3)
    forward = step.network.forward
    step.network.forward = lambda *args: calls.append(1) or forward(*args)  # type: ignore
    for _ in range(3):
        step.whole()
    assert len(calls) == 2
    assert not np.shares_memory(held, step.network.logits)
