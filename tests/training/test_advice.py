"""Which recipe is chosen for a task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.devices import device
from minicnn.devices.device import CudaDevice
from minicnn.training.advice import choose


@pytest.mark.parametrize(
    ("images", "classes", "size", "gpu", "source", "recipe", "arch"),
    [
        (43, 4, 256, False, "folder", "small", "caffenet"),
        (43, 4, 256, True, "folder", "small", "caffenet"),
        (9_999, 10, 64, False, "folder", "small", "caffenet64"),
        (2_000, 10, 32, True, "folder", "small", "caffenet32"),
        (2_000, 10, 32, True, "demo", "demo", "caffenet32"),
        (2_000, 10, 64, True, "demo", "small", "caffenet64"),
        (50_000, 100, 32, False, "folder", "tiny-imagenet", "caffenet32"),
        (50_000, 100, 64, False, "folder", "tiny-imagenet", "caffenet64"),
        (640_000, 500, 256, True, "folder", "paper", "caffenet"),
        (640_000, 500, 256, False, "folder", "tiny-imagenet", "caffenet"),
        (640_000, 1001, 256, True, "folder", "tiny-imagenet", "caffenet"),
        (50_000, 500, 256, True, "folder", "tiny-imagenet", "caffenet"),
    ],
)
def test_the_recipe_suits_images_size_and_device(
    images: int, classes: int, size: int, gpu: bool, source: str, recipe: str, arch: str
) -> None:
    store: Any = SimpleNamespace(
        image_size=(size, size + 44),
        attributes={"source": source},
        rows=lambda wanted, part: np.arange(images),
    )
    choice = choose(store, range(classes), gpu)
    assert (choice.recipe, choice.arch) == (recipe, arch)
    assert choice.config.network.arch == arch


def test_only_cuda_is_a_gpu() -> None:
    assert CudaDevice.on_gpu
    assert not device.get("cpu").on_gpu
    assert not device.get("emulated").on_gpu
