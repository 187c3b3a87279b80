"""Runs CUDA kernel files on the CPU, and finds what a GPU would hide.

The very same .cu files and the same launch code: each file is compiled with g++ or
clang++ as C++17 (kernels/host/*.h give the CUDA words their meaning), CUDA threads run
as fibers, blocks spread over the cores. See docs/emulator.md for what it checks.

Environment:
    CXX                the compiler; otherwise g++, clang++ or c++ is looked for.
    XDG_CACHE_HOME     where compiled kernels are kept (minicnn/), by content.
    MINICNN_ORDER      thread order: forward, reverse, shuffled or shuffled:SEED.
    MINICNN_SANITIZE   1 builds with AddressSanitizer and UBSan; `sanitized` runs a
                       command that way.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.compile.host_compiler import compile_library, sanitizer_library
from minicnn.compile.kernel_source import KernelSource

ORDERS = ("forward", "reverse", "shuffled")
_SHARED = re.compile(
    r"\b(?P<extern>extern\s+)?__shared__\s+(?:(?:__align__|alignas)\s*"
    r"\((?P<align>[^()]*)\)\s*)?"
    r"(?P<type>[^;={}\[\]]+?)\s*\b"
    r"(?P<names>\w+\s*(?:\[[^\];]*\]\s*)*(?:,\s*\w+\s*(?:\[[^\];]*\]\s*)*)*);"
)
_UNROLL = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+unroll\b[ \t(]*(\d*).*$", re.MULTILINE)


class _Launch(ctypes.Structure):
    """emu::Launch of host/interface.h."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_size_t),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
        ("workers", ctypes.c_int),
    )


class _Entry(ctypes.Structure):
    """emu::Entry of host/interface.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("arity", ctypes.c_int),
        ("sizes", ctypes.POINTER(ctypes.c_size_t)),
    )


class EmulatedLauncher:
    """Launches kernels on the CPU; `CudaLauncher` is its like for GPUs.

    Attributes:
        array: the type of the device's arrays.

    Args:
        order: of the threads of a block, and of the blocks: "forward", "reverse",
            "shuffled" or "shuffled:SEED"; None takes MINICNN_ORDER or "forward".
            May be changed between launches.
        workers: operating-system threads; None takes what this process may use.
    """

    array = np.ndarray

    def __init__(self, order: str | None = None, workers: int | None = None) -> None:
        self.order = order or os.environ.get("MINICNN_ORDER") or "forward"
        self.workers = workers or available_cores()
        self._entries: dict[tuple[Path, str], _Entry] = {}

    @property
    def order(self) -> str:
        """The thread order of the next launches."""
        return self._order

    @order.setter
    def order(self, order: str) -> None:
        name, _, seed = order.partition(":")
        if name not in ORDERS or (seed and not (name == "shuffled" and seed.isdigit())):
            raise MinicnnError(
                f"thread order {order}: choose forward, reverse, shuffled or "
                "shuffled:SEED"
            )
        self._order, self._how = order, (ORDERS.index(name), int(seed or 1))

    def build(self, source: KernelSource, group: str) -> None:
        """Loads a group of a file's instances, compiled now or in an earlier process.

        May be called from several threads.

        Raises:
            MinicnnError: no compiler, or its messages.
        """
        expressions = source.group(group)
        if not expressions or (source.path, expressions[0]) in self._entries:
            return
        name = "-".join(filter(None, (source.path.stem, re.sub(r"\W+", "_", group))))
        path = compile_library(name, _host_text(source, expressions))
        _runtime()
        library = ctypes.CDLL(str(path))
        entries = (_Entry * len(expressions)).in_dll(library, "minicnn_emu_entries")
        for expression, entry in zip(expressions, entries, strict=True):
            self._entries[source.path, expression] = entry

    def launch(
        self,
        kernel: Any,  # a `minicnn.devices.launch.Kernel`
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        values: list[Any],
        shared: int,
    ) -> None:
        """Runs the kernel to its end.

        Args:
            grid: blocks along x, y, z.
            block: threads along x, y, z.
            values: what `arguments.checked` returns.
            shared: bytes of dynamic shared memory.

        Raises:
            MinicnnError: what the emulator found, with kernel, block and thread.
        """
        self.build(kernel.source, kernel.instance.group)
        entry = self._entries[kernel.source.path, kernel.name]
        held = [_argument(value) for value in values]
        for parameter, size, value in zip(
            kernel.instance.parameters, entry.sizes[: entry.arity], held, strict=True
        ):
            if value.nbytes != size:
                raise MinicnnError(
                    f"{kernel.name}: argument {parameter.name}: {value.nbytes} bytes "
                    f"({value.dtype}) for a parameter of {size} ({parameter.type})"
                )
        arguments = (ctypes.c_void_p * (len(held) + 1))(*(v.ctypes.data for v in held))
        where = ctypes.addressof(entry), arguments, grid, block, shared
        launch = _Launch(*where, *self._how, self.workers)
        message = ctypes.create_string_buffer(1000)
        if _runtime().minicnn_emu_launch(ctypes.byref(launch), message, len(message)):
            raise MinicnnError(message.value.decode(errors="replace"))


def _argument(value: Any) -> NDArray[Any]:
    """The bytes a parameter receives, as a 0-d array: the value, or an address."""
    if value is None:
        return np.zeros((), np.uintp)
    if isinstance(value, np.ndarray) and value.dtype.names is None:
        return np.array(value.ctypes.data, np.uintp)
    return np.asarray(value)


def poisoned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A new array of NaN bits: shows what a kernel leaves unwritten.

    Floating-point types of every width read NaN; integers all ones.
    """
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8).fill(0xFF)
    return array


