"""The problems of `minicnn gradcheck`: which of `problems`, and how each op is run.

The last of each list has a layer's size in CaffeNet, for the paths that small shapes do
not take; it is too large for central differences and is compared with the reference
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicnn.base.precision import FP32, FP64
from minicnn.devices.device import CpuDevice, Device
from minicnn.experiments.proofs import problems
from minicnn.nn.layers import Context
from minicnn.nn.network import Network
from minicnn.ops import augment, dropout, lrn, pool, pool_lrn, sgd, softmax
from minicnn.ops import space_to_depth as blocks
from minicnn.ops.conv import conv
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.pool import PoolShape

Arrays = dict[str, Any]
Passes = Iterator[Arrays]
# A ReLU's inputs and a pool's rivals keep this distance from where a slope changes:
# a thousand steps of a central difference.
GAP = 0.01
SEED = 0

OUTPUTS, BATCH = 5, 3
LABELS = np.array([4, 0, 2], np.int32)
KEY = 11, 3  # dropout's seed and step
# Terms whose sum may be off by 300 roundings, through eight layers and back.
NETWORK_TERMS = 18.75**2


@dataclass(frozen=True)
class Case:
    """One problem of one op.

    Attributes:
        op, name: what a table calls it.
        inputs: by name, on the host, floats in float64; "dy", where there is one, is
            what y's gradient is.
        passes: passes(dev, **inputs), arrays of the device, yields outputs by name:
            the forward pass's, of which y is differentiated, then the backward pass's,
            where there is one: dx of an input x.
        terms: how many terms each output sums, where that is more than a few.
        directions: along how many random directions an input is moved as a whole; 0:
            its numbers are moved one by one.
    """

    op: str
    name: str
    inputs: Arrays
    passes: Callable[..., Passes]
    terms: Mapping[str, float] = field(default_factory=dict)
    directions: int = 0

    @property
    def differentiable(self) -> bool:
        """Whether y has a gradient, whose central differences are quick."""
        small = max(array.size for array in self.inputs.values()) < 1000
        return "dy" in self.inputs and (small or self.directions > 0)

    def run(self, dev: Device, inputs: Arrays) -> Arrays:
        """All outputs of both passes on the device, from inputs on the device."""
        return {k: v for found in self.passes(dev, **inputs) for k, v in found.items()}


def output(dev: Device, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A device array filled with NaN, bytes with 255: an unwritten number shows."""
    array = dev.empty(shape, dtype)
    array[...] = np.nan if np.dtype(dtype).kind == "f" else 255
    return array


def _like(dev: Device, array: Any) -> Any:
    return output(dev, array.shape, array.dtype)


