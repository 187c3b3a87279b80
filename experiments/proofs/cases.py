"""The small problems of `minicnn gradcheck`: how each op is run, and on what numbers.

Each is named after what it would catch. The last of each list has a layer's size in
CaffeNet, for the paths that small shapes do not take; it is too large for central
differences and is compared with the reference alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicnn.devices.device import Device
from minicnn.ops import augment, dropout, lrn, pool, pool_lrn, sgd, softmax
from minicnn.ops import space_to_depth as blocks
from minicnn.ops.conv import conv
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.pool import PoolShape

Arrays = dict[str, Any]
# A ReLU's inputs and a pool's rivals keep this distance from where a slope changes:
# a thousand steps of a central difference.
GAP = 0.01
SEED = 0
LRN = lrn.Normalising(size=5, alpha=0.5, beta=0.75, k=1.0)


@dataclass(frozen=True)
class Case:
    """One problem of one op.

    Attributes:
        op, name: what a table calls it.
        inputs: by name, on the host, floats in float64; "dy" is what y's gradient is.
        forward: forward(dev, inputs) → outputs by name, arrays of the device; y is
            what is differentiated.
        backward: backward(dev, inputs, outputs) → gradients, dx of an input x; None
            where the op has none.
        terms: how many terms each output sums, where that is more than a few.
        small: whether central differences of it are quick.
    """

    op: str
    name: str
    inputs: Arrays
    forward: Callable[[Device, Arrays], Arrays]
    backward: Callable[[Device, Arrays, Arrays], Arrays] | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    small: bool = True

    def run(self, dev: Device, inputs: Arrays) -> Arrays:
        """All outputs of both passes on the device, from inputs on the device."""
        outputs = self.forward(dev, inputs)
        if self.backward is None:
            return outputs
        return outputs | self.backward(dev, inputs, outputs)


def output(dev: Device, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """An array of the device that shows what is left unwritten: NaN, in bytes 255."""
    array = dev.empty(shape, dtype)
    array[...] = np.nan if np.dtype(dtype).kind == "f" else 255
    return array


def _normals(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(SEED)
    return [rng.standard_normal(shape) for shape in shapes]


def _apart(shape: tuple[int, ...]) -> Any:
    """Numbers in random order of which no two, and none and zero, come close."""
    size = int(np.prod(shape))
    order = np.random.default_rng(SEED).permutation(size)
    return ((order - size // 2 + 0.5) * 2 * GAP).reshape(shape)


def conv_cases() -> list[Case]:
    """Convolution with bias, and both its gradients."""
    shapes = {
        "3x3, padded": ConvShape(2, 5, 6, 3, 4, 3, 3, (1, 1), (1, 1)),
        "strided, grouped": ConvShape(2, 7, 6, 4, 6, 3, 2, (2, 3), (1, 0), groups=2),
        "stride over filter": ConvShape(1, 9, 8, 2, 3, 2, 2, (3, 4)),
        "stride over padding": ConvShape(1, 9, 8, 2, 3, 4, 5, (3, 4), (1, 1)),
        "the same in groups": ConvShape(2, 8, 7, 4, 6, 4, 3, (3, 4), (1, 1), groups=2),
        "filter over image": ConvShape(2, 3, 4, 3, 4, 5, 6, (2, 1), (2, 2)),
        "vector loads": ConvShape(2, 4, 4, 8, 8, 3, 3, (1, 1), (1, 1), groups=2),
        "fully connected": ConvShape(3, 2, 3, 4, 5, 2, 3),
        "11x11/4": ConvShape(1, 51, 47, 3, 32, 11, 11, (4, 4)),
        "conv2 of caffenet": ConvShape(1, 27, 27, 96, 256, 5, 5, (1, 1), (2, 2), 2),
        "part of fc6": ConvShape(4, 6, 6, 256, 256, 6, 6),
    }
    return [_conv(name, shape) for name, shape in shapes.items()]


def _conv(name: str, shape: ConvShape) -> Case:
    s = shape
    shapes = {
        "x": (s.n, s.h, s.w, s.c),
        "w": (s.k, s.r, s.s, s.c // s.groups),
        "b": (s.k,),
        "dy": (s.n, s.p, s.q, s.k),
    }
    inputs = dict(zip(shapes, _normals(*shapes.values()), strict=True))

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, shapes["dy"], a["x"].dtype)
        conv.forward(dev, a["x"], a["w"], a["b"], y, shape)
        return {"y": y}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dtype = a["x"].dtype
        dx = output(dev, shapes["x"], dtype)
        conv.backward_data(dev, a["dy"], a["w"], dx, shape)
        sizes = {name: int(np.prod(shapes[name])) for name in ("w", "b")}
        counts = conv.gradient_slices(dev, dtype, shape)
        dw, db = (
            output(dev, (count, size), dtype)
            for count, size in zip(counts, sizes.values(), strict=True)
        )
        conv.backward_weights(dev, a["x"], a["dy"], dw, db, shape)
        dw, db = dw.sum(axis=0).reshape(shapes["w"]), db.sum(axis=0)
        return {"dx": dx, "dw": dw, "db": db}

    taps, places = s.r * s.s, s.n * s.p * s.q
    terms = {"y": taps * s.c, "dx": taps * s.k, "dw": places, "db": places}
    small = max(a.size for a in inputs.values()) < 1000
    return Case("conv", name, inputs, forward, backward, terms, small)


def relu_cases() -> list[Case]:
    """The ReLU: in the forward pass part of a convolution, here by the identity."""
    sizes = {"vector loads": (3, 16), "odd size": (3, 7), "conv3": (169, 384)}
    return [_relu(name, *size) for name, size in sizes.items()]


def _relu(name: str, rows: int, channels: int) -> Case:
    (dy,) = _normals((rows, 1, 1, channels))
    inputs = {"x": _apart(dy.shape), "dy": dy}
    shape = ConvShape(rows, 1, 1, channels, channels, 1, 1)

    def forward(dev: Device, a: Arrays) -> Arrays:
        x = a["x"]
        y = output(dev, x.shape, x.dtype)
        identity = dev.from_host(np.eye(channels, dtype=x.dtype))
        w = identity.reshape(channels, 1, 1, channels)
        conv.forward(dev, x, w, None, y, shape, relu=True)
        return {"y": y}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dx = a["dy"].copy()
        conv.relu_backward(dev, outputs["y"], dx)
        return {"dx": dx}

    return Case("relu", name, inputs, forward, backward, small=rows < 100)


def pool_cases() -> list[Case]:
    """Max pooling and its gradient, without ties."""
    shapes = {
        "3/2, fits": PoolShape(2, 7, 5, 3),
        "3/2, clipped": PoolShape(2, 6, 8, 4),
        "padded": PoolShape(1, 7, 6, 3, (3, 2), (2, 2), (1, 1)),
        "stride over window": PoolShape(2, 8, 9, 2, (2, 2), (3, 3)),
        "overlapping thrice": PoolShape(1, 6, 5, 4, (3, 3), (1, 1)),
        "pool1 of caffenet": PoolShape(1, 55, 55, 96),
    }
    return [_pool(name, shape) for name, shape in shapes.items()]


def _pool(name: str, shape: PoolShape) -> Case:
    s = shape
    x = _apart((s.n, s.h, s.w, s.c))
    (dy,) = _normals((s.n, s.p, s.q, s.c))

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, dy.shape, a["x"].dtype)
        argmax = output(dev, dy.shape, np.uint8)
        pool.forward(dev, a["x"], y, argmax, shape)
        return {"y": y, "argmax": argmax}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dx = output(dev, x.shape, a["x"].dtype)
        pool.backward(dev, a["dy"], outputs["argmax"], dx, shape)
        return {"dx": dx}

    terms = {"dx": s.window[0] * s.window[1]}
    small = x.size < 1000
    return Case("pool", name, {"x": x, "dy": dy}, forward, backward, terms, small)


def lrn_cases() -> list[Case]:
    """LRN, with alpha large enough for a lost channel to show."""
    return [
        _lrn("size 5", (2, 3, 2, 8), LRN),
        _lrn("size 3, odd channels", (2, 3, 2, 7), replace(LRN, size=3)),
        _lrn("fewer channels than the window", (2, 2, 3, 3), replace(LRN, size=7)),
        _lrn("beta 0.5, k 2", (2, 2, 3, 6), replace(LRN, beta=0.5, k=2.0)),
        _lrn("norm1 of caffenet", (1, 27, 27, 96), LRN),
    ]


def _lrn(name: str, shape: tuple[int, ...], how: lrn.Normalising) -> Case:
    x, dy = _normals(shape, shape)
    inputs = {"x": 2 * x, "dy": dy}

    def forward(dev: Device, a: Arrays) -> Arrays:
        x = a["x"]
        y, scale = output(dev, shape, x.dtype), output(dev, shape, x.dtype)
        lrn.forward(dev, x, y, scale, how)
        return {"y": y, "scale": scale}

    def backward(dev: Device, a: Arrays, o: Arrays) -> Arrays:
        x, dx = a["x"], output(dev, shape, a["x"].dtype)
        lrn.backward(dev, x, o["y"], o["scale"], a["dy"], dx, how)
        return {"dx": dx}

    # A rounding of scale counts β times in y, and in dx through three factors.
    terms = {"scale": how.size, "y": 4 * how.size, "dx": 16 * how.size}
    small = inputs["x"].size < 1000
    return Case("lrn", name, inputs, forward, backward, terms, small)


def pool_lrn_cases() -> list[Case]:
    """Pooling of a ReLU's output, then LRN; x is what the ReLU is given."""
    shapes = {
        "3/2, clipped": PoolShape(2, 6, 8, 4),
        "padded": PoolShape(1, 7, 6, 3, (3, 2), (2, 2), (1, 1)),
        "stride over window": PoolShape(2, 8, 9, 2, (2, 2), (3, 3)),
        "layer 1 of caffenet": PoolShape(1, 55, 55, 96),
    }
    return [_pool_lrn(name, shape) for name, shape in shapes.items()]


