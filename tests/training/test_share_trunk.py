"""One pass for all depths: the same bytes as separate runs, from one pass of images."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn.base.config import SolverConfig
from minicnn.base.errors import MinicnnError
from minicnn.devices import device
from minicnn.nn.layers import ConvLayer
from minicnn.nn.network import SPARE, Network
from minicnn.nn.trunk import Trunk
from minicnn.training import transfer
from minicnn.training.run import Run, locked
from minicnn.training.solver import Solver
from minicnn.training.trainee import Diverged, Trainee
from minicnn.training.trainer import Inputs
from minicnn.training.transfer import Setup, Treatment
from tests.nn.test_memory import GIGA, Limited
from tests.support.runs import MINIATURE
from tests.support.training import contents, copied, make_setup, sessions, stopped_at

# Source, target, depths and kept layers. Frozen layers with dropout are 6 and 7.
FAMILIES: list[tuple[str, str, list[int], int]] = [
    ("A", "B", [1, 2, 3, 4, 5, 6, 7], 0),
    ("A", "A", [2, 5, 7], 0),
    ("random", "B", [1, 4, 7], 0),
    ("A", "B", [1, 3, 5], 2),
]
DEPTHS = [1, 3, 6]


@pytest.fixture(scope="module")
def apart(whole: Setup, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """The base and every net of FAMILIES, each trained alone; not to be written to."""
    setup = copied(whole, tmp_path_factory.mktemp("apart"))
    for source, target, depths, keep in FAMILIES:
        for n in depths:
            transfer.transfer(setup, source, n, target, keep=keep)
    return setup


def together(setup: Setup) -> list[Run]:
    """Trains A1B, A3B and A6B in one pass."""
    return transfer.transfer_depths(setup, "A", DEPTHS, share_trunk=True)


def same(runs: Sequence[Run], apart: Setup) -> bool:
    """Whether runs ended with the bytes of those that were trained alone."""
    assert all(run.result is not None for run in runs)
    return all(contents(run.folder) == contents(apart.runs / run.name) for run in runs)


@pytest.mark.parametrize(("source", "target", "depths", "keep"), FAMILIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_one_pass_gives_the_bytes_of_separate_runs(
    source: str,
    target: str,
    depths: list[int],
    keep: int,
    threads: int,
    setup: Setup,
    apart: Setup,
) -> None:
    setup = make_setup(setup.store, setup.runs, threads=threads)
    runs = transfer.transfer_depths(
        setup, source, depths, target, keep=keep, share_trunk=True
    )
    names = [Treatment(target, source, n, keep=keep).name for n in depths]
    assert [run.name for run in runs] == names
    assert same(runs, apart)
    assert sessions(runs[0], "trained_together") == [names]


def test_the_same_on_the_kernels(whole: Setup, tmp_path: Path) -> None:
    ended = []
    for share in (False, True):
        setup = copied(whole, tmp_path / str(share))
        short = ["solver.iterations=3", "schedule.evaluate_every=2"]
        setup = make_setup(setup.store, setup.runs, *short, device="emulated")
        runs = transfer.transfer_depths(setup, "A", [2, 6], share_trunk=share)
        ended.append([contents(run.folder) for run in runs])
    assert ended[0] == ended[1]


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, the batches read and each layer's forward passes."""
    monkeypatch.setenv("MINICNN_GRAPH", "0")  # a record calls no layer
    counts: Counter[str] = Counter()
    fill, forward = Inputs.fill, ConvLayer.forward

    def filling(self: Inputs, batch: Any) -> Any:
        counts["batches"] += 1
        return fill(self, batch)

    def counting(self: ConvLayer, *args: Any) -> Any:
        counts[self.spec.name] += 1
        return forward(self, *args)

    monkeypatch.setattr(Inputs, "fill", filling)
    monkeypatch.setattr(ConvLayer, "forward", counting)
    return counts


def test_what_is_common_is_read_and_computed_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counted(monkeypatch)
    together(setup)
    # 23 updates, and three evaluations of 20 images in batches of 9.
    assert counts["batches"] == 23 + 3 * 3
    times = {name: count / counts["batches"] for name, count in counts.items()}
    # Once in the trunk, and once in each trainee that begins below.
    often = dict.fromkeys(("conv4", "conv5", "fc6", "fc7", "fc8"), 3)
    assert times == {"batches": 1, "conv1": 1, "conv2": 2, "conv3": 2, **often}


def test_a_head_holds_no_buffers_of_frozen_layers() -> None:
    dev = device.get("cpu", 1)
    networks = [Network(MINIATURE, 4, dev, seed=n) for n in DEPTHS]
    for n, network in zip(DEPTHS, networks, strict=True):
        network.freeze(n)
    Trunk(networks).plan(5)
    for network in networks[:-1]:
        held = {layer.spec.index for layer in network.layers if hasattr(layer, "y")}
        assert held == set(range(network.frozen + 1, 9))
    assert all(
        layer.y is not None for layer in networks[-1].layers if layer.buffers(1, "f", 0)
    )


