"""Layers: parameters, buffers, forward and backward, all by hand.

A layer is built from its part of an `Architecture` and its input's shape. `plan`
allocates its buffers for a largest batch; any batch up to that uses the leading rows.
Gradients flow in the order of the calls; there is no graph.

Buffers are attributes that a layer has only while it is planned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.philox import Stream
from minicnn.base.precision import Precision, accumulator
from minicnn.devices.device import Device
from minicnn.nn import architectures as arch
from minicnn.ops import dropout, sgd, space_to_depth
from minicnn.ops.conv import conv

Array = NDArray[Any]
Shape = tuple[int, ...]
Buffers = dict[str, tuple[Shape, DTypeLike]]
"""Name → shape and dtype."""


def total_bytes(buffers: Iterable[Buffers]) -> int:
    """Bytes of all the buffers."""
    pairs = (pair for each in buffers for pair in each.values())
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in pairs)


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
        value: on the device; set by the network.
        copy: on the device, in the dtype of the activations; None where that is the
            dtype of the values.
        grad: (slices, numbers) on the device, whose sum is the gradient, see
            `sgd.allocate_slices`; absent until planned, and where frozen.
    """

    name: str
    index: int
    shape: Shape
    std: float
    constant: float
    lr_mult: float
    decay_mult: float
    copy: Array | None = None
    value: Array = field(init=False, repr=False)
    grad: Array = field(init=False, repr=False)

    @property
    def operand(self) -> Array:
        """The array that ops read: the copy, where there is one."""
        return self.value if self.copy is None else self.copy


@dataclass
class Context:
    """What a training pass needs beside its input; an evaluation has None.

    Attributes:
        seed: of the run; dropout's mask is a function of it and the step.
        step: (1,) int64, on the device, where the next step's number may be written.
    """

    seed: int
    step: Array

    @classmethod
    def training(cls, dev: Device, seed: int, step: int = 0) -> Context:
        """The context of a step."""
        return cls(seed, dev.from_host(np.array([step], np.int64)))


class Layer:
    """Base of all layers.

    A ReLU belongs to the convolution before it. Its gradient is taken by the layer
    after it, while that writes dx, which saves a pass over memory. Where the ReLU's
    gradient is 0 its output is 0, and pooling and dropout keep that.

    Args:
        dev: where it runs.
        precision: the types of its arrays.
        spec: its part of the architecture.
        x_shape: one image's input, (H,W,C).
        place: its position in the architecture, from 0.

    Attributes:
        blocks: how the pixels of x lie in blocks; None where they do not.
        x: the last input.
        y, dx: buffers for a whole batch; dx only with `needs_dx`.
        needs_dx: whether a layer below wants it.
    """

    params: tuple[Parameter, ...] = ()
    needs_dx = False
    blocks: space_to_depth.Blocks | None = None
    x: Array
    y: Array
    dx: Array

    def __init__(
        self, dev: Device, precision: Precision, spec: Any, x_shape: Shape, place: int
    ) -> None:
        self.dev, self.precision, self.spec = dev, precision, spec
        self.x_shape, self.place = x_shape, place
        self.y_shape: Shape = x_shape
        self.infer_shapes()

    def infer_shapes(self) -> None:
        """Sets y_shape, and whatever else follows from x_shape."""

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        """Buffers for up to `batch` images, by attribute."""
        dtype = self.precision.activations
        held: Buffers = {"y": ((batch, *self.y_shape), dtype)}
        if needs_dx:
            held["dx"] = ((batch, *self.x_shape), dtype)
        return held

    def slices(self, batch: int) -> tuple[int, ...]:
        """Slices of each parameter's gradient, see `Parameter.grad`."""
        return ()

    def plan(self, batch: int, needs_dx: bool, trains: bool) -> None:
        """Allocates the buffers for up to `batch` images, in place of older ones."""
        self.release()
        self.needs_dx = needs_dx
        for name, held in self.buffers(batch, needs_dx, trains).items():
            setattr(self, name, self.dev.empty(*held))

    def release(self) -> None:
        """Drops the buffers and the last input."""
        for name in "x", *self.buffers(1, True, True):
            self.__dict__.pop(name, None)
        self.dev.outdate_records()

    def forward(self, x: Array, context: Context | None) -> Array:
        """y of x; keeps what backward needs."""
        raise TypeError(type(self).__name__)

    def backward(self, dy: Array) -> Array | None:
        """Writes the parameters' gradients; dx of dy, or None where no layer needs it.

        It may overwrite dy.
        """
        raise TypeError(type(self).__name__)


