"""The whole network's gradients against central differences, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.base.config import SolverConfig
from minicnn.base.precision import FP32, FP64, Precision
from minicnn.devices import device
from minicnn.nn.architectures import LRN
from minicnn.nn.layers import Context
from minicnn.nn.network import Network
from minicnn.nn.pool_layers import PoolLRNLayer
from minicnn.training.solver import Solver
from tests.support.reference import lrn
from tests.support.runs import MINIATURE

DEPTH, OUTPUTS, BATCH = MINIATURE.depth, 5, 3
LABELS = np.array([4, 0, 2], np.int32)
TRAINING = Context.training(device.get("cpu", 1), seed=11, step=3)
# Relative to the entry, or to the root mean square of its tensor's gradient.
TOLERANCE = 1e-6
# Differences with this step and half of it: their truncation errors are near 1e-10.
STEP = 1e-5
# Where the two differ by more, a ReLU or a maximum switches between the two points and
# the loss has no derivative to compare with. Decided without the analytic gradient.
KINK = 1e-7
SKIPPED = 0.02
# Entries of each parameter that are checked: as many drawn at random as of the largest,
# since many of a layer behind dropout have no gradient at all.
SAMPLE = 12


def make(frozen: int = 0, precision: Precision = FP64) -> tuple[Network, np.ndarray]:
    """A network and its input, every bias random so that none hides."""
    network = Network(MINIATURE, OUTPUTS, device.get("cpu", 1), 5, precision)
    rng = np.random.default_rng(8)
    for p in network.params:
        if p.name.endswith(".b"):
            p.value += rng.normal(0, 0.1, p.shape)
    network.freeze(frozen)
    crop = MINIATURE.crop
    return network, rng.normal(0, 1, (BATCH, crop, crop, 3)).astype(precision.values)


def loss(network: Network, x: np.ndarray) -> float:
    """The mean loss, dropout on, the same mask every time."""
    network.forward(x, TRAINING)
    return network.scored(LABELS).loss / BATCH


def gradients(network: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    """The trainable parameters' analytic gradients."""
    network.forward(x, TRAINING)
    network.scored(LABELS, gradient=True)
    network.backward()
    return {p.name: network.gradient(p) for p in network.trainable}


def difference(
    network: Network, x: np.ndarray, flat: np.ndarray, i: int
) -> list[float]:
    """Central differences by entry i of a parameter, at STEP and at half of it."""
    value, slopes = flat[i], []
    for step in (STEP, STEP / 2):
        flat[i] = value + step
        above = loss(network, x)
        flat[i] = value - step
        slopes.append((above - loss(network, x)) / (2 * step))
    flat[i] = value
    return slopes


@pytest.mark.parametrize("frozen", [0, 2, 5, 7])
def test_every_gradient_is_the_slope_of_the_loss(frozen: int) -> None:
    network, x = make(frozen)
    analytic = gradients(network, x)
    assert {p.index for p in network.trainable} == set(range(frozen + 1, DEPTH + 1))
    rng = np.random.default_rng(frozen)
    checked = skipped = 0
    for p in network.trainable:
        exact = analytic[p.name].reshape(-1)
        scale = np.sqrt(np.mean(exact**2))
        assert scale > 1e-4, f"{p.name}: its gradient is too small to tell anything"
        largest = np.argsort(-np.abs(exact))[:SAMPLE]
        for i in {*largest, *rng.permutation(exact.size)[:SAMPLE]}:
            coarse, fine = difference(network, x, p.value.reshape(-1), i)
            size = max(abs(exact[i]), scale)
            checked += 1
            if abs(coarse - fine) > KINK * max(abs(fine), scale):
                skipped += 1
                continue
            assert abs(exact[i] - fine) <= TOLERANCE * size, f"{p.name}[{i}]"
    assert skipped <= SKIPPED * checked


def test_lrn_takes_the_architectures_constants() -> None:
    network, x = make()
    network.forward(x, TRAINING)
    layers = [each for each in network.layers if isinstance(each, PoolLRNLayer)]
    norms = [spec for spec in MINIATURE.layers if isinstance(spec, LRN)]
    for layer, spec in zip(layers, norms, strict=True):
        y, _ = lrn.forward(layer.u, spec.size, spec.alpha, spec.beta, spec.k)
        np.testing.assert_allclose(layer.y, y, rtol=1e-12)  # roundings of float64


@pytest.mark.parametrize("frozen", range(1, DEPTH + 1))
def test_freezing_changes_no_gradient_above_and_computes_none_below(
    frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, x = make()
    expected = gradients(free, x)
    network, _ = make(frozen)
    called = []
    for layer in network.layers:
        kept = layer.backward

        def spy(dy, layer=layer, kept=kept):
            called.append(layer.spec.index)
            return kept(dy)

        monkeypatch.setattr(layer, "backward", spy)
    for name, gradient in gradients(network, x).items():
        assert np.array_equal(gradient, expected[name]), name
    assert set(called) == set(range(frozen + 1, DEPTH + 1))
    for layer in network.layers:
        if layer.spec.index <= frozen:
            assert not hasattr(layer, "dx")
            assert not any(hasattr(p, "grad") for p in layer.params)
    lowest = [each for each in network.layers if each.spec.index == frozen + 1]
    assert not lowest or not hasattr(lowest[0], "dx")


@pytest.mark.parametrize("frozen", [0, 3, 6])
def test_training_leaves_the_frozen_bytes_alone(frozen: int) -> None:
    network, x = make(frozen, FP32)
    config = SolverConfig(lr=0.01, momentum=0.9, decay=0.5)
    solver = Solver(network, config)
    before = {name: value.tobytes() for name, value in network.tensors().items()}
    for step in range(4):
        gradients(network, x)
        solver.set_rate(step)
        solver.update()
    changed = {n for n, v in network.tensors().items() if v.tobytes() != before[n]}
    above = {p.name for p in network.params if p.index > frozen}
    assert changed == above
    assert solver.velocity.keys() == above


def test_a_smaller_batch_uses_the_leading_rows() -> None:
    network, x = make()
    network.plan(BATCH + 4)
    spacious = gradients(network, x)
    tight, _ = make()
    for name, gradient in gradients(tight, x).items():
        assert np.array_equal(gradient, spacious[name]), name
