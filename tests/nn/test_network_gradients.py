"""Freezing: which gradients are computed, which bytes are trained.

That gradients are slopes of the loss, frozen or not, `gradcheck` and its tests show.
"""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.base.config import SolverConfig
from minicnn.base.precision import FP32, FP64, Precision
from minicnn.devices import device
from minicnn.experiments.proofs.cases import BATCH, KEY, LABELS, MINIATURE, OUTPUTS
from minicnn.nn.architectures import LRN
from minicnn.nn.layers import Context
from minicnn.nn.network import Network
from minicnn.nn.pool_layers import PoolLRNLayer
from minicnn.training.solver import Solver
from tests.support.reference import lrn

CPU, DEPTH = device.get("cpu", 1), MINIATURE.depth
TRAINING = Context.training(CPU, *KEY)


def make(frozen: int, precision: Precision) -> tuple[Network, np.ndarray]:
    """A small network and its input, every bias random so that none hides."""
    network = Network(MINIATURE, OUTPUTS, CPU, 5, precision)
    rng = np.random.default_rng(8)
    for p in network.params:
        if p.name.endswith(".b"):
            p.value += rng.normal(0, 0.1, p.shape)
    network.freeze(frozen)
    crop = MINIATURE.crop
    return network, rng.normal(0, 1, (BATCH, crop, crop, 3)).astype(precision.values)


def gradients(network: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    """The trainable parameters' analytic gradients."""
    network.forward(x, TRAINING)
    network.scored(LABELS, gradient=True)
    network.backward()
    return {p.name: network.gradient(p) for p in network.trainable}


def test_lrn_takes_the_architectures_constants() -> None:
    network, x = make(0, FP64)
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
    free, x = make(0, FP64)
    expected = gradients(free, x)
    network, _ = make(frozen, FP64)
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
