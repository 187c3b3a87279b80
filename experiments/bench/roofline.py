"""What an op costs: floating-point operations and bytes of memory.

Operations: two for each multiply-add of a product, 2·N·P·Q·K·R·S·C/groups a pass; the
other ops count none, since memory bounds them on every machine there is. Products by
zeros that a layout brings in, as conv1's in blocks, are not counted. Bytes: each
array that the op must read or write, once; what it updates in place, twice. Partial
sums and second reads are the op's own affair, and lower its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minicnn.devices.meter import Cost
from minicnn.ops import Op, augment, lrn
from minicnn.ops.conv.shape import ConvShape

# Largest array that is not counted: a learning rate, a step, the sums of a score.
_FEW = 3


def cost(op: Op, arguments: Mapping[str, Any]) -> Cost:
    """The cost of a call, by its arguments' names."""
    shape = arguments.get("shape")
    flops = shape.flops if isinstance(shape, ConvShape) else 0
    if op is augment.crop_mirror:
        # Of each image only the crop is read, a byte a number; the mean stays cached.
        y = arguments["y"]
        return Cost(flops, y.size + y.nbytes)
    # LRN's gradient needs no y: that is x · scale^−β.
    unread = "y" if op is lrn.backward else ""
    names = [name for name in arguments if name != unread] + list(op.updates)
    values = [arguments[name] for name in names]
    arrays = [v for v in values if hasattr(v, "nbytes") and v.size > _FEW]
    return Cost(flops, sum(array.nbytes for array in arrays))
