"""A NaN in dy reaches the dx that it belongs to, and no other: in every form of an op.

A ReLU's gradient is dy where its output is positive, else 0, whatever dy is; pooling's
goes to one pixel of the window. A product with a mask of zeros would spread it.
"""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.devices.device import Device
from minicnn.ops import lrn, pool, pool_lrn
from minicnn.ops.conv import conv
from minicnn.ops.pool import PoolShape

# Of a ReLU's output; a NaN has no gradient, as nothing says that it was positive.
Y = np.array([0.0, -0.0, 2.0, np.nan, 1e-30, np.inf, 0.0])
POSITIVE = Y > 0


def spoiled(dtype: type, *shape: int) -> np.ndarray:
    """NaN everywhere."""
    return np.full(shape, np.nan, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_of_a_relu(dev: Device, dtype: type, value: float) -> None:
    y, dy = (dev.from_host(each.astype(dtype)) for each in (Y, np.full(7, value)))
    conv.relu_backward(dev, y, dy)
    expected = np.where(POSITIVE, value, 0)
    np.testing.assert_array_equal(dev.to_host(dy), expected)


@pytest.mark.parametrize("window", [2, 1], ids=["fully connected", "1x1"])
def test_of_a_relu_below_a_convolution(dev: Device, dtype: type, window: int) -> None:
    x = np.tile(Y.astype(dtype), 4).reshape(1, 2, 2, 7)
    w = np.ones((3, window, window, 7), dtype)
    shape = conv.ConvShape.of(x.shape, w.shape)
    dy = spoiled(dtype, 1, shape.p, shape.q, 3)
    on_dev = [dev.from_host(each) for each in (dy, w, spoiled(dtype, *x.shape), x)]
    conv.backward_data(dev, *on_dev[:3], shape, relu_y=on_dev[3])
    expected = np.where(x > 0, np.nan, 0)
    np.testing.assert_array_equal(dev.to_host(on_dev[2]), expected)


def test_of_pooling(dev: Device, dtype: type) -> None:
    # Windows 0–2, 2–4 of a row: 5 is the maximum of the first, 7 of the second.
    x = np.array([1.0, 5, 2, 3, 7], dtype).reshape(1, 1, 5, 1)
    shape = PoolShape(1, 1, 5, 1, window=(1, 3), stride=(1, 2))
    y, dx = dev.empty((1, 1, 2, 1), dtype), dev.empty(x.shape, dtype)
    argmax = dev.empty(y.shape, np.uint8)
    pool.forward(dev, dev.from_host(x), y, argmax, shape)
    dy = np.array([np.nan, 3], dtype).reshape(y.shape)
    pool.backward(dev, dev.from_host(dy), argmax, dx, shape)
    assert dev.to_host(dx).ravel().tolist()[2:] == [0, 0, 3]
    np.testing.assert_array_equal(dev.to_host(dx).ravel()[:2], [0, np.nan])


def test_of_pooling_with_lrn(dev: Device, dtype: type) -> None:
    # Channels far apart: no window of LRN's has two of them. The first has no maximum
    # that a ReLU let through.
    x = np.zeros((1, 2, 2, 12), dtype)
    x[0, 1, 0, 11] = 4
    shape = PoolShape(1, 2, 2, 12, (2, 2), (2, 2))
    size = (1, 1, 1, 12)
    u, y, dx = (dev.empty(each, dtype) for each in (size, size, x.shape))
    argmax, how = dev.empty(size, np.uint8), (shape, lrn.Normalising(5, 0.5, 0.75, 1.0))
    pool_lrn.forward(dev, dev.from_host(x), u, argmax, y, *how)
    dy = np.zeros(size, dtype)
    dy[..., [0, 11]] = np.nan
    pool_lrn.backward(dev, dev.from_host(dy), u, argmax, dx, *how)
    expected = np.where(x > 0, np.nan, 0)
    np.testing.assert_array_equal(dev.to_host(dx), expected)
