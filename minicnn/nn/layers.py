"""Layers: parameters, buffers, forward and backward, all by hand.

A layer is built from its part of an `Architecture`, told its input's shape once, given
its buffers once for a largest batch, and then runs on any batch up to that: smaller
batches use the leading rows. Gradients flow in the order of the calls; there is no
graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.philox import Stream
from minicnn.base.precision import Precision, accumulator
from minicnn.devices.device import Device
from minicnn.nn import architectures as arch
from minicnn.nn.memory import Buffers, conv_scratch
from minicnn.ops import dropout, sgd, space_to_depth
from minicnn.ops.conv import conv

Array = NDArray[Any]
Shape = tuple[int, ...]


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
        value: on the device.
        copy: likewise, in the type of the activations where that is another.
        grad: (slices, numbers) on the device, whose sum is the gradient, see
            `sgd.allocate_slices`; None until planned, and when frozen.
    """

    name: str
    index: int
    shape: Shape
    std: float
    constant: float
    lr_mult: float
    decay_mult: float
    value: Array | None = None
    copy: Array | None = None
    grad: Array | None = None

    @property
    def operand(self) -> Array | None:
        """What the ops read: the copy, where there is one."""
        return self.value if self.copy is None else self.copy


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

    A ReLU belongs to the convolution below it, but its gradient is taken where that
    costs no pass of its own: in the layer above, as it writes dx. The ReLU's output is
    0 wherever its gradient is, and pooling and dropout keep that.

    Args:
        dev: where it runs.
        precision: the types of its arrays.
        spec: its part of the architecture.
        x_shape: one image's input, (H,W,C).
        place: its position in the architecture, from 0.

    Attributes:
        rectified: whether x is a ReLU's output, perhaps pooled or dropped out.
        takes_relu: whether dx is the gradient of that ReLU's input.
    """

    params: tuple[Parameter, ...] = ()
    takes_relu = False

    def __init__(
        self, dev: Device, precision: Precision, spec: Any, x_shape: Shape, place: int
    ) -> None:
        self.dev, self.precision, self.spec = dev, precision, spec
        self.x_shape, self.place = x_shape, place
        self.y_shape: Shape = x_shape
        self.rectified = False
        self.x: Array | None = None
        self.y: Array | None = None
        self.dx: Array | None = None
        self.settle()

    def settle(self) -> None:
        """Sets all that follows from the input's shape."""

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
        """What it keeps for up to `batch` images: attribute → shape and dtype."""
        dtype = self.precision.activations
        held: Buffers = {"y": ((batch, *self.y_shape), dtype)}
        if needs_dx:
            held["dx"] = ((batch, *self.x_shape), dtype)
        return held

    def operands(self, batch: int, needs_dx: bool) -> list[int]:
        """How many numbers there are in each array of activations or weights that its
        op of the most such numbers is given."""
        return [batch * math.prod(self.x_shape), batch * math.prod(self.y_shape)]

    def scratch(self, batch: int, needs_dx: bool, trains: bool) -> dict[str, int]:
        """Bytes of scratch that its ops' host forms take, by key; but for a little."""
        return {}

    def slices(self, batch: int) -> tuple[int, ...]:
        """In how many slices each parameter's gradient comes, see `Parameter.grad`."""
        return ()

    def plan(self, batch: int, needs_dx: bool, trains: bool) -> None:
        """Allocates the buffers for up to `batch` images, and lets older ones go."""
        self.release()
        for name, held in self.buffers(batch, needs_dx, trains).items():
            setattr(self, name, self.dev.empty(*held))

    def release(self) -> None:
        """Lets its buffers go, and the input it remembers."""
        self.x = None
        for name in self.buffers(1, True, True):
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
    """Convolution or full connection, with bias and ReLU.

    Attributes:
        relu: whether y is a ReLU's output.
        relu_taken: whether the layer above takes its gradient.
    """

    relu_taken = False

    def settle(self) -> None:
        spec, x_shape = self.spec, self.x_shape
        if isinstance(spec, arch.Conv):
            self.relu = True
            self.options = (spec.stride, spec.pad, spec.groups)
            depth = x_shape[-1] // spec.groups
            w_shape = (spec.features, spec.window, spec.window, depth)
        else:
            self.relu = spec.relu
            self.options = (1, 0, 1)
            # A 1×1 convolution of the flattened image: (N,1,1,H·W·C).
            self.x_shape = (1, 1, int(np.prod(x_shape)))
            w_shape = (spec.features, 1, 1, self.x_shape[-1])
        one = conv.ConvShape.of((1, *self.x_shape), w_shape, *self.options)
        self.problem = one
        self.y_shape = (one.p, one.q, one.k)
        self.w = Parameter(
            f"{spec.name}.w", spec.index, w_shape, spec.std, 0.0, 1.0, 1.0
        )
        self.b = Parameter(
            f"{spec.name}.b", spec.index, w_shape[:1], 0.0, spec.bias, 2.0, 0.0
        )
        self.params = (self.w, self.b)

    @property
    def takes_relu(self) -> bool:
        return self.rectified

    def shape(self, n: int) -> conv.ConvShape:
        """The convolution problem of n images."""
        return replace(self.problem, n=n)

    def operands(self, batch: int, needs_dx: bool) -> list[int]:
        x, y = super().operands(batch, needs_dx)
        relu_x = [x] if needs_dx and self.takes_relu else []
        return [x, y, math.prod(self.w.shape), *relu_x]

    def scratch(self, batch: int, needs_dx: bool, trains: bool) -> dict[str, int]:
        if self.dev.native:
            return {}
        itemsize = accumulator(self.precision.activations).itemsize
        how = itemsize, self.dev.threads, needs_dx, trains
        return conv_scratch(self.shape(batch), *how)

    def slices(self, batch: int) -> tuple[int, ...]:
        dtype, tensor = self.precision.activations, self.precision.tensor
        return conv.gradient_slices(self.dev, dtype, self.shape(batch), tensor)

    def filters(self) -> Array:
        """What the convolution multiplies patches by."""
        return self.w.operand

    def forward(self, x: Array, context: Context) -> Array:
        n = len(x)
        self.x = x.reshape(n, *self.x_shape)
        y, bias = self.y[:n], self.b.operand
        how = self.shape(n), self.relu, self.precision.tensor
        conv.forward(self.dev, self.x, self.filters(), bias, y, *how)
        return y

    def backward(self, dy: Array, trains: bool) -> Array | None:
        n = len(dy)
        dy = dy.reshape(n, *self.y_shape)
        if self.relu and not self.relu_taken:
            conv.relu_backward(self.dev, self.y[:n], dy)
        if trains:
            self.differentiate(dy)
        if self.dx is None:
            return None
        dx, relu_y = self.dx[:n], self.x if self.takes_relu else None
        how = self.shape(n), relu_y, self.precision.tensor
        conv.backward_data(self.dev, dy, self.w.operand, dx, *how)
        return dx

    def differentiate(self, dy: Array) -> None:
        """Writes the gradients of the filters and the bias."""
        how = self.w.grad, self.b.grad, self.shape(len(dy)), self.precision.tensor
        conv.backward_weights(self.dev, self.x, dy, *how)


class BlockedConvLayer(ConvLayer):
    """A first convolution whose images come in blocks of pixels, see `space_to_depth`.

    So tensor cores can multiply an image's three colours. Its parameters are those of
    the convolution over pixels.
    """

    filters_in_blocks: Array | None = None
    gradient_in_blocks: Array | None = None

    def settle(self) -> None:
        super().settle()
        self.blocks = space_to_depth.Blocks.of(self.problem)
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

    def differentiate(self, dy: Array) -> None:
        blocked, shape = self.gradient_in_blocks, self.shape(len(dy))
        how = blocked, self.b.grad, shape, self.precision.tensor
        conv.backward_weights(self.dev, self.x, dy, *how)
        dw = self.w.grad[0, : int(np.prod(self.w.shape))].reshape(self.w.shape)
        space_to_depth.unblock_gradient(self.dev, blocked, dw, self.blocks)


class DropoutLayer(Layer):
    """Dropout, in place: the ReLU below sees zeros; their gradient is zero anyway."""

    def buffers(self, batch: int, needs_dx: bool, trains: bool) -> Buffers:
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
