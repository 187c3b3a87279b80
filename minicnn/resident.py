"""A task's images kept on the device, so that training reads no host memory at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.device import Device
from minicnn.loader import Reader
from minicnn.store import Store

# Bytes that are copied at a time.
PIECE = 1 << 26


class Resident:
    """Some rows of a store on a device, as uint8.

    Args:
        dev: where to.
        store: the image store.
        rows: of the store, ascending.
        tick: told how many more images are there; what it raises ends the work.

    Attributes:
        images: (M,H,W,3) uint8, on the device, in the order of the rows.
    """

    def __init__(
        self,
        dev: Device,
        store: Store,
        rows: NDArray[np.int64],
        tick: Callable[[int], object] = lambda count: None,
    ) -> None:
        shape = store.images.shape[1:]
        self.images: Any = dev.empty((len(rows), *shape), np.uint8)
        self._places = np.full(len(store), -1)
        self._places[rows] = np.arange(len(rows))
        reader, count = Reader(store), max(1, PIECE // store.images[0].nbytes)
        piece = np.empty((min(count, len(rows)), *shape), np.uint8)
        for start in range(0, len(rows), count):
            read = reader.read(rows[start : start + count], piece)
            self.images[start : start + len(read)] = dev.from_host(read)
            tick(len(read))

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of the store are among `images`."""
        return self._places[rows]
