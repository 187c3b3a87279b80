"""A device whose kernels do nothing: for tests of what a step launches."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.devices.device import EmulatedDevice


class _NoLauncher:
    """Launches nothing."""

    array = np.ndarray

    def build(self, *_: Any) -> None:
        """See `EmulatedLauncher`."""

    def launch(self, *_: Any) -> None:
        """See `EmulatedLauncher`."""


class DryDevice(EmulatedDevice):
    """Its buffers are never written, so that they take no memory."""

    def __init__(self) -> None:
        super().__init__(1)
        self.launcher = _NoLauncher()

    def free_bytes(self) -> None:
        """Enough."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of unspecified content, also when debugging."""
        return np.empty(shape, dtype)
