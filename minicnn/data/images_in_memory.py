"""A task's images kept where the device computes, so that training copies none.

On a GPU they are copied there once. On the cpu device crops are made from the store's
memory map itself; the images are read once beforehand, in the order of the file, since
page faults in the order of training would read them at a fraction of a disk's speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.data.loader import Reader
from minicnn.data.store import Store
from minicnn.devices.device import Device

# Bytes of one copy.
PIECE = 1 << 26


class ImagesInMemory:
    """Some rows of a store within a device's reach, as uint8.

    Args:
        dev: whose.
        store: the image store.
        rows: of the store, ascending.
        tick: called with counts of images read; its exceptions end the work.

    Attributes:
        images: (M,H,W,3) uint8, an array of the device: of those rows, or the memory
            map of all.
    """

    def __init__(
        self,
        dev: Device,
        store: Store,
        rows: NDArray[np.int64],
        tick: Callable[[int], object] = lambda count: None,
    ) -> None:
        shape, copied = store.images.shape[1:], not dev.on_host
        self.images: Any = np.asarray(store.images)
        if copied:
            self.images = dev.empty((len(rows), *shape), np.uint8)
        self._places = np.full(len(store), -1)
        self._places[rows] = np.arange(len(rows)) if copied else rows
        reader, count = Reader(store), max(1, PIECE // store.images[0].nbytes)
        piece = np.empty((min(count, len(rows)), *shape), np.uint8)
        for start in range(0, len(rows), count):
            read = reader.read(rows[start : start + count], piece)
            if copied:
                self.images[start : start + len(read)] = dev.from_host(read)
            tick(len(read))

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of the store are among `images`."""
        return self._places[rows]
