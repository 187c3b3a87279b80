"""Kernels compiled for a GPU and kept by content, as `host_compiler` keeps its objects.

CuPy has a cache of compiled modules too, but before 14.2 a module of templates is not
found in it again (github.com/cupy/cupy/issues/9667 and 10173): each process would
compile for minutes. So NVRTC is called here, through CuPy's own binding of the library
that CuPy itself compiles with, and CuPy only loads the machine code.

A group of a file's instances is two files: NAME.cubin, and NAME.json with the digest of
the first and each instance's name in it. NAME ends in a digest of all that the code
depends on. So nothing is compiled twice, and nothing stale or torn is ever loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.base.files import cache_folder, make_folder, write_atomically, write_json
from minicnn.compile.host_compiler import keep
from minicnn.compile.kernel_source import KernelSource
from minicnn.devices.launch import FLUSH, OPTIONS


@dataclass(frozen=True)
class Cubin:
    """The machine code of a group of kernels.

    Attributes:
        path: of the file.
        names: what each instance's expression is called in it.
        cached: whether it had been compiled before.
    """

    path: Path
    names: Mapping[str, str]
    cached: bool


def cubin(nvrtc: Any, source: KernelSource, group: str, arch: str) -> Cubin | None:
    """Compiles a group of a file's instances, unless the cache has it.

    May be called from several threads: NVRTC compiles beside itself.

    Args:
        nvrtc: the module `cupy.cuda.nvrtc`.
        arch: the GPU's compute capability without a dot, such as "90".

    Returns:
        None where this NVRTC does not know the GPU; CuPy takes the nearest it knows.

    Raises:
        MinicnnError: with the compiler's message, file and line; or the cache folder
            cannot be written to.
    """
    if int(arch) not in nvrtc.getSupportedArchs():
        return None
    options = *OPTIONS, FLUSH, f"--gpu-architecture=sm_{arch}"
    expressions = source.group(group)
    depends = [nvrtc.getVersion(), options, expressions, source.text]
    digest = hashlib.sha256(repr(depends).encode()).hexdigest()[:24]
    parts = source.path.stem, re.sub(r"\W+", "_", group), f"sm_{arch}", digest
    folder = cache_folder()
    listing = folder / ("-".join(filter(None, parts)) + ".json")
    code = listing.with_suffix(".cubin")
    if not listing.exists():
        make_folder(folder)

    def make() -> None:
        machine_code, names = _compiled(nvrtc, source, expressions, options)
        write_atomically(code, machine_code)
        # The last: what is listed is whole.
        whole = hashlib.sha256(machine_code).hexdigest()
        write_json(listing, {"sha256": whole, "names": names})

    cached = keep(listing, make)
    names = _names(listing, code)
    if names is None:  # someone changed it
        listing.unlink(missing_ok=True)
        cached, names = keep(listing, make), _names(listing, code)
    if names is None:
        raise MinicnnError(f"{code}: changes while it is read; delete {folder}")
    return Cubin(code, names, cached)


def _names(listing: Path, code: Path) -> dict[str, str] | None:
    """The names of the instances; None unless the code is what was compiled."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(listing.read_text(encoding="utf-8"))
        if hashlib.sha256(code.read_bytes()).hexdigest() == held["sha256"]:
            return held["names"]
    return None


def _compiled(
    nvrtc: Any,
    source: KernelSource,
    expressions: tuple[str, ...],
    options: tuple[str, ...],
) -> tuple[bytes, dict[str, str]]:
    """The machine code, and the names in it.

    Raises:
        MinicnnError: with the compiler's messages.
    """
    program = nvrtc.createProgram(source.text, source.path.name, (), ())
    try:
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        nvrtc.compileProgram(program, options)
        names = {e: nvrtc.getLoweredName(program, e) for e in expressions}
        return nvrtc.getCUBIN(program), names
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program).strip()
        raise MinicnnError(f"{source.path.name}: NVRTC: {log or error}") from None
    finally:
        nvrtc.destroyProgram(program)
