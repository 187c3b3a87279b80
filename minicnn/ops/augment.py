"""From store rows to network input: crop, subtract the mean, scale, mirror.

    y[n,i,j] = (images[rows[n], top+i, left+j′] − mean[top+i, left+j′]) · scale

where j′ is w−1−j in a mirrored image, else j.

The mean is taken at the crop's own place and mirrored with the image (Caffe's rule).
Source: Krizhevsky, Sutskever, Hinton, NIPS 2012, section 4.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import op
from minicnn.ops.space_to_depth import Blocks, fill

KERNELS = KernelFile("augment.cu")
NATIVE = NativeFile("elementwise.cpp")
# Threads of a block: along an output row, and output rows.
BLOCK = (64, 4)


@op(writes=("y",), reads=("rows", "top", "left"))
def crop_mirror(
    dev: Device,
    images: NDArray[np.uint8],
    mean: NDArray[np.float32],
    y: NDArray[np.floating],
    rows: NDArray[np.int64],
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    mirror: NDArray[np.bool_],
    scale: float = 1.0,
    blocks: Blocks | None = None,
) -> None:
    """Writes y (N,h,w,3) from images (M,H,W,3) and mean (H,W,3).

    Args:
        rows: (N,) which of the images.
        top, left: (N,) the crops' upper left corners, in pixels.
        mirror: (N,) whether to mirror left to right.
        scale: factor of each difference.
        blocks: of the convolution that reads y, for y in blocks; see `space_to_depth`.
    """
    height, width = _crop(y, blocks)
    (rise, lead), stride = (0, 0), (1, 1)
    if blocks:
        (rise, lead), stride = blocks.pixels.pad, blocks.pixels.stride

    def work(start: int, stop: int) -> None:
        if blocks:
            # The crop, and before it the padding above and to the left.
            room = dev.scratch("crop", (rise + height, lead + width, 3), y.dtype)
            room[...] = 0
        for n in range(start, stop):
            place = (
                slice(top[n], top[n] + height),
                slice(left[n], left[n] + width),
            )
            whole = room[rise:, lead:] if blocks else y[n]
            out = whole[:, ::-1] if mirror[n] else whole
            np.subtract(images[rows[n]][place], mean[place], out=out, dtype=y.dtype)
            if blocks:
                fill(y[n : n + 1], room[None], stride)
        if scale != 1:
            y[start:stop] *= scale

    dev.for_chunks(work, len(y), 16)


@crop_mirror.native
def crop_mirror_native(
    dev: Device,
    images: NDArray[np.uint8],
    mean: NDArray[np.float32],
    y: NDArray[np.floating],
    rows: NDArray[np.int64],
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    mirror: NDArray[np.bool_],
    scale: float = 1.0,
    blocks: Blocks | None = None,
) -> Any:
    (height, width), (n, h, w, _) = images.shape[1:3], y.shape
    places = rows, top, left
    counts = len(images), height - h + 1, width - w + 1
    inside = all(
        ((place >= 0) & (place < count)).all()
        for place, count in zip(places, counts, strict=True)
    )
    # Blocks are for tensor cores; NumPy's form refuses crops that do not fit.
    if blocks or not inside:
        return NotImplemented
    crops = {"scale": scale, "height": height, "width": width, "h": h, "w": w}
    indices = (np.ascontiguousarray(place, np.int64) for place in places)
    sizes = {"mean": height * width * 3, "images": len(images) * height * width * 3}
    sizes |= {"y": n * h * w * 3} | dict.fromkeys(("rows", "top", "left", "mirror"), n)
    arguments = images, mean, y, *indices, mirror, crops
    NATIVE.get("crop_mirror", y.dtype)(dev, n, arguments, sizes, work=3 * h * w)


@crop_mirror.kernel
def crop_mirror_kernel(
    dev: Device,
    images: NDArray[np.uint8],
    mean: NDArray[np.float32],
    y: NDArray[np.floating],
    rows: NDArray[np.int64],
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    mirror: NDArray[np.bool_],
    scale: float = 1.0,
    blocks: Blocks | None = None,
) -> None:
    grid = len(y), -(-y.shape[1] // BLOCK[1])
    arguments = images, mean, y, rows, top, left, mirror, *images.shape[1:3]
    size = _crop(y, blocks)
    if blocks:
        kernel = KERNELS.get("crop_mirror_blocks", y.dtype, 16 // y.itemsize)
        kernel(dev, grid, BLOCK, (*arguments, *size, blocks.fields(), scale))
    else:
        kernel = KERNELS.get("crop_mirror", y.dtype)
        kernel(dev, grid, BLOCK, (*arguments, *size, scale))


def _crop(y: NDArray[np.floating], blocks: Blocks | None) -> tuple[int, int]:
    """Height and width of the crops."""
    if blocks:
        return blocks.pixels.h, blocks.pixels.w
    return y.shape[1], y.shape[2]
