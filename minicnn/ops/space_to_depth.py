"""Space-to-depth: a strided convolution of images as one of stride 1 over blocks.

    blocked[n,i,j, (down·stride_w + right)·C + c] =
        x[n, i·stride_h + down − pad_h, j·stride_w + right − pad_w, c]

and zero beyond the image; the filters likewise, zero beyond their taps. A convolution
of stride s and filter R×S is then one of stride 1 and filter ⌈R/s⌉×⌈S/s⌉ over blocks:
the same products, and some by zero. So caffenet's conv1, 11×11/4 on 227×227×3, becomes
3×3/1 on 57×57×48: channels enough for 16-byte loads and tensor cores, with no kernel of
its own. Channels are filled up to a multiple of CHANNELS with zeros.

The images are written by `augment.crop_mirror`; here are the filters and their
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.windows import Pair

Array = NDArray[np.floating]

# Channels are a multiple of it: 16 bytes of bfloat16.
CHANNELS = 8
KERNELS = KernelFile("space_to_depth.cu")
THREADS = 256


@dataclass(frozen=True)
class Blocks:
    """How a convolution's images and filters lie in blocks, one block a stride.

    Attributes:
        pixels: the convolution over pixels; x (N,H,W,C), w (K,R,S,C).

    Raises:
        MinicnnError: it has groups.
    """

    pixels: ConvShape

    def __post_init__(self) -> None:
        if self.pixels.groups != 1:
            raise MinicnnError(
                f"conv groups {self.pixels.groups}: space-to-depth takes one group only"
            )

    @property
    def filters(self) -> tuple[int, int, int, int]:
        """Shape of the filters over blocks: (K, ⌈R/stride⌉, ⌈S/stride⌉, channels)."""
        x, (down, right) = self.pixels, self.pixels.stride
        channels = -(-x.c * down * right // CHANNELS) * CHANNELS
        return x.k, -(-x.r // down), -(-x.s // right), channels

    @property
    def conv(self) -> ConvShape:
        """The convolution over blocks: stride 1, no pad, the same y.

        Its images have the blocks that its filters reach, and no more.
        """
        k, r, s, c = self.filters
        h, w = self.pixels.p + r - 1, self.pixels.q + s - 1
        needed = self.pixels.taps
        return ConvShape(self.pixels.n, h, w, c, k, r, s, needed=needed)

    def batch(self, n: int) -> Blocks:
        """The same of n images."""
        return Blocks(replace(self.pixels, n=n))

    def fields(self) -> dict[str, int | Pair]:
        """The struct Blocks of augment.cu."""
        _, _, _, c = self.filters
        x, blocks = self.pixels, self.conv
        return {"h": blocks.h, "w": blocks.w, "c": c, "stride": x.stride, "pad": x.pad}


def fill(blocked: Array, pixels: Array, stride: Pair) -> None:
    """Writes pixels (N,H,W,C) in blocks to (N, rows, columns, channels).

    Pixels beyond the last block are left out; what no pixel reaches is zero.
    """
    _, rows, columns, _ = blocked.shape
    colours = pixels.shape[-1]
    blocked[...] = 0
    for down in range(stride[0]):
        for right in range(stride[1]):
            part = pixels[:, down :: stride[0], right :: stride[1]][:, :rows, :columns]
            first = (down * stride[1] + right) * colours
            place = blocked[:, : part.shape[1], : part.shape[2]]
            place[..., first : first + colours] = part


@op(writes=("blocked",))
def block_filters(dev: Device, w: Array, blocked: Array, blocks: Blocks) -> Forms:
    """Writes the filters over blocks, `blocks.filters`, from w (K,R,S,C)."""

    def numpy() -> None:
        fill(blocked, w, blocks.pixels.stride)

    def kernel() -> None:
        launch = KERNELS.get("block_filters", w.dtype)
        arguments = w, blocked, _filters(blocks)
        launch(dev, -(-blocked.size // THREADS), THREADS, arguments)

    return Forms(numpy, kernel)


@op(writes=("dw",))
def unblock_gradient(dev: Device, dblocked: Array, dw: Array, blocks: Blocks) -> Forms:
    """Writes dw (K,R,S,C) from the gradient of the filters over blocks.

    Args:
        dblocked: (slices, numbers), whose sum is the gradient: of each row the first
            numbers are a slice, as `sgd.allocate_slices` lays them out.
    """

    def numpy() -> None:
        x, (k, r, s, channels) = blocks.pixels, blocks.filters
        down, right = x.stride
        total = dblocked[0, : k * r * s * channels].copy()
        for part in dblocked[1:, : total.size]:
            total += part
        pixels = total.reshape(k, r, s, channels)[..., : down * right * x.c]
        apart = pixels.reshape(k, r, s, down, right, x.c).transpose(0, 1, 3, 2, 4, 5)
        joined = apart.reshape(k, r * down, s * right, x.c)
        dw[...] = joined[:, : x.r, : x.s]

    def kernel() -> None:
        slices, apart = dblocked.shape
        launch = KERNELS.get("unblock_gradient", dw.dtype)
        arguments = dblocked, dw, _filters(blocks), apart, slices
        launch(dev, -(-dw.size // THREADS), THREADS, arguments)

    return Forms(numpy, kernel)


def _filters(blocks: Blocks) -> dict[str, int | Pair]:
    """The struct Filters of the kernels."""
    x, (_, rows, columns, channels) = blocks.pixels, blocks.filters
    sizes = {"rows": rows, "columns": columns, "channels": channels}
    return {"k": x.k, "r": x.r, "s": x.s, "c": x.c, **sizes, "stride": x.stride}
