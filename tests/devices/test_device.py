"""Devices by name, and the loop over host threads."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.compile import native
from minicnn.compile.native import Function
from minicnn.devices import cuda, device


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks_cover_everything_once(threads: int) -> None:
    seen = np.zeros(23, int)

    def work(start: int, stop: int) -> None:
        assert 0 < stop - start <= 5
        seen[start:stop] += 1

    device.get("cpu", threads).for_chunks(work, 23, 5)
    assert seen.tolist() == [1] * 23


def test_scratch_is_each_threads_own() -> None:
    dev = device.get("cpu", 2)
    both = threading.Barrier(2)
    places = set()

    def work(start: int, stop: int) -> None:
        both.wait(timeout=30)
        places.add(dev.scratch("here", (4,), np.float32).ctypes.data)
        both.wait(timeout=30)

    dev.for_chunks(work, 2, 1)
    assert len(places) == 2


def test_the_emulated_device_has_no_compiled_form_to_tell_of() -> None:
    assert device.get("emulated").details() == {}
    assert device.get("cpu").details().keys() == {"native"}


def test_a_failure_in_a_thread_is_raised() -> None:
    def work(start: int, stop: int) -> None:
        if start == 2:
            raise ValueError("two")

    with pytest.raises(ValueError, match="two"):
        device.get("cpu", 2).for_chunks(work, 4, 1)


TURN = """
#include <chrono>
#include <thread>
#include "native.h"
// y[i] = x[n − 1 − i] + 1, the first of them late
EXPORT void turn(i64 start, i64 stop, const float* x, float* y, i64 n) {
    for (i64 i = start; i < stop; i++) {
        if (!i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        y[i] = x[n - 1 - i] + 1;
    }
}
"""


@pytest.fixture
def turn(compiler: None, tmp_path: Path) -> Function:
    shutil.copy(native.CPU / "native.h", tmp_path)
    file = tmp_path / "turn.cpp"
    file.write_text(TURN, encoding="utf-8")
    return native.NativeFile(file).get("turn")


def test_recorded_loops_wait_for_the_one_before(turn: Function) -> None:
    dev, numbers = device.get("cpu", 3), np.zeros((21, 7), np.float32)

    def step() -> None:
        for x, y in pairwise(numbers):
            turn(dev, 7, (x, y, 7), {})

    repeat = dev.record(step)
    for first in range(5):
        numbers[0] = first
        repeat()
        assert np.array_equal(numbers, first + np.arange(21.0)[:, None] + np.zeros(7))


def test_loops_of_python_are_recorded_in_their_order_and_raise(turn: Function) -> None:
    dev, numbers = device.get("cpu", 2), np.zeros((3, 7), np.float32)

    def double(start: int, stop: int) -> None:
        if numbers[1, start] > 8:
            raise OverflowError
        numbers[1, start:stop] *= 2

    def step() -> None:
        turn(dev, 7, (numbers[0], numbers[1], 7), {})
        dev.for_chunks(double, 7, 1)
        turn(dev, 7, (numbers[1], numbers[2], 7), {})

    repeat = dev.record(step)
    numbers[0] = 3
    repeat()
    assert numbers[2].tolist() == [9] * 7
    numbers[0] = 9
    with pytest.raises(OverflowError):
        repeat()


def test_records_go_on_after_a_stop_and_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, turn: Function
) -> None:
    dev, stops = device.get("cpu", 3), [KeyboardInterrupt]
    tasks, numbers = dev._tasks, np.zeros((2, 7), np.float32)

    def put(task: Any) -> None:
        tasks.put(task)
        time.sleep(0.01)
        if stops:
            raise stops.pop()

    repeat = dev.record(lambda: turn(dev, 7, (*numbers, 7), {}))
    monkeypatch.setattr(dev, "_tasks", SimpleNamespace(put=put))
    with pytest.raises(KeyboardInterrupt):
        repeat()
    callers = [threading.Thread(target=repeat, daemon=True) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
        assert not caller.is_alive()


def test_a_device_that_nothing_needs_leaves_no_threads_and_no_arrays() -> None:
    before = set(threading.enumerate())

    def used() -> weakref.ref[np.ndarray]:
        dev, both = device.get("cpu", 2), threading.Barrier(2)
        array = dev.zeros((4,), np.float32)

        def work(start: int, stop: int) -> None:
            both.wait(timeout=30)
            array[start] = dev.threads

        dev.for_chunks(work, 2, 1)
        return weakref.ref(array)

    kept = used()
    helpers = set(threading.enumerate()) - before
    gc.collect()
    for helper in helpers:
        helper.join(timeout=10)
        assert not helper.is_alive()
    assert kept() is None


def test_what_comes_from_the_host_lies_as_kernels_take_it(
    kernel_dev: device.Device,
) -> None:
    turned = np.arange(6.0).reshape(2, 3).T
    there = kernel_dev.from_host(turned)
    assert there.flags.c_contiguous
    assert np.array_equal(kernel_dev.to_host(there), turned)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numpys_error_settings_reach_the_threads() -> None:
    def overflow(start: int, stop: int) -> None:
        np.square(np.full(4, 1e30, np.float32))

    dev = device.get("cpu", 2)
    with np.errstate(all="ignore"):
        dev.for_chunks(overflow, 4, 1)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        dev.for_chunks(overflow, 4, 1)


def test_emulated_arrays_begin_where_kernels_can_read_them() -> None:
    dev = device.get("emulated")
    whole = np.arange(24, dtype=np.float32)
    assert dev.from_host(whole) is whole
    for view in (whole[1:], whole.reshape(4, 6).T, whole.reshape(4, 6)[:, :4]):
        for array in (dev.from_host(view), dev.upload("slot", view)):
            assert array.ctypes.data % 16 == 0
            assert array.flags.c_contiguous
            assert np.array_equal(array, view)


def test_a_gpu_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cuda_count", lambda: 1)
    with pytest.raises(MinicnnError, match="cuda:5: 1 CUDA GPUs answer"):
        device.get("cuda:5")
    monkeypatch.setattr(device, "cuda_count", lambda: 0)
    assert device.get("auto").name == "cpu"
