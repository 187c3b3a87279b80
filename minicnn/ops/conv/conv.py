"""Convolution with groups (cross-correlation), NHWC, and its gradients.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, p·stride+r−pad, q·stride+s−pad, c] · w[k,r,s,c]

where c runs over the input channels of k's group and x is zero outside the image. A
fully connected layer is the case whose filter covers the whole image.

NumPy form: of each tap a matrix product of the pixels that it meets. Kernels: a product
of patches that are not in memory, see kernels/conv.cu. x, w, b, y, dx and dy have one
dtype; dw and db too, but for bfloat16, where they are float32. Tensor cores multiply
bfloat16, and float32 as tf32 or tf32x3 on request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.precision import accumulator
from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op, select, vector_width
from minicnn.ops.conv import native_form
from minicnn.ops.conv.plan import (
    DATA,
    FORWARD,
    PROCESSORS,
    WEIGHTS,
    Plan,
    ceil_div,
    plan,
)
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.windows import Region, taps

Array = NDArray[np.floating]

KERNELS = KernelFile("conv.cu")
NATIVE = NativeFile("elementwise.cpp")
THREADS = 256
# Of the NumPy forms: least rows of a product; features of a thread's chunk of dw.
ROWS, FEATURES = 64, 64


@op(writes=("y",))
def forward(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool = False,
    tensor: str | None = None,
) -> Forms:
    """Writes y (N,P,Q,K) from x (N,H,W,C), w (K,R,S,C/groups) and b (K,).

    Args:
        b: the bias, or None for none.
        relu: whether y is max(·, 0).
        tensor: type in which tensor cores multiply float32, "tf32" or "tf32x3"; None
            for float32 itself, without tensor cores.
    """

    def numpy() -> None:
        filters = _filters(w, shape)

        def images(start: int, stop: int) -> None:
            out = y[start:stop]
            out[...] = 0 if b is None else b
            for r, s, outputs, pixels in _taps(shape):
                sums = _rows(x[start:stop][pixels], shape) @ filters[:, r, s]
                _add(out[outputs], sums)
            if relu:
                np.maximum(out, 0, out=out)

        dev.for_chunks(images, shape.n, _images(shape))

    def kernel() -> None:
        row = shape.in_one_row()
        size = row.n * row.p * row.q, row.features, row.taps
        chosen = _plan(FORWARD, x.dtype, size, row, tensor)
        _write(dev, chosen, row, (x, w, b, relu), y, (b, relu, None))

    def native() -> None:
        if shape.is_product:
            arrays = native_form.panels(dev, "turn", x, shape), w, b, y
            items = ceil_div(shape.k, native_form.FEATURES)
            native_form.multiply(dev, "forward", items, arrays, shape, relu)
        else:
            native_form.convolve(dev, x, w, b, None, y, shape, relu)

    return Forms(numpy, kernel, native)


@op(writes=("dx",))
def backward_data(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None = None,
    tensor: str | None = None,
) -> Forms:
    """Writes dx (N,H,W,C), the gradient of x.

    Kernels and compiled code gather each dx[h,w] from the outputs that its pixel took
    part in: convolutions of dy with w turned round. With a stride, the pixels of each
    phase meet taps of their own: each phase is a convolution with those alone
    (kernels/conv.cu has the formula); the cpu device leaves these to NumPy.

    Args:
        relu_y: x, if it is a ReLU's output, and dx the gradient of the ReLU's input is
            wanted: dx is 0 where it is not positive. None: dx is x's gradient.
        tensor: as for `forward`.
    """

    def numpy() -> None:
        filters = _filters(w, shape)

        def images(start: int, stop: int) -> None:
            out = dx[start:stop]
            out[...] = 0
            for r, s, outputs, pixels in _taps(shape):
                rows = _rows(dy[start:stop][outputs], shape)
                _add(out[pixels], rows @ filters[:, r, s].swapaxes(1, 2))
            if relu_y is not None:
                select(out, relu_y[start:stop] > 0, out)

        dev.for_chunks(images, shape.n, _images(shape))

    def kernel() -> None:
        row = shape.in_one_row()
        # Of the largest phase; see the kernel.
        down, right = row.stride
        pixels = row.n * ceil_div(row.h, down) * ceil_div(row.w, right)
        taps = ceil_div(row.r, down) * ceil_div(row.s, right) * row.features
        size, phases = (pixels, row.depth, taps), down * right
        chosen = _plan(DATA, dx.dtype, size, row, tensor, phases)
        inputs, finish = (dy, w, relu_y), (None, False, relu_y)
        _write(dev, chosen, row, inputs, dx, finish, phases)

    pad = shape.r - 1 - shape.pad[0], shape.s - 1 - shape.pad[1]

    def native() -> None:
        if shape.is_product:
            wide = w.nbytes > native_form.LARGE
            stretch = native_form.WIDE if wide else native_form.NARROW
            items, arrays = ceil_div(shape.taps, stretch), (dy, w, relu_y, dx)
            native_form.multiply(dev, "backward", items, arrays, shape, stretch)
        else:
            turned = replace(shape, h=shape.p, w=shape.q, c=shape.k, k=shape.c, pad=pad)
            native_form.convolve(dev, dy, w, None, relu_y, dx, turned, turned=True)

    offered = shape.is_product or (shape.stride == (1, 1) and min(pad) >= 0)
    return Forms(numpy, kernel, native if offered else None)


@op(writes=("dw", "db"))
def backward_weights(
    dev: Device,
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None,
    shape: ConvShape,
    tensor: str | None = None,
) -> Forms:
    """Writes slices whose sums over the batch are dw (K,R,S,C/groups) and db (K,).

    Args:
        dw, db: (slices, numbers), as many slices as `gradient_slices` says of this
            batch or a larger one; of each row the first numbers are a slice in C order,
            and the rest is left alone. Both are float32 where x and dy are bfloat16.
        tensor: as for `forward`.
    """
    # On the host there is one slice.
    flat_dw = dw[0, : shape.k * shape.taps]
    flat_db = None if db is None else db[0, : shape.k]

    def numpy() -> None:
        filters = _filters(flat_dw, shape)

        def features(start: int, stop: int) -> None:
            for r, s, outputs, pixels in _taps(shape):
                rows = _rows(dy[outputs], shape)[:, :, start:stop]
                images = _rows(x[pixels], shape)
                np.matmul(
                    images.swapaxes(1, 2), rows, out=filters[:, r, s, :, start:stop]
                )

        dev.for_chunks(features, shape.features, FEATURES)
        if flat_db is not None:
            np.sum(dy.reshape(-1, shape.k), axis=0, out=flat_db)

    def kernel() -> None:
        row = shape.in_one_row()
        chosen = _weights_plan(x.dtype, row, tensor, len(dw))
        apart = dw.shape[1], 0 if db is None else db.shape[1]
        arguments = x, dy, dw, db, row.fields(), *apart, chosen.steps
        _launch(dev, chosen, row.groups, arguments)

    def native() -> None:
        if shape.is_product:
            panels = native_form.panels(dev, "cut", x, shape)
            arrays = panels, dy, flat_dw, flat_db
            items = ceil_div(shape.k, native_form.FEATURES)
            native_form.multiply(dev, "weights", items, arrays, shape)
        else:
            native_form.differentiate(dev, x, dy, flat_dw, flat_db, shape)

    return Forms(numpy, kernel, native)


def gradient_slices(
    dev: Device, dtype: DTypeLike, shape: ConvShape, tensor: str | None = None
) -> tuple[int, int]:
    """Slices of dw and of db that `backward_weights` writes.

    A weight gradient has few numbers and sums many products: slices keep a GPU busy.
    The solver's update adds them up, in order.

    Args:
        dtype: of x.
        shape: with the largest batch.
    """
    slices = 1
    if dev.has_kernels:
        how = _weights_plan(np.dtype(dtype), shape.in_one_row(), tensor)
        slices = how.slices
    return slices, slices


@op(updates=("dy",))
def relu_backward(dev: Device, y: Array, dy: Array) -> Forms:
    """dy ← dy where the ReLU's output y is positive, else 0; in place.

    Where y is 0 or NaN the gradient is 0, even if dy is NaN; so in all forms, and in
    all ops that take a ReLU's gradient.
    """

    def numpy() -> None:
        flat_y, flat_dy = y.reshape(-1), dy.reshape(-1)

        def numbers(start: int, stop: int) -> None:
            part = flat_dy[start:stop]
            select(part, flat_y[start:stop] > 0, part)

        dev.for_chunks(numbers, flat_y.size, 1 << 16)

    def kernel() -> None:
        blocks = min(8 * PROCESSORS, ceil_div(dy.nbytes, 16 * THREADS))
        KERNELS.get("relu_backward", dy.dtype)(dev, blocks, THREADS, (y, dy, dy.size))

    def native() -> None:
        sizes = {"y": dy.size, "dy": dy.size}
        NATIVE.get("relu_backward", dy.dtype)(dev, dy.size, (y, dy), sizes, work=1)

    return Forms(numpy, kernel, native)


# Of the NumPy forms: filters are (groups, R, S, C/groups, K/groups), images rows of
# pixels, (groups, pixels, C/groups).


def _taps(shape: ConvShape) -> Iterator[tuple[int, int, Region, Region]]:
    image, outputs = (shape.h, shape.w), (shape.p, shape.q)
    return taps(image, outputs, (shape.r, shape.s), shape.stride, shape.pad)


def _images(shape: ConvShape) -> int:
    """Images of a thread's chunk: enough for products of ROWS rows."""
    return max(1, ROWS // (shape.p * shape.q))


def _filters(w: Array, shape: ConvShape) -> Array:
    """A view of w."""
    sizes = shape.groups, shape.features, shape.r, shape.s, shape.depth
    return np.moveaxis(w.reshape(sizes), 1, -1)


def _rows(images: Array, shape: ConvShape) -> Array:
    """A copy of the images."""
    *places, channels = images.shape
    depth = channels // shape.groups
    apart = np.moveaxis(images.reshape(*places, shape.groups, depth), 3, 0)
    return apart.reshape(shape.groups, math.prod(places), depth)


def _add(images: Array, rows: Array) -> None:
    """images += rows."""
    apart = rows.reshape(len(rows), *images.shape[:3], rows.shape[-1])
    images += np.moveaxis(apart, 0, 3).reshape(images.shape)


# Of the kernels.


def _weights_plan(
    dtype: np.dtype,
    shape: ConvShape,
    tensor: str | None,
    slices: int | None = None,
) -> Plan:
    size = shape.features, shape.taps, shape.n * shape.p * shape.q
    return _plan(WEIGHTS, dtype, size, shape, tensor, slices=slices)


def _plan(
    kernel: str,
    dtype: np.dtype,
    size: tuple[int, int, int],
    shape: ConvShape,
    tensor: str | None,
    phases: int = 1,
    slices: int | None = None,
) -> Plan:
    """The plan of a kernel for `phases` products of that size in each group.

    Vectors of 16 bytes need as many channels and features of a group; without them
    tensor cores multiply no float32.
    """
    depth, features = shape.depth, shape.features
    vectors = min(vector_width(depth, dtype), vector_width(features, dtype)) > 1
    kind = tensor if tensor and vectors and dtype == np.float32 else dtype
    return plan(kernel, kind, size, shape.groups * phases, vectors, slices)


def _launch(
    dev: Device, chosen: Plan, groups: int, arguments: tuple[Any, ...], phases: int = 1
) -> None:
    """Launches a plan's kernel."""
    kernel = KERNELS.get(chosen.kernel, chosen.kind, *chosen.tile)
    grid = chosen.tiles, groups, phases * chosen.slices
    kernel(dev, grid, chosen.threads, arguments, shared=chosen.shared_bytes)


def _write(
    dev: Device,
    chosen: Plan,
    shape: ConvShape,
    inputs: tuple[Any, ...],
    out: Array,
    finish: tuple[Any, ...],
    phases: int = 1,
) -> None:
    """Writes y or dx, from slices in scratch if there are several."""
    slices, sums, partial = chosen.slices, accumulator(out.dtype), None
    if slices > 1:
        partial = dev.scratch("slices", (slices, out.size), sums)
    arguments = *inputs, out, partial, shape.fields(), chosen.steps
    _launch(dev, chosen, shape.groups, arguments, phases)
    if slices > 1:
        blocks = min(8 * PROCESSORS, ceil_div(out.nbytes, 16 * THREADS))
        arguments = partial, *finish, out, out.size, out.shape[-1], slices
        KERNELS.get("add_slices", out.dtype)(dev, blocks, THREADS, arguments)