def test_runs_at_different_steps_go_on_together(
    setup: Setup, apart: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is done, one is new, and one, the deepest, was stopped at step 12."""
    transfer.transfer(setup, "A", 1)
    with stopped_at(11, signal.SIGINT):
        transfer.transfer(setup, "A", 6)
    counts = counted(monkeypatch)
    runs = together(setup)
    assert same(runs, apart)
    assert [sessions(run, "first_step") for run in runs] == [[0], [0], [0, 12]]
    # The deepest takes no part before its own step, nor in the first evaluation.
    assert counts["batches"] == 23 + 3 * 3
    assert counts["conv3"] == counts["batches"]
    assert counts["conv4"] == 2 * counts["batches"] - 12 - 3


@pytest.mark.parametrize("step", [0, 7, 17])
@pytest.mark.parametrize("share", [True, False])
def test_a_stopped_pass_goes_on_together_or_apart(
    step: int, share: bool, setup: Setup, apart: Setup
) -> None:
    with stopped_at(step, signal.SIGTERM) as stopped:
        together(setup)
    assert (stopped.value.signal_name, stopped.value.step) == ("SIGTERM", step + 1)
    runs = transfer.transfer_depths(setup, "A", DEPTHS, share_trunk=share)
    assert same(runs, apart)
    assert [sessions(run, "first_step") for run in runs] == [[0, step + 1]] * 3


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("depth", [1, 6])
def test_a_run_that_diverges_is_given_up_alone(
    depth: int,
    share: bool,
    setup: Setup,
    apart: Setup,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Trainee.learn
    monkeypatch.setenv("MINICNN_GRAPH", "0")  # `learn` looks at the step

    def learn(self: Trainee, labels: Any) -> None:
        if self.network.frozen == depth and self.step == 14:
            self.network.params[-1].value[...] = np.inf
        original(self, labels)

    monkeypatch.setattr(Trainee, "learn", learn)
    with pytest.raises(Diverged) as diverged:
        transfer.transfer_depths(setup, "A", DEPTHS, share_trunk=share)
    said = str(diverged.value)
    assert re.fullmatch(f"A{depth}B: the loss is nan at step 16: .*: step 12", said)
    assert ("; the other runs go on" in capsys.readouterr().err) == share
    given_up, *others = [
        Run(setup.runs / f"A{n}B") for n in sorted(DEPTHS, key=lambda n: n != depth)
    ]
    assert same(others, apart)
    assert given_up.result is None
    assert given_up.checkpoint.step == 12
    # Once the cause is gone, it goes on from there.
    monkeypatch.undo()
    assert same(transfer.transfer_depths(setup, "A", DEPTHS, share_trunk=share), apart)


def test_all_that_diverge_are_named(setup: Setup) -> None:
    hot = make_setup(setup.store, setup.runs, "solver.lr=1e9")
    with pytest.raises(Diverged, match=r"^A1B: .* diverged.*; A2B: .* diverged"):
        transfer.transfer_depths(hot, "A", [1, 2], share_trunk=True)
    assert Run(setup.runs / "A2B").result is None


def test_one_folder_in_use_keeps_all_from_starting(setup: Setup) -> None:
    together(setup)
    before = contents(setup.runs)
    with locked(setup.runs / "A3B"), pytest.raises(MinicnnError, match="A3B: another"):
        transfer.transfer_depths(setup, "A", DEPTHS, share_trunk=True, fresh=True)
    assert contents(setup.runs) == before


def test_the_memory_of_all_heads_is_asked_for_at_once() -> None:
    dev = Limited(2 * GIGA)
    networks = [Network("caffenet64", 100, dev, seed=None) for _ in DEPTHS]
    for n, network in zip(DEPTHS, networks, strict=True):
        network.freeze(n)
        Solver(network, SolverConfig())
    trunk = Trunk(networks)
    before = dev.taken
    with pytest.raises(MinicnnError) as refused:
        trunk.plan(100_000)
    assert dev.taken == before
    said = str(refused.value)
    found = re.search(r"3 networks of caffenet64 need .*: a batch of (\d+) fits", said)
    assert found, said
    assert "train fewer depths together" in said
    fits = int(found[1])
    with pytest.raises(MinicnnError, match=f"a batch of {fits} fits"):
        trunk.plan(fits + 1)
    trunk.plan(fits)
    Inputs(networks[0], np.zeros((64, 64, 3), np.float32), fits)
    left = dev.free_bytes() - fits * 2 * 64 * 64 * 3  # the images as uploaded
    # As for one network: less than an image's share is left.
    assert SPARE - 2**17 < left < SPARE + 6e6
