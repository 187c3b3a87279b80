"""Convolution's NumPy form: the loops behind `conv`, which says what each computes.

The patches of a few images become the rows of a matrix (im2col), small enough to stay
in a core's cache, and one matrix product a group does the rest.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from minicnn.devices.device import Device
from minicnn.ops import select
from minicnn.ops.conv import im2col
from minicnn.ops.conv.shape import ConvShape

Array = NDArray[np.floating]

# Bytes of patches of a thread's chunk: about a core's level-2 cache; more for weight
# gradients, where each product is a partial sum of dw.
FORWARD_BYTES = 1 << 20
WEIGHTS_BYTES = 1 << 23
# Output features of a thread's chunk in a fully connected layer.
FEATURES = 256
# Rows of dy in a partial sum of db.
ROWS = 4096


def _images(shape: ConvShape, budget: int, itemsize: int) -> int:
    """Images whose patches fit the budget of bytes, at least one."""
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


def forward(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool,
) -> None:
    """See `conv.forward`."""
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


def backward_data(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None,
) -> None:
    """See `conv.backward_data`."""
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
        if relu_y is not None:
            select(out, relu_y.reshape(shape.n, -1)[:, start:stop] > 0, out)

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
        if relu_y is not None:
            select(out, relu_y[start:stop] > 0, out)

    if shape.is_product:
        dev.for_chunks(inputs, w2.shape[1], FEATURES)
    else:
        most = max(v.count * v.window * h.count * h.window for v, h in phases)
        image = max(1, most) * features * dx.itemsize
        chunk = max(1, FORWARD_BYTES // image)
        dev.for_chunks(images, shape.n, chunk)


def backward_weights(
    dev: Device, x: Array, dy: Array, dw: Array, db: Array | None, shape: ConvShape
) -> None:
    """See `conv.backward_weights`; there is one slice."""
    dw2 = dw[0, : shape.k * shape.taps].reshape(shape.k, -1)

    def features(start: int, stop: int) -> None:
        part = dy.reshape(shape.n, -1)[:, start:stop]
        np.matmul(part.T, x.reshape(shape.n, -1), out=dw2[start:stop])

    if shape.is_product:
        dev.for_chunks(features, shape.k, FEATURES)
    else:
        _sum_over_images(dev, x, dy, dw2, shape)
    if db is not None:
        _sum_over_rows(dev, dy.reshape(-1, shape.k), db[0, : shape.k])


def _sum_over_rows(dev: Device, rows: Array, out: Array) -> None:
    """out = Σ rows: sums of ROWS each, added in order."""
    size = -(-len(rows) // ROWS), rows.shape[1]
    partial = dev.scratch("db partial", size, rows.dtype)

    def work(start: int, stop: int) -> None:
        np.sum(rows[start:stop], axis=0, out=partial[start // ROWS])

    dev.for_chunks(work, len(rows), ROWS)
    np.sum(partial, axis=0, out=out)


def _sum_over_images(
    dev: Device, x: Array, dy: Array, dw2: Array, shape: ConvShape
) -> None:
    """dw of a convolution: partial sums by chunk of images, added in order."""
    chunk = _images(shape, WEIGHTS_BYTES, x.itemsize)
    chunk = min(chunk, -(-shape.n // 8))
    size = -(-shape.n // chunk), *dw2.shape
    partial = dev.scratch("dw partial", size, dw2.dtype)

    def images(start: int, stop: int) -> None:
        for g in range(shape.groups):
            cols = _patches(dev, x[start:stop], shape, g)
            rows = _rows(dy[start:stop], g, shape.groups)
            ks = slice(g * rows.shape[1], (g + 1) * rows.shape[1])
            np.matmul(rows.T, cols, out=partial[start // chunk, ks])

    dev.for_chunks(images, shape.n, chunk)
    np.sum(partial, axis=0, out=dw2)