def _pool_lrn(name: str, shape: PoolShape) -> Case:
    s = shape
    x = _apart((s.n, s.h, s.w, s.c))
    (dy,) = _normals((s.n, s.p, s.q, s.c))

    def forward(dev: Device, a: Arrays) -> Arrays:
        u, y = (output(dev, dy.shape, a["x"].dtype) for _ in range(2))
        argmax = output(dev, dy.shape, np.uint8)
        x = a["x"] * (a["x"] > 0)
        pool_lrn.forward(dev, x, u, argmax, y, shape, LRN)
        return {"u": u, "argmax": argmax, "y": y}

    def backward(dev: Device, a: Arrays, o: Arrays) -> Arrays:
        dx = output(dev, x.shape, a["x"].dtype)
        pool_lrn.backward(dev, a["dy"], o["u"], o["argmax"], dx, shape, LRN)
        return {"dx": dx}

    terms = {"y": 4 * LRN.size, "dx": 16 * LRN.size * s.window[0] * s.window[1]}
    inputs, small = {"x": x, "dy": dy}, x.size < 1000
    return Case("pool_lrn", name, inputs, forward, backward, terms, small)


def space_to_depth_cases() -> list[Case]:
    """Filters over blocks of pixels, and their gradient, in one slice."""
    shape = ConvShape(1, 9, 12, 3, 4, 3, 5, (2, 3))
    caffenet = ConvShape(1, 227, 227, 3, 96, 11, 11, (4, 4))
    return [_space_to_depth("3x5/2,3", shape), _space_to_depth("conv1", caffenet)]


