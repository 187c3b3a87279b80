"""Local response normalisation across channels, NHWC, and its gradient.

    scale_i = k + α/size · Σ_j x_j²        y_i = x_i · scale_i^−β
    dx_i = dy_i · scale_i^−β − (2αβ/size) · x_i · Σ_j dy_j · y_j / scale_j

where j runs over a window of `size` channels centred on i, cut off at both ends. α is
divided by the size, as in Caffe, PyTorch and ONNX (not as in the AlexNet paper's text).
An LRN right after a pooling, as in all built-in networks, runs in `pool_lrn` instead.
Source: Krizhevsky, Sutskever, Hinton, NIPS 2012, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from minicnn.base.precision import accumulator
from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op, vector_width

Array = NDArray[np.floating]

# Numbers of a thread's chunk; several arrays of it fit a level-2 cache.
CHUNK = 1 << 16
KERNELS = KernelFile("lrn.cu")
NATIVE = NativeFile("pool_lrn.cpp")
THREADS = 256


@dataclass(frozen=True)
class Normalising:
    """The numbers of the formula; `size` is odd."""

    size: int
    alpha: float
    beta: float
    k: float

    @cached_property
    def share(self) -> float:
        """Factor of each square in the scale, α/size."""
        return self.alpha / self.size

    @cached_property
    def slope(self) -> float:
        """Factor of the second term of dx, 2αβ/size."""
        return 2 * self.alpha * self.beta / self.size

    @cached_property
    def is_native(self) -> bool:
        """Whether compiled code has this β."""
        return self.beta == 0.75

    def fields(self) -> dict[str, float]:
        """The struct of compiled code."""
        numbers = {"share": self.share, "slope": self.slope, "k": self.k}
        return {**numbers, "half": self.size // 2}

    def scale(self, x: Array, squares: Array, out: Array) -> None:
        """out = k + α/size · Σ x², row by row; `squares` is scratch."""
        np.square(x, out=squares)
        window_sum(squares, self.size, out)
        out *= self.share
        out += self.k


def window_sum(values: Array, size: int, out: Array) -> None:
    """out[:, i] = Σ values[:, j] over the window of `size` channels around i."""
    half = size // 2
    out[...] = values
    for shift in range(1, half + 1):
        out[:, shift:] += values[:, :-shift]
        out[:, :-shift] += values[:, shift:]


def power(scale: Array, beta: float, out: Array) -> None:
    """out = scale^−β; two square roots for the usual β of 0.75, else a power."""
    if beta == 0.75:
        np.sqrt(scale, out=out)
        np.divide(1, out, out=out)
        out *= np.sqrt(out)
    else:
        np.power(scale, -beta, out=out)


@op(writes=("y", "scale"))
def forward(dev: Device, x: Array, y: Array, scale: Array, norm: Normalising) -> Forms:
    """Writes y and scale, both (N,H,W,C), from x.

    Args:
        scale: of x's type; where that is bfloat16, of float32.
    """

    def numpy() -> None:
        rows = [array.reshape(-1, x.shape[-1]) for array in (x, y, scale)]

        def work(start: int, stop: int) -> None:
            xs, ys, ss = (array[start:stop] for array in rows)
            norm.scale(xs, ys, ss)
            power(ss, norm.beta, ys)
            ys *= xs

        dev.for_chunks(work, len(rows[0]), max(1, CHUNK // x.shape[-1]))

    def kernel() -> None:
        numbers = norm.size, norm.share, norm.beta, norm.k
        _launch(dev, "lrn_forward", (x, y, scale), numbers)

    def native() -> None:
        _on_rows(dev, "lrn_forward", {"x": x, "y": y, "scale": scale}, norm)

    return Forms(numpy, kernel, native if norm.is_native else None)


@op(writes=("dx",))
def backward(
    dev: Device,
    x: Array,
    y: Array,
    scale: Array,
    dy: Array,
    dx: Array,
    norm: Normalising,
) -> Forms:
    """Writes dx (N,H,W,C) from the forward pass's x, y and scale and from dy."""

    def numpy() -> None:
        rows = [array.reshape(-1, x.shape[-1]) for array in (x, y, scale, dy, dx)]

        def work(start: int, stop: int) -> None:
            xs, ys, ss, ds, out = (array[start:stop] for array in rows)
            ratio = dev.scratch("ratio", xs.shape, x.dtype)
            total = dev.scratch("total", xs.shape, x.dtype)
            np.multiply(ds, ys, out=ratio)
            ratio /= ss
            window_sum(ratio, norm.size, total)
            total *= xs
            total *= -norm.slope
            power(ss, norm.beta, ratio)
            ratio *= ds
            np.add(ratio, total, out=out)

        dev.for_chunks(work, len(rows[0]), max(1, CHUNK // x.shape[-1]))

    def kernel() -> None:
        numbers = norm.size, norm.slope, norm.beta
        _launch(dev, "lrn_backward", (x, scale, dy, dx), numbers, shared=True)

    def native() -> None:
        arrays = {"x": x, "y": y, "scale": scale, "dy": dy, "dx": dx}
        _on_rows(dev, "lrn_backward", arrays, norm)

    return Forms(numpy, kernel, native if norm.is_native else None)


def _on_rows(
    dev: Device, name: str, arrays: dict[str, Array], norm: Normalising
) -> None:
    """Runs compiled code on the rows of channels of arrays of one shape."""
    x = arrays["x"]
    channels, sizes = x.shape[-1], dict.fromkeys(arrays, x.size)
    arguments = *arrays.values(), norm.fields(), channels
    function = NATIVE.get(name, x.dtype)
    function(dev, x.size // channels, arguments, sizes, work=4 * channels)


def _launch(
    dev: Device,
    name: str,
    arrays: tuple[Array, ...],
    numbers: tuple[float, ...],
    shared: bool = False,
) -> None:
    """Launches a kernel; a block takes as many rows as it has threads for.

    Args:
        shared: whether it keeps them in shared memory.
    """
    x = arrays[0]
    channels, rows = x.shape[-1], x.size // x.shape[-1]
    width = vector_width(channels, x.dtype)
    block = walk(channels, width)
    size = block[1] * channels * accumulator(x.dtype).itemsize if shared else 0
    arguments = *arrays, rows, channels, *numbers
    kernel = KERNELS.get(name, x.dtype, width)
    kernel(dev, -(-rows // block[1]), block, arguments, size)


def walk(channels: int, width: int) -> tuple[int, int]:
    """Threads of a block along a row of channels, `width` each, and rows of a block."""
    along = min(channels // width, THREADS)
    return along, THREADS // along
