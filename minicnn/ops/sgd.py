"""Stochastic gradient descent with momentum and weight decay, Caffe's form.

    v ← momentum·v + lr·(g + decay·w)        w ← w − v

where lr and decay are multiplied by each parameter's own factors. The learning rate is
inside v: a drop of the rate leaves the velocity as it was.

All parameters are updated at once: they lie one after another in flat arrays, each
beginning at a multiple of ALIGNMENT numbers, so that vector loads fit; the padding
between them is zero, and an update leaves it so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.device import Device
from minicnn.launch import KernelFile
from minicnn.ops import op

Array = NDArray[np.floating]
Shape = tuple[int, ...]

# Numbers; whole cache lines on every device, whatever the type.
ALIGNMENT = 64
CHUNK = 1 << 16
KERNELS = KernelFile("sgd.cu")
THREADS = 256
# Blocks that share the work: a few for each multiprocessor of the largest GPU.
BLOCKS = 2048


def layout(shapes: Sequence[Shape]) -> list[int]:
    """Where tensors of these shapes begin in a flat array, and at the end its size."""
    sizes = (-(-math.prod(s) // ALIGNMENT) * ALIGNMENT for s in shapes)
    return list(accumulate(sizes, initial=0))


def allocate(
    dev: Device, shapes: Sequence[Shape], dtype: DTypeLike
) -> tuple[Array, list[Array]]:
    """A flat array of zeros, and the views of it that are tensors of these shapes."""
    *starts, size = layout(shapes)
    flat = dev.zeros((size,), dtype)
    views = [
        flat[start : start + math.prod(shape)].reshape(shape)
        for start, shape in zip(starts, shapes, strict=True)
    ]
    return flat, views


@dataclass(frozen=True)
class Segments:
    """Which part of the flat arrays is which parameter's, S in all; on a device.

    Attributes:
        starts: (S + 1,) int64, as `layout` has them.
        rates, decays: (S,) float64, the factors of lr and decay.
    """

    starts: NDArray[np.int64]
    rates: NDArray[np.float64]
    decays: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        dev: Device,
        shapes: Sequence[Shape],
        rates: Sequence[float],
        decays: Sequence[float],
    ) -> Segments:
        """The segments of these tensors and factors."""
        starts = dev.from_host(np.array(layout(shapes), np.int64))
        factors = (dev.from_host(np.array(f, np.float64)) for f in (rates, decays))
        return cls(starts, *factors)


@op
def update(
    dev: Device,
    w: Array,
    g: Array,
    v: Array,
    segments: Segments,
    lr: NDArray[np.float64],
    momentum: float,
    decay: float,
) -> None:
    """Updates w and v in place.

    Args:
        w, g, v: flat, as `allocate` makes them.
        segments: of the parameters in them.
        lr: (1,), on the device, so that it may change where a step's launches are
            recorded once and repeated.
        momentum, decay: of all parameters.
    """
    rate, bounds = float(lr[0]), list(pairwise(segments.starts.tolist()))
    factors = list(zip(segments.rates.tolist(), segments.decays.tolist(), strict=True))

    def work(start: int, stop: int) -> None:
        for (first, last), (rates, decays) in zip(bounds, factors, strict=True):
            part = slice(max(start, first), min(stop, last))
            if part.start >= part.stop:
                continue
            ws, vs = w[part], v[part]
            step = dev.scratch("step", ws.shape, w.dtype)
            np.multiply(ws, decay * decays, out=step)
            step += g[part]
            step *= rate * rates
            vs *= momentum
            vs += step
            ws -= vs

    dev.for_chunks(work, w.size, CHUNK)


@update.kernel
def _(
    dev: Device,
    w: Array,
    g: Array,
    v: Array,
    segments: Segments,
    lr: NDArray[np.float64],
    momentum: float,
    decay: float,
) -> None:
    if not w.size:
        return
    vectors = w.size * w.itemsize // 16
    blocks = min(BLOCKS, -(-vectors // THREADS))
    table = segments.starts, segments.rates, segments.decays, lr
    kernel = KERNELS.get("sgd_update", w.dtype)
    kernel(dev, blocks, THREADS, (w, g, v, w.size, *table, momentum, decay))
