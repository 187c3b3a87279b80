"""Batches from the store: which rows, which crops, and the labels of the task.

Everything is a pure function of (seed, step), so a resumed run sees the same batches.
The images of an epoch come in a fresh random order; epochs follow without a gap, so a
batch may span two.

Where the device has room for a task's images, they are kept within its reach, see
`ImagesInMemory`. Else reading is random rows of the store, each image one contiguous
piece of the file, copied from the memory map into one of two arrays in turn; while one
batch is trained on, threads fill the other. Each thread first announces all the pieces
that it will copy to the system, which then reads exactly those, side by side. By page
faults it would read megabytes around each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base import philox
from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.base.philox import Stream
from minicnn.base.threads import HostThreads
from minicnn.data.store import Store
from minicnn.devices.device import Device

# Most threads that copy images; fewest bytes worth a thread; bytes of a copy to a GPU.
THREADS, PIECE, COPY = 4, 1 << 20, 1 << 26


@dataclass(frozen=True)
class Batch:
    """One batch on the host.

    Attributes:
        images: (N,H,W,3) uint8, overwritten by the next batch; None where the device
            holds all images.
        rows: (N,) the images' rows in the store; −1 for images of no store.
        labels: (N,) int32, the classes' places in the task.
        top, left: (N,) upper left corners of the crops, in pixels.
        mirror: (N,) whether each is mirrored.
    """

    images: NDArray[np.uint8] | None
    rows: NDArray[np.int64]
    labels: NDArray[np.int32]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirror: NDArray[np.bool_]

    @classmethod
    def centred(
        cls,
        size: tuple[int, int],
        crop: int,
        rows: NDArray[np.int64],
        labels: NDArray[np.int32],
        images: NDArray[np.uint8] | None,
    ) -> Batch:
        """The centre crops of images of a size (height, width)."""
        count = len(rows)
        top, left = (np.full(count, (side - crop) // 2) for side in size)
        return cls(images, rows, labels, top, left, np.zeros(count, bool))


def first_of_each(
    store: Store, rows: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """The first `count` rows of each class, or all that it has, ascending."""
    labels = store.labels[rows]
    order = np.argsort(labels, kind="stable")
    place = np.arange(len(rows)) - np.searchsorted(labels[order], labels[order])
    return np.sort(rows[order[place < count]])


class Reader:
    """Copies images out of a store's memory map.

    It announces its reads to the system. That takes some microseconds an image of
    196 kB in memory, and is thirty times as fast as page faults where it is not
    (docs/feeding.md).
    """

    def __init__(self, store: Store) -> None:
        self.images = store.images
        self.threads = HostThreads(min(THREADS, available_cores()))
        self._file = store.path.open("rb") if hasattr(os, "posix_fadvise") else None

    def read(
        self, rows: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """images[rows], in the first places of `out`, which are returned."""
        out = out[: len(rows)]
        pieces = max(1, min(self.threads.threads, out.nbytes // PIECE))
        size = self.images[0].nbytes

        def copy(start: int, stop: int) -> None:
            if self._file:
                for row in rows[start:stop].tolist():
                    place = self._file.fileno(), self.images.offset + row * size, size
                    os.posix_fadvise(*place, os.POSIX_FADV_WILLNEED)
            # Clipping clips nothing here; the other modes copy by way of a new array.
            np.take(self.images, rows[start:stop], 0, out[start:stop], "clip")

        self.threads.for_chunks(copy, len(rows), -(-len(rows) // pieces))
        return out


class ImagesInMemory:
    """Some rows of a store within a device's reach, so that training copies none.

    On a GPU they are copied there once. On the cpu device crops are made from the
    store's memory map itself; the images are read once beforehand, in the order of the
    file, since page faults in the order of training would read them at a fraction of a
    disk's speed.

    Args:
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
        tick: Callable[[int], object],
    ) -> None:
        shape, count = store.images.shape[1:], max(1, COPY // store.images[0].nbytes)
        self.images: Any = np.asarray(store.images)
        self._rows = np.arange(len(store)) if dev.on_host else rows
        if not dev.on_host:
            self.images = dev.empty((len(rows), *shape), np.uint8)
        reader, piece = Reader(store), np.empty((min(count, len(rows)), *shape), "u1")
        for start in range(0, len(rows), count):
            read = reader.read(rows[start : start + count], piece)
            if not dev.on_host:
                self.images[start : start + len(read)] = dev.from_host(read)
            tick(len(read))

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of the store are among `images`."""
        return np.searchsorted(self._rows, rows)


class Loader:
    """The training and validation images of a task.

    Args:
        classes: the task's classes, in the order of its outputs.
        crop: height and width of the network's input, in pixels.
        batch: images a batch.
        seed: of order, crops and mirrors.
        mirror: whether training images are mirrored at random.
        images_per_class: training images kept of each class; 0 keeps all.
        subset_seed: which ones are kept.
        empty: makes the arrays that images are read into, as `Device.host_empty` does.

    Attributes:
        reads: whether batches hold their images; may be set before the first.

    Raises:
        MinicnnError: the store's images are smaller than the crop, or the task has no
            training or no validation image.
    """

    def __init__(
        self,
        store: Store,
        classes: Sequence[int],
        crop: int,
        batch: int,
        seed: int,
        mirror: bool = True,
        images_per_class: int = 0,
        subset_seed: int = 0,
        empty: Callable[..., NDArray[np.uint8]] = np.empty,
    ) -> None:
        height, width = store.image_size
        if crop > min(height, width):
            raise MinicnnError(
                f"store {store.path}: its images of {height}x{width} are smaller than "
                f"the network's input of {crop}x{crop}; choose another network.arch or "
                "prepare the store with a larger --size"
            )
        self.store, self.crop, self.batch, self.seed = store, crop, batch, seed
        self.mirror = mirror
        self.train = store.rows(classes, "train")
        self.val = store.rows(classes, "val")
        for part, rows in (("training", self.train), ("validation", self.val)):
            if not len(rows):
                raise MinicnnError(
                    f"store {store.path}: no {part} image of this task; prepare it "
                    "again with some of each class (--val-fraction 0 holds none out)"
                )
        if images_per_class:
            order = philox.permutation(subset_seed, Stream.SUBSET, 0, len(self.train))
            self.train = first_of_each(store, self.train[order], images_per_class)
        self.label_of = np.full(len(store.wnids), -1, np.int32)
        self.label_of[list(classes)] = np.arange(len(classes))
        self._epoch, self._order = -1, self.train
        self.reads, self._empty = True, empty
        self._reader = Reader(store)
        self._helper = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    @cached_property
    def _slots(self) -> list[NDArray[np.uint8]]:
        return self._two_slots()

    def _two_slots(self) -> list[NDArray[np.uint8]]:
        shape = (self.batch, *self.store.image_size, 3)
        return [self._empty(shape, np.uint8) for _ in range(2)]

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Store rows of a training step's batch."""
        rows, place, missing = [], step * self.batch, self.batch
        count = len(self.train)
        while missing:
            epoch, first = divmod(place, count)
            if epoch != self._epoch:
                order = philox.permutation(self.seed, Stream.ORDER, epoch, count)
                self._epoch, self._order = epoch, self.train[order]
            rows.append(self._order[first : first + missing])
            place, missing = place + len(rows[-1]), missing - len(rows[-1])
        return np.concatenate(rows)

    def _make(self, step: int) -> Batch:
        rows = self._rows(step)
        height, width = self.store.image_size
        count = len(rows)
        seed, rest = self.seed, (height - self.crop + 1, width - self.crop + 1)
        mirrored = philox.integers(seed, Stream.MIRROR, step, count, 2)
        slot = self._slots[step % 2] if self.reads else None
        return Batch(
            images=None if slot is None else self._reader.read(rows, slot),
            rows=rows,
            labels=self.label_of[self.store.labels[rows]],
            top=philox.integers(seed, Stream.CROP, step, count, rest[0]),
            left=philox.integers(seed, Stream.CROP, step, count, rest[1], start=count),
            mirror=mirrored.astype(bool) & self.mirror,
        )

    def close(self) -> None:
        """Ends the thread that reads ahead."""
        self._helper.shutdown(cancel_futures=True)

    def train_batch(self, step: int) -> Batch:
        """The batch of a training step; the next one is read meanwhile."""
        ready = self._next
        if ready and ready[0] == step:
            batch = ready[1].result()
        else:
            if ready:
                ready[1].cancel() or ready[1].result()
            batch = self._make(step)
        self._next = (step + 1, self._helper.submit(self._make, step + 1))
        return batch

    def val_batches(self) -> Iterator[Batch]:
        """The validation part in store order, centre crops; the last may be short.

        As in training, the next one is read meanwhile.
        """
        slots = cycle(self._two_slots() if self.reads else [None])
        ready: Future[Batch] | None = None
        for start in range(0, len(self.val), self.batch):
            following = self._helper.submit(self._centred, start, next(slots))
            if ready:
                yield ready.result()
            ready = following
        yield following.result()

    def _centred(self, start: int, slot: NDArray[np.uint8] | None) -> Batch:
        rows = self.val[start : start + self.batch]
        images = None if slot is None else self._reader.read(rows, slot)
        labels = self.label_of[self.store.labels[rows]]
        return Batch.centred(self.store.image_size, self.crop, rows, labels, images)


def mean_image(
    dev: Device,
    store: Store,
    rows: NDArray[np.int64],
    tick: Callable[[int], object],
) -> NDArray[np.float32]:
    """The mean of some rows' images, (H,W,3) float32, summed exactly in integers.

    Args:
        tick: called with counts of images summed, by one thread at a time; its
            exceptions end the work.
    """
    lock, images = threading.Lock(), np.asarray(store.images)
    # Sixteen bits hold the sum of 257 bytes.
    share, block = max(256, -(-len(rows) // 16)), 64
    sums = np.zeros((-(-len(rows) // share), *images.shape[1:]), np.uint64)

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, block):
            few = np.zeros(images.shape[1:], np.uint16)
            for row in rows[first : min(first + block, stop)]:
                few += images[row]
            sums[start // share] += few
            with lock:
                tick(min(block, stop - first))

    dev.for_chunks(work, len(rows), share)
    return (sums.sum(axis=0) / len(rows)).astype(np.float32)