def sanitized(
    command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs Python with every kernel built under AddressSanitizer and UBSan.

    A finding ends the command at once with status 66 and the sanitizer's report, which
    names kernel file and line, on stderr. Because malloc is watched too, an index one
    past the end of a NumPy array shows.

    Args:
        command: Python's arguments, such as ["-m", "pytest", "-k", "emulated"].
        env: more environment variables.
        options: for subprocess.run.

    Raises:
        MinicnnError: the compiler has no sanitizers.
    """
    environment = {
        **os.environ,
        "LD_PRELOAD": str(sanitizer_library()),
        # Python frees nothing at its end; fibers have stacks of their own.
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=66:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
        "MINICNN_SANITIZE": "1",
        # Python's own allocator would hide small arrays' ends.
        "PYTHONMALLOC": "malloc",
        **(env or {}),
    }
    return subprocess.run(
        [sys.executable, *command], env=environment, text=True, **options
    )


@functools.cache
def _runtime() -> ctypes.CDLL:
    """The scheduler, loaded so that kernel libraries find it."""
    path = compile_library("runtime", '#include "runtime.h"\n')
    return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def _host_text(source: KernelSource, expressions: Sequence[str]) -> str:
    """The C++ that instances of a kernel file are compiled from."""
    text = _SHARED.sub(_shared, source.text)
    text = _UNROLL.sub(lambda match: f"MINICNN_UNROLL({match[1] or 32})", text)
    entries = "\n".join(f'    emu::entry<&{e}>("{e}"),' for e in expressions)
    return (
        f'#include "cuda.h"\n{text}\n'
        f'#line 1 "instances of {source.path.name}"\n'
        'extern "C" { extern const emu::Entry minicnn_emu_entries[]; }\n'
        f"const emu::Entry minicnn_emu_entries[] = {{\n{entries}\n}};\n"
    )


def _shared(match: re.Match[str]) -> str:
    """A `__shared__` declaration as a reference into the block's shared memory.

    The address of a variable that is the declaration's own is the array's key: each
    template instance has its own, as on the device.
    """
    kind = " ".join(match["type"].split())
    lines = "\n" * match[0].count("\n")
    if match["extern"]:
        name = match["names"].split("[")[0].strip()
        return f"{kind}* const {name} = emu::dynamic_shared<{kind}>();{lines}"
    made = ""
    for declarator in match["names"].split(","):
        name, bracket, rest = " ".join(declarator.split()).partition("[")
        name = name.strip()
        made += (
            f"static const char {name}_key = 0; auto& {name} = "
            f"emu::shared<{kind} {bracket}{rest}>"
            f'(&{name}_key, "{name}", {match["align"] or 16}); '
        )
    return made + lines


if __name__ == "__main__":
    if not sys.argv[1:]:
        print(
            "usage: python -m minicnn.compile.emulator {-m MODULE | SCRIPT} "
            "[ARGUMENT]\n"
            "Runs it with every kernel under AddressSanitizer and UBSan.",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        sys.exit(sanitized(sys.argv[1:]).returncode)
    except MinicnnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
