"""Stochastic gradient descent as Caffe does it, with its step schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.config import LayerRates, SolverConfig
from minicnn.base.errors import MinicnnError
from minicnn.nn.network import Network
from minicnn.ops import sgd


def learning_rate(config: SolverConfig, step: int) -> float:
    """lr · gamma^(step div step_size) after `step` updates; step_size 0 keeps lr."""
    drops = step // config.step_size if config.step_size else 0
    return config.lr * config.gamma**drops


def scale_rates(network: Network, config: SolverConfig) -> None:
    """Multiplies the parameters' factors by their layers'; before `Network.plan`.

    Raises:
        MinicnnError: the network does not have one of those layers.
    """
    layer_of = {p.name: p.name.partition(".")[0] for p in network.params}
    for layer in config.layers:
        if layer not in layer_of.values():
            raise MinicnnError(
                f"solver.layers.{layer}: no such layer in {network.arch.name}; it has "
                f"{', '.join(dict.fromkeys(layer_of.values()))}"
            )
    for p in network.params:
        own = config.layers.get(layer_of[p.name], LayerRates())
        p.lr_mult *= own.lr_mult
        p.decay_mult *= own.decay_mult


class Solver:
    """Velocities of a network's trainable parameters, and their update.

    Frozen parameters have no velocity and are never touched, not even by decay. What is
    frozen must not change afterwards.

    Args:
        still: (n, updates): layers 1..n keep still for the first so many updates.
    """

    def __init__(
        self, network: Network, config: SolverConfig, still: tuple[int, int] = (0, 0)
    ) -> None:
        self.network, self.config = network, config
        dev, trainable = network.dev, network.trainable
        shapes = [p.shape for p in trainable]
        self._velocities, views = sgd.allocate(dev, shapes, network.precision.values)
        self.velocity = {p.name: v for p, v in zip(trainable, views, strict=True)}
        self.still, self._still_held = still, False
        # On the device, and written only when it changes: see `ops.sgd.update`.
        self._lr, self._lr_held = dev.zeros((1,), np.float64), 0.0

    def set_rate(self, step: int) -> None:
        """Sets the learning rates of that step, which `update` finds on the device."""
        lr = learning_rate(self.config, step)
        if lr != self._lr_held:
            self._lr_held = lr
            self._lr[...] = lr
        n, updates = self.still
        if (step < updates) != self._still_held:
            self._still_held = step < updates
            trainable = self.network.trainable
            rates = [p.lr_mult * (p.index > n or step >= updates) for p in trainable]
            held = self.network.segments.rates
            held[...] = self.network.dev.from_host(np.array(rates))

    def update(self) -> None:
        """One update of every trainable parameter by its gradient, and of its copy."""
        config, network = self.config, self.network
        sgd.update(
            network.dev,
            network.trainable_values,
            network.gradients,
            self._velocities,
            network.segments,
            self._lr,
            config.momentum,
            config.decay,
            network.trainable_copies,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Every velocity by its parameter's name, on the host."""
        return {k: self.network.dev.to_host(v) for k, v in self.velocity.items()}

    def load(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Takes every velocity from host arrays, of just the trainable parameters."""
        if tensors.keys() != self.velocity.keys():
            odd = sorted(tensors.keys() ^ self.velocity.keys())
            raise MinicnnError(
                f"momentum of {', '.join(odd)}: not what this run trains"
            )
        for name, values in tensors.items():
            self.velocity[name][...] = self.network.dev.from_host(values)
