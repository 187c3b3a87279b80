"""The frozen layers that several networks share, run once for all of them.

Networks that copied layers 1..n of one base and froze them, for several n, begin with
the same arithmetic. The deepest of them, the trunk, does it once a batch, and gives
each network the output of its own layer n: the same bits as if each ran alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from minicnn.nn import network
from minicnn.nn.layers import Context
from minicnn.nn.network import Array, Network


class Trunk:
    """Runs networks; one alone just as well.

    Args:
        networks: of one architecture on one device, whose frozen layers hold the same
            values as far as each one's go. From now on only the trunk runs them: all
            but the deepest have buffers above their frozen layers alone.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        self.deepest = max(networks, key=lambda each: each.frozen)
        for each in networks:
            each.release()
            each.planned_above = 0 if each is self.deepest else each.frozen

    def plan(self, batch: int) -> None:
        """Allocates the buffers of all networks for up to `batch` images, once.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        network.plan(self.networks, batch)

    def forward(
        self, x: Array, networks: Sequence[Network], context: Context | None = None
    ) -> list[Array]:
        """The logits (N, outputs) of some of the networks, of the same images.

        Args:
            x: (N, *input_shape), mean subtracted.
            context: as in `Network.forward`; dropout in frozen layers is of the trunk.
        """
        self.plan(len(x))
        deepest = max(each.frozen for each in networks)
        outputs = {0: x}  # of each layer by its number
        for layer in self.deepest.layers:
            if layer.spec.index > deepest:
                break
            x = outputs[layer.spec.index] = layer.forward(x, context)
        return [
            each.forward(outputs[each.frozen], context, each.frozen)
            for each in networks
        ]
