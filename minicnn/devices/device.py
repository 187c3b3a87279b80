"""Devices by name, and their classes.

One place decides what runs where: `get`. Everything else is handed a `Device`.
"""

from __future__ import annotations

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.devices.cpu import CpuDevice
from minicnn.devices.cuda import CudaDevice, cuda_count
from minicnn.devices.emulated import EmulatedDevice
from minicnn.devices.protocol import Device

__all__ = [
    "NAMES", "CpuDevice", "CudaDevice", "Device", "EmulatedDevice", "cuda_count", "get"
]  # fmt: skip

# Threads that are allowed on few cores too.
MOST_THREADS = 16
NAMES = ("auto", "cpu", "cuda", "emulated")


def get(name: str = "auto", threads: int | None = None) -> Device:
    """The device of that name.

    Args:
        name: "cpu", "cuda", "cuda:N", "emulated"; "auto" takes a GPU where one
            answers, else the CPU.
        threads: CPU threads; None takes what this process may use.

    Raises:
        MinicnnError: no such device, or it does not answer.
    """
    kind, colon, index = name.partition(":")
    if kind not in NAMES or (colon and (kind != "cuda" or not index.isdigit())):
        raise MinicnnError(
            f"--device {name}: unknown; choose auto, cpu, cuda, cuda:N or emulated"
        )
    if threads is not None and threads < 1:
        raise MinicnnError(f"--threads {threads}: must be at least 1")
    cores = available_cores()
    if threads is not None and threads > max(MOST_THREADS, 4 * cores):
        raise MinicnnError(
            f"--threads {threads}: this process may use {cores} cores, and more "
            f"threads than that only wait for one another; --threads {cores} takes all"
        )
    if kind == "auto":
        kind = "cuda" if cuda_count() else "cpu"
    if kind == "cuda":
        return CudaDevice(int(index or 0), threads)
    return EmulatedDevice(threads) if kind == "emulated" else CpuDevice(threads)