def _normals(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(SEED)
    return [rng.standard_normal(shape) for shape in shapes]


def _apart(shape: tuple[int, ...]) -> Any:
    """Numbers in random order, 2·GAP apart, and GAP or more from zero."""
    size = int(np.prod(shape))
    order = np.random.default_rng(SEED).permutation(size)
    return ((order - size // 2 + 0.5) * 2 * GAP).reshape(shape)


def _pooled(s: PoolShape) -> Arrays:
    """Inputs of a pooling."""
    (dy,) = _normals((s.n, s.p, s.q, s.c))
    return {"x": _apart((s.n, s.h, s.w, s.c)), "dy": dy}


def _conv(name: str, s: ConvShape) -> Case:
    shapes = {
        "x": (s.n, s.h, s.w, s.c),
        "w": (s.k, s.r, s.s, s.c // s.groups),
        "b": (s.k,),
        "dy": (s.n, s.p, s.q, s.k),
    }
    inputs = dict(zip(shapes, _normals(*shapes.values()), strict=True))

    def passes(dev: Device, x: Any, w: Any, b: Any, dy: Any) -> Passes:
        y = _like(dev, dy)
        conv.forward(dev, x, w, b, y, s)
        yield {"y": y}
        dx = _like(dev, x)
        conv.backward_data(dev, dy, w, dx, s)
        counts = conv.gradient_slices(dev, x.dtype, s)
        slices = zip(counts, (w.size, b.size), strict=True)
        dw, db = (output(dev, each, x.dtype) for each in slices)
        conv.backward_weights(dev, x, dy, dw, db, s)
        dw, db = dw.sum(axis=0).reshape(w.shape), db.sum(axis=0)
        yield {"dx": dx, "dw": dw, "db": db}

    taps, places = s.r * s.s, s.n * s.p * s.q
    terms = {"y": taps * s.c, "dx": taps * s.k, "dw": places, "db": places}
    return Case("conv", name, inputs, passes, terms)


def _relu(name: str, size: tuple[int, int]) -> Case:
    """In the forward pass part of a convolution, here by the identity."""
    rows, channels = size
    (dy,) = _normals((rows, 1, 1, channels))
    shape = ConvShape(rows, 1, 1, channels, channels, 1, 1)

    def passes(dev: Device, x: Any, dy: Any) -> Passes:
        y = _like(dev, x)
        identity = dev.from_host(np.eye(channels, dtype=x.dtype))
        w = identity.reshape(channels, 1, 1, channels)
        conv.forward(dev, x, w, None, y, shape, relu=True)
        yield {"y": y}
        dx = dy.copy()
        conv.relu_backward(dev, y, dx)
        yield {"dx": dx}

    return Case("relu", name, {"x": _apart(dy.shape), "dy": dy}, passes)


def _pool(name: str, s: PoolShape) -> Case:
    def passes(dev: Device, x: Any, dy: Any) -> Passes:
        y, argmax = _like(dev, dy), output(dev, dy.shape, np.uint8)
        pool.forward(dev, x, y, argmax, s)
        yield {"y": y, "argmax": argmax}
        dx = _like(dev, x)
        pool.backward(dev, dy, argmax, dx, s)
        yield {"dx": dx}

    terms = {"dx": s.window[0] * s.window[1]}
    return Case("pool", name, _pooled(s), passes, terms)


def _lrn(name: str, case: problems.LrnCase) -> Case:
    how = lrn.Normalising(case.size, case.alpha, case.beta, case.k)
    x, dy = _normals(case.shape, case.shape)

    def passes(dev: Device, x: Any, dy: Any) -> Passes:
        y, scale = _like(dev, x), _like(dev, x)
        lrn.forward(dev, x, y, scale, how)
        yield {"y": y, "scale": scale}
        dx = _like(dev, x)
        lrn.backward(dev, x, y, scale, dy, dx, how)
        yield {"dx": dx}

    # A rounding of scale counts β times in y, and in dx through three factors.
    terms = {"scale": how.size, "y": 4 * how.size, "dx": 16 * how.size}
    return Case("lrn", name, {"x": 2 * x, "dy": dy}, passes, terms)


def _pool_lrn(name: str, case: problems.PoolLrnCase) -> Case:
    """Pooling of a ReLU's output, then LRN; x is what the ReLU is given."""
    s = case.pool
    how = lrn.Normalising(case.size, case.alpha, case.beta, case.k)

    def passes(dev: Device, x: Any, dy: Any) -> Passes:
        u, y = _like(dev, dy), _like(dev, dy)
        argmax = output(dev, dy.shape, np.uint8)
        pool_lrn.forward(dev, x * (x > 0), u, argmax, y, s, how)
        yield {"u": u, "argmax": argmax, "y": y}
        dx = _like(dev, x)
        pool_lrn.backward(dev, dy, u, argmax, dx, s, how)
        yield {"dx": dx}

    terms = {"y": 4 * how.size, "dx": 16 * how.size * s.window[0] * s.window[1]}
    return Case("pool_lrn", name, _pooled(s), passes, terms)


def _space_to_depth(name: str, shape: ConvShape) -> Case:
    """Filters over blocks of pixels, and their gradient, in one slice."""
    how = blocks.Blocks(shape)
    x, dy = _normals((shape.k, shape.r, shape.s, shape.c), how.filters)

    def passes(dev: Device, x: Any, dy: Any) -> Passes:
        y = _like(dev, dy)
        blocks.block_filters(dev, x, y, how)
        yield {"y": y}
        dx = _like(dev, x)
        blocks.unblock_gradient(dev, dy.reshape(1, -1), dx, how)
        yield {"dx": dx}

    return Case("space_to_depth", name, {"x": x, "dy": dy}, passes)


def _dropout(name: str, case: problems.DropoutCase) -> Case:
    x, dy = _normals(case.shape, case.shape)

    def passes(dev: Device, x: Any, dy: Any) -> Passes:
        step = dev.from_host(np.array([case.step], np.int64))
        key = case.rate, case.seed, case.stream, step
        y, dx = _like(dev, x), dy.copy()
        dropout.apply(dev, x, y, *key)
        yield {"y": y}
        dropout.apply(dev, dx, dx, *key)
        yield {"dx": dx}

    return Case("dropout", name, {"x": x, "dy": dy}, passes)


def _softmax(name: str, case: problems.SoftmaxCase) -> Case:
    """Softmax cross-entropy: y is the mean loss."""
    n, k, ignored = case.n, case.k, list(case.ignored)
    labels = np.random.default_rng(SEED).integers(0, k, n, dtype=np.int32)
    labels[ignored] = -1

    def passes(dev: Device, logits: Any, labels: Any, dy: Any) -> Passes:
        totals, dlogits = dev.zeros((3,), np.float64), _like(dev, logits)
        softmax.cross_entropy(dev, logits, labels, None, totals)
        yield {"y": totals[:1] / (n - len(ignored)), "counts": totals[1:]}
        softmax.cross_entropy(dev, logits, labels, dlogits, totals.copy())
        yield {"dlogits": dlogits}

    (logits,) = _normals((n, k))
    inputs = {"logits": case.spread * logits, "labels": labels, "dy": np.ones(1)}
    return Case("softmax", name, inputs, passes, {"y": n + k, "dlogits": k})


def _sgd(name: str, case: problems.SgdCase) -> Case:
    shapes = list(case.shapes)
    rates, decays = map(list, zip(*case.factors, strict=True))
    size = sgd.layout(shapes)[-1]

    def passes(dev: Device, w: Any, g: Any, v: Any) -> Passes:
        new_w, new_v = w.copy(), v.copy()
        segments = sgd.Segments.of(dev, shapes, rates, decays)
        lr, how = dev.from_host(np.array([case.lr])), (case.momentum, case.decay)
        sgd.update(dev, new_w, g, new_v, segments, lr, *how)
        yield {"new_w": new_w, "new_v": new_v}

    inputs = dict(zip("wgv", _normals(*[(size,)] * 3), strict=True))
    return Case("sgd", name, inputs, passes)


def _augment(name: str, case: problems.AugmentCase) -> Case:
    n, (height, width), crop = case.n, case.image, case.crop
    rng = np.random.default_rng(SEED)
    inputs = {
        "images": rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8),
        "rows": np.arange(n)[::-1].copy(),
        "top": rng.integers(0, height - crop[0] + 1, n),
        "left": rng.integers(0, width - crop[1] + 1, n),
        "mirror": np.arange(n) % 2 == 0,
        "mean": rng.uniform(0, 255, (height, width, 3)),
    }

    def passes(dev: Device, mean: Any, **given: Any) -> Passes:
        y = output(dev, (n, *crop, 3), mean.dtype)
        # A mean image is float32, whatever the network's type.
        mean = mean.astype(np.float32)
        augment.crop_mirror(dev, mean=mean, y=y, scale=case.scale, **given)
        yield {"y": y}

    return Case("augment", name, inputs, passes)


MINIATURE = problems.miniature()


def _network(name: str, frozen: int) -> Case:
    """The small network, its first layers frozen: y is the mean loss.

    Every bias is random, so that none hides.
    """
    weights = Network(MINIATURE, OUTPUTS, CpuDevice(1), 5, FP64).tensors()
    rng = np.random.default_rng(8)
    for key, values in weights.items():
        random = rng.normal(0, 0.1, values.shape) if key.endswith(".b") else 0.0
        weights[key] = (values + random).astype(np.float32).astype(np.float64)
    x = rng.normal(0, 1, (BATCH, MINIATURE.crop, MINIATURE.crop, 3))
    x = x.astype(np.float32).astype(np.float64)

    def passes(dev: Device, x: Any, labels: Any, dy: Any, **weights: Any) -> Passes:
        precision = FP64 if x.dtype == np.float64 else FP32
        network = Network(MINIATURE, OUTPUTS, dev, None, precision)
        for p in network.params:
            p.value[...] = weights[p.name]
        network.freeze(frozen)
        network.forward(x, Context.training(dev, *KEY))
        loss = network.scored(labels, gradient=True).loss / BATCH
        yield {"logits": network.logits, "y": dev.from_host(np.array([loss]))}
        network.backward()
        gradients = {f"d{p.name}": network.gradient(p) for p in network.trainable}
        yield {key: dev.from_host(found) for key, found in gradients.items()}

    inputs = {"x": x, "labels": LABELS, "dy": np.ones(1), **weights}
    names = "logits", "y", *(f"d{key}" for key in weights)
    terms = dict.fromkeys(names, NETWORK_TERMS)
    return Case("network", name, inputs, passes, terms, directions=2)


_LARGE = {
    "conv2 of caffenet": replace(problems.CONV_CAFFENET["conv2"], n=1),
    "part of fc6": replace(problems.CONV_CAFFENET["fc6"], n=4, k=256),
}
_RELU = {"vector loads": (3, 16), "odd size": (3, 7), "conv3": (169, 384)}
_CROP = {"caffenet's crop": problems.AugmentCase(2, (256, 256), (227, 227), 1 / 64)}
_FROZEN = {f"layers 1-{n} frozen": n for n in (2, 5, 7)}


def _cases(
    make: Callable[[str, Any], Case], known: Mapping[str, Any], chosen: str = ""
) -> Callable[[], list[Case]]:
    """What makes those cases whose names are chosen, between semicolons, or all."""
    names = [" ".join(name.split()) for name in chosen.split(";")] if chosen else known
    return lambda: [make(name, known[name]) for name in names]


# Of each op's problems a few that differ most: a check of all takes minutes.
CASES = {
    "conv": _cases(
        _conv,
        problems.CONV | _LARGE,
        """height is not width; three groups, strided; stride over filter;
        stride over pad; two groups, stride over pad; filter over the image, strided;
        two groups of vectors; fully connected; 11x11/4; conv2 of caffenet;
        part of fc6""",
    ),
    "relu": _cases(_relu, _RELU),
    "pool": _cases(
        _pool,
        problems.POOL | problems.POOL_CAFFENET,
        """3/2, fits; 3/2, last window clipped; pad 1; window under stride; stride 1;
        pool1""",
    ),
    "lrn": _cases(
        _lrn,
        problems.LRN | problems.LRN_CAFFENET,
        """size 5; size 3; size 9; fewer channels than half a window; beta 0.5; k 2;
        norm1""",
    ),
    "pool_lrn": _cases(
        _pool_lrn,
        problems.POOL_LRN | problems.POOL_LRN_CAFFENET,
        "3/2, clipped; pad 1; window under stride; k 2; layer 1",
    ),
    "space_to_depth": _cases(
        _space_to_depth, problems.BLOCKS, "rectangular; conv1 of caffenet"
    ),
    "dropout": _cases(
        _dropout,
        problems.DROPOUT,
        "caffenet's rate; rate 0.3; 64-bit seed; 64-bit step; more than a chunk",
    ),
    "softmax": _cases(
        _softmax, problems.SOFTMAX, "ten classes; ignored rows; caffenet's classes"
    ),
    "sgd": _cases(_sgd, problems.SGD, "as in caffenet; large decay; more than a chunk"),
    "augment": _cases(
        _augment, problems.AUGMENT | _CROP, "crop; scaled; caffenet's crop"
    ),
    "network": _cases(_network, {"all layers trained": 0, **_FROZEN}),
}
"""By op, what makes its cases."""
