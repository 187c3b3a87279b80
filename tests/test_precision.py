"""The types of each precision, and rounding to bfloat16."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn import precision
from minicnn.errors import MinicnnError
from minicnn.precision import BF16


def test_types_of_each_precision() -> None:
    types = {
        name: (p.activations, p.weights, p.copies_weights)
        for name in precision.NAMES
        for p in [precision.get(name)]
    }
    single = np.dtype(np.float32)
    assert types == {
        "fp32": (single, single, False),
        "tf32": (single, single, False),
        "bf16": (BF16, BF16, True),
    }


def test_unknown_precision_is_named() -> None:
    with pytest.raises(MinicnnError, match=r"^--precision fp8: .* fp32, tf32, bf16"):
        precision.get("fp8")


def test_bf16_is_a_float_of_two_bytes() -> None:
    assert BF16.itemsize == 2
    floats = [np.float16, np.float32, np.float64, BF16, np.int32, np.uint16, "V2"]
    assert [precision.is_float(np.dtype(each)) for each in floats] == [
        True, True, True, True, False, False, False,
    ]  # fmt: skip


def test_sums_are_kept_in_float_or_double() -> None:
    kinds = [precision.accumulator(np.dtype(t)).name for t in ("f4", "f8", BF16)]
    assert kinds == ["float32", "float64", "float32"]


def test_rounding_to_bf16() -> None:
    # 8 significant bits: between 1 and 2 the numbers are 1/128 apart, ties go to even.
    step = 2.0**-7
    given = {
        1.0: 1.0,
        1 + step: 1 + step,
        1 + 0.49 * step: 1.0,
        1 + 0.51 * step: 1 + step,
        1 + 0.5 * step: 1.0,
        1 + 1.5 * step: 1 + 2 * step,
        -(1 + 1.5 * step): -(1 + 2 * step),
        3e38: 226 * 2.0**120,
        3.4e38: np.inf,
        1e-40: 2.0**-133,
        np.inf: np.inf,
    }
    x = np.array(list(given), np.float32)
    precision.round_to_bf16(x)
    assert x.dtype == np.float32
    assert x.tolist() == list(given.values())
    nan = np.array([np.nan], np.float32)
    precision.round_to_bf16(nan)
    assert np.isnan(nan[0])
