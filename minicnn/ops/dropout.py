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
from minicnn.ops import Forms, op

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
) -> Forms:
    """Writes y = x · mask / (1 − rate); the backward pass is the same on dy.

    Args:
        x, y: any one shape; may be the same array.
        rate: probability of a zero, 0 ≤ rate < 1.
        step: (1,), on the device, where a recorded step reads it anew.
    """
    threshold, factor = int(rate * 2**32), 1 / (1 - rate)

    def numpy() -> None:
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)
        least, kept_factor = np.uint32(threshold), x.dtype.type(factor)

        def work(start: int, stop: int) -> None:
            words = philox.words(seed, stream, int(step[0]), stop - start, start)
            kept = words >= least
            np.multiply(flat_x[start:stop], kept * kept_factor, out=flat_y[start:stop])

        dev.for_chunks(work, flat_x.size, CHUNK)

    def kernel() -> None:
        part = max(4, 16 // x.itemsize)  # numbers a thread
        blocks = -(-x.size // (part * THREADS))
        arguments = x, y, x.size, threshold, factor, seed, stream, step
        KERNELS.get("dropout", x.dtype)(dev, blocks, THREADS, arguments)

    def native() -> None:
        key = {"seed": seed, "stream": stream}
        mask = {**key, "threshold": threshold, "factor": factor}
        arguments, sizes = (x, y, mask, step, x.size), {"y": x.size, "step": 1}
        items = -(-x.size // WORDS)
        NATIVE.get("dropout", x.dtype)(dev, items, arguments, sizes, work=4 * WORDS)

    return Forms(numpy, kernel, native)
