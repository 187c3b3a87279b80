"""Stochastic gradient descent as Caffe does it, with its step schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.config import SolverConfig
from minicnn.base.errors import MinicnnError
from minicnn.nn.network import Network
from minicnn.ops import sgd


def learning_rate(config: SolverConfig, step: int) -> float:
    """lr · gamma^(step div step_size); step_size 0 keeps the rate.

    Args:
        step: updates already made.
    """
    drops = step // config.step_size if config.step_size else 0
    return config.lr * config.gamma**drops


class Solver:
    """Velocities of a network's trainable parameters, and their update.

    Frozen parameters have no velocity and are never touched, not even by decay. What is
    frozen must not change afterwards.
    """

    def __init__(self, network: Network, config: SolverConfig) -> None:
        self.network, self.config = network, config
        dev, trainable = network.dev, network.trainable
        shapes = [p.shape for p in trainable]
        self._velocities, views = sgd.allocate(dev, shapes, network.precision.values)
        self.velocity = {p.name: v for p, v in zip(trainable, views, strict=True)}
        # On the device, and written only when it changes: see `ops.sgd.update`.
        self._lr, self._lr_held = dev.zeros((1,), np.float64), 0.0

    def set_rate(self, step: int) -> None:
        """Sets the learning rate of that step, which `update` finds on the device."""
        lr = learning_rate(self.config, step)
        if lr != self._lr_held:
            self._lr_held = lr
            self._lr[...] = lr

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
        """Takes every velocity from host arrays.

        Raises:
            MinicnnError: the names differ from those of the trainable parameters.
        """
        if tensors.keys() != self.velocity.keys():
            odd = sorted(tensors.keys() ^ self.velocity.keys())
            raise MinicnnError(
                f"momentum of {', '.join(odd)}: not what this run trains"
            )
        for name, values in tensors.items():
            self.velocity[name][...] = self.network.dev.from_host(values)
