"""The one way kernels are launched, on a GPU or emulated.

    kernels = KernelFile("lrn.cu")
    kernels.get("lrn_forward", np.float32)(device, grid, block, (x, y, n, alpha))

A Python number is cast to the type the kernel declares: CuPy by itself passes a float
as a double and an int as a long long, and a `float` parameter then reads garbage.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.compile.arguments import checked
from minicnn.compile.kernel_source import FOLDER, Instance, KernelSource

Dims = int | Sequence[int]
JOBS = 8
"""Most compilers at a time, each of which may take a gigabyte."""


def debugging() -> bool:
    """Whether MINICNN_DEBUG asks to check after every launch."""
    return os.environ.get("MINICNN_DEBUG", "") not in ("", "0")


class KernelFile:
    """The kernels of one .cu file.

    Args:
        name: a file of the kernels folder, such as "lrn.cu", or a path.
    """

    def __init__(self, name: str | Path) -> None:
        plain = isinstance(name, str) and "/" not in name and "\\" not in name
        self.path = FOLDER / name if plain else Path(name).resolve()

    @functools.cached_property
    def source(self) -> KernelSource:
        """The file, read and parsed at first use."""
        return KernelSource.read(self.path)

    @functools.cache  # noqa: B019 (kernel files live as long as the program)
    def get(self, name: str, *template: Any) -> Kernel:
        """A kernel by its name and template arguments; see `KernelSource.find`."""
        return Kernel(self.source, self.source.find("kernel", name, template))


@dataclass(frozen=True)
class Kernel:
    """One kernel instance, of a file; calling it launches it."""

    source: KernelSource
    instance: Instance

    @property
    def name(self) -> str:
        """The C++ expression, such as "lrn_forward<float>"."""
        return self.instance.expression

    def __call__(
        self, device: Any, grid: Dims, block: Dims, args: Sequence[Any], shared: int = 0
    ) -> None:
        """Checks the arguments against the kernel's declaration and launches it.

        Args:
            device: has a `launcher`; the emulator's documents what one offers.
            grid: number of blocks, one to three.
            block: threads in a block, one to three numbers, at most 1024 in all.
            args: one for each parameter; see `checked`. Arrays begin at multiples of
                16 bytes.
            shared: bytes of dynamic shared memory.

        Raises:
            MinicnnError: an argument that does not fit, by name; a failed launch.
        """
        dims_grid, dims_block = self._dims("grid", grid), self._dims("block", block)
        if dims_block[0] * dims_block[1] * dims_block[2] > 1024:
            raise MinicnnError(f"{self.name}: block {block}: over 1024 threads")
        if dims_grid[0] > 2**31 - 1 or max(dims_grid[1:]) > 65535:
            raise MinicnnError(f"{self.name}: grid {grid}: over 2^31-1 × 65535 × 65535")
        array = device.launcher.array
        values = checked(self.name, self.instance.parameters, args, array)
        device.launcher.launch(self, dims_grid, dims_block, values, int(shared))

    def _dims(self, what: str, dims: Dims) -> tuple[int, int, int]:
        given = (dims,) if isinstance(dims, int | np.integer) else tuple(dims)
        if not 1 <= len(given) <= 3 or min(given) < 1:
            raise MinicnnError(
                f"{self.name}: {what} {dims}: one to three positive numbers"
            )
        x, y, z = (*map(int, given), 1, 1)[:3]
        return x, y, z
