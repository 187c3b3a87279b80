"""A step that is repeated is recorded once: as a CUDA graph on a GPU.

Launching the forty kernels of a step one by one takes Python longer than a GPU takes
to run them, and is a sixth of a small network's step on a CPU. So the same work is
called with the same key again and again:

    repeated = RecordedStep(dev)
    repeated("step", work)   # runs it: buffers are allocated, kernels compiled
    repeated("step", work)   # runs it again, and records what it launches
    repeated("step", work)   # launches the record; `work` is not called

What changes from step to step must therefore lie in arrays of the device, written by
whoever calls: a number that Python passes is recorded for good. On the emulated device
a record is the list of launches, so that a step that depends on the host goes wrong
there too. On the cpu device it is the list of loops over threads, whose arguments are
checked once, and which all threads run through together; an op that reads a number on
the host, or has no compiled form, is called again as a whole (`Device.once`).

Environment:
    MINICNN_GRAPH   0 runs every step without a record.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from minicnn.base.errors import MinicnnError
from minicnn.devices.launch import Launcher
from minicnn.devices.protocol import Device, Work

Launch = tuple[Any, ...]
"""Kernel, grid, block, values and bytes of shared memory."""


def enabled() -> bool:
    """Whether MINICNN_GRAPH allows to record."""
    return os.environ.get("MINICNN_GRAPH", "") != "0"


class RecordedStep:
    """Runs work on a device, from the third time on from its record.

    A record refers to the buffers that the work used. All are dropped when the device
    lets buffers go: see `Device.outdate_records`.
    """

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self._generation = dev.generation
        self._done: set[Hashable] = set()
        self._records: dict[Hashable, Work] = {}

    def __call__(self, key: Hashable, work: Work) -> None:
        """Runs the work that the key stands for.

        Args:
            key: of all that decides what is launched: which networks, how many images.
            work: to be run in this or an earlier call with the key; its arrays are the
                same ones each time.

        Raises:
            MinicnnError: it cannot be recorded.
        """
        if not enabled():
            work()
            return
        self._drop_outdated()
        if key in self._records:
            self._records[key]()
            return
        record = None
        if key in self._done:
            record = self.dev.record(work)
        else:
            work()
        # Kept even where it is dropped at once: it has been launched.
        if record:
            self._records[key] = record
        # What grew while it ran may have replaced a buffer of an earlier launch.
        self._drop_outdated()
        self._done.add(key)

    def _drop_outdated(self) -> None:
        """Drops all records if buffers were let go since the last call."""
        if self._generation == self.dev.generation:
            return
        if self._records:
            self.dev.synchronize()  # a graph must not be destroyed while it runs
        self._generation = self.dev.generation
        self._done.clear()
        self._records.clear()


class _Recorder:
    """A launcher that notes all that it hands on to another."""

    def __init__(self, launcher: Launcher, launches: list[Launch]) -> None:
        self.launcher, self.launches, self.array = launcher, launches, launcher.array

    def address(self, array: Any) -> int:
        """See `Launcher`."""
        return self.launcher.address(array)

    def launch(self, *launch: Any) -> None:
        """See `Launcher`."""
        self.launches.append(launch)
        self.launcher.launch(*launch)


@contextmanager
def recorded_launches(dev: Device) -> Iterator[list[Launch]]:
    """Notes every launch of a block, as `Launcher.launch` takes them.

    While the list lives, so do the arrays that the launches were given.
    """
    launches: list[Launch] = []
    launcher = dev.launcher
    dev.launcher = _Recorder(launcher, launches)
    try:
        yield launches
    finally:
        dev.launcher = launcher


def replay(dev: Device, work: Work) -> Work:
    """Runs the work; returns what repeats its launches, and nothing else of it."""
    with recorded_launches(dev) as launches:
        work()

    def again() -> None:
        for launch in launches:
            dev.launcher.launch(*launch)

    return again


class Graph:
    """Work captured as a CUDA graph, with the arrays that it refers to.

    Args:
        cupy: the module.
        dev: a CUDA device.
        work: is captured, not run.

    Raises:
        MinicnnError: something in the work cannot be captured; names the kernel.
    """

    def __init__(self, cupy: Any, dev: Device, work: Work) -> None:
        # The default stream cannot be captured, nor can one that waits for it.
        stream = cupy.cuda.Stream(non_blocking=True)
        with recorded_launches(dev) as self._launches:
            try:
                with stream:
                    self._graph = self._capture(stream, work)
            except (RuntimeError, MinicnnError) as error:  # CuPy's are RuntimeErrors
                names = [kernel.name for kernel, *_ in self._launches]
                where = f"at or after {names[-1]}" if names else "before any kernel"
                raise MinicnnError(
                    f"a step cannot be recorded as a CUDA graph, {where}: {error}; "
                    "MINICNN_GRAPH=0 in the environment runs it without"
                ) from None

    @staticmethod
    def _capture(stream: Any, work: Work) -> Any:
        stream.begin_capture()
        try:
            work()
        except BaseException:
            # The stream must leave that state; it only says again that it failed.
            with suppress(RuntimeError):
                stream.end_capture()
            raise
        return stream.end_capture()

    def launch(self) -> None:
        """Starts the graph on the current stream."""
        self._graph.launch()
