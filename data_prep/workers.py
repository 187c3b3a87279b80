"""The processes that convert chunks of images and write them into the store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError, reason
from minicnn.data.images import BadImageError, cifar_to_rgb, to_rgb
from minicnn.data_prep.sources.tree import Place, read, read_at

Common = TypeVar("Common")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Recipe(NamedTuple):
    """What every chunk needs to know.

    Attributes:
        path: the file to write.
        offset: byte offset of row 0's pixels in it.
        size, resize, orientation, exact: as `to_rgb` takes them.
        codec: "image" or "cifar".
    """

    path: str
    offset: int
    size: int
    resize: str
    orientation: str
    codec: str
    exact: bool = False

    @property
    def row_bytes(self) -> int:
        return 3 * self.size * self.size


class Chunk(NamedTuple):
    """Rows start .. start + len(places) and where their images are."""

    start: int
    places: list[Place]

    @property
    def source_bytes(self) -> int:
        return sum(place.length for place in self.places)


class Done(NamedTuple):
    """A chunk in the store.

    Attributes:
        start: its first row.
        source_bytes: length of its image files together; a mended file changes it.
        crc32: of each row's pixels.
        bad: (row, reason) for each image that could not be read; its pixels are zero.
    """

    start: int
    source_bytes: int
    crc32: list[int]
    bad: list[tuple[int, str]]


def convert(recipe: Recipe, chunk: Chunk) -> Done:
    """Reads, decodes, resizes and writes one chunk, row after row."""
    crc32, bad = [], []
    descriptor = os.open(recipe.path, os.O_WRONLY)
    try:
        for row, place in enumerate(chunk.places, chunk.start):
            try:
                pixels = _decoded(recipe, place).data
            except BadImageError as error:
                bad.append((row, str(error)))
                pixels = memoryview(bytes(recipe.row_bytes))
            write_at(descriptor, pixels, recipe.offset + row * recipe.row_bytes)
            crc32.append(zlib.crc32(pixels))
    finally:
        os.close(descriptor)
    return Done(chunk.start, chunk.source_bytes, crc32, bad)


def is_intact(recipe: Recipe, done: Done) -> bool:
    """Whether the rows of a finished chunk still have their checksums."""
    descriptor = os.open(recipe.path, os.O_RDONLY)
    try:
        size = recipe.row_bytes
        begin = recipe.offset + done.start * size
        data = memoryview(read_at(descriptor, len(done.crc32) * size, begin))
    finally:
        os.close(descriptor)
    rows = (data[at * size : (at + 1) * size] for at in range(len(done.crc32)))
    return [zlib.crc32(row) for row in rows] == done.crc32


def _decoded(recipe: Recipe, place: Place) -> NDArray[np.uint8]:
    try:
        data = read(place)
    except Exception as error:  # the disk, or a damaged zip: this image's fault alone
        why = reason(error) if isinstance(error, OSError) else error
        raise BadImageError(f"cannot be read: {why}") from None
    size, resize = recipe.size, recipe.resize
    if recipe.codec == "cifar":
        return cifar_to_rgb(data, size, resize)
    return to_rgb(data, size, resize, recipe.orientation, recipe.exact)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """`os.pwrite` until all is written."""
    data = data.cast("B")
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


class Workers:
    """A pool of processes that die with this one, even by kill -9.

    With one job there is no pool: the work runs here.
    """

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs or available_cores()
        self._pool = None
        if self.jobs > 1:
            method = "forkserver"
            if method not in multiprocessing.get_all_start_methods():
                method = "spawn"
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(self.jobs, context, _start_worker)

    def unordered(
        self,
        work: Callable[[Common, Item], Result],
        common: Common,
        items: Iterable[Item],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[Item, Result]]:
        """Yields each item and work(common, item), as they finish.

        Args:
            work: a function of a module, so that other processes find it.
            common: its first argument, the same for all.
            items: its second, one at a time.
            stop: asked before each item; True begins no more.

        Raises:
            MinicnnError: a worker process was killed.
        """
        if self._pool is None:
            for item in items:
                if stop():
                    return
                yield item, work(common, item)
            return
        waiting = iter(items)
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                while len(running) < 2 * self.jobs and not stop():
                    for item in waiting:
                        running[self._pool.submit(work, common, item)] = item
                        break
                    else:
                        break
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            if stop():  # the signal went to the whole process group
                return
            raise MinicnnError(
                "a worker process was killed (out of memory?); try fewer --jobs, the "
                "same command goes on where it stopped"
            ) from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
