"""Convolution with groups (cross-correlation), NHWC, and its gradients.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, p·stride+r−pad, q·stride+s−pad, c] · w[k,r,s,c]

where c runs over the input channels of k's group and x is zero outside the image. A
fully connected layer is the case whose filter covers the whole image.

NumPy form: the patches of a few images become the rows of a matrix (im2col), small
enough to stay in a core's cache, and one matrix product a group does the rest. Kernels:
the same products, with no patch ever written; see kernels/conv.cu. They take bfloat16
arrays too (dw and db stay float32), and multiply float32 ones as tf32 where the
device's precision says so: both on tensor cores.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from minicnn.device import Device
from minicnn.launch import KernelFile
from minicnn.ops import im2col, op, vector_width
from minicnn.ops.conv_plan import (
    DATA,
    FORWARD,
    PROCESSORS,
    WEIGHTS,
    Plan,
    ceil_div,
    plan,
)
from minicnn.ops.conv_shape import ConvShape

Array = NDArray[np.floating]

# Bytes of patches that one thread makes before it multiplies them: about a core's
# level-2 cache forward; more for weight gradients, where each product is added to dw.
FORWARD_BYTES = 1 << 20
WEIGHTS_BYTES = 1 << 23
# Output features that one thread computes at a time in a fully connected layer.
FEATURES = 256
KERNELS = KernelFile("conv.cu")
THREADS = 256
# Rows of dy in one of the sums that make db: of the NumPy form, and at least of the
# kernel's slices.
ROWS = 4096
LEAST_ROWS = 256


def _images(shape: ConvShape, budget: int, itemsize: int) -> int:
    """How many images' patches fit the budget: at least one."""
    return max(1, budget // (shape.p * shape.q * shape.taps * itemsize))


def _patches(dev: Device, x: Array, shape: ConvShape, group: int) -> Array:
    """Some images' patches of one group, (images·P·Q, R·S·C/groups), in scratch."""
    x = x[..., group * shape.depth : (group + 1) * shape.depth]
    outputs, window = (shape.p, shape.q), (shape.r, shape.s)
    return im2col.patches(dev, x, outputs, window, shape.stride, shape.pad)


def _rows(array: Array, group: int, groups: int) -> Array:
    """An (N,P,Q,K) array as (N·P·Q, K/groups) of one group; a view."""
    features = array.shape[-1] // groups
    flat = array.reshape(-1, array.shape[-1])
    return flat[:, group * features : (group + 1) * features]


@op
def forward(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool = False,
) -> None:
    """Writes y (N,P,Q,K) from x (N,H,W,C), w (K,R,S,C/groups) and b (K,).

    Args:
        b: the bias, or None for none.
        relu: whether y is max(·, 0).
    """
    w2 = w.reshape(shape.k, -1)

    def finish(part: Array, bias: Array | None) -> None:
        if bias is not None:
            part += bias
        if relu:
            np.maximum(part, 0, out=part)

    def features(start: int, stop: int) -> None:
        part = dev.scratch("cols", (shape.n, stop - start), x.dtype)
        np.matmul(x.reshape(shape.n, -1), w2[start:stop].T, out=part)
        finish(part, None if b is None else b[start:stop])
        y.reshape(shape.n, -1)[:, start:stop] = part

    def images(start: int, stop: int) -> None:
        for g in range(shape.groups):
            cols = _patches(dev, x[start:stop], shape, g)
            out = _rows(y[start:stop], g, shape.groups)
            ks = slice(g * out.shape[1], (g + 1) * out.shape[1])
            np.matmul(cols, w2[ks].T, out=out)
        finish(y[start:stop], b)

    if shape.is_product:
        dev.for_chunks(features, shape.k, FEATURES)
    else:
        chunk = _images(shape, FORWARD_BYTES, x.itemsize)
        dev.for_chunks(images, shape.n, chunk)


@forward.kernel
def _(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool = False,
) -> None:
    shape = shape.in_one_row()
    size = shape.n * shape.p * shape.q, shape.features, shape.taps
    how = _plan(dev, FORWARD, x, size, shape)
    _launch(dev, how, shape.groups, (x, w, b, y, shape.fields(), relu))


@op
def backward_data(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None = None,
) -> None:
    """Writes dx (N,H,W,C): convolutions of dy with w turned round.

    Each dx[h,w] gathers the outputs that its pixel took part in, so nothing is summed
    out of order. With a stride, the pixels of each phase meet taps of their own: each
    phase is a convolution with those alone (kernels/conv.cu has the formula).

    Args:
        relu_y: x, if it is a ReLU's output, and dx the gradient of the ReLU's input is
            wanted: dx is 0 where it is not positive. None: dx is x's gradient.
    """
    w2 = w.reshape(shape.k, -1)
    depth, features = shape.depth, shape.features
    phases = [
        (vertical, horizontal)
        for vertical in im2col.phases(
            shape.h, shape.p, shape.r, shape.stride[0], shape.pad[0]
        )
        for horizontal in im2col.phases(
            shape.w, shape.q, shape.s, shape.stride[1], shape.pad[1]
        )
    ]

    def inputs(start: int, stop: int) -> None:
        out = dx.reshape(shape.n, -1)[:, start:stop]
        np.matmul(dy.reshape(shape.n, -1), w2[:, start:stop], out=out)

    def images(start: int, stop: int) -> None:
        part, out = dy[start:stop], dx[start:stop]
        for (v, h), g in itertools.product(phases, range(shape.groups)):
            ks = slice(g * features, (g + 1) * features)
            target = out[:, v.pixels, h.pixels, g * depth : (g + 1) * depth]
            if not v.window * h.window:  # a stride beyond the filter skips pixels
                target[...] = 0
                continue
            length = v.count + v.window - 1, h.count + h.window - 1
            strip = dev.scratch("padded", (len(part), *length, features), dx.dtype)
            strip[...] = 0
            strip[:, v.inside, h.inside] = part[:, v.outputs, h.outputs, ks]
            window, count = (v.window, h.window), (v.count, h.count)
            cols = im2col.windows(dev, strip, count, window, (1, 1))
            turned = w[ks, v.taps, h.taps][:, ::-1, ::-1].transpose(1, 2, 0, 3)
            sums = dev.scratch("sums", target.shape, dx.dtype)
            np.matmul(cols, turned.reshape(-1, depth), out=sums.reshape(-1, depth))
            target[...] = sums

    if shape.is_product:
        dev.for_chunks(inputs, w2.shape[1], FEATURES)
    else:
        most = max(v.count * v.window * h.count * h.window for v, h in phases)
        image = max(1, most) * features * dx.itemsize
        chunk = max(1, FORWARD_BYTES // image)
        dev.for_chunks(images, shape.n, chunk)
    if relu_y is not None:
        relu_backward(dev, relu_y, dx)


@backward_data.kernel
def _(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None = None,
) -> None:
    shape = shape.in_one_row()
    # Of the largest phase; see the kernel.
    down, right = shape.stride
    pixels = shape.n * ceil_div(shape.h, down) * ceil_div(shape.w, right)
    taps = ceil_div(shape.r, down) * ceil_div(shape.s, right) * shape.features
    size, phases = (pixels, shape.depth, taps), down * right
    how = _plan(dev, DATA, dx, size, shape, phases)
    arguments = dy, w, relu_y, dx, shape.fields()
    _launch(dev, how, shape.groups, arguments, phases)


@op
def backward_weights(
    dev: Device, x: Array, dy: Array, dw: Array, db: Array | None, shape: ConvShape
) -> None:
    """Writes dw (K,R,S,C/groups) and db (K,), sums over the batch.

    Both are float32 where x and dy are bfloat16.
    """
    dw2 = dw.reshape(shape.k, -1)

    def features(start: int, stop: int) -> None:
        part = dy.reshape(shape.n, -1)[:, start:stop]
        np.matmul(part.T, x.reshape(shape.n, -1), out=dw2[start:stop])

    if shape.is_product:
        dev.for_chunks(features, shape.k, FEATURES)
    else:
        _sum_over_images(dev, x, dy, dw2, shape)
    if db is not None:
        _sum_over_rows(dev, dy.reshape(-1, shape.k), db)


def _sum_over_rows(dev: Device, rows: Array, out: Array) -> None:
    """out = Σ rows: sums of ROWS each, added in order."""
    partial = np.empty((ceil_div(len(rows), ROWS), rows.shape[1]), rows.dtype)

    def work(start: int, stop: int) -> None:
        np.sum(rows[start:stop], axis=0, out=partial[start // ROWS])

    dev.for_chunks(work, len(rows), ROWS)
    np.sum(partial, axis=0, out=out)


def _sum_over_images(
    dev: Device, x: Array, dy: Array, dw2: Array, shape: ConvShape
) -> None:
    """dw of a convolution: partial sums by chunk of images, added in order."""
    chunk = _images(shape, WEIGHTS_BYTES, x.itemsize)
    chunk = min(chunk, ceil_div(shape.n, 8))
    partial = dev.empty((ceil_div(shape.n, chunk), *dw2.shape), dw2.dtype)

    def images(start: int, stop: int) -> None:
        for g in range(shape.groups):
            cols = _patches(dev, x[start:stop], shape, g)
            rows = _rows(dy[start:stop], g, shape.groups)
            ks = slice(g * rows.shape[1], (g + 1) * rows.shape[1])
            np.matmul(rows.T, cols, out=partial[start // chunk, ks])

    dev.for_chunks(images, shape.n, chunk)
    np.sum(partial, axis=0, out=dw2)


@backward_weights.kernel
def _(
    dev: Device, x: Array, dy: Array, dw: Array, db: Array | None, shape: ConvShape
) -> None:
    shape = shape.in_one_row()
    pixels = shape.n * shape.p * shape.q
    size = shape.features, shape.taps, pixels
    how = _plan(dev, WEIGHTS, x, size, shape)
    partial = _slices(dev, "dw slices", how.slices, dw)
    arguments = x, dy, partial, shape.fields(), how.steps
    _launch(dev, how, shape.groups, arguments, how.slices)
    _sum_slices(dev, partial, dw)
    if db is not None:
        _sum_columns(dev, dy, db, pixels)


def _sum_columns(dev: Device, dy: Array, db: Array, rows: int) -> None:
    """db[k] = the sum of column k of dy's `rows` rows, slice by slice."""
    across = ceil_div(db.size, 32)
    each = max(LEAST_ROWS, ceil_div(rows * across, 8 * PROCESSORS))
    partial = _slices(dev, "db slices", ceil_div(rows, each), db)
    grid = across, len(partial)
    arguments = dy, partial, rows, db.size, each
    KERNELS.get("sum_columns", dy.dtype)(dev, grid, (32, 8), arguments)
    _sum_slices(dev, partial, db)


def _slices(dev: Device, key: str, slices: int, out: Array) -> Array:
    """Room for partial sums, (slices, *out.shape); a single slice is `out` itself."""
    if slices == 1:
        return out.reshape(1, *out.shape)
    return dev.scratch(key, (slices, *out.shape), out.dtype)


def _sum_slices(dev: Device, partial: Array, out: Array) -> None:
    if len(partial) > 1:
        kernel = KERNELS.get("sum_slices", out.dtype)
        blocks = ceil_div(out.size, THREADS)
        kernel(dev, blocks, THREADS, (partial, out, out.size, len(partial)))


@op
def relu_backward(dev: Device, y: Array, dy: Array) -> None:
    """dy ← dy where the ReLU's output y is positive, else 0; in place."""
    flat_y, flat_dy = y.reshape(-1), dy.reshape(-1)

    def work(start: int, stop: int) -> None:
        flat_dy[start:stop] *= flat_y[start:stop] > 0

    dev.for_chunks(work, flat_y.size, 1 << 16)


@relu_backward.kernel
def _(dev: Device, y: Array, dy: Array) -> None:
    blocks = min(8 * PROCESSORS, ceil_div(dy.nbytes, 16 * THREADS))
    KERNELS.get("relu_backward", dy.dtype)(dev, blocks, THREADS, (y, dy, dy.size))


def _plan(
    dev: Device,
    kernel: str,
    array: Array,
    size: tuple[int, int, int],
    shape: ConvShape,
    phases: int = 1,
) -> Plan:
    """How a kernel is to compute `phases` products of that size for each group.

    16 bytes of channels, and of features, are read as one where they are neighbours;
    where not, precision tf32 has no kernels of its own, and fp32's are more exact.
    """
    widths = (vector_width(n, array.dtype) for n in (shape.depth, shape.features))
    vectors = min(widths) > 1
    tf32 = getattr(dev, "precision", "fp32") == "tf32" and array.dtype == np.float32
    kind = "tf32" if tf32 and vectors else array.dtype
    return plan(kernel, kind, size, shape.groups * phases, vectors)


def _launch(
    dev: Device, how: Plan, groups: int, arguments: tuple[object, ...], third: int = 1
) -> None:
    """Launches a plan's kernel; the grid's third size is of phases or slices."""
    kernel = KERNELS.get(how.kernel, how.kind, *how.tile)
    grid = how.tiles, groups, third
    kernel(dev, grid, how.threads, arguments, shared=how.shared_bytes)
