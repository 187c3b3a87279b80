"""The problems of `minicnn gradcheck`: which of `problems`, and how each op is run.

The last of each list has a layer's size in CaffeNet, for the paths that small shapes do
not take; it is too large for central differences and is compared with the reference
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicnn.devices.device import Device
from minicnn.experiments.proofs import problems
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
    """

    op: str
    name: str
    inputs: Arrays
    forward: Callable[[Device, Arrays], Arrays]
    backward: Callable[[Device, Arrays, Arrays], Arrays] | None = None
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def small(self) -> bool:
        """Whether central differences of it are quick."""
        return max(array.size for array in self.inputs.values()) < 1000

    def run(self, dev: Device, inputs: Arrays) -> Arrays:
        """All outputs of both passes on the device, from inputs on the device."""
        outputs = self.forward(dev, inputs)
        if self.backward is None:
            return outputs
        return outputs | self.backward(dev, inputs, outputs)


def output(dev: Device, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A device array filled with NaN, bytes with 255: an unwritten number shows."""
    array = dev.empty(shape, dtype)
    array[...] = np.nan if np.dtype(dtype).kind == "f" else 255
    return array


def _normals(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(SEED)
    return [rng.standard_normal(shape) for shape in shapes]


def _apart(shape: tuple[int, ...]) -> Any:
    """Numbers in random order, 2·GAP apart, and GAP or more from zero."""
    size = int(np.prod(shape))
    order = np.random.default_rng(SEED).permutation(size)
    return ((order - size // 2 + 0.5) * 2 * GAP).reshape(shape)


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
    return Case("conv", name, inputs, forward, backward, terms)


def _relu(name: str, size: tuple[int, int]) -> Case:
    """In the forward pass part of a convolution, here by the identity."""
    rows, channels = size
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

    return Case("relu", name, inputs, forward, backward)


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
    return Case("pool", name, {"x": x, "dy": dy}, forward, backward, terms)


def _lrn(name: str, case: problems.LrnCase) -> Case:
    shape = case.shape
    how = lrn.Normalising(case.size, case.alpha, case.beta, case.k)
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
    return Case("lrn", name, inputs, forward, backward, terms)


def _pool_lrn(name: str, case: problems.PoolLrnCase) -> Case:
    """Pooling of a ReLU's output, then LRN; x is what the ReLU is given."""
    s = shape = case.pool
    how = lrn.Normalising(case.size, case.alpha, case.beta, case.k)
    x = _apart((s.n, s.h, s.w, s.c))
    (dy,) = _normals((s.n, s.p, s.q, s.c))

    def forward(dev: Device, a: Arrays) -> Arrays:
        u, y = (output(dev, dy.shape, a["x"].dtype) for _ in range(2))
        argmax = output(dev, dy.shape, np.uint8)
        x = a["x"] * (a["x"] > 0)
        pool_lrn.forward(dev, x, u, argmax, y, shape, how)
        return {"u": u, "argmax": argmax, "y": y}

    def backward(dev: Device, a: Arrays, o: Arrays) -> Arrays:
        dx = output(dev, x.shape, a["x"].dtype)
        pool_lrn.backward(dev, a["dy"], o["u"], o["argmax"], dx, shape, how)
        return {"dx": dx}

    terms = {"y": 4 * how.size, "dx": 16 * how.size * s.window[0] * s.window[1]}
    return Case("pool_lrn", name, {"x": x, "dy": dy}, forward, backward, terms)


def _space_to_depth(name: str, shape: ConvShape) -> Case:
    """Filters over blocks of pixels, and their gradient, in one slice."""
    how = blocks.Blocks(shape)
    x, dy = _normals((shape.k, shape.r, shape.s, shape.c), how.filters)

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, how.filters, a["x"].dtype)
        blocks.block_filters(dev, a["x"], y, how)
        return {"y": y}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dx = output(dev, x.shape, a["x"].dtype)
        blocks.unblock_gradient(dev, a["dy"].reshape(1, -1), dx, how)
        return {"dx": dx}

    return Case("space_to_depth", name, {"x": x, "dy": dy}, forward, backward)


def _dropout(name: str, case: problems.DropoutCase) -> Case:
    shape = case.shape
    key, step = (case.rate, case.seed, case.stream), np.array([case.step], np.int64)

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, shape, a["x"].dtype)
        dropout.apply(dev, a["x"], y, *key, dev.from_host(step))
        return {"y": y}

    def backward(dev: Device, a: Arrays, outputs: Arrays) -> Arrays:
        dx = a["dy"].copy()
        dropout.apply(dev, dx, dx, *key, dev.from_host(step))
        return {"dx": dx}

    x, dy = _normals(shape, shape)
    return Case("dropout", name, {"x": x, "dy": dy}, forward, backward)


