"""Max pooling, NHWC, and its gradient.

    y[n,p,q,c] = max over the part of window (p,q) that lies inside the image

Output sizes round up, so that a last window may hang over the edge (Caffe's rule);
`ceil=False` rounds down. The gradient goes to the first maximum in row-major order,
whose place in the window, r·S + s, the forward pass keeps as one byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op, select, vector_width
from minicnn.ops.windows import Pair, Region, four, pair, taps

Array = NDArray[np.floating]

# Input numbers of a thread's chunk, which stays in a core's cache.
CHUNK = 1 << 17
KERNELS = KernelFile("pool.cu")
NATIVE = NativeFile("pool_lrn.cpp")
THREADS = 256


@dataclass(frozen=True)
class PoolShape:
    """One pooling problem: x (N,H,W,C), y and argmax (N,P,Q,C)."""

    n: int
    h: int
    w: int
    c: int
    window: Pair = (3, 3)
    stride: Pair = (2, 2)
    pad: Pair = (0, 0)
    ceil: bool = True

    @classmethod
    def of(
        cls,
        x_shape: tuple[int, ...],
        window: int | Pair = 3,
        stride: int | Pair = 2,
        pad: int | Pair = 0,
        ceil: bool = True,
    ) -> PoolShape:
        """The problem of this input.

        Raises:
            MinicnnError: an array without four axes, an empty window, a window of
                over 256 places, padding as large as the window, or an empty output.
        """
        sizes = four("pool x", x_shape, "N,H,W,C")
        window, stride = pair("pool window", window), pair("pool stride", stride)
        shape = cls(*sizes, window, stride, pair("pool pad", pad), ceil)
        (r, s), (top, left) = shape.window, shape.pad
        if min(r, s, *shape.stride) < 1 or r * s > 256:
            raise MinicnnError(
                f"pool window {r}x{s} stride {shape.stride}: both must be at least 1, "
                "and the window at most 256 places (the argmax is one byte)"
            )
        if min(shape.pad) < 0 or top >= r or left >= s:
            raise MinicnnError(
                f"pool pad {shape.pad}: must be at least 0 and smaller than the window "
                f"{r}x{s}, or a window would hold no pixel"
            )
        if shape.p < 1 or shape.q < 1:
            raise MinicnnError(
                f"pool window {r}x{s}: larger than the padded input of "
                f"{shape.h}x{shape.w} with pad {shape.pad}; use ceil=True or less"
            )
        return shape

    def _outputs(self, axis: int) -> int:
        size = (self.h, self.w)[axis]
        pad, stride = self.pad[axis], self.stride[axis]
        room = size + 2 * pad - self.window[axis]
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        # A window must start inside the image or its first padding (Caffe, PyTorch).
        if self.ceil and (count - 1) * stride >= size + pad:
            count -= 1
        return count

    @cached_property
    def p(self) -> int:
        """Output height."""
        return self._outputs(0)

    @cached_property
    def q(self) -> int:
        """Output width."""
        return self._outputs(1)

    def sizes(self) -> dict[str, int]:
        """Element counts of the ops' arrays, by parameter."""
        pixels = self.n * self.h * self.w * self.c
        windows = self.n * self.p * self.q * self.c
        outputs = dict.fromkeys(("y", "dy", "u", "argmax"), windows)
        return {"x": pixels, "dx": pixels, **outputs}

    @cache  # noqa: B019 (a program has few shapes, and they are small)
    def fields(self) -> dict[str, int | Pair]:
        """The struct Pooling of the kernels.

        Raises:
            MinicnnError: an image has more numbers than they can count.
        """
        if max(self.h * self.w, self.p * self.q) * self.c >= 2**31:
            raise MinicnnError(f"{self}: an image is too large for the kernels")
        names = ("h", "w", "c", "p", "q", "window", "stride", "pad")
        return {name: getattr(self, name) for name in names}


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
