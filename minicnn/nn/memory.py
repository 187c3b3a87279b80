"""What networks take of a device's memory, asked before anything is allocated.

Beside the buffers that layers keep, ops on the host use memory of their own: scratch in
their NumPy forms, which work on patches of images, and float32 copies of what they are
given in bfloat16 (see `minicnn.ops`). An op's copies are gone before the next op's are
made, and scratch is used again: the largest counts. The rest comes out of `SPARE`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.ops.conv.numpy_form import FORWARD_BYTES, WEIGHTS_BYTES
from minicnn.ops.conv.shape import ConvShape

if TYPE_CHECKING:
    from minicnn.nn.layers import Layer
    from minicnn.nn.network import Network

Buffers = dict[str, tuple[tuple[int, ...], DTypeLike]]
# Bytes kept free for what is not planned; and on each thread, for an op's chunk.
SPARE, CHUNK = 1 << 26, 1 << 22


def total_bytes(held: Iterable[Buffers]) -> int:
    """What buffers take in all."""
    each = (pair for buffers in held for pair in buffers.values())
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in each)


def conv_scratch(
    shape: ConvShape, itemsize: int, threads: int, needs_dx: bool, trains: bool
) -> dict[str, int]:
    """Bytes of scratch, by key, that a convolution's NumPy forms take on all threads.

    The patches of some images, and these within zeros, on each thread; and the partial
    sums of the weights' gradient. See `ops.conv_numpy`.
    """
    if shape.is_product:
        return {}
    patches = shape.p * shape.q * shape.taps * itemsize
    images, sums = max(1, FORWARD_BYTES // patches), 0
    if trains:
        most = max(1, WEIGHTS_BYTES // patches)
        images = max(images, min(most, -(-shape.n // 8)))
        parts = max(min(8, shape.n), -(-shape.n // most))
        sums = parts * shape.k * shape.taps * itemsize
    images = min(images, shape.n)
    columns = images * patches
    if needs_dx:  # a convolution of dy, phase after phase
        (down, right), window = shape.stride, shape.r * shape.s
        pixels = -(-shape.h // down) * -(-shape.w // right)
        turned = pixels * -(-window // (down * right)) * shape.features * itemsize
        columns = max(columns, max(1, FORWARD_BYTES // turned) * turned)
    (top, left), padded = shape.pad, 0
    if top or left:
        padded = (shape.h + 2 * top) * (shape.w + 2 * left) * shape.depth * itemsize
    each = {"cols": threads * columns, "padded": threads * images * padded}
    return {**each, "dw partial": sums}


def workspace(layers: Sequence[tuple[Layer, bool, bool]], batch: int) -> int:
    """Bytes that the ops of layers take for themselves on the host.

    Args:
        layers: each with whether it hands a gradient down and whether it trains.
    """
    copies, scratch = 0, {"chunks": layers[0][0].dev.threads * CHUNK}
    for layer, needs_dx, trains in layers:
        if layer.dev.has_kernels:
            return 0
        for key, size in layer.scratch(batch, needs_dx, trains).items():
            scratch[key] = max(size, scratch.get(key, 0))
        if layer.precision.activations == BF16:
            sizes = layer.operands(batch, needs_dx)
            # One once more, and compared: was it written to?
            copies = max(copies, 4 * sum(sizes) + 5 * max(sizes))
    return copies + sum(scratch.values())


def demand(networks: Sequence[Network], trunk: Sequence[Layer], batch: int) -> int:
    """Bytes that networks and the layers run for all of them take in all.

    An image is also held as stored, in two slots, and as input.
    """
    first = networks[0]
    size = first.arch.size
    image: Buffers = {
        "images": ((2 * batch, size, size, 3), np.uint8),
        "x": ((batch, *first.input_shape), first.precision.activations),
    }
    below = [(layer, False, False) for layer in trunk]
    layers = [*below, *(each for network in networks for each in network.handed_down())]
    held = [image, *(layer.buffers(batch, *how) for layer, *how in below)]
    heads = sum(network.demand(batch) for network in networks)
    return SPARE + total_bytes(held) + heads + workspace(layers, batch)


def check(networks: Sequence[Network], trunk: Sequence[Layer], batch: int) -> None:
    """Refuses what would not fit, before anything is allocated.

    Args:
        networks: what is about to be allocated; all read the same images.
        trunk: layers that run for all of them.
        batch: images.

    Raises:
        MinicnnError: the device has too little memory; names the batch that fits.
    """
    dev, arch = networks[0].dev, networks[0].arch
    free = dev.free_bytes()
    if free is None or (need := demand(networks, trunk, batch)) <= free:
        return
    fits = bisect.bisect_right(
        range(1, batch), free, key=lambda batch: demand(networks, trunk, batch)
    )
    mend = f"a batch of {fits} fits" if fits > 0 else "not even one image fits"
    alone = len(networks) == 1
    raise MinicnnError(
        f"batch of {batch} images: {arch.name} "
        + ("needs " if alone else f"with {len(networks)} heads needs ")
        + f"{need / 1e9:.2f} GB of memory for it on {dev.name}, "
        f"where {free / 1e9:.2f} GB are free: {mend}; lower solver.batch, "
        + ("" if alone else "train fewer depths together, ")
        + "or stop other programs there"
    )
