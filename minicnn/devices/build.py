"""Compiles every kernel file ahead of use: fills the caches of compiled kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import FOLDER, KernelSource
from minicnn.devices.launch import JOBS
from minicnn.devices.protocol import Device


@dataclass(frozen=True)
class Built:
    """A kernel file, compiled.

    Attributes:
        kernels: the instances it offers.
        groups: of instances that are compiled together.
        seconds: what compiling took, of all groups together; next to nothing where a
            cache had them.
        error: the compiler's message, with file and line, or "".
    """

    file: str
    kernels: int
    groups: int
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
    paths = sorted(FOLDER.glob("*.cu"))
    with ThreadPoolExecutor(min(dev.threads, JOBS)) as pool:
        started = [_start(dev, pool, path) for path in paths]
        for path, waiting in zip(paths, started, strict=True):
            kernels, seconds, error = 0, 0.0, ""
            try:
                for each in waiting:
                    seconds += each.result()
                kernels = len(KernelSource.read(path).instances)
            except MinicnnError as failure:
                error = str(failure)
            yield Built(path.name, kernels, len(waiting), seconds, error)


def _start(dev: Device, pool: ThreadPoolExecutor, path: Path) -> list[Future[float]]:
    """Begins to compile a file's groups; what will say how long each took."""

    def timed(source: KernelSource, group: str) -> float:
        began = time.monotonic()
        dev.launcher.build(source, group)
        return time.monotonic() - began

    with suppress(MinicnnError):  # raised again where its kernels are counted
        source = KernelSource.read(path)
        return [pool.submit(timed, source, group) for group in source.groups()]
    return []
