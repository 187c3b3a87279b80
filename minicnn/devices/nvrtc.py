"""Compiles kernel files for GPUs that are not there, as the cuda device would.

    for report in compile_report("conv.cu", "sm_90", np.float32):
        print(report.name, report.registers, report.spill_stores)

It is the cuda device's own way, `CudaLauncher.build`, by CuPy's own compiler, up to the
load: NVRTC needs no GPU. Only what asks for a GPU is put aside meanwhile.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import c_name
from minicnn.devices.cuda import CudaLauncher
from minicnn.devices.launch import JOBS, KernelFile

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
_USED = re.compile(r"Used (\d+) registers.*")
_SHARED = re.compile(r"(\d+) bytes smem")
_NOP = 0x918  # in the lowest 12 bits of an instruction
_PTX_ENTRY = re.compile(r"\.entry (\w+)\(")
_EMPTY = 8  # type of an ELF section without bytes, SHT_NOBITS


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


def version() -> str:
    """NVRTC's version, such as "12.9".

    Raises:
        MinicnnError: CuPy or NVRTC is absent.
    """
    for folder in map(Path, sys.path):
        # CuPy looks for NVRTC in Python's own folder of packages alone; and CUDA 13's
        # does not find its other half unless that is loaded.
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


@contextmanager
def without_gpu(arch: str) -> Iterator[list[Any]]:
    """Within it `CudaLauncher.build` compiles for a GPU, and loads nothing.

    Args:
        arch: the GPU's, such as "sm_90".

    Returns:
        A list of CuPy's modules in the order of their loading, each with the attributes
        image (the bytes that the driver is handed, the last included), mapping (mangled
        names by expression), log (the compiler's and the assembler's messages) and ptx
        (the code as text); both are "" where CuPy's cache had the image.

    Raises:
        MinicnnError: CuPy or NVRTC is absent.
    """
    version()
    import cupy
    from cupy._core import raw
    from cupy.cuda import compiler, function, nvrtc

    loaded: list[Any] = []
    said = threading.local()

    class Program(compiler._NVRTCProgram):
        def compile(self, options: tuple[str, ...] = (), log_stream: Any = None) -> Any:
            made = super().compile((*options, "--ptxas-options=-v"), log_stream)
            said.last = nvrtc.getProgramLog(self.ptr), nvrtc.getPTX(self.ptr).decode()
            return made

    class Module(function.Module):
        log: str
        ptx: str

        def load(self, cubin: bytes) -> None:
            # CuPy's bytes lack the image's last one, a zero. But Python ends bytes with
            # one, and the driver, that is handed their address, reads it.
            self.image = ctypes.string_at(cubin, len(cubin) + 1)
            (self.log, self.ptx), said.last = getattr(said, "last", ("", "")), ("", "")
            loaded.append(self)

    gpu = mock.MagicMock(compute_capability=arch.removeprefix("sm_"))
    gpu_of = mock.Mock(return_value=gpu)
    changes = {
        (cupy.cuda, "Device"): gpu_of,
        (compiler, "device"): mock.Mock(Device=gpu_of),
        (compiler, "function"): mock.Mock(Module=Module),
        (compiler, "_NVRTCProgram"): Program,
    }
    for place, name in (
        (raw, "_get_raw_module"),
        (compiler, "_get_arch"),
        (compiler, "_get_arch_for_options_for_nvrtc"),
    ):  # remembered for each GPU, so they ask for the current one
        changes[place, name] = getattr(place, name).__wrapped__
    with ExitStack() as stack:
        for (place, name), value in changes.items():
            stack.enter_context(mock.patch.object(place, name, value))
        yield loaded


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
    return [
        report
        for module in compile_file(path, arch, dtype)
        for report in reports(module, arch)
    ]


def compile_file(path: str | Path, arch: str, dtype: Any = None) -> list[Any]:
    """The groups of a file's instances, compiled afresh; see `compile_report`.

    Returns:
        A module for each group, as `without_gpu` describes them.
    """
    file = KernelFile(path)
    groups = [g for g in file.groups() if dtype is None or g == c_name(dtype)]
    with (
        mock.patch.dict("os.environ", CUPY_CACHE_IN_MEMORY="1"),
        without_gpu(arch) as loaded,
        ThreadPoolExecutor(min(available_cores(), JOBS)) as pool,
    ):
        launcher = CudaLauncher()
        for _ in pool.map(lambda group: launcher.build(file.source, group), groups):
            pass
    return sorted(loaded, key=lambda module: list(module.mapping))


def reports(module: Any, arch: str) -> list[KernelReport]:
    """What the assembler says of each kernel of a module of `compile_file`."""
    logs, ptx = _parts(_ENTRY, module.log), _parts(_PTX_ENTRY, module.ptx)
    code = sections(module.image)
    found = []
    for expression, name in module.mapping.items():
        said = logs.get(name, "")
        spills, used = _SPILLS.search(said), _USED.search(said)
        if spills is None or used is None:
            raise MinicnnError(f"{expression}: no ptxas report")
        shared = _SHARED.search(used[0])
        stack, stores, loads = map(int, spills.groups())
        found.append(
            KernelReport(
                expression,
                arch,
                int(used[1]),
                int(shared[1]) if shared else 0,
                stack,
                stores,
                loads,
                _instructions(code[f".text.{name}"]),
                ptx[name],
            )
        )
    return found


def sections(elf: bytes) -> dict[str, bytes]:
    """A 64-bit ELF file's sections by name.

    Raises:
        MinicnnError: the file is shorter than its own tables say.
    """
    programs, table = struct.unpack_from("<QQ", elf, 0x20)
    length, number, size, count, names = struct.unpack_from("<HHHHH", elf, 0x36)
    headers = [
        struct.unpack_from("<IIQQQQ", elf, start)
        for start in range(table, table + count * size, size)
    ]
    held = [header for header in headers if header[1] != _EMPTY]
    ends = [offset + extent for *_, offset, extent in held]
    end = max(programs + length * number, table + size * count, *ends)
    if end > len(elf):
        raise MinicnnError(f"an ELF file of {len(elf)} bytes, of {end} by its tables")
    start = headers[names][4]
    found = {}
    for name, _, _, _, offset, extent in held:
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
