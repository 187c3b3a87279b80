"""Compiles kernel files for GPUs that are not there, as the cuda device would.

    for report in compile_report("conv.cu", "sm_90", np.float32):
        print(report.name, report.registers, report.spill_stores)

NVRTC, which needs no GPU, is given the text and the options that CuPy gives it.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import KernelSource, c_name
from minicnn.devices.cuda import OPTIONS
from minicnn.devices.launch import JOBS, KernelFile

CUPYS_OPTIONS = "-ftz=true", "--device-as-default-execution-space"
"""What CuPy adds to the options that it is given, but for the architecture."""

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


def version() -> str:
    """NVRTC's version, such as "12.9".

    Raises:
        MinicnnError: CuPy or NVRTC is absent.
    """
    # CuPy looks for NVRTC in Python's own folder of packages alone; and CUDA 13's does
    # not find its other half unless that is loaded.
    for folder in map(Path, sys.path):
        for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.[0-9][0-9]"):
            for library in folder.glob(f"nvidia/*/lib/{name}"):
                ctypes.CDLL(str(library))
    try:
        from cupy.cuda import nvrtc

        return ".".join(map(str, nvrtc.getVersion()))
    except (ImportError, RuntimeError) as error:
        raise MinicnnError(
            f"no CuPy with NVRTC ({' '.join(str(error).split())[:200]}); install it: "
            "pip install 'cupy-cuda12x[ctk]'"
        ) from None


def compile_report(
    path: str | Path, arch: str = "sm_90", dtype: Any = None
) -> list[KernelReport]:
    """Compiles a kernel file's instances and reads what the assembler reports.

    Args:
        path: as for `minicnn.devices.launch.KernelFile`.
        arch: a real architecture, such as sm_80.
        dtype: only the instances whose first template argument is that; None: all.

    Raises:
        MinicnnError: CuPy or NVRTC is absent, or the compiler's messages.
    """
    version()
    source = KernelFile(path).source
    groups = [g for g in source.groups() if dtype is None or g == c_name(dtype)]
    with ThreadPoolExecutor(min(available_cores(), JOBS)) as pool:
        found = pool.map(partial(_reports, source, arch), groups)
        return list(itertools.chain.from_iterable(found))


def _reports(source: KernelSource, arch: str, group: str) -> list[KernelReport]:
    """The reports of the instances that are compiled with a group."""
    from cupy.cuda import nvrtc

    expressions = source.group(group)
    options = (*OPTIONS, *CUPYS_OPTIONS, f"-arch={arch}", "--ptxas-options=-v")
    program = nvrtc.createProgram(source.text, source.path.name, (), ())
    try:
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        nvrtc.compileProgram(program, options)
        names = [nvrtc.getLoweredName(program, each) for each in expressions]
        logs = _parts(_ENTRY, nvrtc.getProgramLog(program))
        ptx = _parts(_PTX_ENTRY, nvrtc.getPTX(program).decode())
        code = _sections(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError:
        said = nvrtc.getProgramLog(program).strip("\0\n ")
        raise MinicnnError(f"{source.path.name}: NVRTC: {said}") from None
    finally:
        nvrtc.destroyProgram(program)
    return [
        _report(expression, arch, logs[name], ptx[name], code[f".text.{name}"])
        for expression, name in zip(expressions, names, strict=True)
    ]


def _report(
    expression: str, arch: str, said: str, ptx: str, code: bytes
) -> KernelReport:
    """A kernel's report from what the assembler said, its PTX and its machine code."""
    spills, used = _SPILLS.search(said), _USED.search(said)
    if spills is None or used is None:
        raise MinicnnError(f"{expression}: no ptxas report")
    shared = _SHARED.search(used[0])
    return KernelReport(
        name=expression,
        arch=arch,
        registers=int(used[1]),
        shared_bytes=int(shared[1]) if shared else 0,
        stack_bytes=int(spills[1]),
        spill_stores=int(spills[2]),
        spill_loads=int(spills[3]),
        instructions=_instructions(code),
        ptx=ptx,
    )


def _sections(elf: bytes) -> dict[str, bytes]:
    """A 64-bit ELF file's sections by name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [
        struct.unpack_from("<IIQQQQ", elf, table + size * number)
        for number in range(count)
    ]
    start = headers[names][4]
    found = {}
    for name, _, _, _, offset, extent in headers:
        stop = elf.index(b"\0", start + name)
        found[elf[start + name : stop].decode()] = elf[offset : offset + extent]
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
