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
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError, reason
from minicnn.base.interrupt import Interrupt
from minicnn.data.images import BadImageError, cifar_to_rgb, to_rgb
from minicnn.data_prep.sources.tree import Place, read

Item = TypeVar("Item")
Result = TypeVar("Result")


class Recipe(NamedTuple):
    """What every chunk needs to know.

    Attributes:
        path: the file to write.
        offset: byte offset of row 0's pixels in it.
        kind: of the source; CIFAR-100's images are raw records, others' files.
        size, resize, orientation, exact: as `to_rgb` takes them.
    """

    path: str
    offset: int
    size: int
    resize: str
    orientation: str
    kind: str
    exact: bool = False

    @property
    def row_bytes(self) -> int:
        return 3 * self.size * self.size

    def begin(self, row: int) -> int:
        """Byte offset of a row's pixels."""
        return self.offset + row * self.row_bytes


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
    with open(recipe.path, "r+b") as file:
        file.seek(recipe.begin(chunk.start))
        for row, place in enumerate(chunk.places, chunk.start):
            try:
                pixels = _decoded(recipe, place).tobytes()
            except BadImageError as error:
                bad.append((row, str(error)))
                pixels = bytes(recipe.row_bytes)
            file.write(pixels)
            crc32.append(zlib.crc32(pixels))
    return Done(chunk.start, chunk.source_bytes, crc32, bad)


def is_intact(recipe: Recipe, done: Done) -> bool:
    """Whether the rows of a finished chunk still have their checksums."""
    with open(recipe.path, "rb") as file:
        file.seek(recipe.begin(done.start))
        return all(zlib.crc32(file.read(recipe.row_bytes)) == c for c in done.crc32)


def _decoded(recipe: Recipe, place: Place) -> NDArray[np.uint8]:
    try:
        data = read(place)
    except Exception as error:  # the disk, or a damaged zip: this image's fault alone
        why = reason(error) if isinstance(error, OSError) else error
        raise BadImageError(f"cannot be read: {why}") from None
    size, resize = recipe.size, recipe.resize
    if recipe.kind == "cifar-100":
        return cifar_to_rgb(data, size, resize)
    return to_rgb(data, size, resize, recipe.orientation, recipe.exact)


class Workers:
    """A pool of processes that die with this one, even by kill -9.

    With one job there is no pool: the work runs here.
    """

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs or available_cores()
        self._pool = None
        if self.jobs > 1:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(self.jobs, context, _start_worker)

    def unordered(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        interrupt: Interrupt,
    ) -> Iterator[tuple[Item, Result]]:
        """Yields each item and work(item), as they finish.

        Args:
            work: of a module, so that other processes find it, or a partial of such.
            interrupt: once it is requested, no more is begun.

        Raises:
            MinicnnError: a worker process was killed.
        """
        if self._pool is None:
            for item in items:
                if interrupt.requested:
                    return
                yield item, work(item)
            return
        waiting = iter(items)
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                free = 0 if interrupt.requested else 2 * self.jobs - len(running)
                for item in islice(waiting, free):
                    running[self._pool.submit(work, item)] = item
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            if interrupt.requested:  # the signal went to the whole process group
                return
            raise MinicnnError(
                "a worker process was killed (out of memory?); try fewer --jobs, the "
                "same command goes on where it stopped"
            ) from None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
