"""A batch that the memory cannot hold is refused, with the batch that would fit."""

from __future__ import annotations

import re
import resource
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.config import SolverConfig
from minicnn.base.errors import MinicnnError
from minicnn.compile import native as compiled
from minicnn.devices import device
from minicnn.devices.device import CudaDevice
from minicnn.experiments.bench.ops import Step
from minicnn.nn.layers import Context
from minicnn.nn.network import SPARE, Network
from minicnn.training.solver import Solver
from minicnn.training.trainer import Inputs

GIGA = 1 << 30
# Planned bytes of a step over those it takes at most.
LEAST, MOST = 0.9, 1.1


class Limited(device.CpuDevice):
    """A device with little memory, that counts what is taken of it."""

    name = "cuda"

    def __init__(self, free: int) -> None:
        super().__init__(1)
        self.free, self.taken = free, 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.taken += int(np.prod(shape)) * np.dtype(dtype).itemsize
        # Nothing is touched: the system hands out no memory for it.
        return np.empty(shape, dtype)

    zeros = empty

    def free_bytes(self) -> int:
        return self.free - self.taken


def refusal(network: Network, batch: int) -> str:
    with pytest.raises(MinicnnError) as refused:
        network.plan(batch)
    return str(refused.value)


@pytest.mark.parametrize("frozen", [0, 5])
def test_the_batch_named_fits_and_one_more_does_not(frozen: int) -> None:
    dev = Limited(2 * GIGA)
    network = Network("caffenet64", 1000, dev, seed=None)
    network.freeze(frozen)
    Solver(network, SolverConfig())
    before = dev.taken
    said = refusal(network, 100_000)
    assert dev.taken == before
    found = re.search(r"caffenet64 needs .* a batch of (\d+) fits", said)
    assert found, said
    fits = int(found[1])
    assert f"a batch of {fits} fits" in refusal(network, fits + 1)
    network.plan(fits)
    Inputs(network, np.zeros((64, 64, 3), np.float32), fits)
    left = dev.free_bytes() - fits * 2 * 64 * 64 * 3  # the images as uploaded
    # What is left is what is not planned, and less than an image's share; the flat
    # gradients are padded by a little.
    assert SPARE - 2**16 < left < SPARE + 2e6


@pytest.mark.parametrize("name", ["fp32", "fp64"])
@pytest.mark.parametrize("frozen", [0, 5])
def test_a_step_takes_what_is_planned(name: str, frozen: int) -> None:
    dev, batch = device.get("cpu", 3), 64
    if not dev.native:
        pytest.skip(compiled.missing())
    step = Step(dev, "caffenet64", batch, name, seed=None)
    step.network.freeze(frozen)
    step.solver = Solver(step.network, SolverConfig())
    planned = step.network.demand(batch)
    tracemalloc.start()
    try:
        step.network.plan(batch)
        step.whole()
        _, taken = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert LEAST < planned / taken < MOST
    assert taken < planned + SPARE / 8


def test_zeros_are_memory_that_is_taken() -> None:
    # Else velocities would count as free when a batch is planned, and be taken later.
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("needs /proc")

    def resident() -> int:
        return int(status.read_text().split()[1]) * resource.getpagesize()

    before, size = resident(), 1 << 27
    zeros = device.get("cpu", 1).zeros((size,), np.uint8)
    assert resident() - before > size / 2
    assert not zeros.any()


def test_not_even_one_image() -> None:
    network = Network("caffenet64", 10, Limited(8 << 20), seed=None)
    assert "not even one image fits" in refusal(network, 1)


def test_after_a_refusal_a_smaller_batch_works() -> None:
    dev = Limited(GIGA)
    network = Network("caffenet32", 5, dev, seed=0)
    labels, x = np.zeros(2, np.int32), np.zeros((2, 28, 28, 3), np.float32)
    network.forward(x, Context.training(dev, seed=0))
    refusal(network, 10**6)
    network.forward(x, Context.training(dev, seed=0))
    network.scored(labels, gradient=True)
    network.backward()
    assert all(np.isfinite(network.gradient(p)).all() for p in network.params)


def test_a_device_that_cannot_tell_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dev = device.get("cpu")
    monkeypatch.setattr(dev, "free_bytes", lambda: None)
    Network("caffenet32", 5, dev, seed=None).plan(64)


def test_a_full_gpu_is_one_line() -> None:
    class OutOfMemoryError(MemoryError):
        pass

    def full(shape: Any, dtype: Any) -> Any:
        raise OutOfMemoryError

    dev = CudaDevice.__new__(CudaDevice)
    dev.name = "cuda:1"
    memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    pool = SimpleNamespace(free_bytes=lambda: 10**9)
    dev._cupy = SimpleNamespace(
        empty=full,
        cuda=SimpleNamespace(memory=memory),
        get_default_memory_pool=lambda: pool,
    )
    dev._device = SimpleNamespace(mem_info=(10**9, 10**10))
    assert dev.has_room(10**9)  # half of it
    assert not dev.has_room(10**9 + 1)
    for make in (dev.empty, dev.zeros):
        with pytest.raises(MinicnnError, match=r"cuda:1: 4\.00 GB .* 2\.00 GB free"):
            make((10**9,), np.float32)