class ConvLayer(Layer):
    """Convolution or full connection, with bias and ReLU.

    Attributes:
        problem: of one image; a full connection is a 1×1 convolution of it flattened.
        relu: whether y is a ReLU's output.
        relu_taken: whether the layer above takes its gradient.
        takes_relu: whether x is a ReLU's output, perhaps pooled or dropped out, and dx
            the gradient of that ReLU's input.
    """

    relu = True
    relu_taken = takes_relu = False

    def infer_shapes(self) -> None:
        spec, x_shape = self.spec, self.x_shape
        if isinstance(spec, arch.Conv):
            options = spec.stride, spec.pad, spec.groups
            depth = x_shape[-1] // spec.groups
            w_shape: Shape = (spec.features, spec.window, spec.window, depth)
        else:
            self.relu, options = spec.relu, (1, 0, 1)
            self.x_shape = (1, 1, math.prod(x_shape))
            w_shape = (spec.features, *self.x_shape)
        one = conv.ConvShape.of((1, *self.x_shape), w_shape, *options)
        self.problem, self.y_shape = one, (one.p, one.q, one.k)
        self.w = Parameter(
            f"{spec.name}.w", spec.index, w_shape, spec.std, 0.0, 1.0, 1.0
        )
        self.b = Parameter(
            f"{spec.name}.b", spec.index, w_shape[:1], 0.0, spec.bias, 2.0, 0.0
        )
        self.params = (self.w, self.b)

    def shape(self, n: int) -> conv.ConvShape:
        """The convolution problem of n images."""
        return replace(self.problem, n=n)

    def slices(self, batch: int) -> tuple[int, ...]:
        dtype, tensor = self.precision.activations, self.precision.tensor
        return conv.gradient_slices(self.dev, dtype, self.shape(batch), tensor)

    def filters(self) -> Array:
        """The filters that patches are multiplied by."""
        return self.w.operand

    def forward(self, x: Array, context: Context | None) -> Array:
        n = len(x)
        self.x, y = x.reshape(n, *self.x_shape), self.y[:n]
        rest = self.shape(n), self.relu, self.precision.tensor
        conv.forward(self.dev, self.x, self.filters(), self.b.operand, y, *rest)
        return y

    def backward(self, dy: Array) -> Array | None:
        n = len(dy)
        dy = dy.reshape(n, *self.y_shape)
        if self.relu and not self.relu_taken:
            conv.relu_backward(self.dev, self.y[:n], dy)
        self.differentiate(dy, self.w.grad)
        if not self.needs_dx:
            return None
        dx, relu_y = self.dx[:n], self.x if self.takes_relu else None
        rest = self.shape(n), relu_y, self.precision.tensor
        conv.backward_data(self.dev, dy, self.w.operand, dx, *rest)
        return dx

    def differentiate(self, dy: Array, dw: Array) -> None:
        """Writes the gradients of the filters and the bias."""
        rest = dw, self.b.grad, self.shape(len(dy)), self.precision.tensor
        conv.backward_weights(self.dev, self.x, dy, *rest)


class BlockedConvLayer(ConvLayer):
    """A first convolution whose images come in blocks of pixels, see `space_to_depth`.

    Tensor cores need more channels than an image's three colours. The parameters are
    those of the convolution over pixels.
    """

    blocks: space_to_depth.Blocks
    filters_in_blocks: Array
    gradient_in_blocks: Array

    def infer_shapes(self) -> None:
        super().infer_shapes()
        self.blocks = space_to_depth.Blocks(self.problem)
        self.problem = over = self.blocks.conv
        self.x_shape = (over.h, over.w, over.c)

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        dtype, shape = self.precision.activations, self.blocks.filters
        held = super().buffers(batch, False, trains)
        held["filters_in_blocks"] = shape, dtype
        if trains:
            size = super().slices(batch)[0], sgd.padded(shape)
            held["gradient_in_blocks"] = size, accumulator(dtype)
        return held

    def slices(self, batch: int) -> tuple[int, ...]:
        return 1, super().slices(batch)[1]

    def filters(self) -> Array:
        blocked = self.filters_in_blocks
        space_to_depth.block_filters(self.dev, self.w.operand, blocked, self.blocks)
        return blocked

    def differentiate(self, dy: Array, dw: Array) -> None:
        blocked, shape = self.gradient_in_blocks, self.w.shape
        super().differentiate(dy, blocked)
        in_pixels = dw[0, : math.prod(shape)].reshape(shape)
        space_to_depth.unblock_gradient(self.dev, blocked, in_pixels, self.blocks)


class DropoutLayer(Layer):
    """Dropout, in place: the ReLU below sees zeros; their gradient is zero anyway."""

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        return {}

    def _apply(self, x: Array) -> Array:
        if context := self.context:
            stream = Stream.DROPOUT + self.place
            rate, seed, step = self.spec.rate, context.seed, context.step
            dropout.apply(self.dev, x, x, rate, seed, stream, step)
        return x

    def forward(self, x: Array, context: Context | None) -> Array:
        self.context = context
        return self._apply(x)

    def backward(self, dy: Array) -> Array | None:
        return self._apply(dy)
