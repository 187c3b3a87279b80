"""The doctor's look at the GPU: card, driver, CuPy and NVRTC."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from minicnn.cli.finding import GIGA, MISSING, OPTIONAL, Finding, output, pip


def driver_and_gpus() -> tuple[int, list[str]] | None:
    """The driver's CUDA version (12040 is 12.4) and its GPUs; None without a driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return version.value, []
    gpus = []
    for number in range(count.value):
        label, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGetName(label, len(label), number)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), number)
        # Attributes 75 and 76: the two parts of the compute capability.
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, number)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, number)
        gpus.append(
            f"{label.value.decode()}, {memory.value / GIGA:.0f} GB, "
            f"sm_{major.value}{minor.value}"
        )
    return version.value, gpus


def look() -> Iterator[Finding]:
    driver = driver_and_gpus()
    cards = any("10de" in each.read_text() for each in _vendors())
    if driver is None:
        mend = "sudo ubuntu-drivers install" if shutil.which("ubuntu-drivers") else ""
        if cards:
            reason = "an NVIDIA card, but no driver for it"
            yield Finding(
                "GPU", reason, MISSING, mend or "sudo apt-get install nvidia-driver"
            )
        else:
            yield Finding("GPU", "no NVIDIA card; the cpu device does all", OPTIONAL)
    else:
        version, gpus = driver
        number = output(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        )
        release = number.splitlines()[0] if number else "of unknown release"
        cuda = f"{version // 1000}.{version % 1000 // 10}"
        yield Finding("driver", f"NVIDIA {release}, up to CUDA {cuda}")
        for each in gpus:
            yield Finding("GPU", each)
        if not gpus:
            reason = "a driver, but no GPU answers (hidden by CUDA_VISIBLE_DEVICES?)"
            yield Finding("GPU", reason, MISSING, "nvidia-smi")
    extra = "cuda13" if driver and driver[0] >= 13000 else "cuda12"
    yield from _cupy(extra, MISSING if driver and driver[1] else OPTIONAL)


def _vendors() -> list[Path]:
    return list(Path("/sys/bus/pci/devices").glob("*/vendor"))


def _cupy(extra: str, state: str) -> Iterator[Finding]:
    """CuPy and NVRTC, the run-time compiler that comes with it.

    Args:
        extra: what to install for this driver.
        state: of their lack: it matters only where a GPU answers.
    """
    if importlib.util.find_spec("cupy") is None:
        need = "not installed; the cuda device needs it"
        yield Finding("CuPy", need, state, pip(extra))
        return
    what = "CuPy"
    try:
        import cupy

        yield Finding(what, cupy.__version__)
        what = "NVRTC"
        from cupy.cuda import nvrtc

        yield Finding(what, ".".join(map(str, nvrtc.getVersion())))
    except Exception as error:  # a missing library shows in many ways
        reason = " ".join(str(error).split())[:200]
        yield Finding(what, f"does not work: {reason}", state, pip(extra))
