"""Dropout, whose mask is a pure function of (seed, stream, step).

    y_i = x_i · [word_i ≥ rate·2³²] / (1 − rate)

word_i is word i of `philox.words(seed, stream, step, …)` in C order, so that the
backward pass draws the same mask again and nothing is stored. Kept values are scaled
up while training, so that evaluation does nothing (Caffe and PyTorch do the same).
Source: Krizhevsky, Sutskever, Hinton, NIPS 2012, section 4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicnn.base import philox
from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import op

Array = NDArray[np.floating]
Step = NDArray[np.int64]

# Random words of a thread's chunk; a multiple of 4.
CHUNK = 1 << 15
KERNELS = KernelFile("dropout.cu")
NATIVE = NativeFile("elementwise.cpp")
WORDS = 128  # numbers of one item of compiled code
THREADS = 256


@op(writes=("y",))
def apply(
    dev: Device, x: Array, y: Array, rate: float, seed: int, stream: int, step: Step
) -> None:
    """Writes y = x · mask / (1 − rate); the backward pass is the same on dy.

    Args:
        x, y: any one shape; may be the same array.
        rate: probability of a zero, 0 ≤ rate < 1.
        step: (1,), on the device, where a recorded step reads it anew.
    """
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    threshold = np.uint32(int(rate * 2**32))
    factor, number = x.dtype.type(1 / (1 - rate)), int(step[0])

    def work(start: int, stop: int) -> None:
        kept = philox.words(seed, stream, number, stop - start, start) >= threshold
        np.multiply(flat_x[start:stop], kept * factor, out=flat_y[start:stop])

    dev.for_chunks(work, flat_x.size, CHUNK)


@apply.native
def apply_native(
    dev: Device, x: Array, y: Array, rate: float, seed: int, stream: int, step: Step
) -> None:
    kept = {"threshold": int(rate * 2**32), "factor": 1 / (1 - rate)}
    mask = {"seed": seed, "stream": stream, **kept}
    arguments, sizes = (x, y, mask, step, x.size), {"y": x.size, "step": 1}
    items = -(-x.size // WORDS)
    NATIVE.get("dropout", x.dtype)(dev, items, arguments, sizes, work=4 * WORDS)


@apply.kernel
def apply_kernel(
    dev: Device, x: Array, y: Array, rate: float, seed: int, stream: int, step: Step
) -> None:
    part = max(4, 16 // x.itemsize)  # numbers a thread
    blocks = -(-x.size // (part * THREADS))
    numbers = x.size, int(rate * 2**32), 1 / (1 - rate), seed, stream, step
    KERNELS.get("dropout", x.dtype)(dev, blocks, THREADS, (x, y, *numbers))
