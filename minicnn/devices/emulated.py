"""The emulated device: the CUDA kernels themselves, run on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from numpy.typing import DTypeLike, NDArray

from minicnn.compile.arguments import ALIGNMENT, address
from minicnn.compile.emulator import EmulatedLauncher, poisoned
from minicnn.devices.cpu import CpuDevice
from minicnn.devices.launch import debugging
from minicnn.devices.protocol import Work
from minicnn.devices.recording import recorded_launches


class EmulatedDevice(CpuDevice):
    """NumPy arrays, and the CUDA kernels themselves, run on the CPU.

    For tests, teaching and debugging: see docs/emulator.md. With MINICNN_DEBUG set,
    new buffers hold NaN, so that a kernel that leaves a number unwritten shows. With
    another `shared_bytes` it plans its launches as a smaller card would.
    """

    name = "emulated"
    has_kernels = True
    on_host = False
    native = False

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self.launcher = EmulatedLauncher(workers=self.threads)

    def details(self) -> dict[str, Any]:
        """Nothing: its ops have one form."""
        return {}

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """See `Device`; of NaN bits when debugging."""
        return poisoned(shape, dtype) if debugging() else super().empty(shape, dtype)

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself, or a copy where kernels need one."""
        fits = address(array) % ALIGNMENT == 0
        return array if fits and array.flags.c_contiguous else array.copy()

    def streamed(self, array: NDArray[Any]) -> AbstractContextManager[NDArray[Any]]:
        """What `upload` gives."""
        return nullcontext(self.upload("streamed", array))

    def record(self, work: Work) -> Work:
        """Runs the work; what repeats its launches on the same arrays, and no more."""
        with recorded_launches(self) as launches:
            work()

        def again() -> None:
            for launch in launches:
                self.launcher.launch(*launch)

        return again
