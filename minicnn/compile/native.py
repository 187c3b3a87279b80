"""The cpu device's compiled code: functions of kernels/cpu/*.cpp, called with arrays.

    ELEMENTWISE = NativeFile("elementwise.cpp")
    backward = ELEMENTWISE.get("relu_backward", dy.dtype)
    backward(dev, dy.size, (y, dy), {"y": dy.size, "dy": dy.size})

A file is compiled at first use, for this very CPU, and kept; see `host_compiler`. While
a function runs, other threads may run Python. A function is written as

    template <typename T>
    EXPORT void relu_backward(i64 start, i64 stop, const T* y, T* dy) { ... }
    INSTANTIATE(relu_backward<float>, relu_backward<double>);

computes the items start .. stop − 1 of some count, and takes structs by const pointer.
Its signature is read from there, as a kernel's is; see `kernel_source`.

Without a C++ compiler, or with MINICNN_NATIVE=0, ops run in their NumPy forms.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.threads import HostThreads
from minicnn.compile.arguments import checked
from minicnn.compile.host_compiler import compile_library
from minicnn.compile.kernel_source import FOLDER, Instance, KernelSource, Parameter

CPU = FOLDER / "cpu"
# Rounds every product, as NumPy does: the same bits. A file that says otherwise may
# fuse it with the sum that follows.
ROUNDED, CONTRACTED = "-ffp-contract=off", "#pragma STDC FP_CONTRACT ON"
# Loops with roots and branches become vector instructions; no result changes.
OPTIONS = "-fno-math-errno", "-fno-trapping-math"
# Answer of `missing` where compiled forms are turned off.
OFF = "MINICNN_NATIVE=0"
# Chunks per thread: enough for the others to take over from a thread held up.
CHUNKS = 4
# Smallest work worth a thread, in element reads or writes.
WORTH = 1 << 18


def missing() -> str:
    """Why ops run in their NumPy forms; "" where compiled code runs."""
    if os.environ.get("MINICNN_NATIVE", "") == "0":
        return OFF
    return _failure()


@functools.cache
def _failure() -> str:
    """Compiles and loads all files; what went wrong, or ""."""
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(_library, sorted(CPU.glob("*.cpp"))))
    except (MinicnnError, OSError) as error:
        return str(error)
    return ""


@functools.cache
def _library(path: Path) -> dict[str, int]:
    """The addresses of a file's functions, by expression."""
    source = KernelSource.read(path)
    entries = "\n".join(f"    (void*)&{each}," for each in source.instances)
    text = (
        f"{source.text}\n"
        f'#line 1 "instances of {path.name}"\n'
        'extern "C" { extern void* const minicnn_entries[]; }\n'
        f"void* const minicnn_entries[] = {{\n{entries}\n}};\n"
    )
    options = OPTIONS if CONTRACTED in text else (ROUNDED, *OPTIONS)
    library = ctypes.CDLL(str(compile_library(f"cpu-{path.stem}", text, options)))
    count = len(source.instances)
    found = (ctypes.c_void_p * count).in_dll(library, "minicnn_entries")
    return dict(zip(source.instances, found, strict=True))


class NativeFile:
    """The functions of one file.

    Args:
        name: a file of kernels/cpu, such as "elementwise.cpp", or a path.
    """

    def __init__(self, name: str | Path) -> None:
        self.path = CPU / name

    @functools.cache  # noqa: B019 (files live as long as the program)
    def get(self, name: str, *template: Any) -> Function:
        """A function by its name and template arguments; see `KernelSource.find`."""
        instance = KernelSource.read(self.path).find("function", name, template)
        return Function(instance, _library(self.path)[instance.expression])


class Function:
    """One instance of a function; calling it runs it on a device's threads."""

    def __init__(self, instance: Instance, address: int) -> None:
        self.name = instance.expression
        self.parameters = instance.parameters[2:]
        types = [ctypes.c_int64] * 2 + [_c_type(each) for each in self.parameters]
        self._call = ctypes.CFUNCTYPE(None, *types)(address)

    def __call__(
        self,
        dev: HostThreads,
        total: int,
        args: Sequence[Any],
        sizes: Mapping[str, int],
        work: float = WORTH,
    ) -> None:
        """Runs the function on `total` items, whose results do not depend on the cut.

        Args:
            args, sizes: see `bind`.
            work: of one item, in element reads or writes; the default makes every item
                worth a thread.
        """
        chunks = CHUNKS * dev.threads if dev.threads > 1 else 1
        chunk = max(int(WORTH / work), -(-total // chunks), 1)
        dev.for_chunks(self.bind(args, sizes), total, chunk)

    def bind(
        self, args: Sequence[Any], sizes: Mapping[str, int]
    ) -> Callable[[int, int], None]:
        """The function of (start, stop) with all its other arguments given.

        Args:
            args: one for each parameter from the third on; see `checked`.
            sizes: how many numbers arrays must have, by the parameter's name.

        Raises:
            MinicnnError: an argument that does not fit, by name.
        """
        values = checked(self.name, self.parameters, args, np.ndarray, alignment=1)
        for parameter, value in zip(self.parameters, values, strict=True):
            size = sizes.get(parameter.name)
            if size is not None and value is not None and value.size != size:
                raise MinicnnError(
                    f"{self.name}: argument {parameter.name}: shape {value.shape}, "
                    f"where {size} numbers are due"
                )
        call, plain = self._call, [_plain(value) for value in values]

        def run(start: int, stop: int, alive: object = values) -> None:
            call(start, stop, *plain)

        return run


def _plain(value: Any) -> Any:
    """What ctypes takes: an array's address, None, or a Python number."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    return None if value is None else value.item()


def _c_type(parameter: Parameter) -> Any:
    """What ctypes calls a parameter's type."""
    if parameter.pointer:
        return ctypes.c_void_p
    return np.ctypeslib.as_ctypes_type(parameter.dtype)
