"""The one way kernels are launched, on a GPU or emulated.

    kernels = KernelFile("lrn.cu")
    kernels.get("lrn_forward", np.float32)(device, grid, block, (x, y, n, alpha))

A Python number is cast to the type the kernel declares: CuPy by itself passes a float
as a double and an int as a long long, and a `float` parameter then reads garbage.
Whatever does not fit the declaration is refused with the kernel's and the argument's
name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.compile.arguments import Memory, checked
from minicnn.compile.kernel_source import Instance, KernelSource, find

if TYPE_CHECKING:
    from minicnn.devices.cubins import Cubin

Dims = int | Sequence[int]

OPTIONS = ("--std=c++17",)
"""What NVRTC is asked for."""

FLUSH = "-ftz=true"
"""What CuPy adds of its own: floats below the normal ones are zero."""

_C_TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.float16): "f16",
    np.dtype(np.int32): "int",
    BF16: "bf16",
    "tf32": "tf32",
    "tf32x3": "tf32x3",
}


def debugging() -> bool:
    """Whether MINICNN_DEBUG asks to check after every launch."""
    return os.environ.get("MINICNN_DEBUG", "") not in ("", "0")


class Launcher(Memory, Protocol):
    """What a device offers to kernels, as `device.launcher`."""

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        values: list[Any],
        shared: int,
    ) -> None:
        """Starts the kernel.

        Args:
            kernel: which.
            grid: blocks along x, y, z.
            block: threads along x, y, z.
            values: for each parameter an array of this device, None for a null
                pointer, a NumPy scalar, or a 0-d structured NumPy array.
            shared: bytes of dynamic shared memory.
        """

    def compile(self, source: KernelSource, group: str) -> bool:
        """Compiles a group of a file's instances into the cache on disk.

        May be called from several threads. Nothing is loaded.

        Returns:
            Whether the cache had it.
        """

    def build(self, source: KernelSource, group: str) -> None:
        """Loads a group of a file's instances, compiled before or now."""


class KernelFile:
    """The kernels of one .cu file.

    Args:
        name: a file of the kernels folder, such as "lrn.cu", or a path.
    """

    def __init__(self, name: str | Path) -> None:
        self.path = find(name)

    @functools.cached_property
    def source(self) -> KernelSource:
        """The file, read and parsed at first use."""
        return KernelSource.read(self.path)

    @functools.cache  # noqa: B019 (kernel files live as long as the program)
    def get(self, name: str, *template: Any) -> Kernel:
        """A kernel by its name and template arguments.

        Args:
            name: the `__global__` function.
            template: a dtype, "tf32", "tf32x3", int or bool for each parameter.

        Raises:
            MinicnnError: the file does not offer that instance.
        """
        values = ", ".join(c_name(value) for value in template)
        expression = f"{name}<{values}>" if values else name
        instance = self.source.instances.get(expression)
        if instance is None:
            offered = ", ".join(self.source.instances) or "nothing"
            raise MinicnnError(
                f"{self.path.name} has no kernel {expression}; it offers {offered} "
                "(INSTANTIATE adds one)"
            )
        return Kernel(self.source, instance)

    def groups(self) -> list[str]:
        """The groups of instances that are compiled together."""
        return sorted({each.group for each in self.source.instances.values()})

    def build(self, device: Any, *dtypes: Any) -> None:
        """Compiles ahead of use: the instances for these dtypes, or all."""
        for group in [c_name(dtype) for dtype in dtypes] or self.groups():
            device.launcher.build(self.source, group)


