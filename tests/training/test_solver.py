"""The solver against numbers worked by hand, and the paper's schedule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from minicnn.base.config import LayerRates, SolverConfig, load_recipe
from minicnn.base.errors import MinicnnError
from minicnn.base.precision import FP64
from minicnn.devices import device
from minicnn.devices.device import Device
from minicnn.nn.network import Network
from minicnn.training.solver import Solver, learning_rate, scale_rates
from tests.support.runs import MINIATURE

# Each update is a dozen roundings of numbers near 1 in float64.
TOLERANCE = 1e-14
CONFIG = SolverConfig(lr=0.1, gamma=0.1, step_size=2, momentum=0.5, decay=0.1)
GRADIENTS = (0.4, -0.2, 0.6, 0.1, -0.3)
# v ← 0.5·v + lr·(g + 0.1·w), w ← w − v; lr 0.1, 0.1, then 0.01, 0.01, then 0.001.
# The rate is inside v: the drop leaves what v carries as it was.
WEIGHTS = (
    # (v, w), from w = 1, v = 0
    (0.05, 0.95),  # 0.1·(0.4 + 0.1) = 0.05
    (0.0145, 0.9355),  # 0.025 + 0.1·(−0.2 + 0.095) = 0.025 − 0.0105
    (0.0141855, 0.9213145),  # 0.00725 + 0.01·(0.6 + 0.09355) = 0.00725 + 0.0069355
    # 0.00709275 + 0.01·(0.1 + 0.09213145) = 0.00709275 + 0.0019213145
    (0.0090140645, 0.9123004355),
    # 0.00450703225 + 0.001·(−0.3 + 0.09123004355) = 0.00450703225 − 0.00020876995645
    (0.00429826229355, 0.90800217320645),
)
# v ← 0.5·v + 2·lr·g, w ← w − v: biases learn twice as fast and do not decay.
BIASES = (
    (0.08, 0.92),  # 0.2·0.4
    (0.0, 0.92),  # 0.04 − 0.2·0.2
    (0.012, 0.908),  # 0 + 0.02·0.6
    (0.008, 0.9),  # 0.006 + 0.02·0.1
    (0.0034, 0.8966),  # 0.004 − 0.002·0.3
)


def ones(
    dev: Device, config: SolverConfig = CONFIG, still: tuple[int, int] = (0, 0)
) -> Solver:
    """Of a network whose parameters are all 1."""
    network = Network(MINIATURE, 5, dev, precision=FP64)
    scale_rates(network, config)
    network.plan(1)
    for p in network.params:
        p.value[...] = 1
    return Solver(network, config, still)


def update(solver: Solver, step: int, gradient: float = 0.4) -> None:
    """One update by a gradient of equal numbers."""
    for p in solver.network.params:
        p.grad[0, : math.prod(p.shape)] = gradient
    solver.set_rate(step)
    solver.update()


def test_five_updates_worked_by_hand(dev: Device) -> None:
    solver = ones(dev)
    for step, g in enumerate(GRADIENTS):
        update(solver, step, g)
        for p in solver.network.params:
            v, w = (WEIGHTS if p.name.endswith(".w") else BIASES)[step]
            close = {"rtol": 0, "atol": TOLERANCE, "err_msg": f"{p.name} at {step}"}
            velocity = dev.to_host(solver.velocity[p.name])
            np.testing.assert_allclose(velocity, v, **close)
            np.testing.assert_allclose(dev.to_host(p.value), w, **close)


def test_the_papers_schedule() -> None:
    config = load_recipe("paper").solver
    steps = (0, 99_999, 100_000, 199_999, 200_000, 449_999)
    rates = [learning_rate(config, step) for step in steps]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-6], rel=1e-12)
    assert learning_rate(SolverConfig(lr=0.3, step_size=0), 10**6) == 0.3


def test_momentum_of_other_parameters_is_refused() -> None:
    network = Network(MINIATURE, 5, device.get("cpu", 1))
    momentum = Solver(network, CONFIG).tensors()
    network.freeze(1)
    with pytest.raises(MinicnnError, match=r"conv1\.b, conv1\.w"):
        Solver(network, CONFIG).load(momentum)


def test_factors_of_layers(dev: Device) -> None:
    layers = {"conv2": LayerRates(0.5, 0.0), "fc8": LayerRates(0.0)}
    solver = ones(dev, replace(CONFIG, layers=layers))
    update(solver, 0)
    # w − 0.1·mult·(0.4 + 0.1·decay·w); biases learn twice as fast, and never decay.
    expected = {"conv2.w": 0.98, "conv2.b": 0.96, "fc8.w": 1, "fc8.b": 1}
    for p in solver.network.params:
        other = 0.95 if p.name.endswith(".w") else 0.92
        w = expected.get(p.name, other)
        value = dev.to_host(p.value)
        np.testing.assert_allclose(value, w, rtol=0, atol=TOLERANCE, err_msg=p.name)


def test_lower_layers_keep_still_at_first(dev: Device) -> None:
    solver = ones(dev, still=(3, 2))
    params = solver.network.params
    for step, moved in ((0, [4, 5, 6, 7, 8]), (1, [4, 5, 6, 7, 8]), (2, range(1, 9))):
        before = {p.name: dev.to_host(p.value).copy() for p in params}
        update(solver, step)
        changed = [p for p in params if (dev.to_host(p.value) != before[p.name]).any()]
        assert {p.index for p in changed} == set(moved), step
