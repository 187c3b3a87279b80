"""Whole networks and trainings in each precision, emulated and on the cpu device.

The cpu device rounds to bfloat16 what kernels would store as such, so that the two may
differ by the order of float32 sums alone, which now and then rounds the other way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicnn.base import precision
from minicnn.base.config import SolverConfig
from minicnn.base.errors import MinicnnError
from minicnn.base.precision import FP64
from minicnn.data.loader import Batch
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.experiments.proofs import cases, gradcheck
from minicnn.experiments.proofs.cases import BATCH, LABELS, OUTPUTS
from minicnn.nn.architectures import (
    LRN,
    Architecture,
    Conv,
    Dropout,
    FullyConnected,
    Pool,
)
from minicnn.nn.layers import BlockedConvLayer, Context
from minicnn.nn.network import Network
from minicnn.nn.pool_layers import LRNLayer
from minicnn.training import transfer
from minicnn.training.solver import Solver
from minicnn.training.trainer import Inputs
from minicnn.training.transfer import Treatment
from tests.conftest import DEVICES
from tests.nn.test_network_against_torch import off
from tests.support import runs
from tests.support.training import contents, make_setup

# Pixels of about unit size, as the small relatives have them.
MINIATURE = replace(cases.MINIATURE, scale=1 / 64)
KEY = 11, 3  # dropout's seed and step
# Of a gradient's norm, against float64's. tf32 rounds each factor by 2⁻¹¹, bfloat16
# every stored number by 2⁻⁹: through eight layers that comes to a few times as much,
# but here and there it switches a ReLU or a maximum: so small a network has few.
# That bfloat16 is right to more than that, the comparison of two devices shows.
OFF = {"fp32": 3e-6, "tf32x3": 3e-6, "tf32": 3e-3, "bf16": 0.3}
# Emulated against cpu, of the norm: sums in another order, one in a hundred stored
# numbers a unit of 2⁻⁸ apart.
SAME = {"fp32": 3e-6, "bf16": 4e-3}


def network_of(dev: Device, how: precision.Precision, frozen: int = 0) -> Network:
    """The small network with every bias random, the same on each device."""
    network = Network(MINIATURE, OUTPUTS, dev, seed=5, precision=how)
    rng, weights = np.random.default_rng(8), network.tensors()
    for name, values in weights.items():
        if name.endswith(".b"):
            weights[name] = values + rng.normal(0, 0.1, values.shape)
    network.load({n: values.astype(np.float32) for n, values in weights.items()})
    network.freeze(frozen)
    return network


def batch() -> Batch:
    """Images, crops and labels, always the same."""
    rng = np.random.default_rng(9)
    rest = MINIATURE.size - MINIATURE.crop + 1
    return Batch(
        rows=np.arange(BATCH),
        images=rng.integers(0, 256, (BATCH, MINIATURE.size, MINIATURE.size, 3), "u1"),
        labels=LABELS.copy(),
        top=rng.integers(0, rest, BATCH),
        left=rng.integers(0, rest, BATCH),
        mirror=np.arange(BATCH) % 2 == 0,
    )


def outputs(network: Network) -> dict[str, np.ndarray]:
    """Logits and gradients after one step, and the weights after its update."""
    size, dev = MINIATURE.size, network.dev
    mean = np.full((size, size, 3), 128, np.float32)
    x, labels = Inputs(network, mean, BATCH).fill(batch())
    network.forward(x, Context.training(dev, *KEY))
    network.scored(labels, gradient=True)
    network.backward()
    found = {f"d{p.name}": network.gradient(p) for p in network.trainable}
    solver = Solver(network, SolverConfig(lr=0.01))
    solver.set_rate(0)
    solver.update()
    found["logits"] = dev.to_host(network.logits)
    found |= network.tensors()
    return {name: array.astype(np.float64) for name, array in found.items()}


@pytest.fixture(scope="module", params=DEVICES)
def dev(request: pytest.FixtureRequest) -> Device:
    """Each device."""
    try:
        return device.get(request.param)
    except MinicnnError as error:
        pytest.skip(f"no device {request.param}: {error}")


@pytest.fixture(scope="module")
def exact() -> dict[str, np.ndarray]:
    """What the network comes to in float64."""
    return outputs(network_of(device.get("cpu"), FP64))


@pytest.mark.parametrize("name", OFF)
def test_a_step_is_near_float64s(
    dev: Device, name: str, exact: dict[str, np.ndarray]
) -> None:
    found = outputs(network_of(dev, precision.get(name)))
    errors = {key: off(found[key], values) for key, values in exact.items()}
    assert max(errors.values()) < OFF[name], errors
    if OFF[name] > OFF["fp32"] and (dev.has_kernels or name == "bf16"):
        assert max(errors.values()) > OFF["fp32"], "nothing was rounded"


@pytest.mark.parametrize("frozen", [0, 2, 5])
@pytest.mark.parametrize("name", SAME)
def test_the_cpu_device_rounds_as_kernels_store(
    dev: Device, name: str, frozen: int
) -> None:
    if not dev.has_kernels:
        pytest.skip("the cpu device itself")
    how = precision.get(name)
    ours = outputs(network_of(dev, how, frozen))
    cpu = outputs(network_of(device.get("cpu"), how, frozen))
    errors = {key: off(ours[key], cpu[key]) for key in cpu}
    assert max(errors.values()) < SAME[name], errors


def test_images_come_in_blocks_to_tensor_cores_alone(dev: Device) -> None:
    for name in precision.NAMES:
        network = network_of(dev, precision.get(name))
        blocked = isinstance(network.layers[0], BlockedConvLayer)
        assert blocked == (dev.has_kernels and name in ("tf32x3", "tf32", "bf16"))
        assert network.params[0].shape == (8, 5, 5, 3)
        assert network.input_shape == ((20, 20, 8) if blocked else (20, 20, 3))


def test_the_copy_follows_the_weights(dev: Device) -> None:
    bf16 = precision.get("bf16")
    network = network_of(dev, bf16, frozen=2)

    def check() -> None:
        for p in network.params:
            held = dev.to_host(p.copy)
            assert held.dtype == bf16.activations
            rounded = dev.to_host(p.value).astype(held.dtype)
            assert held.tobytes() == rounded.tobytes(), p.name

    check()
    before = network.hashes(8)
    outputs(network)
    after = network.hashes(8)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {p.name for p in network.trainable}
    check()
    network.copy_layers(network_of(dev, bf16).tensors(), 8)
    check()
    assert network.hashes(8) == before


def test_a_smaller_batch_than_planned(dev: Device) -> None:
    # Slices of weight gradients are of the largest batch: of a smaller one some are
    # empty, and must be zeros.
    fewer, more = (network_of(dev, precision.get("fp32")) for _ in range(2))
    more.plan(64)
    if dev.has_kernels:
        assert max(len(p.grad) for p in more.params) > 2
        more.gradients[...] = np.nan
        for p in more.params:  # padding must stay zero
            p.grad[...] = 0
            p.grad[:, : int(np.prod(p.shape))] = np.nan
    expected, found = outputs(fewer), outputs(more)
    assert max(off(found[key], expected[key]) for key in found) < SAME["fp32"]


KRIZHEVSKY = Architecture(
    "lrn-first",
    size=16,
    crop=13,
    layers=(
        # Most outputs are 0: pooling hands the gradient of whole windows to them.
        Conv(1, 6, 5, std=0.16, bias=-1.0),
        LRN(1, alpha=0.8),
        Pool(1),
        Conv(2, 6, 3, std=0.2, pad=1, bias=0.1),
        Pool(2),
        FullyConnected(6, 10, std=0.29, bias=0.1),
        Dropout(6),
        FullyConnected(8, 0, std=0.3, relu=False),
    ),
)


def test_lrn_before_pooling_has_the_right_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in Krizhevsky et al.: LRN has a layer of its own then, and leaves the ReLU's
    # gradient to the convolution.
    dev = device.get("cpu")
    layers = Network(KRIZHEVSKY, 4, dev, seed=None).layers
    assert any(isinstance(layer, LRNLayer) for layer in layers)
    monkeypatch.setattr(cases, "MINIATURE", KRIZHEVSKY)
    assert [c for c in gradcheck.gradcheck(dev, ["network"]) if not c.ok] == []


# --- trainings --------------------------------------------------------------------


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store."""
    return runs.make_store(tmp_path_factory.mktemp("store") / "colours.h5")


def test_a_bf16_training_resumes_to_the_same_bytes(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_setup(store_path, tmp_path / "whole", "network.precision=bf16")
    transfer.train_base(whole, "A")
    # Killed after the checkpoint of step 12.
    parts = make_setup(store_path, tmp_path / "parts", "network.precision=bf16")
    trainer = transfer.start(parts, Treatment("A"))
    save = trainer._save

    def killed(head: object, *rest: object) -> None:
        save(head, *rest)
        if trainer.trainees[0].step == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    transfer.train_base(parts, "A")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_runs_remember_their_precision(store_path: Path, tmp_path: Path) -> None:
    bf16 = make_setup(store_path, tmp_path, "network.precision=bf16")
    run = transfer.train_base(bf16, "A")
    assert run.network(device.get("cpu")).precision is precision.get("bf16")
    with pytest.raises(MinicnnError, match=r"network.precision was 'bf16', now 'fp32'"):
        transfer.train_base(make_setup(store_path, tmp_path), "A")
