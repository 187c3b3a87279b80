"""Copies to a GPU, on a stand-in for CuPy: no race, no wait too many.

Every access of memory gets a time on the stream that makes it, and knows which others
it comes after: what its stream waited for, and what the host had waited for when it
asked for it. Two accesses of one place, one of them a write, must be ordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.devices.uploads import Uploads

Clock = dict[str, int]
COPY = "copy to the GPU"


def merge(clock: Clock, other: Clock) -> None:
    """Makes all that comes before `other` come before `clock` as well."""
    for name, time in other.items():
        clock[name] = max(clock.get(name, 0), time)


@dataclass
class Access:
    """One access of memory: who, when, after what, and the bytes."""

    by: str
    time: int
    after: Clock
    first: int
    last: int
    writes: bool
    label: str

    def follows(self, other: Access) -> bool:
        return self.after.get(other.by, 0) >= other.time


class Machine:
    """A host and a GPU's streams, each with its clock; and all accesses so far."""

    def __init__(self) -> None:
        self.clocks: dict[str, Clock] = {"host": {"host": 0}}
        self.accesses: list[Access] = []

    def tick(self, who: str) -> int:
        """The next moment of the host or a stream, after all the host has seen."""
        clock = self.clocks[who]
        if who != "host":
            merge(clock, self.clocks["host"])
        clock[who] = clock.get(who, 0) + 1
        return clock[who]

    def access(self, who: str, array: np.ndarray, writes: bool, label: str) -> None:
        time, begin = self.tick(who), array.ctypes.data
        end, after = begin + array.nbytes, dict(self.clocks[who])
        new = Access(who, time, after, begin, end, writes, label)
        for old in self.accesses:
            apart = old.last <= new.first or new.last <= old.first
            if not apart and (old.writes or new.writes):
                assert new.follows(old), f"{new.label} races with {old.label}"
        self.accesses.append(new)

    def wait(self, who: str, clock: Clock) -> None:
        merge(self.clocks[who], clock)


@dataclass
class Event:
    """CuPy's: the moment of a stream at which it was recorded."""

    machine: Machine
    clock: Clock = field(default_factory=dict)

    def record(self, stream: Any) -> None:
        self.clock = dict(self.machine.clocks[stream.name])

    def synchronize(self) -> None:
        self.machine.wait("host", self.clock)


class Stream:
    """CuPy's."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine, self.name = machine, name
        machine.clocks[name] = {name: 0}

    def wait_event(self, event: Event) -> None:
        self.machine.wait(self.name, event.clock)


class GpuArray(np.ndarray):
    """CuPy's array, whose `set` copies in a stream."""

    machine: Machine

    def set(self, array: np.ndarray, stream: Any) -> None:
        assert self.shape == array.shape
        assert self.dtype == array.dtype
        self.machine.access(stream.name, array, False, "copy from the host")
        self.machine.access(stream.name, self, True, COPY)
        self[...] = array


class Gpu:
    """Device and CuPy at once, with as much of both as `Uploads` asks for."""

    def __init__(self) -> None:
        self.machine = GpuArray.machine = Machine()
        self.work = Stream(self.machine, "work")
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking: Stream(self.machine, "copies"),
            Event=lambda disable_timing: Event(self.machine),
            get_current_stream=lambda: self.work,
        )
        self.uploads = Uploads(self, self)  # type: ignore[arg-type]

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = np.empty(shape, dtype).view(GpuArray)
        # As from a pool: earlier work in this stream may still use that memory.
        self.machine.access("work", array, True, "earlier work")
        return array

    def copies(self) -> list[Access]:
        return [each for each in self.machine.accesses if each.label == COPY]


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


def stream_batches(gpu: Gpu, sizes: list[int]) -> Iterator[int]:
    """Steps as in training: the loader fills two arrays in turn, a crop reads."""
    slots = [np.zeros((max(sizes), 100), np.uint8) for _ in range(2)]
    for step, size in enumerate(sizes):
        images = slots[step % 2][:size]
        gpu.machine.access("host", images, True, f"reading batch {step}")
        images[...] = step + 1
        with gpu.uploads.streamed(images) as buffer:
            gpu.machine.access("work", buffer, False, f"crop {step}")
            assert (np.array(buffer) == step + 1).all()
        # The rest of the step reads no images, and takes long.
        gpu.machine.tick("work")
        yield step


def test_copies_race_with_nothing(gpu: Gpu) -> None:
    # Short batches, as the last of an evaluation, and then larger ones than before.
    list(stream_batches(gpu, [4, 4, 4, 2, 4, 8, 8, 8]))
    assert len({each.first for each in gpu.copies()}) >= 2


def test_a_copy_waits_for_no_step_but_that_of_its_buffer(gpu: Gpu) -> None:
    ends = []
    for _ in stream_batches(gpu, [4] * 8):
        ends.append(gpu.machine.clocks["work"]["work"])
    for step in range(4, 8):  # the buffers have been there for a while
        copy = gpu.copies()[step]
        assert copy.after["work"] < ends[step - 2]  # for the crop of two steps before
        assert copy.by == "copies"
    # The host has waited for copies alone.
    assert gpu.machine.clocks["host"]["work"] < ends[5]
