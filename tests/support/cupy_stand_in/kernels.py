"""Compilers and kernels, by way of the emulator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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
    """CuPy's."""


def source(text: str, expressions: Iterable[str]) -> KernelSource:
    """The kernel file that the text was made from, with these instances alone."""
    place = re.match(r'#line 1 "([^"]*)"\n', text)
    assert place, "the stand-in compiles what minicnn.compile.kernel_source has read"
    read = KernelSource.read(Path(place[1]))
    return replace(
        read, text=text, instances={name: read.instances[name] for name in expressions}
    )


def groups(source: KernelSource) -> set[str]:
    """The groups of its instances."""
    return {each.group for each in source.instances.values()}


class Nvrtc:
    """CuPy's binding of NVRTC. Its machine code is the text and the kernels' names."""

    class NVRTCError(RuntimeError):
        """CuPy's."""

    def __init__(self) -> None:
        self._programs: dict[int, Any] = {}

    def getVersion(self) -> tuple[int, int]:
        """No NVRTC's: what is cached of it is never taken for a GPU's code."""
        return 0, 0

    def getSupportedArchs(self) -> list[int]:
        return [80, 90, 100]

    def createProgram(
        self, src: str, name: str, headers: tuple[()], include_names: tuple[()]
    ) -> int:
        program = SimpleNamespace(text=src, names={}, log="")
        self._programs[id(program)] = program
        return id(program)

    def addNameExpression(self, prog: int, name: str) -> None:
        self._programs[prog].names[name] = "_Z" + re.sub(r"\W+", "_", name)

    def compileProgram(self, prog: int, options: tuple[str, ...]) -> None:
        """CuPy's; by the emulator's compiler."""
        program = self._programs[prog]
        found = source(program.text, program.names)
        try:
            for group in groups(found):
                EmulatedLauncher().compile(found, group)
        except MinicnnError as error:
            program.log = str(error)
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION (6)") from None

    def getProgramLog(self, prog: int) -> str:
        return self._programs[prog].log

    def getLoweredName(self, prog: int, name: str) -> str:
        return self._programs[prog].names[name]

    def getCUBIN(self, prog: int) -> bytes:
        program = self._programs[prog]
        return json.dumps([program.text, program.names]).encode()

    def destroyProgram(self, prog: int) -> None:
        del self._programs[prog]


class RawModule:
    """CuPy's, of a file of machine code."""

    def __init__(self, *, path: str) -> None:
        self._path, self._launcher = Path(path), EmulatedLauncher(workers=1)

    def compile(self) -> None:
        """CuPy's: loads it."""
        try:
            text, names = json.loads(self._path.read_bytes())
        except ValueError:
            raise CUDADriverError(
                "CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid"
            ) from None
        self._source = source(text, names)
        self._names = {lowered: expression for expression, lowered in names.items()}
        for group in groups(self._source):
            self._launcher.build(self._source, group)

    def get_function(self, name: str) -> RawKernel:
        if name not in self._names:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        instance = self._source.instances[self._names[name]]
        return RawKernel(self._launcher, Kernel(self._source, instance))


class RawKernel:
    """CuPy's."""

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
