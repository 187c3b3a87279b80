"""A device whose kernels do nothing: for tests of what a step launches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from minicnn.devices.device import EmulatedDevice


class DryDevice(EmulatedDevice):
    """Its buffers are never written, so that they take no memory."""

    def __init__(self) -> None:
        super().__init__(1)
        self.launcher = SimpleNamespace(
            array=np.ndarray,
            build=lambda *_: None,
            launch=lambda *_: None,
        )

    def free_bytes(self) -> None:
        """Enough."""
