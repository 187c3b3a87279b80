"""Convolution with groups (cross-correlation), NHWC, and its gradients.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, p·stride+r−pad, q·stride+s−pad, g·C/G+c] · w[k,r,s,c]

where g is the group of output channel k and x is zero outside the image. A fully
connected layer is the case whose filter covers the whole image.

NumPy form: the patches of a few images become the rows of a matrix (im2col), small
enough to stay in a core's cache, and one matrix product a group does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minicnn.device import Device
from minicnn.errors import MinicnnError
from minicnn.ops import op

Pair = tuple[int, int]
Array = NDArray[np.floating]

# Bytes of patches that one thread makes before it multiplies them: about a core's
# level-2 cache forward; more for weight gradients, where each product is added to dw.
FORWARD_BYTES = 1 << 20
WEIGHTS_BYTES = 1 << 23
# Output features that one thread computes at a time in a fully connected layer.
FEATURES = 256


def pair(value: int | Pair) -> Pair:
    """An int or a pair as a pair (vertical, horizontal)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class ConvShape:
    """One convolution problem: x (N,H,W,C), w (K,R,S,C/groups), y (N,P,Q,K)."""

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    groups: int = 1

    @classmethod
    def of(
        cls,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: int | Pair = 1,
        pad: int | Pair = 0,
        groups: int = 1,
    ) -> ConvShape:
        """The problem of these arrays.

        Raises:
            MinicnnError: the shapes do not fit each other, or the output is empty.
        """
        n, h, w, c = x_shape
        k, r, s, depth = w_shape
        shape = cls(n, h, w, c, k, r, s, pair(stride), pair(pad), groups)
        if groups < 1 or c % groups or k % groups:
            raise MinicnnError(
                f"conv groups {groups}: must divide the {c} input and {k} output channels"
            )
        if depth * groups != c:
            raise MinicnnError(
                f"conv w {w_shape}: {depth} channels a group times {groups} groups is "
                f"not the input's {c} channels"
            )
        if min(shape.stride) < 1 or min(shape.pad) < 0:
            raise MinicnnError(
                f"conv stride {shape.stride} pad {shape.pad}: the stride must be at "
                "least 1 and the padding at least 0"
            )
        if shape.p < 1 or shape.q < 1:
            raise MinicnnError(
                f"conv filter {r}x{s}: larger than the padded input of {h}x{w} with "
                f"pad {shape.pad}"
            )
        return shape

    @property
    def p(self) -> int:
        """Output height."""
        return (self.h + 2 * self.pad[0] - self.r) // self.stride[0] + 1

    @property
    def q(self) -> int:
        """Output width."""
        return (self.w + 2 * self.pad[1] - self.s) // self.stride[1] + 1

    @property
    def is_product(self) -> bool:
        """Whether the filter covers the whole image: a fully connected layer."""
        return (
            self.groups == 1
            and self.pad == (0, 0)
            and (self.r, self.s) == (self.h, self.w)
        )

    @property
    def flops(self) -> int:
        """Floating-point operations of one pass: two for each multiply-add."""
        taps = self.r * self.s * self.c // self.groups
        return 2 * self.n * self.p * self.q * self.k * taps


