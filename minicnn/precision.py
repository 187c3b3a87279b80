"""How exactly a network computes: the types that its arrays have, and its products.

bfloat16 is float32 with the lower half of its bits cut off: the same range, 8 instead
of 24 significant bits. It is a type of storage here; sums are always kept in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from minicnn.errors import MinicnnError

BF16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
"""NumPy's and CuPy's bfloat16; kernels call it `bf16`. Its `kind` is "V"."""


@dataclass(frozen=True)
class Precision:
    """The types of one way to train.

    The weights that the solver updates, their velocities and their gradients are always
    float32.

    Attributes:
        name: "fp32", "tf32" or "bf16".
        activations: dtype of what the layers hand on, forward and backward.
        weights: dtype of the weights that the convolutions read: where it is not
            float32, a copy that the solver writes.
    """

    name: str
    activations: np.dtype[Any]
    weights: np.dtype[Any]

    @property
    def copies_weights(self) -> bool:
        """Whether the convolutions read a copy of the weights."""
        return self.weights != np.float32


_FLOAT = np.dtype(np.float32)
_ALL = {
    each.name: each
    for each in (
        Precision("fp32", _FLOAT, _FLOAT),
        # Tensor cores round the operands of products to 11 significant bits.
        Precision("tf32", _FLOAT, _FLOAT),
        Precision("bf16", BF16, BF16),
    )
}
NAMES = tuple(_ALL)


def get(name: str) -> Precision:
    """The precision of that name.

    Raises:
        MinicnnError: there is none.
    """
    if name not in _ALL:
        raise MinicnnError(
            f"--precision {name}: unknown; choose from {', '.join(NAMES)}"
        )
    return _ALL[name]


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that kernels keep sums of that type in, common.cuh's `accumulator`."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a floating-point type, bfloat16 too."""
    return dtype.kind == "f" or dtype == BF16


def round_to_bf16(x: NDArray[np.float32]) -> None:
    """Rounds to the nearest bfloat16, ties to even, in place; NaN stays NaN.

    So a device without bfloat16 arithmetic computes what one with it would store.
    """
    x[...] = x.astype(BF16)
