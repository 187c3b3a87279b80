"""Stochastic gradient descent with momentum and weight decay, Caffe's form.

    v ← momentum·v + lr·(g + decay·w)        w ← w − v

where lr and decay are multiplied by each parameter's own factors. The learning rate is
inside v: a drop of the rate leaves the velocity as it was.

All parameters are updated at once: they lie one after another in flat arrays, each
beginning at a multiple of ALIGNMENT numbers, so that vector loads fit; the padding
between them is zero, and an update leaves it so. A gradient may come as slices, partial
sums that the update adds up, in their order; then its slices lie one after another,
each as long as the parameter with its padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op

Array = NDArray[np.floating]
Shape = tuple[int, ...]

# Multiple at which tensors begin, in numbers: whole cache lines of any type.
ALIGNMENT = 64
CHUNK = 1 << 16
KERNELS = KernelFile("sgd.cu")
NATIVE = NativeFile("elementwise.cpp")
THREADS = 256
# Most blocks of a launch: a few for each multiprocessor of the largest GPU.
BLOCKS = 2048


def padded(shape: Shape) -> int:
    """Numbers that a tensor of this shape takes in a flat array."""
    return -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT


def layout(shapes: Sequence[Shape]) -> list[int]:
    """The first number of each tensor in a flat array; last, the array's size."""
    return list(accumulate(map(padded, shapes), initial=0))


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


def allocate_slices(
    dev: Device, shapes: Sequence[Shape], slices: Sequence[int], dtype: DTypeLike
) -> tuple[Array, list[Array]]:
    """A flat array of zeros for gradients of these shapes in that many slices each.

    Returns:
        The array, and each gradient's view of it, (slices, `padded`): a row begins with
        a slice in C order; the rest must stay zero.
    """
    rows = [(count, padded(shape)) for count, shape in zip(slices, shapes, strict=True)]
    return allocate(dev, rows, dtype)


class Segments(NamedTuple):
    """The parts of S parameters in the flat arrays, as columns on a device.

    Compiled code and kernels take them in this order.

    Attributes:
        starts: (S + 1,) int64, as `layout` has them.
        places: (S,) int64, the first number of each gradient.
        slices: (S,) int32, partial sums of each gradient.
        rates, decays: (S,) float64, the factors of lr and decay.
    """

    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    slices: NDArray[np.int32]
    rates: NDArray[np.float64]
    decays: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        dev: Device,
        shapes: Sequence[Shape],
        rates: Sequence[float],
        decays: Sequence[float],
        slices: Sequence[int] | None = None,
    ) -> Segments:
        """The segments of these tensors and factors.

        Args:
            slices: of each gradient, as `allocate_slices` was told; None for one each.
        """
        counts = [1] * len(shapes) if slices is None else list(slices)
        sizes = (n * padded(s) for n, s in zip(counts, shapes, strict=True))
        places = list(accumulate(sizes, initial=0))[:-1]
        integers = (layout(shapes), np.int64), (places, np.int64), (counts, np.int32)
        factors = (rates, np.float64), (decays, np.float64)
        tables = (np.array(*table) for table in (*integers, *factors))
        return cls(*map(dev.from_host, tables))


@op(writes=("copy",), updates=("w", "v"), narrow=("copy",))
def update(
    dev: Device,
    w: Array,
    g: Array,
    v: Array,
    segments: Segments,
    lr: NDArray[np.float64],
    momentum: float,
    decay: float,
    copy: Array | None = None,
) -> Forms:
    """Updates w and v in place.

    Args:
        w, v: flat, as `allocate` makes them.
        g: likewise, or as `allocate_slices` does.
        segments: of the parameters in them.
        lr: (1,), on the device, where a recorded step reads it anew.
        momentum, decay: of all parameters.
        copy: flat like w, of bfloat16; written with the new w unless None.
    """

    def numpy() -> None:
        rate = float(lr[0])
        starts, *columns = (column.tolist() for column in segments)
        rows = list(zip(pairwise(starts), *columns, strict=True))

        def work(start: int, stop: int) -> None:
            for (first, last), place, slices, rates, decays in rows:
                part = slice(max(start, first), min(stop, last))
                if part.start >= part.stop:
                    continue
                ws, vs = w[part], v[part]
                partial = g[place : place + slices * (last - first)].reshape(slices, -1)
                gradient = partial[:, part.start - first : part.stop - first]
                step, decayed = dev.scratch("sgd", (2, ws.size), w.dtype)
                np.copyto(step, gradient[0])
                for more in gradient[1:]:
                    step += more
                step += np.multiply(ws, decay * decays, out=decayed)
                step *= rate * rates
                vs *= momentum
                vs += step
                ws -= vs
                if copy is not None:
                    copy[part] = ws

        dev.for_chunks(work, w.size, CHUNK)

    def kernel() -> None:
        if not w.size:
            return
        blocks = min(BLOCKS, -(-w.nbytes // (16 * THREADS)))
        arguments = w, g, v, copy, w.size, *segments, lr, momentum, decay
        KERNELS.get("sgd_update", w.dtype)(dev, blocks, THREADS, arguments)

    def native() -> None:
        count = len(segments.rates)
        sizes = dict.fromkeys(("w", "v", "copy"), w.size)
        sizes |= dict.fromkeys(("places", "slices", "rates", "decays"), count)
        numbers = int(segments.slices @ np.diff(segments.starts))
        sizes |= {"starts": count + 1, "g": numbers, "lr": 1}
        solver = {"momentum": momentum, "decay": decay, "segments": count}
        arguments = w, g, v, copy, lr, solver, *segments
        NATIVE.get("sgd_update", w.dtype)(dev, w.size, arguments, sizes, work=2)

    return Forms(numpy, kernel, native)