def _space_to_depth(name: str, shape: ConvShape) -> Case:
    how = blocks.Blocks.of(shape)
    x, dy = _normals((shape.k, shape.r, shape.s, shape.c), how.filters)

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, how.filters, a["x"].dtype)
        blocks.block_filters(dev, a["x"], y, how)
        return {"y": y}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dx = output(dev, x.shape, a["x"].dtype)
        blocks.unblock_gradient(dev, a["dy"].reshape(1, -1), dx, how)
        return {"dx": dx}

    inputs, small = {"x": x, "dy": dy}, x.size < 1000
    return Case("space_to_depth", name, inputs, forward, backward, small=small)


def dropout_cases() -> list[Case]:
    """Dropout, whose backward pass is itself."""
    return [
        _dropout("rate 0.5", (3, 16), 0.5),
        _dropout("rate 0.3, odd size", (3, 7), 0.3),
        _dropout("fc6 of caffenet", (4, 4096), 0.5),
    ]


def _dropout(name: str, shape: tuple[int, ...], rate: float) -> Case:
    # The seed and step need both words of theirs.
    key, step = (rate, 2**40 + 1, 0x105), np.array([2**33 + 3], np.int64)

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, shape, a["x"].dtype)
        dropout.apply(dev, a["x"], y, *key, dev.from_host(step))
        return {"y": y}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dx = a["dy"].copy()
        dropout.apply(dev, dx, dx, *key, dev.from_host(step))
        return {"dx": dx}

    x, dy = _normals(shape, shape)
    inputs, small = {"x": x, "dy": dy}, x.size < 1000
    return Case("dropout", name, inputs, forward, backward, small=small)


