"""An ordered list of layers: forward, backward, freezing, copying, tensors in and out.

Layer numbers are the paper's: convolutional ones (with their ReLU, pooling and LRN) and
fully connected ones, 1–8 in the built-in architectures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base import philox
from minicnn.base.errors import MinicnnError
from minicnn.base.philox import Stream
from minicnn.base.precision import FP32, Precision
from minicnn.devices.device import Device
from minicnn.nn import architectures, assembly, memory
from minicnn.nn.layers import BlockedConvLayer, Context, Layer, Parameter
from minicnn.ops import sgd, softmax
from minicnn.ops.space_to_depth import Blocks

Array = NDArray[Any]
# Initial weights of a thread's chunk; even, as the draws come in pairs.
CHUNK = 1 << 15


class Network:
    """A network of one architecture on one device, its weights drawn from the seed.

    One flat array holds all values, frozen layers first, so that one update serves all
    trainable ones. A second holds the gradients of the trainable ones. Parameters have
    views of both. Where ops and solver use different types, a third array holds a copy
    of the values.

    Args:
        name: an architecture's name, or an `Architecture`.
        outputs: classes, the last layer's features.
        dev: where it runs.
        seed: of the initial weights, which are always drawn on the host; None leaves
            them zero for `load`.
        precision: the types that it computes with.

    Attributes:
        gradients, segments: of the trainable parameters, see `sgd`; absent until
            planned.

    Raises:
        MinicnnError: no such architecture, or fewer than two outputs.
    """

    gradients: Array
    segments: sgd.Segments

    def __init__(
        self,
        name: str | architectures.Architecture,
        outputs: int,
        dev: Device,
        seed: int | None = 0,
        precision: Precision = FP32,
    ) -> None:
        if outputs < 2:
            raise MinicnnError(f"network.outputs {outputs}: must be at least 2")
        self.arch = architectures.get(name) if isinstance(name, str) else name
        self.outputs, self.dev, self.precision = outputs, dev, precision
        self.batch = 0
        self.frozen = 0
        # A `Trunk` runs the layers before it.
        self.first_layer = 1
        self.layers = assembly.build(dev, precision, self.arch, outputs)
        shapes = [p.shape for p in self.params]
        self.values, views = sgd.allocate(dev, shapes, precision.values)
        for p, view in zip(self.params, views, strict=True):
            p.value = view
        self.copies: Array | None = None
        if precision.copies_weights:
            self.copies, views = sgd.allocate(dev, shapes, precision.activations)
            for p, view in zip(self.params, views, strict=True):
                p.copy = view
        if seed is not None:
            self.draw(seed)

    @property
    def params(self) -> list[Parameter]:
        """All parameters, from the input to the logits."""
        return [p for layer in self.layers for p in layer.params]

    @property
    def trainable(self) -> list[Parameter]:
        """The parameters above the frozen layers: all that the solver ever sees."""
        return [p for p in self.params if p.index > self.frozen]

    @property
    def trainable_values(self) -> Array:
        """A flat view of the trainable parameters' values."""
        return self.values[self._first_trainable :]

    @property
    def trainable_copies(self) -> Array | None:
        """A flat view of the copies of `trainable_values`; None without copies."""
        return None if self.copies is None else self.copies[self._first_trainable :]

    @property
    def _first_trainable(self) -> int:
        starts = sgd.layout([p.shape for p in self.params])
        return starts[len(self.params) - len(self.trainable)]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's input: (crop, crop, 3), or in blocks of pixels."""
        return self.layers[0].x_shape

    @property
    def blocks(self) -> Blocks | None:
        """How the input's pixels lie in blocks, or None where they do not."""
        first = self.layers[0]
        return first.blocks if isinstance(first, BlockedConvLayer) else None

    def draw(self, seed: int, n: int | None = None) -> None:
        """Draws layers 1..n, or all, afresh: Gaussian weights, constant biases."""
        n = self.arch.depth if n is None else n
        for number, p in enumerate(p for p in self.params if p.index <= n):
            values = np.full(p.shape, p.constant, self.precision.values)
            if p.std:
                self._draw_normal(seed, Stream.WEIGHTS + number, p.std, values)
            self._set(p, values)

    def _draw_normal(self, seed: int, stream: int, std: float, out: Array) -> None:
        flat = out.reshape(-1)

        def work(start: int, stop: int) -> None:
            drawn = philox.normal(seed, stream, stop - start, start)
            flat[start:stop] = drawn * std

        self.dev.for_chunks(work, flat.size, CHUNK)

    def _set(self, p: Parameter, values: Array) -> None:
        """Gives a parameter its value, and its copy, from the host."""
        p.value[...] = self.dev.from_host(values)
        if p.copy is not None:
            p.copy[...] = self.dev.from_host(values.astype(p.copy.dtype))

    def freeze(self, n: int) -> None:
        """Freezes layers 1..n: no gradients, updates or backward passes for them.

        Raises:
            MinicnnError: the network has fewer layers.
        """
        self._check("freeze", n)
        self.frozen = n
        self.release()

    def _check(self, what: str, n: int) -> None:
        if not 0 <= n <= self.arch.depth:
            raise MinicnnError(f"{what} {n}: layers are numbered 1..{self.arch.depth}")

    def plan(self, batch: int) -> None:
        """Allocates every buffer for batches of up to `batch` images, once.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        if batch <= self.batch:
            return
        self.release()

        def demand(images: int) -> int:
            held = memory.total_bytes([self.input_buffers(images)])
            return held + self.demand(images)

        memory.check(self.dev, demand, batch, self.arch.name)
        self.allocate(batch)

    def release(self) -> None:
        """Drops the gradients, and the buffers of the layers that it runs."""
        self.batch = 0
        for name in "gradients", "segments":
            self.__dict__.pop(name, None)
        for p in self.params:
            p.__dict__.pop("grad", None)
        for layer, *_ in self.gradient_plan():
            layer.release()

    def allocate(self, batch: int) -> None:
        """As `plan`, without the check of the device's memory."""
        self._allocate_gradients(batch)
        for layer, needs_dx, trains in self.gradient_plan():
            layer.plan(batch, needs_dx, trains)
        logits = (batch, self.outputs)
        self.dlogits = self.dev.empty(logits, self.precision.activations)
        self.batch = batch

    def gradient_plan(self) -> list[tuple[Layer, bool, bool]]:
        """Layers that run here, each with (needs dx, trains).

        Only layers above the lowest trained one need dx.
        """
        plan, trains_below = [], False
        for layer in self.layers:
            if layer.spec.index >= self.first_layer:
                trains = any(p.index > self.frozen for p in layer.params)
                plan.append((layer, trains_below, trains))
                trains_below |= trains
        return plan

    def _slices(self, batch: int) -> list[int]:
        """Slices of each trainable parameter's gradient."""
        return [
            count
            for layer in self.layers
            if any(p.index > self.frozen for p in layer.params)
            for count in layer.slices(batch)
        ]

    def input_buffers(self, batch: int) -> memory.Buffers:
        """Arrays of a batch before the first layer: two of stored images, one of x."""
        size, dtype = self.arch.size, self.precision.activations
        images = (2 * batch, size, size, 3), np.uint8
        return {"images": images, "x": ((batch, *self.input_shape), dtype)}

    def demand(self, batch: int) -> int:
        """Bytes that `allocate` takes for a batch."""
        logits: memory.Buffers = {
            "dlogits": ((batch, self.outputs), self.precision.activations)
        }
        held = [layer.buffers(batch, *needs) for layer, *needs in self.gradient_plan()]
        slices = zip(self.trainable, self._slices(batch), strict=True)
        numbers = sum(sgd.padded(p.shape) * count for p, count in slices)
        return (
            memory.total_bytes([*held, logits])
            + numbers * self.precision.values.itemsize
        )

    def _allocate_gradients(self, batch: int) -> None:
        trainable, slices = self.trainable, self._slices(batch)
        shapes = [p.shape for p in trainable]
        dtype = self.precision.values
        self.gradients, views = sgd.allocate_slices(self.dev, shapes, slices, dtype)
        for p, view in zip(trainable, views, strict=True):
            p.grad = view
        rates = [p.lr_mult for p in trainable]
        decays = [p.decay_mult for p in trainable]
        self.segments = sgd.Segments.of(self.dev, shapes, rates, decays, slices)

    def gradient(self, p: Parameter) -> Array:
        """A trainable parameter's gradient after `backward`, summed up on the host."""
        slices = self.dev.to_host(p.grad)[:, : math.prod(p.shape)]
        return slices.sum(axis=0).reshape(p.shape)

    def forward(self, x: Array, context: Context | None = None) -> Array:
        """Logits (N, outputs) of images x (N, *input_shape), mean subtracted.

        Args:
            x: where a trunk runs the layers before `first_layer`, their output.
            context: of a training step; None evaluates, without dropout.
        """
        self.plan(len(x))
        for layer in self.layers:
            if layer.spec.index >= self.first_layer:
                x = layer.forward(x, context)
        self.logits = x.reshape(len(x), -1)
        return self.logits

    def score(self, labels: Array, totals: Array, gradient: bool = False) -> None:
        """Adds the last forward pass's loss and counts to totals (3,) float64.

        Args:
            labels: (N,) int32 class numbers, on the device; −1 is ignored.
            totals: on the device; loss, top-1 and top-5 sums, see `ops.softmax.Score`.
            gradient: whether to prepare `backward`.
        """
        dlogits = self.dlogits[: len(labels)] if gradient else None
        softmax.cross_entropy(self.dev, self.logits, labels, dlogits, totals)

    def scored(self, labels: Array, gradient: bool = False) -> softmax.Score:
        """As `score`, for one batch alone; waits for the device."""
        totals = self.dev.zeros((3,), np.float64)
        self.score(labels, totals, gradient)
        loss, top1, top5 = self.dev.to_host(totals).tolist()
        return softmax.Score(loss, int(top1), int(top5))

    def backward(self) -> None:
        """Writes every trainable parameter's gradient of the mean loss."""
        lowest = min((p.index for p in self.trainable), default=self.arch.depth + 1)
        dy: Array | None = self.dlogits[: len(self.logits)]
        for layer in reversed(self.layers):
            if dy is None or layer.spec.index < lowest:
                return
            dy = layer.backward(dy, layer.spec.index > self.frozen)

    def tensors(self) -> dict[str, Array]:
        """Every parameter by name, on the host."""
        return {p.name: self.dev.to_host(p.value) for p in self.params}

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Takes every parameter from host arrays by name.

        Raises:
            MinicnnError: one is missing or of another shape.
        """
        for p in self.params:
            self._take(p, tensors)

    def _take(self, p: Parameter, tensors: Mapping[str, Array]) -> None:
        if p.name not in tensors:
            raise MinicnnError(f"tensor {p.name}: missing from the source of weights")
        values = tensors[p.name]
        if tuple(values.shape) != p.shape:
            raise MinicnnError(
                f"tensor {p.name}: shape {tuple(values.shape)} in the source, but "
                f"{p.shape} in {self.arch.name} with {self.outputs} outputs"
            )
        self._set(p, np.asarray(values, self.precision.values))

    def copy_layers(self, tensors: Mapping[str, Array], n: int) -> list[str]:
        """Copies layers 1..n by name from host arrays; the others stay as drawn.

        Returns:
            The names copied.

        Raises:
            MinicnnError: the network has fewer layers; a tensor is missing or of
                another shape.
        """
        self._check("copy", n)
        copied = [p for p in self.params if p.index <= n]
        for p in copied:
            self._take(p, tensors)
        return [p.name for p in copied]

    def hashes(self, n: int) -> dict[str, str]:
        """SHA-256 of the bytes of each tensor of layers 1..n."""
        low = [p for p in self.params if p.index <= n]
        return tensor_hashes({p.name: self.dev.to_host(p.value) for p in low})


def tensor_hashes(tensors: Mapping[str, Array]) -> dict[str, str]:
    """SHA-256 of the bytes of each host array."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
        for name, values in tensors.items()
    }
