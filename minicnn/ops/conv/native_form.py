"""What convolution's compiled forms share: kernels/cpu/conv*.cpp, product.cpp.

Patches of images are never written down, nor are the weights of fully connected layers
rearranged.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def convolve(
    dev: Device,
    x: Array,
    w: Array,
    b: Array | None,
    relu_y: Array | None,
    y: Array,
    shape: ConvShape,
    relu: bool = False,
    turned: bool = False,
) -> None:
    """A convolution whose stride is 1 where the filters are turned round.

    Args:
        relu_y: y is 0 where this is not positive.
        turned: w (C,R,S,K/groups) has the features where others have the channels.
    """
    about, features = fields(shape), -(-shape.features * x.itemsize // VECTOR)
    count = shape.groups * features * (VECTOR // x.itemsize) * shape.taps
    panels = dev.scratch("panels", (count,), x.dtype)
    pack, run = (FILE.get(f"conv_{name}", x.dtype) for name in ("pack", "forward"))
    parts, weights = CHUNKS * dev.threads, shape.k * shape.taps
    packed = w, panels, about, parts, turned
    pack(dev, parts, packed, {"w": weights}, work=GATHERED * weights / parts)
    sizes = {"x": shape.n * shape.h * shape.w * shape.c, "bias": shape.k}
    sizes |= dict.fromkeys(("y", "relu_y"), shape.n * shape.p * shape.q * shape.k)
    run(dev, shape.n, (x, panels, b, relu_y, y, about, relu), sizes)


def differentiate(
    dev: Device, x: Array, dy: Array, dw: Array, db: Array | None, shape: ConvShape
) -> None:
    """Writes the gradients of a convolution's filters and bias."""
    sizes = {
        "x": shape.n * shape.h * shape.w * shape.c,
        "dy": shape.n * shape.p * shape.q * shape.k,
    }
    # Each part reads all images, so there is one a thread.
    parts = dev.threads
    arguments = x, dy, dw, db, fields(shape), shape.n, parts
    function = WEIGHTS.get("conv_weights", x.dtype)
    dev.for_chunks(function.bind(arguments, sizes), parts, 1)


def multiply(
    dev: Device,
    name: str,
    items: int,
    arrays: Sequence[Any],
    shape: ConvShape,
    *rest: Any,
) -> None:
    """Runs a function of product.cpp for a fully connected layer."""
    inputs, outputs = shape.n * shape.taps, shape.n * shape.k
    weights = shape.k * shape.taps
    sizes = dict.fromkeys(("x", "dx", "relu_y"), inputs)
    sizes |= dict.fromkeys(("y", "dy"), outputs) | dict.fromkeys(("w", "dw"), weights)
    sizes |= dict.fromkeys(("b", "db"), shape.k)
    arguments = *arrays, shape.n, shape.k, shape.taps, *rest
    PRODUCT.get(f"product_{name}", arrays[0].dtype)(dev, items, arguments, sizes)


def panels(dev: Device, layout: str, x: Array, shape: ConvShape) -> Array:
    """A fully connected layer's images in scratch, laid out by "turn" or "cut"."""
    lanes, images, numbers = VECTOR // x.itemsize, shape.n, shape.taps
    length = images if layout == "turn" else numbers
    size = images * numbers // length * -(-length // lanes) * lanes
    laid_out = dev.scratch("panels", (size,), x.dtype)
    items = -(-numbers // TURNED) if layout == "turn" else images
    pack = PRODUCT.get(f"product_{layout}", x.dtype)
    pack(dev, items, (x, laid_out, images, numbers), {"x": images * numbers})
    return laid_out


@cache
def fields(shape: ConvShape) -> dict[str, int]:
    """The struct Shape."""
    names = ("h", "w", "c", "k", "r", "s", "stride", "pad", "groups", "p", "q")
    return {name: getattr(shape, name) for name in names}
