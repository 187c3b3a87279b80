"""Layers: parameters, buffers, forward and backward, all by hand.

A layer is built from its part of an `Architecture`, told its input's shape once, given
its buffers once for a largest batch, and then runs on any batch up to that: smaller
batches use the leading rows. Gradients flow in the order of the calls; there is no
graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn import architectures as arch
from minicnn.device import Device
from minicnn.ops import conv, dropout, lrn, pool
from minicnn.philox import Stream

Array = NDArray[Any]
Shape = tuple[int, ...]
Buffers = dict[str, tuple[Shape, DTypeLike]]


@dataclass
class Parameter:
    """One weight or bias tensor.

    Attributes:
        name: such as "conv1.w".
        index: the paper's layer number, 1–8.
        shape: w (K,R,S,C/groups), for fully connected layers (K,1,1,D); b (K,).
        std: standard deviation of the initial Gaussian; 0 for a constant.
        constant: the initial value where std is 0.
        lr_mult, decay_mult: Caffe's multipliers.
        value, grad: device arrays; grad is None until planned, and when frozen.
    """

    name: str
    index: int
    shape: Shape
    std: float
    constant: float
    lr_mult: float
    decay_mult: float
    value: Array | None = None
    grad: Array | None = None


@dataclass
class Context:
    """What a forward pass needs to know beyond its input.

    Attributes:
        train: whether dropout is on.
        seed: of the run; dropout's mask is a function of it and the step.
        step: (1,) int64, on the device: see `ops.dropout.apply`.
    """

    train: bool = False
    seed: int = 0
    step: Array | None = None

    @classmethod
    def training(cls, dev: Device, seed: int, step: int = 0) -> Context:
        """Dropout on; `step` may be written to for the next pass."""
        return cls(True, seed, dev.from_host(np.array([step], np.int64)))


class Layer:
    """What all layers share; y and dx are buffers for a whole batch.

    Args:
        dev: where it runs.
        spec: its part of the architecture.
        x_shape: one image's input, (H,W,C).
        place: its position in the network, from 0.
    """

    params: tuple[Parameter, ...] = ()

    def __init__(self, dev: Device, spec: Any, x_shape: Shape, place: int) -> None:
        self.dev, self.spec, self.x_shape, self.place = dev, spec, x_shape, place
        self.y_shape: Shape = x_shape
        self.x: Array | None = None
        self.y: Array | None = None
        self.dx: Array | None = None

    def buffers(self, batch: int, dtype: DTypeLike, needs_dx: bool) -> Buffers:
        """What it keeps for up to `batch` images: attribute → shape and dtype."""
        held: Buffers = {"y": ((batch, *self.y_shape), dtype)}
        if needs_dx:
            held["dx"] = ((batch, *self.x_shape), dtype)
        return held

    def plan(self, batch: int, dtype: DTypeLike, needs_dx: bool) -> None:
        """Allocates the buffers for up to `batch` images, and lets older ones go."""
        self.release()
        for name, held in self.buffers(batch, dtype, needs_dx).items():
            setattr(self, name, self.dev.empty(*held))

    def release(self) -> None:
        """Lets its buffers go, and the input it remembers."""
        self.x = None
        for name in self.buffers(1, np.float32, True):
            setattr(self, name, None)
        self.dev.let_go()

    def forward(self, x: Array, context: Context) -> Array:
        """y of x; keeps what backward needs."""
        raise TypeError(type(self).__name__)

    def backward(self, dy: Array, trains: bool) -> Array | None:
        """dx of dy, or None where no layer below needs it; may overwrite dy.

        Args:
            trains: whether to write the parameters' gradients.
        """
        raise TypeError(type(self).__name__)


class ConvLayer(Layer):
    """Convolution or full connection, with bias and ReLU."""

    def __init__(self, dev: Device, spec: Any, x_shape: Shape, place: int) -> None:
        super().__init__(dev, spec, x_shape, place)
        if isinstance(spec, arch.Conv):
            self.relu = True
            self.options = (spec.stride, spec.pad, spec.groups)
            w_shape = (
                spec.features,
                spec.window,
                spec.window,
                x_shape[-1] // spec.groups,
            )
        else:
            self.relu = spec.relu
            self.options = (1, 0, 1)
            # A 1×1 convolution of the flattened image: (N,1,1,H·W·C).
            self.x_shape = (1, 1, int(np.prod(x_shape)))
            w_shape = (spec.features, 1, 1, self.x_shape[-1])
        one = self.shape(1, w_shape)
        self.y_shape = (one.p, one.q, one.k)
        self.w = Parameter(
            f"{spec.name}.w", spec.index, w_shape, spec.std, 0.0, 1.0, 1.0
        )
        self.b = Parameter(
            f"{spec.name}.b", spec.index, w_shape[:1], 0.0, spec.bias, 2.0, 0.0
        )
        self.params = (self.w, self.b)

    def shape(self, n: int, w_shape: Shape) -> conv.ConvShape:
        """The convolution problem of n images."""
        return conv.ConvShape.of((n, *self.x_shape), w_shape, *self.options)

    def forward(self, x: Array, context: Context) -> Array:
        n = len(x)
        self.x = x.reshape(n, *self.x_shape)
        shape = self.shape(n, self.w.shape)
        y = self.y[:n]
        conv.forward(self.dev, self.x, self.w.value, self.b.value, y, shape, self.relu)
        return y

    def backward(self, dy: Array, trains: bool) -> Array | None:
        n = len(dy)
        shape = self.shape(n, self.w.shape)
        dy = dy.reshape(n, *self.y_shape)
        if self.relu:
            conv.relu_backward(self.dev, self.y[:n], dy)
        if trains:
            dw, db = self.w.grad, self.b.grad
            conv.backward_weights(self.dev, self.x, dy, dw, db, shape)
        if self.dx is None:
            return None
        dx = self.dx[:n]
        conv.backward_data(self.dev, dy, self.w.value, dx, shape)
        return dx


class PoolLayer(Layer):
    """Max pooling."""

    def __init__(self, dev: Device, spec: Any, x_shape: Shape, place: int) -> None:
        super().__init__(dev, spec, x_shape, place)
        one = self.shape(1)
        self.y_shape = (one.p, one.q, x_shape[-1])
        self.argmax: Array | None = None

    def shape(self, n: int) -> pool.PoolShape:
        """The pooling problem of n images."""
        spec = self.spec
        return pool.PoolShape.of((n, *self.x_shape), spec.window, spec.stride)

    def buffers(self, batch: int, dtype: DTypeLike, needs_dx: bool) -> Buffers:
        argmax: Buffers = {"argmax": ((batch, *self.y_shape), np.uint8)}
        return super().buffers(batch, dtype, needs_dx) | argmax

    def forward(self, x: Array, context: Context) -> Array:
        n = len(x)
        y = self.y[:n]
        pool.forward(self.dev, x, y, self.argmax[:n], self.shape(n))
        return y

    def backward(self, dy: Array, trains: bool) -> Array | None:
        n = len(dy)
        dx = self.dx[:n]
        dy = dy.reshape(n, *self.y_shape)
        pool.backward(self.dev, dy, self.argmax[:n], dx, self.shape(n))
        return dx


class LRNLayer(Layer):
    """Local response normalisation."""

    scale: Array | None = None

    def buffers(self, batch: int, dtype: DTypeLike, needs_dx: bool) -> Buffers:
        scale: Buffers = {"scale": ((batch, *self.y_shape), dtype)}
        return super().buffers(batch, dtype, needs_dx) | scale

    def forward(self, x: Array, context: Context) -> Array:
        n = len(x)
        self.x = x
        s = self.spec
        y, scale = self.y[:n], self.scale[:n]
        lrn.forward(self.dev, x, y, scale, s.size, s.alpha, s.beta, s.k)
        return y

    def backward(self, dy: Array, trains: bool) -> Array | None:
        n = len(dy)
        s = self.spec
        y, scale, dx = self.y[:n], self.scale[:n], self.dx[:n]
        lrn.backward(self.dev, self.x, y, scale, dy, dx, s.size, s.alpha, s.beta)
        return dx


class DropoutLayer(Layer):
    """Dropout, in place: the ReLU below sees zeros; their gradient is zero anyway."""

    def buffers(self, batch: int, dtype: DTypeLike, needs_dx: bool) -> Buffers:
        return {}

    def _apply(self, x: Array) -> Array:
        context = self.context
        if context.train:
            stream = Stream.DROPOUT + self.place
            rate, seed, step = self.spec.rate, context.seed, context.step
            dropout.apply(self.dev, x, x, rate, seed, stream, step)
        return x

    def forward(self, x: Array, context: Context) -> Array:
        self.context = context
        return self._apply(x)

    def backward(self, dy: Array, trains: bool) -> Array | None:
        return self._apply(dy)


KINDS: dict[type, type[Layer]] = {
    arch.Conv: ConvLayer,
    arch.FullyConnected: ConvLayer,
    arch.Pool: PoolLayer,
    arch.LRN: LRNLayer,
    arch.Dropout: DropoutLayer,
}
