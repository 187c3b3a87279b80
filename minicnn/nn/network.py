"""An ordered list of layers: forward, backward, freezing, copying, tensors in and out.

Layer numbers are the paper's: convolutional ones (with their ReLU, pooling and LRN) and
fully connected ones, 1–8 in the built-in architectures.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base import philox
from minicnn.base.errors import MinicnnError
from minicnn.base.philox import Stream
from minicnn.base.precision import FP32, Precision
from minicnn.devices.device import Device
from minicnn.nn import architectures, assembly
from minicnn.nn.layers import Buffers, Context, Layer, Parameter, total_bytes
from minicnn.ops import sgd, softmax

Array = NDArray[Any]
# Initial weights of a thread's chunk; even, as the draws come in pairs.
CHUNK = 1 << 15
# Bytes kept free for what is not planned: scratch of the ops, and on devices without
# kernels the float32 copies of bfloat16 arrays, gone when their op returns.
SPARE = 1 << 26


def check(networks: Sequence[Network], batch: int) -> None:
    """Refuses more images than there is memory for, before anything is allocated.

    Args:
        networks: those that train together, on the same images.

    Raises:
        MinicnnError: the device has too little memory; names the batch that fits.
    """
    first, count = networks[0], len(networks)
    arch, dev = first.arch.name, first.dev

    def demand(images: int) -> int:
        inputs = total_bytes([first.input_buffers(images)])
        return SPARE + inputs + sum(each.demand(images) for each in networks)

    free = dev.free_bytes()
    if free is None or (need := demand(batch)) <= free:
        return
    fits = bisect.bisect_right(range(1, batch), free, key=demand)
    mend = f"a batch of {fits} fits" if fits > 0 else "not even one image fits"
    raise MinicnnError(
        f"batch of {batch} images: "
        + (f"{count} networks of {arch} need " if count > 1 else f"{arch} needs ")
        + f"{need / 1e9:.2f} GB of memory for it on {dev.name}, "
        f"where {free / 1e9:.2f} GB are free: {mend}; lower solver.batch, "
        + ("train fewer depths together, " if count > 1 else "")
        + "or stop other programs there"
    )


def plan(networks: Sequence[Network], batch: int) -> None:
    """Allocates networks' buffers for up to `batch` images, once; raises as `check`."""
    if batch <= networks[0].batch:
        return
    for each in networks:
        each.release()
    check(networks, batch)
    for each in networks:
        each.allocate(batch)


