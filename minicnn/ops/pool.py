"""Max pooling, NHWC, and its gradient.

    y[n,p,q,c] = max over the part of window (p,q) that lies inside the image

Output sizes round up, so that a last window may hang over the edge (Caffe's rule);
`ceil=False` rounds down. The gradient goes to the first maximum in row-major order,
whose place in the window, r·S + s, the forward pass keeps as one byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op, select, vector_width
from minicnn.ops.pool_shape import PoolShape
from minicnn.ops.windows import Region, taps

Array = NDArray[np.floating]

# Input numbers of a thread's chunk, which stays in a core's cache.
CHUNK = 1 << 17
KERNELS = KernelFile("pool.cu")
NATIVE = NativeFile("pool_lrn.cpp")
THREADS = 256


def _taps(shape: PoolShape) -> list[tuple[int, int, Region, Region]]:
    image, outputs = (shape.h, shape.w), (shape.p, shape.q)
    return list(taps(image, outputs, shape.window, shape.stride, shape.pad))


def _chunk(shape: PoolShape) -> int:
    return max(1, CHUNK // (shape.h * shape.w * shape.c))


@op(writes=("y", "argmax"))
def forward(
    dev: Device, x: Array, y: Array, argmax: NDArray[np.uint8], shape: PoolShape
) -> Forms:
    """Writes y and argmax (N,P,Q,C) from x (N,H,W,C)."""

    def numpy() -> None:
        met = _taps(shape)

        def images(start: int, stop: int) -> None:
            values, best, place = (each[start:stop] for each in (x, y, argmax))
            best[...] = -np.inf
            place[...] = 0
            for r, s, outputs, pixels in met:
                here, so_far = values[pixels], best[outputs]
                # Places come in rising order, so the larger number is the later winner.
                better = dev.scratch("better", here.shape, np.uint8)
                np.greater(here, so_far, out=better.view(bool))
                better *= np.uint8(r * shape.window[1] + s)
                np.maximum(place[outputs], better, out=place[outputs])
                np.maximum(here, so_far, out=so_far)

        dev.for_chunks(images, shape.n, _chunk(shape))

    def kernel() -> None:
        _launch(dev, "pool_forward", (x, y, argmax), shape, shape.p * shape.q)

    def native() -> None:
        function = NATIVE.get("pool_forward", x.dtype)
        arguments, work = (x, y, argmax, shape.fields()), 4 * shape.q * shape.c
        function(dev, shape.n * shape.p, arguments, shape.sizes(), work)

    return Forms(numpy, kernel, native)


@op(writes=("dx",))
def backward(
    dev: Device, dy: Array, argmax: NDArray[np.uint8], dx: Array, shape: PoolShape
) -> Forms:
    """Writes dx (N,H,W,C): each dy goes to the place its window's maximum came from.

    All other places get 0, even of dy that is NaN.
    """

    def numpy() -> None:
        met = _taps(shape)

        def images(start: int, stop: int) -> None:
            gradient, place, out = (each[start:stop] for each in (dy, argmax, dx))
            out[...] = 0
            for r, s, outputs, pixels in met:
                here = place[outputs] == r * shape.window[1] + s
                part = dev.scratch("part", here.shape, dx.dtype)
                select(gradient[outputs], here, part)
                out[pixels] += part

        dev.for_chunks(images, shape.n, _chunk(shape))

    def kernel() -> None:
        _launch(dev, "pool_backward", (dy, argmax, dx), shape, shape.h * shape.w)

    def native() -> None:
        function = NATIVE.get("pool_backward", dx.dtype)
        arguments = dy, argmax, dx, shape.fields()
        work = 4 * shape.p * shape.q * shape.c
        function(dev, shape.n, arguments, shape.sizes(), work)

    return Forms(numpy, kernel, native)


def _launch(
    dev: Device, name: str, arrays: tuple[NDArray, ...], shape: PoolShape, places: int
) -> None:
    """Launches a kernel, a thread for each vector of channels of `places` pixels."""
    dtype = arrays[0].dtype
    width = vector_width(shape.c, dtype)
    blocks = -(-places * shape.c // width // THREADS)
    kernel = KERNELS.get(name, dtype, width)
    kernel(dev, shape.n * blocks, THREADS, (*arrays, shape.fields(), blocks))
