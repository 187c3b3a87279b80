"""The types of each precision, and rounding to bfloat16."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.base import precision
from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16


def test_types_of_each_precision() -> None:
    types = {
        name: (p.values, p.activations, p.copies_weights, p.on_tensor_cores)
        for name in precision.NAMES
        for p in [precision.get(name)]
    }
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    assert types == {
        "fp32": (single, single, False, False),
        "tf32x3": (single, single, False, True),
        "tf32": (single, single, False, True),
        "bf16": (single, BF16, True, True),
        "fp64": (double, double, False, False),
    }


def test_unknown_precision_is_named() -> None:
    with pytest.raises(
        MinicnnError, match=r"^network.precision 'fp8': .* fp32, tf32x3, tf32, bf16"
    ):
        precision.get("fp8")


def test_sums_are_kept_in_float_or_double() -> None:
    kinds = [precision.accumulator(np.dtype(t)).name for t in ("f4", "f8", BF16)]
    assert kinds == ["float32", "float64", "float32"]
