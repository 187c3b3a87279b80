"""Compiles every kernel file ahead of use: fills the caches of compiled kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import FOLDER
from minicnn.devices.launch import JOBS, KernelFile
from minicnn.devices.protocol import Device


@dataclass(frozen=True)
class Built:
    """A kernel file, compiled.

    Attributes:
        file: its name.
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
    with ThreadPoolExecutor(min(dev.threads, JOBS)) as pool:
        started = [_start(dev, pool, path) for path in sorted(FOLDER.glob("*.cu"))]
        for file, waiting, error in started:
            kernels, seconds = 0, 0.0
            try:
                for each in waiting:
                    seconds += each.result()
                if not error:
                    kernels = len(file.source.instances)
            except MinicnnError as failure:
                error = str(failure)
            yield Built(file.path.name, kernels, len(waiting), seconds, error)


def _start(
    dev: Device, pool: ThreadPoolExecutor, path: Path
) -> tuple[KernelFile, list[Future[float]], str]:
    """Begins to compile a file's groups; what will say how long each took; or why it
    cannot be read."""
    file = KernelFile(path)

    def timed(group: str) -> float:
        began = time.monotonic()
        dev.launcher.build(file.source, group)
        return time.monotonic() - began

    try:
        return file, [pool.submit(timed, group) for group in file.groups()], ""
    except MinicnnError as failure:
        return file, [], str(failure)
