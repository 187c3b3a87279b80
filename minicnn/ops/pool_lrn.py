"""Max pooling of a ReLU's output, then LRN across channels, in one pass each way.

    u = max pooling of x          y = LRN of u
    dx = pooling's gradient of (LRN's gradient of dy, where u > 0, else 0)

x is a ReLU's output and dx the gradient of what the ReLU was given: a window's maximum
is the ReLU's output at the very place that the gradient goes to, so that u > 0 decides
for it. Backward needs u and argmax alone: LRN's scale is made again from u. See
`pool` and `lrn` for the formulas, kernels/pool_lrn.cu for the bytes this saves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import accumulator
from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, lrn, op, pool, select, vector_width
from minicnn.ops.conv.plan import PROCESSORS
from minicnn.ops.pool import PoolShape

Array = NDArray[np.floating]

KERNELS = KernelFile("pool_lrn.cu")
NATIVE = NativeFile("pool_lrn.cpp")
# Most shared memory of a backward block, in bytes: a multiprocessor of all but the
# smallest GPUs has four times as much.
SHARED_BYTES = 48 * 1024


@op(writes=("u", "argmax", "y"))
def forward(
    dev: Device,
    x: Array,
    u: Array,
    argmax: NDArray[np.uint8],
    y: Array,
    shape: PoolShape,
    norm: lrn.Normalising,
) -> Forms:
    """Writes u, argmax and y (N,P,Q,C) from x (N,H,W,C)."""

    def numpy() -> None:
        scale = dev.scratch("pool_lrn scale", y.shape, y.dtype)
        pool.forward(dev, x, u, argmax, shape)
        lrn.forward(dev, u, y, scale, norm)

    def kernel() -> None:
        width = vector_width(shape.c, x.dtype)
        block = lrn.walk(shape.c, width)
        blocks = -(-shape.p * shape.q // block[1])
        numbers = shape.fields(), blocks, norm.size, norm.share, norm.beta, norm.k
        shared = block[1] * shape.c * accumulator(x.dtype).itemsize
        launch = KERNELS.get("pool_lrn_forward", x.dtype, width)
        launch(dev, shape.n * blocks, block, (x, u, argmax, y, *numbers), shared)

    def native() -> None:
        function = NATIVE.get("pool_lrn_forward", x.dtype)
        arguments = x, u, argmax, y, shape.fields(), norm.fields()
        work = 8 * shape.q * shape.c
        function(dev, shape.n * shape.p, arguments, shape.sizes(), work)

    return Forms(numpy, kernel, native if norm.is_native else None)


@op(writes=("dx",))
def backward(
    dev: Device,
    dy: Array,
    u: Array,
    argmax: NDArray[np.uint8],
    dx: Array,
    shape: PoolShape,
    norm: lrn.Normalising,
) -> Forms:
    """Writes dx (N,H,W,C), of the ReLU's input, from dy (N,P,Q,C) and the forward's u
    and argmax."""

    def numpy() -> None:
        du = dev.scratch("pool_lrn du", u.shape, u.dtype)
        rows = [array.reshape(-1, shape.c) for array in (u, dy, du)]

        def work(start: int, stop: int) -> None:
            x, d, out = (array[start:stop] for array in rows)
            scale = dev.scratch("pool_lrn scale", x.shape, x.dtype)
            ratio = dev.scratch("pool_lrn ratio", x.shape, x.dtype)
            norm.scale(x, ratio, scale)
            lrn.power(scale, norm.beta, out)
            out *= d
            np.multiply(out, x, out=ratio)
            ratio /= scale
            total = scale  # no longer needed
            lrn.window_sum(ratio, norm.size, total)
            total *= x
            total *= norm.slope
            out -= total
            select(out, x > 0, out)

        dev.for_chunks(work, len(rows[0]), max(1, lrn.CHUNK // shape.c))
        pool.backward(dev, du, argmax, dx, shape)

    def kernel() -> None:
        sums = accumulator(u.dtype).itemsize
        tile, width = Tile.of(shape, sums), vector_width(shape.c, u.dtype)
        numbers = norm.size, norm.share, norm.slope, norm.beta, norm.k
        arguments = dy, u, argmax, dx, shape.fields(), tile._asdict(), *numbers
        grid, block = shape.n * tile.down * tile.across, lrn.walk(shape.c, width)
        launch = KERNELS.get("pool_lrn_backward", u.dtype, width)
        launch(dev, grid, block, arguments, shared=tile.numbers(shape) * sums)

    def native() -> None:
        function = NATIVE.get("pool_lrn_backward", u.dtype)
        arguments = dy, u, argmax, dx, shape.fields(), norm.fields()
        work = 8 * shape.p * shape.q * shape.c
        function(dev, shape.n, arguments, shape.sizes(), work)

    return Forms(numpy, kernel, native if norm.is_native else None)


class Tile(NamedTuple):
    """The backward kernel's struct Tile: the windows of one block."""

    rows: int
    columns: int
    down: int
    across: int
    overlap: int
    side: int

    @classmethod
    def of(cls, shape: PoolShape, itemsize: int) -> Tile:
        """Tiles as wide as shared memory allows, and as high as keeps a GPU busy.

        Args:
            itemsize: bytes of a sum.

        Raises:
            MinicnnError: not even one column of windows fits.
        """
        overlap, over = (
            -(-window // stride)
            for window, stride in zip(shape.window, shape.stride, strict=True)
        )
        side = over - 1
        row = SHARED_BYTES // ((overlap + 1) * shape.c * itemsize)
        if row - side < 1:
            raise MinicnnError(
                f"LRN of {shape.c} channels after pooling {shape.window} with stride "
                f"{shape.stride}: more than a GPU's shared memory holds; use fewer "
                "channels, a smaller window, or --device cpu"
            )
        across = -(-shape.q // (row - side))
        columns = -(-shape.q // across)
        across = -(-shape.q // columns)
        # Two tiles, one above the other, both compute overlap − 1 rows.
        down = max(1, min(shape.p, 4 * PROCESSORS // (shape.n * across)))
        rows = -(-shape.p // down)
        return cls(rows, columns, -(-shape.p // rows), across, overlap, side)

    def numbers(self, shape: PoolShape) -> int:
        """Sums that a block keeps in shared memory."""
        return (self.overlap + 1) * (self.columns + self.side) * shape.c
