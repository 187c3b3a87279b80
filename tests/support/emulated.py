"""Kernels of tests/support/planted on the emulator, in every order of their threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.devices.launch import KernelFile

PLANTED = Path(__file__).parent / "planted"
ORDERS = ("forward", "reverse", "shuffled:1", "shuffled:2", "shuffled:3")
F32, F64 = np.float32, np.float64


def in_every_order(dev: Any) -> Iterator[str]:
    """Sets the device's thread order to each there is."""
    for order in ORDERS:
        dev.launcher.order = order
        yield order
    dev.launcher.order = "forward"


def kernel(file: str, name: str, *template: Any) -> Any:
    """A kernel of tests/support/planted."""
    return KernelFile(PLANTED / file).get(name, *template)