def _images(shape: ConvShape, budget: int, itemsize: int) -> int:
    """How many images' patches fit the budget: at least one."""
    taps = shape.r * shape.s * shape.c // shape.groups
    return max(1, budget // (shape.p * shape.q * taps * itemsize))


def _patches(dev: Device, x: Array, shape: ConvShape, group: int) -> Array:
    """Some images' patches of one group, (images·P·Q, R·S·C/groups), in scratch."""
    images = len(x)
    depth = shape.c // shape.groups
    x = x[..., group * depth : (group + 1) * depth]
    top, left = shape.pad
    if top or left:
        padded = (images, shape.h + 2 * top, shape.w + 2 * left, depth)
        room = dev.scratch("padded", padded, x.dtype)
        room[:, :top] = room[:, top + shape.h :] = 0
        room[:, :, :left] = room[:, :, left + shape.w :] = 0
        room[:, top : top + shape.h, left : left + shape.w] = x
        x = room
    outputs, window = (shape.p, shape.q), (shape.r, shape.s)
    return _windows(dev, x, outputs, window, shape.stride)


def _windows(dev: Device, x: Array, outputs: Pair, window: Pair, stride: Pair) -> Array:
    """Every window of x (N,H,W,C) as a row, (N·P·Q, R·S·C), copied to scratch."""
    size = (len(x), *outputs, *window, x.shape[-1])
    step = x.strides
    strides = (step[0], step[1] * stride[0], step[2] * stride[1], *step[1:])
    view = np.lib.stride_tricks.as_strided(x, size, strides, writeable=False)
    cols = dev.scratch("cols", size, x.dtype)
    np.copyto(cols, view)
    return cols.reshape(len(x) * outputs[0] * outputs[1], -1)


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


@op
def backward_data(
    dev: Device, dy: Array, w: Array, dx: Array, shape: ConvShape
) -> None:
    """Writes dx (N,H,W,C): a convolution of dy, spread by the stride, with w turned round.

    Each dx[h,w] gathers the outputs that its pixel took part in, so nothing is summed
    out of order.
    """
    w2 = w.reshape(shape.k, -1)
    depth, features = shape.c // shape.groups, shape.k // shape.groups
    # dy[p] lies at p·stride + R−1−pad of a strip that dx[h] reads from h to h+R−1.
    height, width = shape.h + shape.r - 1, shape.w + shape.s - 1
    ps, rows = _spread(shape.p, shape.stride[0], shape.r - 1 - shape.pad[0], height)
    qs, columns = _spread(shape.q, shape.stride[1], shape.s - 1 - shape.pad[1], width)
    turned = [
        w[g * features : (g + 1) * features, ::-1, ::-1]
        .transpose(1, 2, 0, 3)
        .reshape(-1, depth)
        for g in range(shape.groups)
    ]

    def inputs(start: int, stop: int) -> None:
        out = dx.reshape(shape.n, -1)[:, start:stop]
        np.matmul(dy.reshape(shape.n, -1), w2[:, start:stop], out=out)

    def images(start: int, stop: int) -> None:
        size = (stop - start, height, width, features)
        strip = dev.scratch("padded", size, dx.dtype)
        for g in range(shape.groups):
            strip[...] = 0
            ks = slice(g * features, (g + 1) * features)
            strip[:, rows, columns] = dy[start:stop, ps, qs, ks]
            cols = _windows(dev, strip, (shape.h, shape.w), (shape.r, shape.s), (1, 1))
            np.matmul(cols, turned[g], out=_rows(dx[start:stop], g, shape.groups))

    if shape.is_product:
        dev.for_chunks(inputs, w2.shape[1], FEATURES)
    else:
        taps = shape.h * shape.w * shape.r * shape.s * features
        chunk = max(1, FORWARD_BYTES // (taps * dx.itemsize))
        dev.for_chunks(images, shape.n, chunk)


def _spread(count: int, stride: int, offset: int, length: int) -> tuple[slice, slice]:
    """Which of `count` outputs land in a strip of that length, and where.

    Output i lies at i·stride + offset; padding beyond the filter puts some outside.
    """
    first = max(0, -(offset // stride))
    last = min(count - 1, (length - 1 - offset) // stride)
    start = first * stride + offset
    return slice(first, last + 1), slice(start, last * stride + offset + 1, stride)


@op
def backward_weights(
    dev: Device, x: Array, dy: Array, dw: Array, db: Array | None, shape: ConvShape
) -> None:
    """Writes dw (K,R,S,C/groups) and db (K,), sums over the batch."""
    dw2 = dw.reshape(shape.k, -1)

    def features(start: int, stop: int) -> None:
        part = dy.reshape(shape.n, -1)[:, start:stop]
        np.matmul(part.T, x.reshape(shape.n, -1), out=dw2[start:stop])

    if shape.is_product:
        dev.for_chunks(features, shape.k, FEATURES)
    else:
        _sum_over_images(dev, x, dy, dw2, shape)
    if db is not None:
        np.sum(dy.reshape(-1, shape.k), axis=0, out=db)


def _sum_over_images(
    dev: Device, x: Array, dy: Array, dw2: Array, shape: ConvShape
) -> None:
    """dw of a convolution: partial sums by chunk of images, added in order."""
    chunk = _images(shape, WEIGHTS_BYTES, x.itemsize)
    chunk = min(chunk, -(-shape.n // 8))
    partial = dev.empty((-(-shape.n // chunk), *dw2.shape), dw2.dtype)

    def images(start: int, stop: int) -> None:
        for g in range(shape.groups):
            cols = _patches(dev, x[start:stop], shape, g)
            rows = _rows(dy[start:stop], g, shape.groups)
            ks = slice(g * rows.shape[1], (g + 1) * rows.shape[1])
            np.matmul(rows.T, cols, out=partial[start // chunk, ks])

    dev.for_chunks(images, shape.n, chunk)
    np.sum(partial, axis=0, out=dw2)


@op
def relu_backward(dev: Device, y: Array, dy: Array) -> None:
    """dy ← dy where the ReLU's output y is positive, else 0; in place."""
    flat_y, flat_dy = y.reshape(-1), dy.reshape(-1)

    def work(start: int, stop: int) -> None:
        flat_dy[start:stop] *= flat_y[start:stop] > 0

    dev.for_chunks(work, flat_y.size, 1 << 16)
