"""This machine and its software, for run records and `minicnn doctor`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn import __version__

if TYPE_CHECKING:  # `minicnn doctor` speaks without NumPy, too
    from minicnn.devices.device import Device


def describe(dev: Device) -> dict[str, Any]:
    """Versions, device and machine of a run, as JSON has them."""
    import numpy
    from threadpoolctl import threadpool_info

    blas = [
        f"{each['internal_api']} {each.get('version')}"
        for each in threadpool_info()
        if each["user_api"] == "blas"
    ]
    return {
        "minicnn": __version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "numpy": numpy.__version__,
        "blas": ", ".join(blas) or "unknown",
        "device": dev.name,
        "threads": dev.threads,
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        **dev.details(),
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    with contextlib.suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*: *(.*?)\s*$", told, re.M):
            return found[1]
    return platform.processor() or platform.machine()


DIRTY = "-dirty"
_CODE = {".py", ".toml", ".cu", ".cuh", ".cpp", ".h"}
# Folders that programs write to; changes there do not count as changed code.
_WRITTEN = ("docs", "experiments/results")
# Folders of code beside the package in a source tree.
_BESIDE = ("data_prep", "experiments", "tests")


@cache
def commit() -> str:
    """The commit that runs, with DIRTY if changed since.

    Without a checkout what MINICNN_COMMIT in the environment says, else "unknown"; with
    a digest of the code, which tells copies apart.
    """
    file = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=30
        ).strip()

    try:
        # An installed copy may lie in a checkout that does not track it.
        git("ls-files", "--error-unmatch", str(file))
        code = ":/", *(f":(top,exclude){folder}" for folder in _WRITTEN)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return git("rev-parse", "--short=12", "HEAD") + (DIRTY if changed else "")
    except (OSError, subprocess.SubprocessError):
        from minicnn.compile import kernel_source

        told = os.environ.get("MINICNN_COMMIT") or "unknown"
        package = file.parents[1]
        beside = [package.parent / name for name in _BESIDE]
        return f"{told} (code {digest(package, kernel_source.FOLDER, *beside)})"


def digest(*folders: Path) -> str:
    """Twelve hexadecimal digits of the code in folders: names and contents."""
    found = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in _CODE and file.is_file():
                content = file.read_bytes()
                name = file.relative_to(folder).as_posix()
                found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:12]
