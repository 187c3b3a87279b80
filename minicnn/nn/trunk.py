"""The frozen layers that several networks share, run once for all of them.

Networks that copied layers 1..n of one base and froze them, for several n, begin with
the same arithmetic. The trunk does it once a batch, to the deepest n, and gives each
network the output of its own layer n: the same bits as if each ran alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicnn.nn import memory
from minicnn.nn.layers import Context
from minicnn.nn.network import Array, Network


class Trunk:
    """Runs networks; one alone just as well.

    Args:
        networks: of one architecture on one device, whose frozen layers hold the same
            values as far as each one's go. From now on only the trunk runs them: their
            own buffers begin above their frozen layers, and their `first_layer` stays
            there, so that none can be run alone again.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        deepest = max(networks, key=lambda each: each.frozen)
        self.layers = [
            each for each in deepest.layers if each.spec.index <= deepest.frozen
        ]
        for network in networks:
            network.release()
            network.first_layer = network.frozen + 1
        self.batch = 0

    def check(self, batch: int) -> None:
        """Refuses more images than there is memory for; allocates nothing.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        first, count = self.networks[0], len(self.networks)
        memory.check(first.dev, self._demand, batch, first.arch.name, count)

    def plan(self, batch: int) -> None:
        """Allocates the buffers of trunk and networks for up to `batch` images, once.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        if batch <= self.batch:
            return
        self.batch = 0
        for layer in self.layers:
            layer.release()
        for network in self.networks:
            network.release()
        self.check(batch)
        for layer in self.layers:
            layer.plan(batch, needs_dx=False, trains=False)
        for network in self.networks:
            network.allocate(batch)
        self.batch = batch

    def _demand(self, batch: int) -> int:
        """Bytes that `plan` takes, and the images."""
        trunk = [layer.buffers(batch, False, False) for layer in self.layers]
        own = memory.total_bytes([self.networks[0].input_buffers(batch), *trunk])
        return own + sum(network.demand(batch) for network in self.networks)

    def forward(
        self, x: Array, networks: Sequence[Network], context: Context | None = None
    ) -> list[Any]:
        """The logits (N, outputs) of some of the networks, of the same images.

        Args:
            x: (N, *input_shape), mean subtracted.
            context: as in `Network.forward`; dropout in frozen layers is of the trunk.
        """
        self.plan(len(x))
        deepest = max(network.first_layer for network in networks) - 1
        outputs = {1: x}  # input of each layer by its number
        for layer in self.layers:
            if layer.spec.index > deepest:
                break
            x = outputs[layer.spec.index + 1] = layer.forward(x, context)
        return [
            network.forward(outputs[network.first_layer], context)
            for network in networks
        ]
