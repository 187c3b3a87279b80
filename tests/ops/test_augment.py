"""Crop, mean and mirror against the float64 oracle and by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from minicnn.devices.device import CpuDevice, Device
from minicnn.experiments.proofs import problems as cases
from minicnn.experiments.proofs.problems import AugmentCase
from minicnn.ops import augment
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.space_to_depth import Blocks
from tests.support.helpers import (
    Array,
    Arrays,
    Draw,
    check_op,
    check_same_bits,
    fuzz,
    run_op,
)
from tests.support.reference import augment as reference
from tests.support.reference import space_to_depth

Pair = tuple[int, int]
# Of convolutions that read images.
BLOCKS = {name: shape for name, shape in cases.BLOCKS.items() if shape.c == 3}


def inputs(case: AugmentCase) -> Arrays:
    """Random pixels, rows and mirrors; crops at any place and in both corners."""
    rng = np.random.default_rng(0)
    (height, width), (h, w) = case.image, case.crop
    top = rng.integers(0, height - h + 1, case.n)
    left = rng.integers(0, width - w + 1, case.n)
    top[0], left[0] = 0, 0
    top[-1], left[-1] = height - h, width - w
    return {
        "images": rng.integers(0, 256, (case.n + 2, height, width, 3), dtype=np.uint8),
        "mean": 255 * rng.random((height, width, 3)).astype(np.float32),
        "rows": rng.integers(0, case.n + 2, case.n),
        "top": top,
        "left": left,
        "mirror": rng.random(case.n) < 0.5,
    }


def run(
    dev: Device,
    mean: Array,
    crop: Pair,
    dtype: type,
    scale: float = 1.0,
    blocks: Blocks | None = None,
    **given: Array,
) -> dict[str, Any]:
    """The op."""
    size = len(given["rows"]), *crop, 3
    if blocks:
        size = len(given["rows"]), blocks.conv.h, blocks.conv.w, blocks.conv.c
    y = dev.empty(size, dtype)
    # A mean is float32 whatever the network's type.
    given["mean"] = mean.astype(np.float32)
    augment.crop_mirror(dev, y=y, scale=scale, blocks=blocks, **given)
    return {"y": y}


def expected(
    images: Array,
    rows: Array,
    crop: Pair,
    scale: float,
    blocks: Blocks | None = None,
    **given: Array,
) -> Arrays:
    """The oracle of `run`."""
    y = reference.crop_mirror(images[rows], size=crop, **given) * scale
    if blocks:
        conv, stride, pad = blocks.conv, blocks.pixels.stride, blocks.pixels.pad
        y = space_to_depth.blocks(y, (conv.h, conv.w), conv.c, stride, pad)
    return {"y": y}


def check(
    dev: Device, dtype: type, case: AugmentCase, blocks: Blocks | None = None
) -> None:
    """One problem on one device against the oracle."""
    how = {"crop": case.crop, "scale": case.scale, "blocks": blocks}
    op, oracle = partial(run, **how, dtype=dtype), partial(expected, **how)
    check_op(f"augment {case}", dev, dtype, op, oracle, inputs(case))


@pytest.mark.parametrize("case", cases.AUGMENT.values(), ids=cases.AUGMENT)
def test_agrees_with_reference(typed: tuple[Device, type], case: AugmentCase) -> None:
    check(*typed, case)


@pytest.mark.parametrize("shape", BLOCKS.values(), ids=BLOCKS)
def test_blocks_agree_with_reference(
    typed: tuple[Device, type], shape: ConvShape
) -> None:
    image, crop = (shape.h + 3, shape.w + 2), (shape.h, shape.w)
    case = AugmentCase(shape.n + 1, image, crop, scale=1 / 58)
    check(*typed, case, Blocks(shape))


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
    # A second image, all 7, mirrored: 7 − 2 = 5, then 7 − 1 = 6. It lies first.
    ramp = np.array([[0, 1, 2], [10, 11, 12]])[..., None] + np.arange(3)
    given = {
        "images": np.stack([np.full((2, 3, 3), 7), ramp]).astype(np.uint8),
        "mean": np.broadcast_to(np.arange(3)[:, None], (2, 3, 3)).astype(np.float32),
        "rows": np.array([1, 0]),
        "top": np.array([1, 1]),
        "left": np.array([1, 1]),
        "mirror": np.array([False, True]),
    }
    got = run_op(dev, partial(run, crop=(1, 2), dtype=dtype), given)
    assert got["y"][0, 0].tolist() == [[10, 11, 12], [10, 11, 12]]
    assert got["y"][1, 0].tolist() == [[5, 5, 5], [6, 6, 6]]


@pytest.mark.parametrize("stride", [None, 4])
def test_same_bits(dev: Device, dtype: type, stride: int | None) -> None:
    case = AugmentCase(70, (12, 12), (9, 10), scale=1 / 58)
    blocks = stride and Blocks(ConvShape(1, 9, 10, 3, 1, 6, 6, (stride, stride)))
    how = {"crop": case.crop, "scale": case.scale, "blocks": blocks or None}
    run_it = partial(run, **how, dtype=dtype)
    check_same_bits(dev, run_it, inputs(case), dtype, as_cpu=True)


@pytest.mark.parametrize("what", ["rows", "top", "left"])
def test_what_lies_outside_is_not_read(what: str) -> None:
    case = cases.AUGMENT["crop"]
    given = inputs(case)
    given[what][1] = 100
    with pytest.raises((IndexError, ValueError)):
        run_op(CpuDevice(1), partial(run, crop=case.crop, dtype=np.float32), given)
