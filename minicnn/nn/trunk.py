"""The frozen layers that networks have in common, run once for all of them.

Networks that copied layers 1..n of one base for several n, and froze them, all begin
with the same arithmetic. The trunk does it once a batch, to the deepest n, and hands
each network the output of its own layer n: the same bits as if each ran alone.
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
            values as far as each one's go. From now on they run in here only, and
            their own buffers begin above their frozen layers.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        deepest = max(networks, key=lambda each: each.frozen)
        self.layers = [
            each for each in deepest.layers if each.spec.index <= deepest.frozen
        ]
        for network in networks:
            network.release()
            network.below = network.frozen
        self.batch = 0

    def check(self, batch: int) -> None:
        """Refuses more images than there is memory for; allocates nothing.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        memory.check(self.networks, self.layers, batch)

    def plan(self, batch: int) -> None:
        """Allocates the buffers of trunk and heads for up to `batch` images, once.

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

    def forward(
        self, x: Array, networks: Sequence[Network], context: Context | None = None
    ) -> list[Any]:
        """The logits (N, outputs) of some of the networks, of the same images.

        Args:
            x: (N, *input_shape), mean subtracted.
            context: as in `Network.forward`; dropout in frozen layers is of the trunk.
        """
        self.plan(len(x))
        context = context or Context()
        deepest = max(network.below for network in networks)
        outputs = {0: x}
        for layer in self.layers:
            if layer.spec.index > deepest:
                break
            x = outputs[layer.spec.index] = layer.forward(x, context)
        return [
            network.forward(outputs[network.below], context) for network in networks
        ]
