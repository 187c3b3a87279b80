"""Images within the device's reach: crops from the memory map itself, on the cpu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn.data.loader import ImagesInMemory
from minicnn.data.store import Store
from minicnn.devices import cpu, device
from minicnn.training import transfer
from minicnn.training.trainer import Inputs
from tests.support.runs import make_store
from tests.support.training import contents, make_setup

SETTINGS = "solver.iterations=4", "schedule.evaluate_every=2"


def test_the_cpu_device_crops_from_the_memory_map(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "tiny.h5"))
    rows, ticks = np.array([3, 4, 9]), []
    resident = ImagesInMemory(device.get("cpu"), store, rows, ticks.append)
    assert np.shares_memory(resident.images, store.images)
    assert resident.places(rows).tolist() == [3, 4, 9]
    assert sum(ticks) == 3
    copied = ImagesInMemory(device.get("emulated"), store, rows, ticks.append)
    assert not np.shares_memory(copied.images, store.images)
    assert copied.places(rows).tolist() == [0, 1, 2]
    assert np.array_equal(copied.images, store.images[rows])


def test_crops_from_the_map_and_from_copies_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, found, streamed = make_store(tmp_path / "tiny.h5"), [], []
    fill = Inputs.fill

    def noted(self: Inputs, batch: Any) -> Any:
        streamed.append(batch.images is not None)
        return fill(self, batch)

    monkeypatch.setattr(Inputs, "fill", noted)
    for name in ("mapped", "streamed"):
        setup = make_setup(store, tmp_path / name, *SETTINGS, device="cpu")
        found.append(contents(transfer.train_base(setup, "A").folder))
        assert set(streamed) == {name == "streamed"}
        streamed.clear()
        monkeypatch.setattr(device.CpuDevice, "has_room", lambda self, size: False)
    assert found[0] == found[1]


def test_no_more_is_held_than_half_of_what_the_process_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dev = device.get("cpu")
    for free, most in ((8000, 2000), (2000, 8000), (None, 2000)):
        monkeypatch.setattr(dev, "free_bytes", lambda free=free: free)
        monkeypatch.setattr(cpu, "memory_bytes", lambda most=most: most)
        assert dev.has_room(1000)
        assert not dev.has_room(1001)
