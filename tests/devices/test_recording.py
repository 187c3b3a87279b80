"""Steps that are recorded and repeated: the same bits, and no hidden host state."""

from __future__ import annotations

import signal
from collections import Counter
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
        pytest.skip(str(error))
    transfer.train_base(setup, "A")
    return setup


def in_folder(base: Setup, runs: Path) -> Setup:
    return make_setup(base.store, runs, *SETTINGS, device=base.dev.name)


def again(base: Setup, runs: Path) -> Run:
    """The same training in another folder."""
    return transfer.train_base(in_folder(base, runs), "A")


def ended(base: Setup) -> dict[str, str]:
    assert base.runs is not None
    return contents(base.runs / "baseA")


def without_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICNN_GRAPH", "0")


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, forward passes in training by their layer."""
    counts: Counter[str] = Counter()
    forward = ConvLayer.forward

    def counting(self: ConvLayer, x: Any, context: Any) -> Any:
        counts[self.spec.name] += context is not None
        return forward(self, x, context)

    monkeypatch.setattr(ConvLayer, "forward", counting)
    return counts


def test_repeated_steps_give_the_bits_of_eager_ones(
    base: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counted(monkeypatch)
    assert contents(again(base, tmp_path / "recorded").folder) == ended(base)
    assert counts["conv1"] == counts["fc8"] == 2  # once eager, once to be recorded
    counts.clear()
    without_records(monkeypatch)
    assert contents(again(base, tmp_path / "eager").folder) == ended(base)
    assert counts["conv1"] == 8
    rates = [r["lr"] for r in Run(tmp_path / "eager" / "baseA").metrics() if "lr" in r]
    assert rates == pytest.approx([0.002, 0.0002])


def test_so_they_do_in_bf16_with_images_in_blocks(
    base: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, counts = [], counted(monkeypatch)
    for name, forwards in ("recorded", 2), ("eager", 8):
        settings = *SETTINGS, "network.precision=bf16"
        place = tmp_path / name
        setup = make_setup(base.store, place, *settings, device=base.dev.name)
        found.append(contents(transfer.train_base(setup, "A").folder))
        assert counts["conv1"] == forwards
        counts.clear()
        without_records(monkeypatch)
    assert found[0] == found[1]


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


@pytest.mark.parametrize("depths", [[3], [2, 6]])
def test_so_they_do_above_frozen_layers(
    depths: list[int],
    base: Setup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for number in range(2):
        runs = copied(base, tmp_path / str(number)).runs
        assert runs is not None
        setup, counts = in_folder(base, runs), counted(monkeypatch)
        share = len(depths) > 1
        made = transfer.transfer_depths(setup, "A", depths, share_trunk=share)
        found.append([contents(run.folder) for run in made])
        assert counts["fc8"] == len(depths) * (8 if number else 2)
        without_records(monkeypatch)
    assert found[0] == found[1]


def test_a_run_that_joins_later_is_recorded_with_the_others(
    base: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for share in (True, False):
        runs = copied(base, tmp_path / str(share)).runs
        assert runs is not None
        setup = in_folder(base, runs)
        with stopped_at(3, signal.SIGINT):
            transfer.transfer(setup, "A", 6)
        made = transfer.transfer_depths(setup, "A", [2, 6], share_trunk=share)
        found.append([contents(run.folder) for run in made])
        without_records(monkeypatch)
    assert found[0] == found[1]


def test_a_resumed_run_is_recorded_anew(base: Setup, tmp_path: Path) -> None:
    setup = copied(base, tmp_path)
    assert setup.runs is not None
    folder = setup.runs / "baseA"
    (folder / "result.json").unlink()
    for path in sorted((folder / "checkpoints").iterdir())[1:]:
        path.unlink()
    again(base, setup.runs)
    assert contents(folder) == ended(base)


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
    assert contents(again(base, tmp_path / "recorded").folder) != ended(base)
    without_records(monkeypatch)
    assert contents(again(base, tmp_path / "eager").folder) == ended(base)


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
    assert contents(again(base, tmp_path / "resident").folder) == ended(base)
    # 48 + 20 images of 36×36 pixels.
    said = capsys.readouterr().err
    assert said.count("images on the device: 0.000264 GB") == 1
    assert len(batches) == 8 + 2 * 3
    assert all(batch.images is None for batch in batches)
    batches.clear()
    monkeypatch.setattr(type(base.dev), "has_room", lambda self, size: False)
    assert contents(again(base, tmp_path / "streamed").folder) == ended(base)
    assert f"images streamed from {base.store}" in capsys.readouterr().err
    assert all(batch.images is not None for batch in batches)


class Watched:
    """Work that adds up a buffer, and counts how often Python runs it."""

    def __init__(self, dev: Any) -> None:
        self.dev, self.calls = dev, 0
        self.total = dev.zeros((3,), np.float64)

    def __call__(self) -> None:
        self.calls += 1
        scores = self.dev.scratch("scores", (3, 4), np.float64)
        kernel = softmax.KERNELS.get("add_scores")
        kernel(self.dev, 3, 128, (scores, self.total, 4))


def test_a_record_is_dropped_when_buffers_are_let_go() -> None:
    dev = device.get("emulated", 1)
    scores = dev.scratch("scores", (3, 4), np.float64)
    scores[...] = 1
    work, repeated = Watched(dev), RecordedStep(dev)
    for _ in range(4):
        repeated("key", work)
    assert work.total.tolist() == [16] * 3
    assert work.calls == 2
    # Another key is another record.
    repeated("other key", work)
    assert work.calls == 3
    # Scratch that grows is another buffer, and what lay in the old one is of no use.
    dev.scratch("scores", (3, 5), np.float64)
    grown = dev.scratch("scores", (3, 4), np.float64)
    assert not np.shares_memory(grown, scores)
    grown[...] = 10
    for _ in range(3):
        repeated("key", work)
    assert work.total.tolist() == [20 + 120] * 3
    assert work.calls == 5
    dev.scratch("scores", (3, 4), np.float64)  # fits
    repeated("key", work)
    assert work.calls == 5


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


def test_work_in_which_scratch_grows_is_not_kept() -> None:
    dev = device.get("emulated", 1)
    sizes, calls, repeated = [4, 8, 8, 8, 8], [], RecordedStep(dev)

    def work() -> None:
        calls.append(dev.scratch("grows", (sizes[len(calls)],), np.float64))

    for _ in range(5):
        repeated("key", work)
    # Eager, recorded in vain, recorded, and repeated twice.
    assert len(calls) == 3
