"""The layers of an architecture.

Pooling and the LRN after it become one layer, and each ReLU's gradient is taken by the
layer after it (see `layers.Layer`). Where kernels multiply on tensor cores, the first
convolution reads its images in blocks of pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minicnn.base.precision import Precision
from minicnn.devices.device import Device
from minicnn.nn.architectures import (
    LRN,
    Architecture,
    Conv,
    Dropout,
    FullyConnected,
    LayerSpec,
    Pool,
)
from minicnn.nn.layers import BlockedConvLayer, ConvLayer, DropoutLayer, Layer, Shape
from minicnn.nn.pool_layers import LRNLayer, PoolLayer, PoolLRN, PoolLRNLayer

KINDS: dict[type, type[Layer]] = {
    Conv: ConvLayer,
    FullyConnected: ConvLayer,
    Pool: PoolLayer,
    LRN: LRNLayer,
    PoolLRN: PoolLRNLayer,
    Dropout: DropoutLayer,
}


def build(
    dev: Device,
    precision: Precision,
    network: Architecture,
    outputs: int,
) -> list[Layer]:
    """A network's layers, from the input to the logits.

    Args:
        outputs: features of the last fully connected layer.
    """
    layers: list[Layer] = []
    shape: Shape = (network.crop, network.crop, 3)
    # The convolution whose ReLU's output, perhaps pooled, the next layer reads.
    rectifier: ConvLayer | None = None
    place, specs = 0, network.layers
    while place < len(specs):
        spec: LayerSpec | PoolLRN = specs[place]
        step = 1
        norm = specs[place + 1] if place + 1 < len(specs) else None
        if isinstance(spec, Pool) and isinstance(norm, LRN) and rectifier is not None:
            spec, step = PoolLRN(spec, norm), 2
        if isinstance(spec, FullyConnected) and not spec.features:
            spec = replace(spec, features=outputs)
        in_blocks = not layers and _wants_blocks(dev, precision, spec)
        kind = BlockedConvLayer if in_blocks else KINDS[type(spec)]
        layer = kind(dev, precision, spec, shape, place)
        if rectifier is not None and layer.can_take_relu:
            layer.takes_relu = rectifier.relu_taken = True
        if isinstance(layer, ConvLayer):
            rectifier = layer if layer.relu else None
        elif isinstance(layer, LRNLayer | PoolLRNLayer):
            rectifier = None
        layers.append(layer)
        shape, place = layer.y_shape, place + step
    return layers


def _wants_blocks(dev: Device, precision: Precision, spec: Any) -> bool:
    """Whether a first layer reads its images in blocks of pixels."""
    kernels = dev.has_kernels and precision.on_tensor_cores
    return kernels and isinstance(spec, Conv) and spec.groups == 1