def softmax_cases() -> list[Case]:
    """Softmax cross-entropy: y is the mean loss."""
    return [
        _softmax("ten classes", 5, 10),
        _softmax("ignored rows", 4, 7, ignored=2),
        _softmax("1000 classes", 4, 1000),
    ]


def _softmax(name: str, n: int, k: int, ignored: int = 0) -> Case:
    labels = np.random.default_rng(SEED).integers(0, k, n, dtype=np.int32)
    labels[:ignored] = -1

    def score(dev: Device, a: Arrays, dlogits: Any) -> Any:
        totals = dev.zeros((3,), np.float64)
        softmax.cross_entropy(dev, a["logits"], a["labels"], dlogits, totals)
        return totals

    def forward(dev: Device, a: Arrays) -> Arrays:
        totals = score(dev, a, None)
        return {"y": totals[:1] / (n - ignored), "counts": totals[1:]}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dlogits = output(dev, (n, k), a["logits"].dtype)
        score(dev, a, dlogits)
        return {"dlogits": dlogits}

    (logits,) = _normals((n, k))
    inputs = {"logits": 2 * logits, "labels": labels, "dy": np.ones(1)}
    terms = {"y": n + k, "dlogits": k}
    return Case("softmax", name, inputs, forward, backward, terms, small=k < 100)


def sgd_cases() -> list[Case]:
    """The update of a weight and a bias, a third of an epoch in."""
    return [_sgd("weight and bias", [(5, 7), (5,)]), _sgd("norm", [(384, 99), (384,)])]


def _sgd(name: str, shapes: list[tuple[int, ...]]) -> Case:
    size = sgd.layout(shapes)[-1]
    w, g, v = _normals((size,), (size,), (size,))

    def forward(dev: Device, a: Arrays) -> Arrays:
        new_w, new_v = a["w"].copy(), a["v"].copy()
        segments = sgd.Segments.of(dev, shapes, [1.0, 2.0], [1.0, 0.0])
        lr = dev.from_host(np.array([0.1]))
        sgd.update(dev, new_w, a["g"], new_v, segments, lr, 0.9, 0.05)
        return {"new_w": new_w, "new_v": new_v}

    return Case("sgd", name, {"w": w, "g": g, "v": v}, forward)


def augment_cases() -> list[Case]:
    """Crops, some of them mirrored."""
    return [_augment("crop", 5, 9, 7), _augment("caffenet's crop", 2, 256, 227)]


def _augment(name: str, n: int, size: int, crop: int) -> Case:
    rng = np.random.default_rng(SEED)
    inputs = {
        "images": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "rows": np.arange(n)[::-1].copy(),
        "top": rng.integers(0, size - crop + 1, n),
        "left": rng.integers(0, size - crop + 1, n),
        "mirror": np.arange(n) % 2 == 0,
        "mean": rng.uniform(0, 255, (size, size, 3)),
    }

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, (n, crop, crop, 3), a["mean"].dtype)
        # A mean image is float32, whatever the network's type.
        mean = a["mean"].astype(np.float32)
        place = a["rows"], a["top"], a["left"], a["mirror"]
        augment.crop_mirror(dev, a["images"], mean, y, *place, 1 / 64)
        return {"y": y}

    return Case("augment", name, inputs, forward)


CASES: dict[str, Callable[[], list[Case]]] = {
    "conv": conv_cases,
    "relu": relu_cases,
    "pool": pool_cases,
    "lrn": lrn_cases,
    "pool_lrn": pool_lrn_cases,
    "space_to_depth": space_to_depth_cases,
    "dropout": dropout_cases,
    "softmax": softmax_cases,
    "sgd": sgd_cases,
    "augment": augment_cases,
}
