"""Modules and kernels, by way of the emulator."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.compile.arguments import ALIGNMENT
from minicnn.compile.emulator import EmulatedLauncher
from minicnn.compile.kernel_source import KernelSource
from minicnn.devices.launch import Kernel
from tests.support.cupy_stand_in.arrays import ndarray
from tests.support.cupy_stand_in.streams import CUDARuntimeError, get_current_stream

# Bytes of shared memory that a block may have: if its kernel asks, and if not.
SHARED, UNASKED = 227 << 10, 48 << 10


class CUDADriverError(RuntimeError):
    """CuPy's."""


class CompileException(Exception):
    """CuPy's; its text is the compiler's log."""


class RawModule:
    """CuPy's, of C++ text and name expressions; `compile` loads it, too."""

    def __init__(
        self,
        *,
        code: str,
        options: tuple[str, ...] = (),
        name_expressions: Iterable[str],
    ) -> None:
        if type(options) is not tuple:
            raise TypeError("Argument 'options' has incorrect type")
        place = re.match(r'#line 1 "([^"]*)"\n', code)
        assert place, (
            "the stand-in compiles what minicnn.compile.kernel_source has read"
        )
        read = KernelSource.read(Path(place[1]))
        names = {name: read.instances[name] for name in name_expressions}
        self._source = replace(read, text=code, instances=names)
        self._launcher = EmulatedLauncher(workers=1)

    def compile(self, log_stream: None = None) -> None:
        """Does nothing the second time, as `_get_raw_module` remembers modules."""
        try:
            for group in {each.group for each in self._source.instances.values()}:
                self._launcher.build(self._source, group)
        except MinicnnError as error:
            raise CompileException(str(error)) from None

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        if name not in self._source.instances:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        instance = self._source.instances[name]
        return RawKernel(self._launcher, Kernel(self._source, instance))


class RawKernel:
    """CuPy's."""

    preferred_shared_memory_carveout = -1  # the driver's own choice

    def __init__(self, launcher: EmulatedLauncher, kernel: Kernel) -> None:
        self._launcher, self._kernel, self._shared = launcher, kernel, UNASKED

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > SHARED:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._shared = size

    def __call__(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        threads = max(block) <= 1024 and block[2] <= 64 and np.prod(block) <= 1024
        blocks = grid[0] < 1 << 31 and max(grid[1:]) < 1 << 16
        if not (threads and blocks and shared_mem <= self._shared):
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        values = [_argument(each) for each in args]
        launch = self._kernel, grid, block, values, shared_mem
        get_current_stream()._add(partial(self._launcher.launch, *launch))


def _argument(value: Any) -> Any:
    """What the emulator takes for it: memory as it is then, a value as it is now."""
    if isinstance(value, ndarray):
        if value.data.ptr % ALIGNMENT:
            raise CUDARuntimeError("cudaErrorMisalignedAddress: misaligned address")
        return value._values
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise TypeError(
                f"You are trying to pass a numpy.ndarray of shape {value.shape} as a "
                "kernel parameter."
            )
        # The emulator takes an array for an address, but for a struct.
        value = value.reshape(()).copy()
        return value if value.dtype.names else value[()]
    return value
