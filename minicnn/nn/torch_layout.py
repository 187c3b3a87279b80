"""Weights under PyTorch's names and in its layouts, and back.

Convolutions are (K,R,S,C/groups) here and (K,C/groups,R,S) there; fully connected
layers (K,1,1,D) and (K,D). The first of these reads the last convolution's output
flattened, in the order (H,W,C) here and (C,H,W) there, so its columns are reordered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.nn.architectures import Architecture, Conv, FullyConnected

Tensors = dict[str, NDArray[Any]]


def _products(arch: Architecture) -> Iterator[tuple[Conv | FullyConnected, int]]:
    """Layers with weights, and for the first flat one the channels that it reads."""
    channels = 0
    for spec in arch.layers:
        if isinstance(spec, Conv):
            channels = spec.features
            yield spec, 0
        elif isinstance(spec, FullyConnected):
            yield spec, channels
            channels = 0


def to_torch(arch: Architecture, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Weights, or their gradients, by name such as "conv1.w", as PyTorch has them."""
    result: Tensors = {}
    for spec, channels in _products(arch):
        w = tensors[f"{spec.name}.w"]
        if isinstance(spec, Conv):
            w = w.transpose(0, 3, 1, 2)
        else:
            apart = w.reshape(len(w), -1, channels or w.shape[-1])
            w = apart.swapaxes(1, 2).reshape(len(w), -1)
        result[f"{spec.name}.weight"] = np.ascontiguousarray(w)
        result[f"{spec.name}.bias"] = tensors[f"{spec.name}.b"]
    return result


def from_torch(arch: Architecture, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Weights by parameter name; what `to_torch` makes of them is `tensors` again.

    Layers that the tensors lack are left out.

    Raises:
        MinicnnError: a tensor's number of axes, or of columns, is not its layer's.
    """
    result: Tensors = {}
    for spec, channels in _products(arch):
        name = f"{spec.name}.weight"
        if name not in tensors:
            continue
        w = tensors[name]
        axes = 4 if isinstance(spec, Conv) else 2
        if w.ndim != axes or (channels and w.shape[1] % channels):
            raise MinicnnError(
                f"tensor {name}: shape {w.shape} in the source, which {spec.name} of "
                f"{arch.name} cannot take"
            )
        if isinstance(spec, Conv):
            w = w.transpose(0, 2, 3, 1)
        else:
            apart = w.reshape(len(w), channels or w.shape[1], -1)
            w = apart.swapaxes(1, 2).reshape(len(w), 1, 1, -1)
        result[f"{spec.name}.w"] = np.ascontiguousarray(w)
        if f"{spec.name}.bias" in tensors:
            result[f"{spec.name}.b"] = tensors[f"{spec.name}.bias"]
    return result
