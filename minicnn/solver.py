"""Stochastic gradient descent as Caffe does it, with its step schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from minicnn.config import SolverConfig
from minicnn.errors import MinicnnError
from minicnn.network import Network
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

    Frozen parameters have no velocity and are never touched, not even by decay.
    """

    def __init__(self, network: Network, config: SolverConfig) -> None:
        self.network, self.config = network, config
        dev = network.dev
        self.velocity = {
            p.name: dev.zeros(p.shape, network.dtype) for p in network.trainable
        }

    def update(self, step: int) -> None:
        """One update of every trainable parameter by its gradient."""
        config = self.config
        lr = learning_rate(config, step)
        for p in self.network.trainable:
            sgd.update(
                self.network.dev,
                p.value,
                p.grad,
                self.velocity[p.name],
                lr * p.lr_mult,
                config.momentum,
                config.decay * p.decay_mult,
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
