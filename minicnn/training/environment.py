"""This machine and its software, for run records and `minicnn doctor`."""

from __future__ import annotations

import contextlib
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
# Folders that programs write to; changes there do not count as changed code.
_WRITTEN = ("docs", "experiments/results")


@cache
def commit() -> str:
    """The commit that runs, with DIRTY if changed since.

    Without a checkout what MINICNN_COMMIT in the environment says, else "unknown".
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
        return os.environ.get("MINICNN_COMMIT") or "unknown"
