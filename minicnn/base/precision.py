"""How exactly a network computes: the types that its arrays have, and its products.

bfloat16 is float32 with the lower half of its bits cut off: the same range, 8 instead
of 24 significant bits. It is a type of storage here; sums are always kept in float32.
Devices without kernels compute bfloat16's numbers in float32 and round what they store
(see `minicnn.ops`); tf32 and tf32x3, which allow rounding, they compute exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from minicnn.base.errors import MinicnnError

BF16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
"""NumPy's and CuPy's bfloat16; kernels call it `bf16`. Its `kind` is "V"."""


@dataclass(frozen=True)
class Precision:
    """The types of one way to train.

    Attributes:
        values: dtype of the parameters that the solver updates, of their velocities and
            of their gradients.
        activations: dtype of what the layers hand on, forward and backward, and of the
            weights that the convolutions read: where it is not that of `values`, a
            copy of them that the solver writes.
    """

    name: str
    values: np.dtype[Any]
    activations: np.dtype[Any]

    @property
    def copies_weights(self) -> bool:
        """Whether the convolutions read a copy of the weights."""
        return self.activations != self.values

    @property
    def tensor(self) -> str | None:
        """Tensor cores' type for float32 arrays; None: they do not multiply them."""
        return self.name if self.name in ("tf32", "tf32x3") else None

    @property
    def on_tensor_cores(self) -> bool:
        """Whether kernels multiply on tensor cores where channels allow it."""
        return self.tensor is not None or self.activations == BF16


_FLOAT, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
FP32 = Precision("fp32", _FLOAT, _FLOAT)
# Each operand is a sum of two 11-bit numbers, each product three products of tensor
# cores: as exact as float32.
TF32X3 = Precision("tf32x3", _FLOAT, _FLOAT)
# Tensor cores round the operands of products to 11 significant bits.
TF32 = Precision("tf32", _FLOAT, _FLOAT)
FP64 = Precision("fp64", _DOUBLE, _DOUBLE)
_ALL = [FP32, TF32X3, TF32, Precision("bf16", _FLOAT, BF16), FP64]
NAMES = tuple(each.name for each in _ALL)


def get(name: str) -> Precision:
    """The precision of that name, or MinicnnError."""
    if name not in NAMES:
        raise MinicnnError(
            f"network.precision {name!r}: unknown; choose from {', '.join(NAMES)}"
        )
    return _ALL[NAMES.index(name)]


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that kernels keep sums of that type in, common.cuh's `accumulator`."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
