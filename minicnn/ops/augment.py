"""From store rows to network input: crop, subtract the mean, scale, mirror.

    y[n,i,j] = (images[n, top+i, left+j′] − mean[top+i, left+j′]) · scale

where j′ is w−1−j in a mirrored image, else j.

The mean is taken at the crop's own place and mirrored with the image (Caffe's rule).
Source: Krizhevsky, Sutskever, Hinton, NIPS 2012, section 4.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicnn.device import Device
from minicnn.launch import KernelFile
from minicnn.ops import op

KERNELS = KernelFile("augment.cu")
# Threads along an output row, and rows, of a block.
BLOCK = (64, 4)


@op
def crop_mirror(
    dev: Device,
    images: NDArray[np.uint8],
    mean: NDArray[np.float32],
    y: NDArray[np.floating],
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    mirror: NDArray[np.bool_],
    scale: float = 1.0,
) -> None:
    """Writes y (N,h,w,3) from images (N,H,W,3) and mean (H,W,3).

    Args:
        top, left: (N,) the crops' upper left corners, in pixels.
        mirror: (N,) whether to mirror left to right.
        scale: what each difference is multiplied by.
    """
    height, width = y.shape[1:3]

    def work(start: int, stop: int) -> None:
        for n in range(start, stop):
            place = (
                slice(top[n], top[n] + height),
                slice(left[n], left[n] + width),
            )
            out = y[n, :, ::-1] if mirror[n] else y[n]
            np.subtract(images[n][place], mean[place], out=out, dtype=y.dtype)
        if scale != 1:
            y[start:stop] *= scale

    dev.for_chunks(work, len(y), 16)


@crop_mirror.kernel
def _(
    dev: Device,
    images: NDArray[np.uint8],
    mean: NDArray[np.float32],
    y: NDArray[np.floating],
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    mirror: NDArray[np.bool_],
    scale: float = 1.0,
) -> None:
    count, height, width = y.shape[:3]
    grid = count, -(-height // BLOCK[1])
    sizes = (*images.shape[1:3], height, width)
    kernel = KERNELS.get("crop_mirror", y.dtype)
    kernel(dev, grid, BLOCK, (images, mean, y, top, left, mirror, *sizes, scale))
