"""Compiles kernel files for real GPUs without one: NVRTC, down to machine code.

    for report in compile_report("conv.cu", "sm_90", np.float32):
        print(report.name, report.registers, report.spill_stores)

NVRTC comes from the pip wheel nvidia-cuda-nvrtc-cu12 or -cu13, or from a CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import re
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import KernelSource, find
from minicnn.devices.launch import FLUSH, OPTIONS, c_name

_OPTIONS = (*OPTIONS, FLUSH, "--ptxas-options=-v")

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
_USED = re.compile(r"Used (\d+) registers.*")
_SHARED = re.compile(r"(\d+) bytes smem")
_NOP = 0x918  # in the lowest 12 bits of an instruction
_PTX_ENTRY = re.compile(r"\.entry (\w+)\(")


@dataclass(frozen=True)
class KernelReport:
    """What the assembler says of one kernel instance.

    Attributes:
        name: the C++ expression, such as "lrn_forward<float>".
        arch: such as "sm_90".
        registers: 32-bit registers a thread.
        shared_bytes: static shared memory of a block.
        stack_bytes: local memory of a thread: arrays it could not keep in registers.
        spill_stores, spill_loads: bytes a thread spills to local memory.
        instructions: of its machine code, without what pads it.
        ptx: the instance's PTX; `uses` searches it.
    """

    name: str
    arch: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int
    instructions: int
    ptx: str = field(repr=False)

    def uses(self, instruction: str) -> bool:
        """Whether the PTX has an instruction that starts so, such as "mma.sync"."""
        pattern = rf"^\s*(?:@!?%\w+ )?{re.escape(instruction)}"
        return re.search(pattern, self.ptx, re.MULTILINE) is not None


def compile_report(
    path: str | Path, arch: str = "sm_90", dtype: Any = None
) -> list[KernelReport]:
    """Compiles a kernel file's instances and reads what the assembler reports.

    Args:
        path: as for `minicnn.devices.launch.KernelFile`.
        arch: a real architecture: sm_80, sm_90, sm_100.
        dtype: only the instances whose first template argument is that; None: all.

    Raises:
        MinicnnError: NVRTC is absent, or the compiler's messages.
    """
    source = KernelSource.read(find(path))
    if dtype is None:
        groups = sorted({instance.group for instance in source.instances.values()})
    else:
        groups = [c_name(dtype)]
    return [report for g in groups for report in _compile(source, g, arch)]


def available() -> bool:
    """Whether NVRTC can be loaded."""
    try:
        _nvrtc()
    except MinicnnError:
        return False
    return True


def version() -> str:
    """NVRTC's version, such as "12.9".

    Raises:
        MinicnnError: NVRTC is absent.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    wheels = [
        library
        for folder in map(Path, sys.path)
        for library in sorted(folder.glob("nvidia/*/lib/libnvrtc.so.[0-9][0-9]"))
    ]
    system = ctypes.util.find_library("nvrtc")
    for name in [*map(str, wheels), *([system] if system else [])]:
        try:
            # CUDA 13's wheel does not find its other half, unless that is loaded.
            for other in Path(name).parent.glob("libnvrtc-builtins.so.*"):
                if name != system:
                    ctypes.CDLL(str(other))
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise MinicnnError(
        "NVRTC not found; install it with: pip install nvidia-cuda-nvrtc-cu12"
    )


class _Program:
    """An nvrtcProgram, destroyed on leaving."""

    def __init__(self, source: KernelSource, expressions: tuple[str, ...]) -> None:
        self.lib, self.path = _nvrtc(), source.path
        self.handle = ctypes.c_void_p()
        text, name = source.text.encode(), source.path.name.encode()
        self._check("CreateProgram", ctypes.byref(self.handle), text, name, 0, 0, 0)
        for expression in expressions:
            self._check("AddNameExpression", self.handle, expression.encode())

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.lib.nvrtcDestroyProgram(ctypes.byref(self.handle))

    def _check(self, function: str, *arguments: Any) -> None:
        if status := getattr(self.lib, f"nvrtc{function}")(*arguments):
            self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            said = self.lib.nvrtcGetErrorString(status).decode()
            raise MinicnnError(f"{self.path.name}: NVRTC: {function}: {said}")

    def compile(self, *options: str) -> str:
        """Compiles; returns the log."""
        array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        status = self.lib.nvrtcCompileProgram(self.handle, len(options), array)
        log = self.text("ProgramLog")
        if status:
            raise MinicnnError(f"{self.path.name}: NVRTC failed:\n{log.rstrip()}")
        return log

    def text(self, what: str) -> str:
        """The log or the PTX."""
        return self.data(what).rstrip(b"\0").decode(errors="replace")

    def data(self, what: str) -> bytes:
        """Those, or the machine code, "CUBIN"."""
        size = ctypes.c_size_t()
        self._check(f"Get{what}Size", self.handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(f"Get{what}", self.handle, buffer)
        return buffer.raw

    def lowered(self, expression: str) -> str:
        """The mangled name."""
        name = ctypes.c_char_p()
        self._check(
            "GetLoweredName", self.handle, expression.encode(), ctypes.byref(name)
        )
        return (name.value or b"").decode()


def _compile(source: KernelSource, group: str, arch: str) -> list[KernelReport]:
    expressions = source.group(group)
    if not expressions:
        return []
    with _Program(source, expressions) as program:
        log = program.compile(*_OPTIONS, f"--gpu-architecture={arch}")
        logs, ptx = _parts(_ENTRY, log), _parts(_PTX_ENTRY, program.text("PTX"))
        code = _sections(program.data("CUBIN"))
        reports = []
        for expression in expressions:
            name = program.lowered(expression)
            said = logs.get(name, "")
            spills, used = _SPILLS.search(said), _USED.search(said)
            if spills is None or used is None:
                raise MinicnnError(f"{source.path.name}: {expression}: no ptxas report")
            shared = _SHARED.search(used[0])
            stack, stores, loads = map(int, spills.groups())
            static = int(shared[1]) if shared else 0
            reports.append(
                KernelReport(
                    expression,
                    arch,
                    int(used[1]),
                    static,
                    stack,
                    stores,
                    loads,
                    _instructions(code[f".text.{name}"]),
                    ptx[name],
                )
            )
    return reports


def _sections(elf: bytes) -> dict[str, bytes]:
    """A 64-bit ELF file's sections by name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [
        struct.unpack_from("<IIQQQQ", elf, table + number * size)
        for number in range(count)
    ]
    start = headers[names][4]
    found = {}
    for name, *_, offset, length in headers:
        end = elf.index(b"\0", start + name)
        found[elf[start + name : end].decode()] = elf[offset : offset + length]
    return found


def _instructions(code: bytes) -> int:
    """How many a kernel's machine code has: 16 bytes each, since Volta.

    It ends in NOPs up to a multiple of 128 bytes, and before them in a branch to
    itself.
    """
    words = [low & 0xFFF for low, _ in struct.iter_unpack("<QQ", code)]
    while words and words[-1] == _NOP:
        words.pop()
    return len(words)


def _parts(start: re.Pattern[str], text: str) -> dict[str, str]:
    """The text cut at each match of `start`, by the name it captures."""
    matches = list(start.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    return {m[1]: text[m.end() : end] for m, end in zip(matches, ends, strict=True)}