def _softmax(name: str, case: problems.SoftmaxCase) -> Case:
    """Softmax cross-entropy: y is the mean loss."""
    n, k, ignored = case.n, case.k, len(case.ignored)
    labels = np.random.default_rng(SEED).integers(0, k, n, dtype=np.int32)
    labels[list(case.ignored)] = -1

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
    inputs = {"logits": case.spread * logits, "labels": labels, "dy": np.ones(1)}
    terms = {"y": n + k, "dlogits": k}
    return Case("softmax", name, inputs, forward, backward, terms)


def _sgd(name: str, case: problems.SgdCase) -> Case:
    shapes = list(case.shapes)
    rates, decays = map(list, zip(*case.factors, strict=True))
    size = sgd.layout(shapes)[-1]
    w, g, v = _normals((size,), (size,), (size,))

    def forward(dev: Device, a: Arrays) -> Arrays:
        new_w, new_v = a["w"].copy(), a["v"].copy()
        segments = sgd.Segments.of(dev, shapes, rates, decays)
        lr, how = dev.from_host(np.array([case.lr])), (case.momentum, case.decay)
        sgd.update(dev, new_w, a["g"], new_v, segments, lr, *how)
        return {"new_w": new_w, "new_v": new_v}

    return Case("sgd", name, {"w": w, "g": g, "v": v}, forward)


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

    def forward(dev: Device, a: Arrays) -> Arrays:
        y = output(dev, (n, *crop, 3), a["mean"].dtype)
        # A mean image is float32, whatever the network's type.
        mean = a["mean"].astype(np.float32)
        place = a["rows"], a["top"], a["left"], a["mirror"]
        augment.crop_mirror(dev, a["images"], mean, y, *place, case.scale)
        return {"y": y}

    return Case("augment", name, inputs, forward)


_LARGE = {
    "conv2 of caffenet": replace(problems.CONV_CAFFENET["conv2"], n=1),
    "part of fc6": replace(problems.CONV_CAFFENET["fc6"], n=4, k=256),
}
_CROP = {"caffenet's crop": problems.AugmentCase(2, (256, 256), (227, 227), 1 / 64)}
_BUILT: dict[str, tuple[Callable[[str, Any], Case], Mapping[str, Any]]] = {
    "conv": (_conv, problems.CONV | _LARGE),
    "relu": (_relu, {"vector loads": (3, 16), "odd size": (3, 7), "conv3": (169, 384)}),
    "pool": (_pool, problems.POOL | problems.POOL_CAFFENET),
    "lrn": (_lrn, problems.LRN | problems.LRN_CAFFENET),
    "pool_lrn": (_pool_lrn, problems.POOL_LRN | problems.POOL_LRN_CAFFENET),
    "space_to_depth": (_space_to_depth, problems.BLOCKS),
    "dropout": (_dropout, problems.DROPOUT),
    "softmax": (_softmax, problems.SOFTMAX),
    "sgd": (_sgd, problems.SGD),
    "augment": (_augment, problems.AUGMENT | _CROP),
}
# Of each op's problems a few that differ most: a check of all takes minutes.
_CHOSEN = {
    "conv": """height is not width; three groups, strided; stride over filter;
        stride over pad; two groups, stride over pad; filter over the image, strided;
        two groups of vectors; fully connected; 11x11/4; conv2 of caffenet;
        part of fc6""",
    "relu": "vector loads; odd size; conv3",
    "pool": """3/2, fits; 3/2, last window clipped; pad 1; window under stride;
        stride 1; pool1""",
    "lrn": """size 5; size 3; size 9; fewer channels than half a window; beta 0.5; k 2;
        norm1""",
    "pool_lrn": "3/2, clipped; pad 1; window under stride; k 2; layer 1",
    "space_to_depth": "rectangular; conv1 of caffenet",
    "dropout": """caffenet's rate; rate 0.3; 64-bit seed; 64-bit step;
        more than a chunk""",
    "softmax": "ten classes; ignored rows; caffenet's classes",
    "sgd": "as in caffenet; large decay; more than a chunk",
    "augment": "crop; scaled; caffenet's crop",
}


def _of(op: str) -> list[Case]:
    build, known = _BUILT[op]
    names = (" ".join(name.split()) for name in _CHOSEN[op].split(";"))
    return [build(name, known[name]) for name in names]


CASES = {op: partial(_of, op) for op in _BUILT}
"""By op, what makes its cases."""
