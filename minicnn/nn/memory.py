"""Device memory that networks need, checked before anything is allocated.

Not counted, and left to `SPARE`: scratch of the ops, and on devices without kernels the
float32 copies of bfloat16 arrays (see `minicnn.ops`), gone when their op returns.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import DTypeLike

from minicnn.base.errors import MinicnnError
from minicnn.devices.device import Device

Buffers = dict[str, tuple[tuple[int, ...], DTypeLike]]
"""Name → shape and dtype."""
SPARE = 1 << 26
"""Bytes kept free for what is not planned."""


def total_bytes(buffers: Iterable[Buffers]) -> int:
    """Bytes of all the buffers."""
    pairs = (pair for each in buffers for pair in each.values())
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in pairs)


def check(
    dev: Device, demand: Callable[[int], int], batch: int, arch: str, networks: int
) -> None:
    """Refuses a batch of images whose buffers would not fit, before any is allocated.

    Args:
        demand: bytes for a batch of that many images, without `SPARE`.
        arch: name of the architecture.
        networks: how many networks train together.

    Raises:
        MinicnnError: the device has too little memory; names the batch that fits.
    """
    free = dev.free_bytes()
    if free is None or (need := SPARE + demand(batch)) <= free:
        return
    fits = bisect.bisect_right(range(1, batch), free - SPARE, key=demand)
    mend = f"a batch of {fits} fits" if fits > 0 else "not even one image fits"
    many = networks > 1
    raise MinicnnError(
        f"batch of {batch} images: "
        + (f"{networks} networks of {arch} need " if many else f"{arch} needs ")
        + f"{need / 1e9:.2f} GB of memory for it on {dev.name}, "
        f"where {free / 1e9:.2f} GB are free: {mend}; lower solver.batch, "
        + ("train fewer depths together, " if many else "")
        + "or stop other programs there"
    )
