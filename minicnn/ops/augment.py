"""From store rows to network input: crop, subtract the mean, scale, mirror.

    y[n,i,j] = (images[rows[n], top+i, left+j′] − mean[top+i, left+j′]) · scale

where j′ is w−1−j in a mirrored image, else j.

The mean is taken at the crop's own place and mirrored with the image (Caffe's rule).
Source: Krizhevsky, Sutskever, Hinton, NIPS 2012, section 4.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op
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
) -> Forms:
    """Writes y (N,h,w,3) from images (M,H,W,3) and mean (H,W,3).

    Args:
        rows: (N,) which of the images.
        top, left: (N,) the crops' upper left corners, in pixels.
        mirror: (N,) whether to mirror left to right.
        scale: factor of each difference.
        blocks: of the convolution that reads y, for y in blocks; see `space_to_depth`.
    """
    n, (height, width) = len(y), images.shape[1:3]
    pixels = blocks.pixels if blocks else None
    h, w = (pixels.h, pixels.w) if pixels else y.shape[1:3]

    def numpy() -> None:
        rise, lead = pixels.pad if pixels else (0, 0)

        def work(start: int, stop: int) -> None:
            if pixels:
                # The crop, and before it the padding above and to the left.
                room = dev.scratch("crop", (rise + h, lead + w, 3), y.dtype)
                room[...] = 0
            for i in range(start, stop):
                place = slice(top[i], top[i] + h), slice(left[i], left[i] + w)
                whole = room[rise:, lead:] if pixels else y[i]
                out = whole[:, ::-1] if mirror[i] else whole
                np.subtract(images[rows[i]][place], mean[place], out=out, dtype=y.dtype)
                if pixels:
                    fill(y[i : i + 1], room[None], pixels.stride)
            if scale != 1:
                y[start:stop] *= scale

        dev.for_chunks(work, n, 16)

    def kernel() -> None:
        grid = n, -(-y.shape[1] // BLOCK[1])
        arguments = images, mean, y, rows, top, left, mirror, height, width, h, w
        if blocks:
            launch = KERNELS.get("crop_mirror_blocks", y.dtype, 16 // y.itemsize)
            launch(dev, grid, BLOCK, (*arguments, blocks.fields(), scale))
        else:
            launch = KERNELS.get("crop_mirror", y.dtype)
            launch(dev, grid, BLOCK, (*arguments, scale))

    def native() -> None:
        places = rows, top, left
        counts = len(images), height - h + 1, width - w + 1
        for place, count in zip(places, counts, strict=True):
            if not ((place >= 0) & (place < count)).all():
                return numpy()  # refuses crops that do not fit
        crops = {"scale": scale, "height": height, "width": width, "h": h, "w": w}
        indices = (np.ascontiguousarray(place, np.int64) for place in places)
        sizes = {"mean": height * width * 3, "images": len(images) * height * width * 3}
        sizes |= {"y": n * h * w * 3}
        sizes |= dict.fromkeys(("rows", "top", "left", "mirror"), n)
        arguments = images, mean, y, *indices, mirror, crops
        NATIVE.get("crop_mirror", y.dtype)(dev, n, arguments, sizes, work=3 * h * w)

    # Blocks are for tensor cores.
    return Forms(numpy, kernel, None if blocks else native)
