"""Convolution's compiled form on the cpu device: kernels/cpu/conv*.cpp, product.cpp.

Patches of images are never written down, nor are the weights of fully connected layers
rearranged. Data gradients with a stride stay with NumPy's form.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.compile.native import CHUNKS, NativeFile
from minicnn.devices.device import Device
from minicnn.ops.conv.shape import ConvShape

Array = NDArray[np.floating]

FILE, WEIGHTS = NativeFile("conv.cpp"), NativeFile("conv_weights.cpp")
PRODUCT = NativeFile("product.cpp")
# Bytes of the widest vector; features are padded to whole ones.
VECTOR = 64
# Sizes of an item of a fully connected layer: features; inputs of transposed images;
# inputs of weights of more than LARGE bytes, which no cache holds, and of smaller ones.
FEATURES, TURNED, WIDE, NARROW, LARGE = 24, 16, 768, 96, 1 << 22
# Work of one gathered weight; see `Function`.
GATHERED = 4


def forward_native(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool = False,
    tensor: str | None = None,
) -> Any:
    """See `conv.forward`; NotImplemented where the NumPy form is to do it."""
    if shape.is_product:
        panels = _panels(dev, "turn", x, shape.n, shape.taps)
        work = PRODUCT.get("product_forward", x.dtype)
        size = shape.n, shape.k, shape.taps
        items = -(-shape.k // FEATURES)
        return work(dev, items, (panels, w, b, y, *size, relu), _product_sizes(shape))
    return _convolve(dev, x, w, b, None, y, shape, relu, turned=False)


def backward_data_native(
    dev: Device,
    dy: Array,
    w: Array,
    dx: Array,
    shape: ConvShape,
    relu_y: Array | None = None,
    tensor: str | None = None,
) -> Any:
    """See `conv.backward_data`; NotImplemented where the NumPy form is to do it.

    A forward pass over dy, with filters turned round.
    """
    if shape.is_product:
        work = PRODUCT.get("product_backward", dy.dtype)
        stretch = WIDE if w.nbytes > LARGE else NARROW
        args = dy, w, relu_y, dx, shape.n, shape.k, shape.taps, stretch
        return work(dev, -(-shape.taps // stretch), args, _product_sizes(shape))
    pad = shape.r - 1 - shape.pad[0], shape.s - 1 - shape.pad[1]
    if shape.stride != (1, 1) or min(pad) < 0:
        return NotImplemented
    turned = replace(shape, h=shape.p, w=shape.q, c=shape.k, k=shape.c, pad=pad)
    return _convolve(dev, dy, w, None, relu_y, dx, turned, False, turned=True)


def _convolve(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    relu_y: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool,
    turned: bool,
) -> None:
    about, features = _fields(shape), -(-shape.features * x.itemsize // VECTOR)
    count = shape.groups * features * (VECTOR // x.itemsize) * shape.taps
    panels = dev.scratch("panels", (count,), x.dtype)
    pack, convolve = (FILE.get(f"conv_{name}", x.dtype) for name in ("pack", "forward"))
    parts, weights = CHUNKS * dev.threads, shape.k * shape.taps
    packed = w, panels, about, parts, turned
    pack(dev, parts, packed, {"w": weights}, work=GATHERED * weights / parts)
    sizes = {"x": shape.n * shape.h * shape.w * shape.c, "bias": shape.k}
    sizes |= dict.fromkeys(("y", "relu_y"), shape.n * shape.p * shape.q * shape.k)
    convolve(dev, shape.n, (x, panels, b, relu_y, y, about, relu), sizes)


def backward_weights_native(
    dev: Device,
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None,
    shape: ConvShape,
    tensor: str | None = None,
) -> Any:
    """See `conv.backward_weights`; NotImplemented where the NumPy form is to do it."""
    flat_dw = dw[0, : shape.k * shape.taps]
    flat_db = None if db is None else db[0, : shape.k]
    if shape.is_product:
        panels = _panels(dev, "cut", x, shape.n, shape.taps)
        work = PRODUCT.get("product_weights", x.dtype)
        size = shape.n, shape.k, shape.taps
        items = -(-shape.k // FEATURES)
        args = panels, dy, flat_dw, flat_db, *size
        return work(dev, items, args, _product_sizes(shape))
    sizes = {
        "x": shape.n * shape.h * shape.w * shape.c,
        "dy": shape.n * shape.p * shape.q * shape.k,
    }
    function = WEIGHTS.get("conv_weights", x.dtype)
    # Each part reads all images, so there is one a thread.
    parts = dev.threads
    about = _fields(shape), shape.n, parts
    bound = function.bind((x, dy, flat_dw, flat_db, *about), sizes)
    dev.for_chunks(bound, parts, 1)
    return None


def _panels(dev: Device, layout: str, x: Array, images: int, numbers: int) -> Array:
    """A fully connected layer's images in scratch, laid out by "turn" or "cut"."""
    lanes = VECTOR // x.itemsize
    length = images if layout == "turn" else numbers
    size = images * numbers // length * -(-length // lanes) * lanes
    panels = dev.scratch("panels", (size,), x.dtype)
    items = -(-numbers // TURNED) if layout == "turn" else images
    pack = PRODUCT.get(f"product_{layout}", x.dtype)
    pack(dev, items, (x, panels, images, numbers), {"x": images * numbers})
    return panels


def _product_sizes(shape: ConvShape) -> dict[str, int]:
    inputs, outputs = shape.n * shape.taps, shape.n * shape.k
    named = {"x": inputs, "dx": inputs, "relu_y": inputs, "y": outputs, "dy": outputs}
    weights = shape.k * shape.taps
    return {**named, "w": weights, "dw": weights, "b": shape.k, "db": shape.k}


@cache
def _fields(shape: ConvShape) -> dict[str, int]:
    """The struct Shape."""
    names = ("h", "w", "c", "k", "r", "s", "stride", "pad", "groups", "p", "q")
    return {name: getattr(shape, name) for name in names}
