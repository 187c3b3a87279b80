"""The C++ compiler of this machine: found, asked, and its objects kept by content.

An object's name is a digest of all that it depends on: the text, the headers beside
the kernels, the compiler, its options and the CPU. So nothing is compiled twice, and
nothing stale is ever loaded; nor what another CPU made, for a home folder, and in it
the cache, may serve machines of several kinds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from itertools import takewhile
from pathlib import Path

from filelock import FileLock

from minicnn.base.errors import MinicnnError
from minicnn.base.files import cache_folder
from minicnn.compile.kernel_source import FOLDER

_HOST = FOLDER / "host"

_COMMON_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-pthread",
    "-U_FORTIFY_SOURCE",  # its longjmp check knows only one stack
    "-fno-strict-aliasing",  # kernels load float through float4
    "-Wno-unknown-pragmas",
    "-g1",
)
_SANITIZE_FLAGS = (
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,object-size,pointer-overflow",  # AddressSanitizer sees these
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


@functools.cache
def sanitizing() -> bool:
    """Whether kernels are built with AddressSanitizer and UBSan (MINICNN_SANITIZE)."""
    return os.environ.get("MINICNN_SANITIZE", "") not in ("", "0")


@functools.cache
def sanitizer_library() -> Path:
    """AddressSanitizer's library, to be loaded before all others.

    Raises:
        MinicnnError: the compiler has none.
    """
    name = "libclang_rt.asan.so" if "clang" in compiler()[0] else "libasan.so"
    found = subprocess.run(
        [*compiler(), f"-print-file-name={name}"], capture_output=True, text=True
    ).stdout.strip()
    if not os.path.isabs(found):
        raise MinicnnError(
            f"{compiler()[0]} has no AddressSanitizer ({name}); install libasan "
            "(Debian, Ubuntu: apt install libgcc-12-dev)"
        )
    return Path(found)


@functools.cache
def compiler() -> tuple[str, ...]:
    """The C++ compiler's command.

    Raises:
        MinicnnError: there is none.
    """
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in [asked] if asked else [["g++"], ["clang++"], ["c++"]]:
        if found := shutil.which(command[0]):
            return (found, *command[1:])
    wanted = f"CXX={asked[0]} not found" if asked else "no C++ compiler found"
    raise MinicnnError(
        f"{wanted}, which the emulated device cannot do without; install g++ (Debian, "
        "Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select "
        "--install)"
    )


@functools.cache
def _flags() -> tuple[str, ...]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    fast = "-O3", "-march=native" if x86 else "-mcpu=native"
    undefined = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    speed = _SANITIZE_FLAGS if sanitizing() else fast
    return (*_COMMON_FLAGS, *speed, *undefined, f"-I{_HOST}")


def _compile(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the compiler with the flags for every library."""
    # Options of CXX come last, so that they count: CXX="g++ -O0 -g".
    program = list(takewhile(lambda word: word[0] != "-", compiler()))
    command = [*program, *_flags(), *arguments, *compiler()[len(program) :]]
    # The sanitizers are for kernels; they would only slow the compiler down.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@functools.cache
def _fingerprint() -> bytes:
    """What a compiled object depends on besides its source and its own options."""
    changed = os.stat(compiler()[0]).st_mtime_ns
    # The macros name the compiler's version, and the instructions that the CPU has.
    macros = _compile("-dM", "-E", "-x", "c++", os.devnull).stdout
    headers = b"".join(p.read_bytes() for p in sorted(_HOST.glob("*.h")))
    return repr((compiler(), changed, _flags(), macros)).encode() + headers


def compile_library(name: str, text: str, options: tuple[str, ...] = ()) -> Path:
    """Compiles C++ text to a shared library, unless the cache has it.

    Args:
        name: how the file's name begins.
        options: of the compiler, besides those for every library.

    Raises:
        MinicnnError: no compiler, or its messages.
    """
    content = _fingerprint() + "\n".join([*options, text]).encode()
    digest = hashlib.sha256(content).hexdigest()[:24]
    library = cache_folder() / f"{name}-{digest}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    turn = library.with_suffix(".lock")
    lock = FileLock(turn)
    # Whoever else wants it waits, instead of compiling the same. Where nothing can be
    # locked, as on some network drives, filelock raises either of these, and both
    # compile, which does no harm.
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        if not library.exists():
            _build(name, text, options, library)
    finally:
        turn.unlink(missing_ok=True)
        lock.release()
    return library


def _build(name: str, text: str, options: tuple[str, ...], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        source, built = Path(work, "unit.cpp"), Path(work, "unit.so")
        source.write_text(text)
        done = _compile(*options, str(source), "-o", str(built))
        if done.returncode:
            raise MinicnnError(
                f"{name}: {' '.join(compiler())} failed:\n{done.stderr.rstrip()}"
            )
        built.replace(library)  # whole or not at all, even if it is killed
