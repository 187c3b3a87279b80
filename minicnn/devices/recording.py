"""A step that is repeated is recorded once: as a CUDA graph on a GPU.

Launching the forty kernels of a step one by one takes Python longer than a GPU takes
to run them, and is a sixth of a small network's step on a CPU.

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
from minicnn.devices.protocol import Device, Work

Launch = tuple[Any, ...]
"""Kernel, grid, block, values and bytes of shared memory."""


class RecordedStep:
    """Runs work on a device, from the third time on from its record.

    A record refers to the buffers that the work used. All are dropped when the device
    lets buffers go: see `Device.outdate_records`.
    """

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self._generation = dev.generation
        # By the keys of work that has run: None until it is recorded.
        self._records: dict[Hashable, Work | None] = {}

    def __call__(self, key: Hashable, work: Work) -> None:
        """Runs the work that the key stands for.

        Args:
            key: of all that decides what is launched: which networks, how many images.
            work: to be run in this or an earlier call with the key; its arrays are the
                same ones each time.

        Raises:
            MinicnnError: it cannot be recorded.
        """
        if os.environ.get("MINICNN_GRAPH", "") == "0":
            work()
            return
        self._drop_outdated()
        if record := self._records.get(key):
            record()
            return
        if key in self._records:
            record = self.dev.record(work)
        else:
            work()
        # Kept even where it is dropped at once: it has been launched.
        self._records[key] = record
        # What grew while it ran may have replaced a buffer of an earlier launch.
        self._drop_outdated()
        self._records.setdefault(key, None)

    def _drop_outdated(self) -> None:
        """Drops all records if buffers were let go since the last call."""
        if self._generation == self.dev.generation:
            return
        if any(self._records.values()):
            self.dev.synchronize()  # a graph must not be destroyed while it runs
        self._generation = self.dev.generation
        self._records.clear()


@contextmanager
def recorded_launches(dev: Device) -> Iterator[list[Launch]]:
    """Notes every launch of a block, as the device's launcher takes them.

    While the list lives, so do the arrays that the launches were given.
    """
    launches: list[Launch] = []
    launch = dev.launcher.launch

    def noted(*arguments: Any) -> None:
        launches.append(arguments)
        launch(*arguments)

    dev.launcher.launch = noted
    try:
        yield launches
    finally:
        dev.launcher.launch = launch


def capture(cupy: Any, dev: Device, work: Work) -> Work:
    """Captures work as a CUDA graph, without running it.

    Returns:
        What starts the graph on the current stream; it holds the arrays that the work
        was given.

    Raises:
        MinicnnError: something in the work cannot be captured; names the kernel.
    """
    # The default stream cannot be captured, nor can one that waits for it.
    stream = cupy.cuda.Stream(non_blocking=True)
    with recorded_launches(dev) as launches:
        try:
            with stream:
                stream.begin_capture()
                try:
                    work()
                except BaseException:
                    # The stream must leave that state; it only fails once more.
                    with suppress(RuntimeError):
                        stream.end_capture()
                    raise
                graph = stream.end_capture()
        except (RuntimeError, MinicnnError) as error:  # CuPy's are RuntimeErrors
            names = [kernel.name for kernel, *_ in launches]
            where = f"at or after {names[-1]}" if names else "before any kernel"
            raise MinicnnError(
                f"a step cannot be recorded as a CUDA graph, {where}: {error}; "
                "MINICNN_GRAPH=0 in the environment runs it without"
            ) from None

    def launch(alive: object = launches) -> None:
        graph.launch()

    return launch
