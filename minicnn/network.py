"""An ordered list of layers: forward, backward, freezing, copying, tensors in and out.

Layer numbers are the paper's: 1–5 convolutional (with their ReLU, pooling and LRN),
6–8 fully connected.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn import architectures, philox
from minicnn.device import Device
from minicnn.errors import MinicnnError
from minicnn.layers import KINDS, Buffers, Context, Layer, Parameter
from minicnn.ops import sgd, softmax
from minicnn.philox import Stream

Array = NDArray[Any]
DEPTH = 8
# Initial weights that one thread draws at a time; even, as the draws come in pairs.
CHUNK = 1 << 15
# Bytes kept free for what ops use for themselves: a weight gradient's partial sums take
# 16 MB in caffenet.
SPARE = 1 << 26


class Network:
    """A network of one architecture on one device, its weights drawn from the seed.

    All values lie one after another in one flat array, so that one update serves all;
    the gradients of the trainable ones, which are its tail, in another. Parameters hold
    views of both.

    Args:
        name: an architecture's name, or an `Architecture`.
        outputs: classes, the last layer's features.
        dev: where it runs.
        seed: of the initial weights, which are always drawn on the host; None leaves
            them zero for `load`.
        dtype: float32, or float64 for gradient checks.

    Raises:
        MinicnnError: no such architecture, or fewer than two outputs.
    """

    def __init__(
        self,
        name: str | architectures.Architecture,
        outputs: int,
        dev: Device,
        seed: int | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if outputs < 2:
            raise MinicnnError(f"network.outputs {outputs}: must be at least 2")
        self.arch = architectures.get(name) if isinstance(name, str) else name
        self.outputs, self.dev, self.dtype = outputs, dev, np.dtype(dtype)
        self.batch = 0
        self.frozen = 0
        # Layers 1..below are run by a `Trunk`; `forward` begins with the next.
        self.below = 0
        self.gradients: Array | None = None
        self.layers: list[Layer] = []
        shape: tuple[int, ...] = (self.arch.crop, self.arch.crop, 3)
        for place, spec in enumerate(self.arch.layers):
            if isinstance(spec, architectures.FullyConnected) and not spec.features:
                spec = replace(spec, features=outputs)
            layer = KINDS[type(spec)](dev, spec, shape, place)
            self.layers.append(layer)
            shape = layer.y_shape
        shapes = [p.shape for p in self.params]
        self.values, views = sgd.allocate(dev, shapes, self.dtype)
        for p, view in zip(self.params, views, strict=True):
            p.value = view
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
        """The flat array of the trainable parameters' values; a view."""
        starts = sgd.layout([p.shape for p in self.params])
        return self.values[starts[len(self.params) - len(self.trainable)] :]

    def draw(self, seed: int, n: int = DEPTH) -> None:
        """Draws layers 1..n afresh: Gaussian weights, constant biases."""
        for number, p in enumerate(p for p in self.params if p.index <= n):
            values = np.full(p.shape, p.constant, self.dtype)
            if p.std:
                self._draw_normal(seed, Stream.WEIGHTS + number, p.std, values)
            p.value[...] = self.dev.from_host(values)

    def _draw_normal(self, seed: int, stream: int, std: float, out: Array) -> None:
        flat = out.reshape(-1)

        def work(start: int, stop: int) -> None:
            drawn = philox.normal(seed, stream, stop - start, start)
            flat[start:stop] = drawn * std

        self.dev.for_chunks(work, flat.size, CHUNK)

    def freeze(self, n: int) -> None:
        """Freezes layers 1..n: no gradients, no updates, no backward work below them.

        Raises:
            MinicnnError: n is not in 0..8.
        """
        if not 0 <= n <= DEPTH:
            raise MinicnnError(f"freeze {n}: layers are numbered 1..{DEPTH}")
        self.frozen = n
        self.release()
        self.gradients = None
        for p in self.params:
            p.grad = None

    def plan(self, batch: int) -> None:
        """Allocates every buffer for batches of up to `batch` images, once.

        Raises:
            MinicnnError: the device has too little memory; names the batch that fits.
        """
        if batch <= self.batch:
            return
        self.release()
        check_memory([self], [], batch)
        self.allocate(batch)

    def release(self) -> None:
        """Lets the buffers of the layers that it runs go."""
        self.batch = 0
        for layer, _ in self._hand_down():
            layer.release()

    def allocate(self, batch: int) -> None:
        """As `plan`, unasked: whether the device has the memory is checked before."""
        if self.gradients is None:
            self._allocate_gradients()
        for layer, needs_dx in self._hand_down():
            layer.plan(batch, self.dtype, needs_dx)
        self.dlogits = self.dev.empty((batch, self.outputs), self.dtype)
        self.batch = batch

    def _hand_down(self) -> list[tuple[Layer, bool]]:
        """Each layer that it runs, and whether it hands a gradient down.

        Only those above the lowest trained one do.
        """
        found, trains_below = [], False
        for layer in self.layers:
            if layer.spec.index > self.below:
                found.append((layer, trains_below))
                trains_below |= any(p.index > self.frozen for p in layer.params)
        return found

    def demand(self) -> tuple[int, int]:
        """Bytes that `allocate` takes for each image of a batch, and beside them."""
        logits: Buffers = {"dlogits": ((self.outputs,), self.dtype)}
        held = [layer.buffers(1, self.dtype, dx) for layer, dx in self._hand_down()]
        trained = sum(math.prod(p.shape) for p in self.trainable)
        fresh = trained if self.gradients is None else 0
        return total_bytes([*held, logits]), fresh * self.dtype.itemsize

    def _allocate_gradients(self) -> None:
        shapes = [p.shape for p in self.trainable]
        self.gradients, views = sgd.allocate(self.dev, shapes, self.dtype)
        for p, view in zip(self.trainable, views, strict=True):
            p.grad = view

    def forward(self, x: Array, context: Context | None = None) -> Array:
        """Logits (N, outputs) of images x (N, crop, crop, 3), mean subtracted.

        Args:
            x: where a trunk runs layers 1..below, their output.
            context: None evaluates; with `train` set, dropout is on.
        """
        self.plan(len(x))
        context = context or Context()
        for layer in self.layers:
            if layer.spec.index > self.below:
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
        lowest = min((p.index for p in self.trainable), default=DEPTH + 1)
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
        p.value[...] = self.dev.from_host(np.asarray(values, self.dtype))

    def copy_layers(self, tensors: Mapping[str, Array], n: int) -> list[str]:
        """Copies layers 1..n by name from host arrays; the others stay as drawn.

        Returns:
            The names copied.

        Raises:
            MinicnnError: n is not in 0..8; a tensor is missing or of another shape.
        """
        if not 0 <= n <= DEPTH:
            raise MinicnnError(f"copy {n}: layers are numbered 1..{DEPTH}")
        copied = [p for p in self.params if p.index <= n]
        for p in copied:
            self._take(p, tensors)
        return [p.name for p in copied]

    def hashes(self, n: int) -> dict[str, str]:
        """SHA-256 of the bytes of each tensor of layers 1..n."""
        low = [p for p in self.params if p.index <= n]
        return tensor_hashes({p.name: self.dev.to_host(p.value) for p in low})


