"""Compiles every kernel file ahead of use: fills the caches of compiled kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from minicnn.device import Device
from minicnn.errors import MinicnnError
from minicnn.kernel_source import FOLDER
from minicnn.launch import KernelFile


@dataclass(frozen=True)
class Built:
    """A kernel file, compiled.

    Attributes:
        file: its name.
        kernels: the instances it offers.
        seconds: what compiling took; next to nothing where the cache had it.
        error: the compiler's message, with file and line, or "".
    """

    file: str
    kernels: int
    seconds: float
    error: str

    def __str__(self) -> str:
        kernels = "kernel" if self.kernels == 1 else "kernels"
        state = f"FAILED:\n{self.error}" if self.error else f"{self.seconds:.1f} s"
        return f"{self.file:14}{self.kernels:4} {kernels:8}{state}"


def build_all(dev: Device) -> Iterator[Built]:
    """Compiles every kernel file for a device, or finds it in the cache.

    Raises:
        MinicnnError: the device runs no kernels.
    """
    if not dev.has_kernels:
        raise MinicnnError(
            f"--device {dev.name}: runs no kernels; choose cuda or emulated"
        )
    for path in sorted(FOLDER.glob("*.cu")):
        began, kernels, error = time.monotonic(), 0, ""
        try:
            file = KernelFile(path)
            kernels = len(file.source.instances)
            file.build(dev)
        except MinicnnError as failure:
            error = str(failure)
        yield Built(path.name, kernels, time.monotonic() - began, error)
