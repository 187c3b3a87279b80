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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.base.threads import HostThreads
from minicnn.compile.arguments import checked
from minicnn.compile.host_compiler import compile_library
from minicnn.compile.kernel_source import FOLDER, Instance, KernelSource

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
    entries = "\n".join(f"    (void*)Entry<{each}>::call," for each in source.instances)
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


class Bound:
    """A function of (start, stop) with all its other arguments, which live as long.

    Attributes:
        address: of its `Entry` in native.h.
        slots: the arguments, as that takes them.
    """

    def __init__(self, address: int, values: Sequence[Any]) -> None:
        self.address, self._values = address, values
        self.slots = ctypes.create_string_buffer(b"".join(map(_slot, values)))
        self._call = _ENTRY(address)

    def __call__(self, start: int, stop: int) -> None:
        self._call(start, stop, self.slots)


class Function:
    """One instance of a function; calling it runs it on a device's threads."""

    def __init__(self, instance: Instance, address: int) -> None:
        self.name, self._address = instance.expression, address
        self.parameters = instance.parameters[2:]

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

    def bind(self, args: Sequence[Any], sizes: Mapping[str, int]) -> Bound:
        """The function with all its other arguments given.

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
        return Bound(self._address, values)


_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def _slot(value: Any) -> bytes:
    """An array's address, a null pointer, or a number, as 8 bytes."""
    if value is None or isinstance(value, np.ndarray):
        value = np.uint64(0 if value is None else value.ctypes.data)
    return value.tobytes().ljust(8, b"\0")
