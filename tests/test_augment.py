"""Crop, mean and mirror against the float64 oracle and by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.device import Device
from minicnn.ops import augment
from tests import cases
from tests.cases import AugmentCase
from tests.helpers import (
    Array,
    Arrays,
    Draw,
    check_op,
    check_same_bits,
    fuzz,
    run_op,
)
from tests.reference import augment as reference

Pair = tuple[int, int]


def inputs(case: AugmentCase) -> Arrays:
    """Random pixels, crops at any place with both corners among them, mirrors."""
    rng = np.random.default_rng(0)
    (height, width), (h, w) = case.image, case.crop
    top = rng.integers(0, height - h + 1, case.n)
    left = rng.integers(0, width - w + 1, case.n)
    top[0], left[0] = 0, 0
    top[-1], left[-1] = height - h, width - w
    return {
        "images": rng.integers(0, 256, (case.n, height, width, 3), dtype=np.uint8),
        "mean": 255 * rng.random((height, width, 3)).astype(np.float32),
        "top": top,
        "left": left,
        "mirror": rng.random(case.n) < 0.5,
    }


def run(
    dev: Device,
    images: Array,
    mean: Array,
    top: Array,
    left: Array,
    mirror: Array,
    *,
    crop: Pair,
    dtype: type,
    scale: float = 1.0,
) -> dict[str, Any]:
    """The op."""
    y = dev.empty((len(images), *crop, 3), dtype)
    mean = mean.astype(np.float32)
    augment.crop_mirror(dev, images, mean, y, top, left, mirror, scale)
    return {"y": y}


def expected(
    images: Array,
    mean: Array,
    top: Array,
    left: Array,
    mirror: Array,
    *,
    crop: Pair,
    scale: float,
) -> Arrays:
    """The oracle of `run`."""
    y = reference.crop_mirror(images, mean, crop, top, left, mirror)
    return {"y": y * scale}


def check(dev: Device, dtype: type, case: AugmentCase) -> None:
    """One problem on one device against the oracle."""
    op = partial(run, crop=case.crop, dtype=dtype, scale=case.scale)
    oracle = partial(expected, crop=case.crop, scale=case.scale)
    check_op(f"augment {case}", dev, dtype, op, oracle, inputs(case))


@pytest.mark.parametrize("case", cases.AUGMENT.values(), ids=cases.AUGMENT)
def test_agrees_with_reference(dev: Device, dtype: type, case: AugmentCase) -> None:
    check(dev, dtype, case)


def problem(draw: Draw) -> AugmentCase:
    """Any small crop of any small image."""
    image = draw(1, 8), draw(1, 8)
    crop = draw(1, image[0]), draw(1, image[1])
    return AugmentCase(draw(1, 4), image, crop, scale=draw(1, 64) / 64)


@fuzz(problem)
def test_agrees_with_reference_on_any_shape(
    dev: Device, dtype: type, case: AugmentCase
) -> None:
    check(dev, dtype, case)


def test_hand_worked(dev: Device, dtype: type) -> None:
    # A 2×3 image, red = 10·row + column, green and blue 1 and 2 more; the mean has its
    # column number in every colour. The crop is 1×2 at row 1, column 1:
    #   red: 11 − 1 = 10 and 12 − 2 = 10; the mean of column 1 and 2, not of 0 and 1.
    # A second image, all 7, mirrored: 7 − 2 = 5, then 7 − 1 = 6.
    ramp = np.array([[0, 1, 2], [10, 11, 12]])[..., None] + np.arange(3)
    given = {
        "images": np.stack([ramp, np.full((2, 3, 3), 7)]).astype(np.uint8),
        "mean": np.broadcast_to(np.arange(3)[:, None], (2, 3, 3)).astype(np.float32),
        "top": np.array([1, 1]),
        "left": np.array([1, 1]),
        "mirror": np.array([False, True]),
    }
    got = run_op(dev, partial(run, crop=(1, 2), dtype=dtype), given)
    assert got["y"][0, 0].tolist() == [[10, 11, 12], [10, 11, 12]]
    assert got["y"][1, 0].tolist() == [[5, 5, 5], [6, 6, 6]]


def test_same_bits(dev: Device, dtype: type) -> None:
    case = AugmentCase(70, (12, 12), (9, 10), scale=1 / 58)
    run_it = partial(run, crop=case.crop, dtype=dtype, scale=case.scale)
    check_same_bits(dev, run_it, inputs(case), dtype, as_cpu=True)
