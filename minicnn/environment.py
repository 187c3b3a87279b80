"""What this machine has, for run records and `minicnn doctor`."""

from __future__ import annotations

import platform
import sys
from typing import Any

from minicnn import __version__
from minicnn.device import Device


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
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
