"""Convolution with groups (cross-correlation), NHWC, and its gradients.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, p·stride+r−pad, q·stride+s−pad, c] · w[k,r,s,c]

where c runs over the input channels of k's group and x is zero outside the image. A
fully connected layer is the case whose filter covers the whole image.

NumPy form: matrix products of patches, see `numpy_form`. Kernels: the same products
without patches in memory, see kernels/conv.cu. x, w, b, y, dx and dy have one dtype; dw
and db too, but for bfloat16, where they are float32. Tensor cores multiply bfloat16,
and float32 as tf32 or tf32x3 on request.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.precision import accumulator
from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import op, select, vector_width
from minicnn.ops.conv import native_form as conv_native
from minicnn.ops.conv import numpy_form as conv_numpy
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

Array = NDArray[np.floating]

KERNELS = KernelFile("conv.cu")
NATIVE = NativeFile("elementwise.cpp")
THREADS = 256


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
) -> None:
    """Writes y (N,P,Q,K) from x (N,H,W,C), w (K,R,S,C/groups) and b (K,).

    Args:
        b: the bias, or None for none.
        relu: whether y is max(·, 0).
        tensor: type in which tensor cores multiply float32, "tf32" or "tf32x3"; None
            for float32 itself, without tensor cores.
    """
    conv_numpy.forward(dev, x, w, b, y, shape, relu)


forward.native(conv_native.forward_native)


@forward.kernel
def forward_kernel(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool = False,
    tensor: str | None = None,
) -> None:
    shape = shape.in_one_row()
    size = shape.n * shape.p * shape.q, shape.features, shape.taps
    chosen = _plan(dev, FORWARD, x.dtype, size, shape, tensor)
    _write(dev, chosen, shape, (x, w, b, relu), y, (b, relu, None))


@op(writes=("dx",))
def backward_data(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None = None,
    tensor: str | None = None,
) -> None:
    """Writes dx (N,H,W,C): convolutions of dy with w turned round.

    Each dx[h,w] gathers the outputs that its pixel took part in, so nothing is summed
    out of order. With a stride, the pixels of each phase meet taps of their own: each
    phase is a convolution with those alone (kernels/conv.cu has the formula).

    Args:
        relu_y: x, if it is a ReLU's output, and dx the gradient of the ReLU's input is
            wanted: dx is 0 where it is not positive. None: dx is x's gradient.
        tensor: as for `forward`.
    """
    conv_numpy.backward_data(dev, dy, w, dx, shape, relu_y)


backward_data.native(conv_native.backward_data_native)


@backward_data.kernel
def backward_data_kernel(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None = None,
    tensor: str | None = None,
) -> None:
    shape = shape.in_one_row()
    # Of the largest phase; see the kernel.
    down, right = shape.stride
    pixels = shape.n * ceil_div(shape.h, down) * ceil_div(shape.w, right)
    taps = ceil_div(shape.r, down) * ceil_div(shape.s, right) * shape.features
    size, phases = (pixels, shape.depth, taps), down * right
    chosen = _plan(dev, DATA, dx.dtype, size, shape, tensor, phases)
    inputs, finish = (dy, w, relu_y), (None, False, relu_y)
    _write(dev, chosen, shape, inputs, dx, finish, phases)


@op(writes=("dw", "db"))
def backward_weights(
    dev: Device,
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None,
    shape: ConvShape,
    tensor: str | None = None,
) -> None:
    """Writes slices whose sums over the batch are dw (K,R,S,C/groups) and db (K,).

    Args:
        dw, db: (slices, numbers), as many slices as `gradient_slices` says of this
            batch or a larger one; of each row the first numbers are a slice in C order,
            and the rest is left alone. Both are float32 where x and dy are bfloat16.
        tensor: as for `forward`.
    """
    conv_numpy.backward_weights(dev, x, dy, dw, db, shape)


backward_weights.native(conv_native.backward_weights_native)


@backward_weights.kernel
def backward_weights_kernel(
    dev: Device,
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None,
    shape: ConvShape,
    tensor: str | None = None,
) -> None:
    shape = shape.in_one_row()
    chosen = _weights_plan(dev, x.dtype, shape, tensor, len(dw))
    apart = dw.shape[1], 0 if db is None else db.shape[1]
    arguments = x, dy, dw, db, shape.fields(), *apart, chosen.steps
    _launch(dev, chosen, shape.groups, arguments)


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
        how = _weights_plan(dev, np.dtype(dtype), shape.in_one_row(), tensor)
        slices = how.slices
    return slices, slices


@op(updates=("dy",))
def relu_backward(dev: Device, y: Array, dy: Array) -> None:
    """dy ← dy where the ReLU's output y is positive, else 0; in place.

    Where y is 0 or NaN the gradient is 0, even if dy is NaN; so in all forms, and in
    all ops that take a ReLU's gradient.
    """
    flat_y, flat_dy = y.reshape(-1), dy.reshape(-1)

    def work(start: int, stop: int) -> None:
        part = flat_dy[start:stop]
        select(part, flat_y[start:stop] > 0, part)

    dev.for_chunks(work, flat_y.size, 1 << 16)


@relu_backward.native
def relu_backward_native(dev: Device, y: Array, dy: Array) -> None:
    sizes = {"y": dy.size, "dy": dy.size}
    NATIVE.get("relu_backward", dy.dtype)(dev, dy.size, (y, dy), sizes, work=1)


@relu_backward.kernel
def relu_backward_kernel(dev: Device, y: Array, dy: Array) -> None:
    blocks = min(8 * PROCESSORS, ceil_div(dy.nbytes, 16 * THREADS))
    KERNELS.get("relu_backward", dy.dtype)(dev, blocks, THREADS, (y, dy, dy.size))


def _weights_plan(
    dev: Device,
    dtype: np.dtype,
    shape: ConvShape,
    tensor: str | None,
    slices: int | None = None,
) -> Plan:
    size = shape.features, shape.taps, shape.n * shape.p * shape.q
    return _plan(dev, WEIGHTS, dtype, size, shape, tensor, slices=slices)


def _plan(
    dev: Device,
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
