"""Max pooling, NHWC, and its gradient.

    y[n,p,q,c] = max over the part of window (p,q) that lies inside the image

Output sizes round up, so that a last window may hang over the edge (Caffe's rule);
`ceil=False` rounds down. The gradient goes to the first maximum in row-major order,
whose place in the window, r·S + s, the forward pass keeps as one byte.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import op, select, vector_width
from minicnn.ops.pool_shape import PoolShape

Array = NDArray[np.floating]

# Input numbers of a thread's chunk, which stays in a core's cache.
CHUNK = 1 << 17
KERNELS = KernelFile("pool.cu")
NATIVE = NativeFile("pool_lrn.cpp")
THREADS = 256


def _taps(shape: PoolShape) -> Iterator[tuple[int, slice, slice, slice, slice]]:
    """The window's taps: number, then the outputs and inputs it joins, by axis."""

    def span(axis: int, offset: int) -> tuple[slice, slice]:
        size, count = ((shape.h, shape.p), (shape.w, shape.q))[axis]
        pad, stride = shape.pad[axis], shape.stride[axis]
        first = max(0, -(-(pad - offset) // stride))
        last = min(count - 1, (size - 1 + pad - offset) // stride)
        start = first * stride + offset - pad
        return (
            slice(first, max(first, last + 1)),
            slice(start, max(start, start + (last - first) * stride + 1), stride),
        )

    for r in range(shape.window[0]):
        ps, hs = span(0, r)
        for s in range(shape.window[1]):
            qs, ws = span(1, s)
            yield r * shape.window[1] + s, ps, qs, hs, ws


def _chunk(shape: PoolShape) -> int:
    return max(1, CHUNK // (shape.h * shape.w * shape.c))


@op(writes=("y", "argmax"))
def forward(
    dev: Device, x: Array, y: Array, argmax: NDArray[np.uint8], shape: PoolShape
) -> None:
    """Writes y and argmax (N,P,Q,C) from x (N,H,W,C)."""
    taps = list(_taps(shape))

    def work(start: int, stop: int) -> None:
        best, place = y[start:stop], argmax[start:stop]
        best[...] = -np.inf
        place[...] = 0
        for number, ps, qs, hs, ws in taps:
            here = x[start:stop, hs, ws]
            so_far = best[:, ps, qs]
            # Places come in rising order, so the larger number is the later winner.
            better = dev.scratch("better", here.shape, np.uint8)
            np.greater(here, so_far, out=better.view(bool))
            better *= np.uint8(number)
            np.maximum(place[:, ps, qs], better, out=place[:, ps, qs])
            np.maximum(here, so_far, out=so_far)

    dev.for_chunks(work, shape.n, _chunk(shape))


@forward.native
def forward_native(
    dev: Device, x: Array, y: Array, argmax: NDArray[np.uint8], shape: PoolShape
) -> None:
    function = NATIVE.get("pool_forward", x.dtype)
    arguments = x, y, argmax, shape.fields()
    work = 4 * shape.q * shape.c
    function(dev, shape.n * shape.p, arguments, shape.sizes(), work)


@forward.kernel
def forward_kernel(
    dev: Device, x: Array, y: Array, argmax: NDArray[np.uint8], shape: PoolShape
) -> None:
    _launch(dev, "pool_forward", (x, y, argmax), shape, shape.p * shape.q)


@op(writes=("dx",))
def backward(
    dev: Device, dy: Array, argmax: NDArray[np.uint8], dx: Array, shape: PoolShape
) -> None:
    """Writes dx (N,H,W,C): each dy goes to the place its window's maximum came from.

    All other places get 0, even of dy that is NaN.
    """
    taps = list(_taps(shape))

    def work(start: int, stop: int) -> None:
        dx[start:stop] = 0
        for number, ps, qs, hs, ws in taps:
            place = argmax[start:stop, ps, qs]
            part = dev.scratch("part", place.shape, dx.dtype)
            select(dy[start:stop, ps, qs], place == number, part)
            dx[start:stop, hs, ws] += part

    dev.for_chunks(work, shape.n, _chunk(shape))


@backward.native
def backward_native(
    dev: Device, dy: Array, argmax: NDArray[np.uint8], dx: Array, shape: PoolShape
) -> None:
    function = NATIVE.get("pool_backward", dx.dtype)
    arguments = dy, argmax, dx, shape.fields()
    work = 4 * shape.p * shape.q * shape.c
    function(dev, shape.n, arguments, shape.sizes(), work)


@backward.kernel
def backward_kernel(
    dev: Device, dy: Array, argmax: NDArray[np.uint8], dx: Array, shape: PoolShape
) -> None:
    _launch(dev, "pool_backward", (dy, argmax, dx), shape, shape.h * shape.w)


def _launch(
    dev: Device, name: str, arrays: tuple[NDArray, ...], shape: PoolShape, places: int
) -> None:
    """Launches a kernel, a thread for each vector of channels of `places` pixels."""
    dtype = arrays[0].dtype
    width = vector_width(shape.c, dtype)
    blocks = -(-places * shape.c // width // THREADS)
    kernel = KERNELS.get(name, dtype, width)
    kernel(dev, shape.n * blocks, THREADS, (*arrays, shape.fields(), blocks))
