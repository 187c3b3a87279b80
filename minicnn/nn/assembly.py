"""The layers of an architecture.

Pooling and the LRN after it become one layer, and each ReLU's gradient is taken by the
layer after it (see `layers.Layer`). Where kernels multiply on tensor cores, the first
convolution reads its images in blocks of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

from minicnn.base.precision import Precision
from minicnn.devices.device import Device
from minicnn.nn.architectures import (
    LRN,
    Architecture,
    Conv,
    Dropout,
    FullyConnected,
    Pool,
)
from minicnn.nn.layers import BlockedConvLayer, ConvLayer, DropoutLayer, Layer, Shape
from minicnn.nn.pool_layers import LRNLayer, PoolLayer, PoolLRNLayer

KINDS: dict[type, type[Layer]] = {
    Conv: ConvLayer,
    FullyConnected: ConvLayer,
    Pool: PoolLayer,
    LRN: LRNLayer,
    Dropout: DropoutLayer,
}


def build(
    dev: Device, precision: Precision, network: Architecture, outputs: int
) -> list[Layer]:
    """A network's layers, from the input to the logits.

    Args:
        outputs: features of the last fully connected layer.
    """
    layers: list[Layer] = []
    shape: Shape = (network.crop, network.crop, 3)
    # The convolution whose ReLU's output, perhaps pooled, the next layer reads.
    rectifier: ConvLayer | None = None
    in_blocks = dev.has_kernels and precision.on_tensor_cores
    for place, (spec, above) in enumerate(pairwise([*network.layers, None])):
        kind: Callable[..., Layer] = KINDS[type(spec)]
        if isinstance(spec, LRN) and isinstance(layers[-1], PoolLRNLayer):
            continue
        if isinstance(spec, Pool) and isinstance(above, LRN) and rectifier:
            kind = partial(PoolLRNLayer, norm=above)
        elif isinstance(spec, FullyConnected) and not spec.features:
            spec = replace(spec, features=outputs)
        elif place == 0 and in_blocks and isinstance(spec, Conv) and spec.groups == 1:
            kind = BlockedConvLayer
        layer = kind(dev, precision, spec, shape, place)
        if rectifier and isinstance(layer, ConvLayer | PoolLRNLayer):
            rectifier.relu_taken = True
        if isinstance(layer, ConvLayer):
            layer.takes_relu = rectifier is not None
            rectifier = layer if layer.relu else None
        elif isinstance(layer, LRNLayer | PoolLRNLayer):
            rectifier = None
        layers.append(layer)
        shape = layer.y_shape
    return layers