def c_name(value: Any) -> str:
    """A template argument as C++ writes it: a dtype, "tf32", "tf32x3", int or bool."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, str) and value in _C_TYPES:
        return _C_TYPES[value]
    try:
        return _C_TYPES[np.dtype(value)]
    except (TypeError, KeyError):
        raise MinicnnError(f"no kernel is written for dtype {value}") from None


class Kernel:
    """One kernel instance; calling it launches it.

    Attributes:
        source: its file.
        instance: its expression and signature.
    """

    def __init__(self, source: KernelSource, instance: Instance) -> None:
        self.source = source
        self.instance = instance

    @property
    def name(self) -> str:
        """The C++ expression, such as "lrn_forward<float>"."""
        return self.instance.expression

    def __call__(
        self, device: Any, grid: Dims, block: Dims, args: Sequence[Any], shared: int = 0
    ) -> None:
        """Checks the arguments against the kernel's declaration and launches it.

        Args:
            device: offers `launcher`.
            grid: number of blocks, one to three.
            block: threads in a block, one to three numbers, at most 1024 in all.
            args: one for each parameter. For a pointer: a C-contiguous array of the
                device with the declared dtype (bf16 is `precision.BF16`) that begins at
                a multiple of 16 bytes, or None. For a number: anything of that kind
                and range. For a struct: a mapping of all its fields.
            shared: bytes of dynamic shared memory.

        Raises:
            MinicnnError: an argument that does not fit, by name; a failed launch.
        """
        launcher: Launcher = device.launcher
        dims_grid, dims_block = self._dims("grid", grid), self._dims("block", block)
        if dims_block[0] * dims_block[1] * dims_block[2] > 1024:
            raise MinicnnError(f"{self.name}: block {block}: over 1024 threads")
        if dims_grid[0] > 2**31 - 1 or max(dims_grid[1:]) > 65535:
            raise MinicnnError(f"{self.name}: grid {grid}: over 2^31-1 × 65535 × 65535")
        values = checked(self.name, self.instance.parameters, args, launcher)
        launcher.launch(self, dims_grid, dims_block, values, int(shared))

    def _dims(self, what: str, dims: Dims) -> tuple[int, int, int]:
        given = (dims,) if isinstance(dims, int | np.integer) else tuple(dims)
        if not 1 <= len(given) <= 3 or min(given) < 1:
            raise MinicnnError(
                f"{self.name}: {what} {dims}: one to three positive numbers"
            )
        x, y, z = (*map(int, given), 1, 1)[:3]
        return x, y, z


class CudaLauncher:
    """Launches on a CUDA device through CuPy's RawModule and NVRTC.

    Compiled code is kept on disk, see `cubins`. For a GPU that is newer than the NVRTC
    at hand CuPy compiles, and keeps the code in its own cache; from release 14.2 on it
    also finds it there.

    Args:
        index: which CUDA device.
    """

    def __init__(self, index: int = 0) -> None:
        import cupy

        self._cupy = cupy
        self._modules: dict[tuple[Path, str], Any] = {}
        self._functions: dict[tuple[Path, str], Any] = {}
        self._compiled: dict[tuple[Path, str], Cubin | None] = {}
        self._arch = cupy.cuda.Device(index).compute_capability
        self.index = index
        self.array = cupy.ndarray

    def address(self, array: Any) -> int:
        """Where an array's memory begins, on the GPU."""
        return array.data.ptr

    def compile(self, source: KernelSource, group: str) -> bool:
        """See `Launcher`; False where CuPy is to compile.

        Raises:
            MinicnnError: with the compiler's message, file and line.
        """
        from minicnn.devices.cubins import cubin

        found = cubin(self._cupy.cuda.nvrtc, source, group, self._arch)
        self._compiled[source.path, group] = found
        return found is not None and found.cached

    def build(self, source: KernelSource, group: str) -> None:
        """Compiles the group for this device, or loads it from the cache.

        Raises:
            MinicnnError: with the compiler's message, file and line; or the driver
                refuses the code.
        """
        key = source.path, group
        if key in self._modules or not source.group(group):
            return
        if key not in self._compiled:
            self.compile(source, group)
        found = self._compiled[key]
        if found:
            how: dict[str, Any] = {"path": str(found.path)}
        else:
            names = source.group(group)
            how = {"code": source.text, "options": OPTIONS, "name_expressions": names}
        module, cuda = self._cupy.RawModule(**how), self._cupy.cuda
        try:
            with cuda.Device(self.index):
                module.compile()  # or loads
        except cuda.compiler.CompileException as error:
            raise MinicnnError(f"{source.path.name}: NVRTC: {error}") from None
        except cuda.driver.CUDADriverError as error:
            raise MinicnnError(
                f"{source.path.name}: the driver does not load {how.get('path')}: "
                f"{error}; 'minicnn doctor' says whether it is older than NVRTC"
            ) from None
        self._modules[key] = module

    def _function(self, kernel: Kernel) -> Any:
        key = kernel.source.path, kernel.name
        function = self._functions.get(key)
        if function is None:
            place = kernel.source.path, kernel.instance.group
            self.build(kernel.source, kernel.instance.group)
            found = self._compiled[place]
            name = found.names[kernel.name] if found else kernel.name
            with self._cupy.cuda.Device(self.index):
                function = self._modules[place].get_function(name)
            self._functions[key] = function
        return function

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        values: list[Any],
        shared: int,
    ) -> None:
        """See `Launcher`; asynchronous, on CuPy's current stream."""
        cuda = self._cupy.cuda
        # None is a null pointer: CuPy would pass no argument at all.
        args = tuple(np.uint64(0) if value is None else value for value in values)
        with cuda.Device(self.index):
            function = self._function(kernel)
            try:
                more = shared > max(48 * 1024, function.max_dynamic_shared_size_bytes)
                if more:  # than a kernel has without asking
                    function.max_dynamic_shared_size_bytes = shared
                function(grid, block, args, shared_mem=shared)
                if debugging():
                    cuda.get_current_stream().synchronize()
            except (
                cuda.driver.CUDADriverError,
                cuda.runtime.CUDARuntimeError,
            ) as error:
                raise MinicnnError(
                    f"{kernel.name}: grid {grid}, block {block}, {shared} bytes of "
                    f"shared memory: {error}"
                ) from None
