"""Compiles every kernel file ahead of use: fills the caches of compiled kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import FOLDER
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile

# Compilers at a time, each of which may take a gigabyte.
JOBS = 8


@dataclass(frozen=True)
class Built:
    """A kernel file, compiled.

    Attributes:
        file: its name.
        kernels: the instances it offers.
        groups: of instances that are compiled together.
        cached: how many groups the cache had.
        seconds: what compiling took, of all groups together; next to nothing where the
            cache had them.
        error: the compiler's message, with file and line, or "".
    """

    file: str
    kernels: int
    groups: int
    cached: int
    seconds: float
    error: str

    def __str__(self) -> str:
        kernels = "kernel" if self.kernels == 1 else "kernels"
        state = f"FAILED:\n{self.error}" if self.error else f"{self.seconds:.1f} s"
        if self.cached and not self.error:
            state += f", {self.cached} of {self.groups} groups from the cache"
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
            kernels, seconds, cached = 0, 0.0, 0
            try:
                for each in waiting:
                    taken, had = each.result()
                    seconds, cached = seconds + taken, cached + had
                if not error:
                    kernels = len(file.source.instances)
                    file.build(dev)
            except MinicnnError as failure:
                error = str(failure)
            groups = len(waiting)
            yield Built(file.path.name, kernels, groups, cached, seconds, error)


def _start(
    dev: Device, pool: ThreadPoolExecutor, path: Path
) -> tuple[KernelFile, list[Future[tuple[float, bool]]], str]:
    """Begins to compile a file's groups; what will say how long each took, and whether
    the cache had it; or why it cannot be read."""
    file = KernelFile(path)

    def timed(group: str) -> tuple[float, bool]:
        began = time.monotonic()
        had = dev.launcher.compile(file.source, group)
        return time.monotonic() - began, had

    try:
        return file, [pool.submit(timed, group) for group in file.groups()], ""
    except MinicnnError as failure:
        return file, [], str(failure)