def total_bytes(held: Iterable[Buffers]) -> int:
    """What buffers take in all."""
    each = (pair for buffers in held for pair in buffers.values())
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in each)


def check_memory(
    networks: Sequence[Network], trunk: Sequence[Layer], batch: int
) -> None:
    """Refuses what would not fit, before anything is allocated.

    Args:
        networks: what is about to be allocated; all read the same images.
        trunk: layers that run for all of them.
        batch: images.

    Raises:
        MinicnnError: the device has too little memory; names the batch that fits.
    """
    first = networks[0]
    dev, arch, dtype = first.dev, first.arch, first.dtype
    free = dev.free_bytes()
    if free is None:
        return
    # An image is also held as the store has it, in two slots, and as the input.
    image: Buffers = {
        "images": ((2, arch.size, arch.size, 3), np.uint8),
        "x": ((arch.crop, arch.crop, 3), dtype),
    }
    below = [layer.buffers(1, dtype, False) for layer in trunk]
    demands = [network.demand() for network in networks]
    each = total_bytes([image, *below]) + sum(demand[0] for demand in demands)
    fixed = SPARE + sum(demand[1] for demand in demands)
    fits = (free - fixed) // each
    if batch <= fits:
        return
    mend = f"a batch of {fits} fits" if fits > 0 else "not even one image fits"
    alone = len(networks) == 1
    raise MinicnnError(
        f"batch of {batch} images: {arch.name} "
        + ("needs " if alone else f"with {len(networks)} heads needs ")
        + f"{(fixed + batch * each) / 1e9:.2f} GB of memory for it on {dev.name}, "
        f"where {free / 1e9:.2f} GB are free: {mend}; lower solver.batch, "
        + ("" if alone else "train fewer depths together, ")
        + "or stop other programs there"
    )


def tensor_hashes(tensors: Mapping[str, Array]) -> dict[str, str]:
    """SHA-256 of the bytes of each host array."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(values)).hexdigest()
        for name, values in tensors.items()
    }
