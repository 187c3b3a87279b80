"""Max pooling and LRN as layers, each alone and one after the other; see `layers`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.base.precision import accumulator
from minicnn.nn import architectures as arch
from minicnn.nn.layers import Array, Buffers, Context, Layer
from minicnn.ops import lrn, pool, pool_lrn


class PoolLayer(Layer):
    """Max pooling."""

    argmax: Array

    def infer_shapes(self) -> None:
        one = self.shape(1)
        self.y_shape = (one.p, one.q, one.c)

    def shape(self, n: int) -> pool.PoolShape:
        """The pooling problem of n images."""
        shape = (n, *self.x_shape)
        return pool.PoolShape.of(shape, self.spec.window, self.spec.stride)

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        argmax: Buffers = {"argmax": ((batch, *self.y_shape), np.uint8)}
        return super().buffers(batch, needs_dx, trains) | argmax

    def forward(self, x: Array, context: Context | None) -> Array:
        n = len(x)
        y = self.y[:n]
        pool.forward(self.dev, x, y, self.argmax[:n], self.shape(n))
        return y

    def backward(self, dy: Array) -> Array | None:
        n = len(dy)
        dx, dy = self.dx[:n], dy.reshape(n, *self.y_shape)
        pool.backward(self.dev, dy, self.argmax[:n], dx, self.shape(n))
        return dx


def normalising(spec: arch.LRN) -> lrn.Normalising:
    """The op's constants."""
    return lrn.Normalising(spec.size, spec.alpha, spec.beta, spec.k)


class LRNLayer(Layer):
    """Local response normalisation."""

    scale: Array

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        dtype = accumulator(self.precision.activations)
        scale: Buffers = {"scale": ((batch, *self.y_shape), dtype)}
        return super().buffers(batch, needs_dx, trains) | scale

    def forward(self, x: Array, context: Context | None) -> Array:
        n = len(x)
        self.x, y = x, self.y[:n]
        lrn.forward(self.dev, x, y, self.scale[:n], normalising(self.spec))
        return y

    def backward(self, dy: Array) -> Array | None:
        n = len(dy)
        y, scale, dx = self.y[:n], self.scale[:n], self.dx[:n]
        lrn.backward(self.dev, self.x, y, scale, dy, dx, normalising(self.spec))
        return dx


class PoolLRNLayer(PoolLayer):
    """Max pooling of a ReLU's output, then LRN, computed as one; u is between them.

    It takes the ReLU's gradient.

    Args:
        norm: the LRN; the `spec` is the pooling.
    """

    u: Array

    def __init__(self, *pooling: Any, norm: arch.LRN) -> None:
        super().__init__(*pooling)
        self.norm = norm

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        u: Buffers = {"u": ((batch, *self.y_shape), self.precision.activations)}
        return super().buffers(batch, needs_dx, trains) | u

    def forward(self, x: Array, context: Context | None) -> Array:
        n = len(x)
        u, argmax, y = self.u[:n], self.argmax[:n], self.y[:n]
        rest = self.shape(n), normalising(self.norm)
        pool_lrn.forward(self.dev, x, u, argmax, y, *rest)
        return y

    def backward(self, dy: Array) -> Array | None:
        n = len(dy)
        u, argmax, dx = self.u[:n], self.argmax[:n], self.dx[:n]
        rest = self.shape(n), normalising(self.norm)
        dy = dy.reshape(n, *self.y_shape)
        pool_lrn.backward(self.dev, dy, u, argmax, dx, *rest)
        return dx