class Network:
    """A network of one architecture on one device, its weights drawn from the seed.

    One flat array holds all values, frozen layers first, so that one update serves all
    trainable ones; a second holds their gradients, and where ops and solver use
    different types, a third a copy of the values. Parameters have views of them.

    Args:
        name: an architecture's name, or an `Architecture`.
        outputs: classes, the last layer's features.
        dev: where it runs.
        seed: of the initial weights, which are always drawn on the host; None leaves
            them zero for `load`.
        precision: the types that it computes with.

    Attributes:
        input_shape: of one image's input: (crop, crop, 3), or in blocks of pixels.
        blocks: how those pixels lie in blocks, or None where they do not.
        params: all parameters, from the input to the logits.
        trainable: those above the frozen layers: all that the solver ever sees.
        trainable_values, trainable_copies: their flat arrays; None without copies.
        gradients, segments: likewise, see `sgd`; absent until planned.

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
        # Up to this layer another network, a `Trunk`'s deepest, runs the layers.
        self.planned_above = 0
        self.layers = assembly.build(dev, precision, self.arch, outputs)
        self.input_shape, self.blocks = self.layers[0].x_shape, self.layers[0].blocks
        self.params = [p for layer in self.layers for p in layer.params]
        shapes = [p.shape for p in self.params]
        self.values, views = sgd.allocate(dev, shapes, precision.values)
        for p, view in zip(self.params, views, strict=True):
            p.value = view
        self.copies: Array | None = None
        if precision.copies_weights:
            self.copies, views = sgd.allocate(dev, shapes, precision.activations)
            for p, view in zip(self.params, views, strict=True):
                p.copy = view
        self.freeze(0)
        if seed is not None:
            self.draw(seed)

    def _up_to(self, n: int) -> list[Parameter]:
        """The parameters of layers 1..n."""
        return [p for p in self.params if p.index <= n]

    def draw(self, seed: int, n: int | None = None) -> None:
        """Draws layers 1..n, or all, afresh: Gaussian weights, constant biases."""
        for number, p in enumerate(self._up_to(self.arch.depth if n is None else n)):
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
        self.frozen, self.trainable = n, self.params[len(self._up_to(n)) :]
        first = sgd.layout([p.shape for p in self._up_to(n)])[-1]
        self.trainable_values = self.values[first:]
        self.trainable_copies = None if self.copies is None else self.copies[first:]
        self.release()

    def _check(self, what: str, n: int) -> None:
        if not 0 <= n <= self.arch.depth:
            raise MinicnnError(f"{what} {n}: layers are numbered 1..{self.arch.depth}")

    def plan(self, batch: int) -> None:
        """Allocates every buffer for batches of up to `batch` images, once.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        plan([self], batch)

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
        trainable, slices = self.trainable, self._slices(batch)
        shapes, dtype = [p.shape for p in trainable], self.precision.values
        self.gradients, views = sgd.allocate_slices(self.dev, shapes, slices, dtype)
        for p, view in zip(trainable, views, strict=True):
            p.grad = view
        rates = [p.lr_mult for p in trainable]
        decays = [p.decay_mult for p in trainable]
        self.segments = sgd.Segments.of(self.dev, shapes, rates, decays, slices)
        for layer, needs_dx, trains in self.gradient_plan():
            layer.plan(batch, needs_dx, trains)
        self.dlogits = self.dev.empty(*self.buffers(batch)["dlogits"])
        self.batch = batch

    def gradient_plan(self) -> list[tuple[Layer, bool, bool]]:
        """Layers that run here, each with (needs dx, trains).

        Only layers above the lowest trained one need dx.
        """
        plan, trains_below = [], False
        for layer in self.layers:
            if layer.spec.index > self.planned_above:
                trains = layer.spec.index > self.frozen
                plan.append((layer, trains_below, trains))
                trains_below |= trains
        return plan

    def _slices(self, batch: int) -> list[int]:
        """Slices of each trainable parameter's gradient."""
        trained = [each for each in self.layers if each.spec.index > self.frozen]
        return [count for layer in trained for count in layer.slices(batch)]

    def buffers(self, batch: int) -> Buffers:
        """What it allocates for a batch beside its layers' buffers."""
        slices = zip(self.trainable, self._slices(batch), strict=True)
        numbers = sum(sgd.padded(p.shape) * count for p, count in slices)
        return {
            "gradients": ((numbers,), self.precision.values),
            "dlogits": ((batch, self.outputs), self.precision.activations),
        }

    def input_buffers(self, batch: int) -> Buffers:
        """Arrays of a batch before the first layer: two of stored images, one of x."""
        size, dtype = self.arch.size, self.precision.activations
        images = (2 * batch, size, size, 3), np.uint8
        return {"images": images, "x": ((batch, *self.input_shape), dtype)}

    def demand(self, batch: int) -> int:
        """Bytes that `allocate` takes for a batch."""
        held = [layer.buffers(batch, *needs) for layer, *needs in self.gradient_plan()]
        return total_bytes([*held, self.buffers(batch)])

    def gradient(self, p: Parameter) -> Array:
        """A trainable parameter's gradient after `backward`, summed up on the host."""
        slices = self.dev.to_host(p.grad)[:, : math.prod(p.shape)]
        return slices.sum(axis=0).reshape(p.shape)

    def forward(self, x: Array, context: Context | None = None, done: int = 0) -> Array:
        """Logits (N, outputs) of images x (N, *input_shape), mean subtracted.

        Args:
            context: of a training step; None evaluates, without dropout.
            done: layers that are done already; then x is the output of the last.
        """
        self.plan(len(x))
        for layer in self.layers:
            if layer.spec.index > done:
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
        dy: Array | None = self.dlogits[: len(self.logits)]
        for layer in reversed(self.layers):
            if dy is None or layer.spec.index <= self.frozen:
                return
            dy = layer.backward(dy)

    def tensors(self) -> dict[str, Array]:
        """Every parameter by name, on the host: where that is the device, no copy."""
        return {p.name: self.dev.to_host(p.value) for p in self.params}

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Takes every parameter from host arrays by name.

        Raises:
            MinicnnError: one is missing or of another shape.
        """
        self.copy_layers(tensors, self.arch.depth)

    def copy_layers(self, tensors: Mapping[str, Array], n: int) -> list[str]:
        """Copies layers 1..n by name from host arrays; the others stay as drawn.

        Returns:
            The names copied.

        Raises:
            MinicnnError: the network has fewer layers; a tensor is missing or of
                another shape.
        """
        self._check("copy", n)
        for p in self._up_to(n):
            if p.name not in tensors:
                raise MinicnnError(
                    f"tensor {p.name}: missing from the source of weights"
                )
            values = tensors[p.name]
            if tuple(values.shape) != p.shape:
                raise MinicnnError(
                    f"tensor {p.name}: shape {tuple(values.shape)} in the source, but "
                    f"{p.shape} in {self.arch.name} with {self.outputs} outputs"
                )
            self._set(p, np.asarray(values, self.precision.values))
        return [p.name for p in self._up_to(n)]

    def hashes(self, n: int) -> dict[str, str]:
        """SHA-256 of the bytes of each tensor of layers 1..n."""
        low = self._up_to(n)
        return tensor_hashes({p.name: self.dev.to_host(p.value) for p in low})


def tensor_hashes(tensors: Mapping[str, Array]) -> dict[str, str]:
    """SHA-256 of the bytes of each host array."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
        for name, values in tensors.items()
    }
