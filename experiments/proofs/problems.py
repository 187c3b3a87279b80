"""The problems that every op is tested on, on every device: one list an op.

The tests run all of them, `minicnn gradcheck` those that `cases` picks.

The CAFFENET lists hold that network's own shapes with a small batch; they are large,
and meant for optimised paths. The others are small enough for slow loops and for an
emulated device, and each is named after what it would catch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

from minicnn.nn import architectures as specs
from minicnn.ops.conv.conv import ConvShape
from minicnn.ops.pool import PoolShape

# ConvShape(n, h, w, c, k, r, s, stride, pad, groups)
CONV = {
    "1x1": ConvShape(2, 4, 5, 3, 4, 1, 1),
    "one number": ConvShape(1, 1, 1, 1, 1, 1, 1),
    "odd sizes": ConvShape(3, 7, 7, 5, 3, 3, 3),
    "height is not width": ConvShape(2, 9, 4, 3, 5, 3, 3, pad=(1, 1)),
    "rectangular filter": ConvShape(2, 6, 8, 2, 3, 2, 5),
    "even filter": ConvShape(2, 6, 7, 3, 4, 4, 2, pad=(1, 1)),
    "stride 2": ConvShape(2, 9, 9, 3, 4, 3, 3, (2, 2), (1, 1)),
    "stride leaves a rest": ConvShape(2, 10, 8, 3, 4, 3, 3, (4, 3)),
    "stride over filter": ConvShape(2, 11, 10, 3, 4, 2, 2, (4, 3)),
    "rectangular stride": ConvShape(2, 8, 9, 3, 4, 3, 3, (1, 3), (1, 1)),
    "rectangular pad": ConvShape(2, 5, 6, 3, 4, 3, 5, (1, 1), (0, 2)),
    "pad of half the filter": ConvShape(2, 5, 5, 2, 3, 4, 4, (1, 1), (2, 2)),
    "pad of the filter": ConvShape(2, 4, 3, 2, 3, 2, 2, (1, 1), (2, 2)),
    "pad over the filter": ConvShape(2, 3, 4, 2, 3, 2, 2, (2, 2), (3, 4)),
    "filter over the image": ConvShape(2, 3, 3, 2, 3, 5, 5, (1, 1), (1, 1)),
    "two groups": ConvShape(2, 6, 5, 4, 6, 3, 3, (1, 1), (1, 1), groups=2),
    "stride over pad": ConvShape(1, 9, 8, 2, 3, 4, 5, (3, 4), (1, 1)),
    "two groups, stride over pad": ConvShape(
        2, 8, 7, 4, 6, 4, 3, (3, 4), (1, 1), groups=2
    ),
    "filter over the image, strided": ConvShape(2, 3, 4, 3, 4, 5, 6, (2, 1), (2, 2)),
    "three groups, strided": ConvShape(2, 7, 8, 6, 3, 3, 2, (2, 2), (1, 0), groups=3),
    "two groups of vectors": ConvShape(2, 4, 4, 8, 8, 3, 3, (1, 1), (1, 1), groups=2),
    "depthwise": ConvShape(1, 6, 6, 4, 4, 3, 3, (1, 1), (1, 1), groups=4),
    "one channel": ConvShape(2, 7, 6, 1, 4, 3, 3),
    "one filter": ConvShape(2, 7, 6, 4, 1, 3, 3),
    "batch of one": ConvShape(1, 8, 8, 3, 4, 3, 3, (1, 1), (1, 1)),
    "11x11/4": ConvShape(2, 27, 23, 3, 8, 11, 11, (4, 4)),
    "fully connected": ConvShape(5, 3, 4, 6, 7, 3, 4),
    "fully connected, 1x1": ConvShape(5, 1, 1, 33, 17, 1, 1),
    "fully connected, grouped": ConvShape(3, 2, 2, 6, 4, 2, 2, groups=2),
    "fully connected, padded": ConvShape(3, 4, 4, 3, 5, 4, 4, (1, 1), (1, 1)),
    "wider than a tile": ConvShape(3, 13, 11, 70, 75, 3, 3, (1, 1), (1, 1)),
    "many features": ConvShape(2, 2, 2, 70, 600, 2, 2),
    "features fill vectors, channels do not": ConvShape(2, 4, 5, 20, 100, 2, 1),
    "the same in groups": ConvShape(2, 5, 4, 34, 32, 2, 2, pad=(1, 0), groups=2),
    "many small images": ConvShape(11, 5, 5, 16, 80, 3, 3, pad=(1, 1)),
    "many small images in groups": ConvShape(10, 4, 3, 32, 16, 3, 3, (1, 1), (1, 1), 2),
    "fully connected, many images": ConvShape(67, 1, 1, 37, 29, 1, 1),
    "fully connected, long": ConvShape(18, 1, 1, 2103, 27, 1, 1),
    # Few tiles, and a K that kernels cut into slices, both ways.
    "fully connected, in slices": ConvShape(3, 1, 1, 1024, 1032, 1, 1),
    "in slices, strided": ConvShape(1, 4, 4, 136, 264, 3, 3, (2, 2), (1, 1)),
}

CONV_CAFFENET = {
    "conv1": ConvShape(2, 227, 227, 3, 96, 11, 11, (4, 4)),
    "conv2": ConvShape(2, 27, 27, 96, 256, 5, 5, (1, 1), (2, 2), groups=2),
    "conv3": ConvShape(2, 13, 13, 256, 384, 3, 3, (1, 1), (1, 1)),
    "conv4": ConvShape(2, 13, 13, 384, 384, 3, 3, (1, 1), (1, 1), groups=2),
    "conv5": ConvShape(2, 13, 13, 384, 256, 3, 3, (1, 1), (1, 1), groups=2),
    "fc6": ConvShape(2, 6, 6, 256, 4096, 6, 6),
    "fc7": ConvShape(2, 1, 1, 4096, 4096, 1, 1),
    "fc8": ConvShape(2, 1, 1, 4096, 1000, 1, 1),
}

# PoolShape(n, h, w, c, window, stride, pad, ceil)
POOL = {
    "3/2, fits": PoolShape(2, 7, 7, 3),
    "3/2, last window clipped": PoolShape(2, 8, 6, 3),
    "3/2, rounded down": PoolShape(2, 8, 6, 3, ceil=False),
    "height is not width": PoolShape(2, 9, 4, 2),
    "one number": PoolShape(1, 1, 1, 1, (1, 1), (1, 1)),
    "window is stride": PoolShape(2, 6, 8, 3, (2, 2), (2, 2)),
    "window is stride, clipped": PoolShape(2, 7, 5, 3, (2, 2), (2, 2)),
    "window under stride": PoolShape(2, 8, 9, 3, (2, 2), (3, 3)),
    "no window beyond the edge": PoolShape(2, 4, 5, 3, (1, 1), (4, 2)),
    "one place, long stride": PoolShape(2, 6, 11, 2, (1, 1), (5, 5)),
    "stride 1": PoolShape(2, 5, 6, 3, (3, 3), (1, 1)),
    "rectangular window": PoolShape(2, 7, 8, 3, (2, 4), (1, 3)),
    "pad 1": PoolShape(2, 7, 6, 3, (3, 3), (2, 2), (1, 1)),
    "pad 1, rounded down": PoolShape(2, 8, 7, 3, (3, 3), (2, 2), (1, 1), ceil=False),
    "pad, last window dropped": PoolShape(2, 5, 3, 2, (2, 2), (2, 2), (1, 1)),
    "pad on one side only": PoolShape(2, 6, 5, 2, (3, 2), (2, 2), (2, 0)),
    "one channel": PoolShape(3, 9, 9, 1),
    "whole image": PoolShape(2, 5, 4, 3, (5, 4), (1, 1)),
    "more images than a chunk": PoolShape(5, 19, 19, 96),
    "largest window": PoolShape(1, 17, 16, 2, (16, 16), (1, 1)),
}

POOL_CAFFENET = {
    "pool1": PoolShape(1, 55, 55, 96),
    "pool2": PoolShape(1, 27, 27, 256),
    "pool5": PoolShape(2, 13, 13, 256),
}


@dataclass(frozen=True)
class LrnCase:
    """x's shape and the parameters; alpha large enough for a lost channel to show."""

    shape: tuple[int, int, int, int]
    size: int = 5
    alpha: float = 0.5
    beta: float = 0.75
    k: float = 1.0


LRN = {
    "size 5": LrnCase((2, 3, 4, 9)),
    "size 3": LrnCase((2, 3, 4, 7), size=3),
    "size 1": LrnCase((2, 3, 2, 4), size=1),
    "size 9": LrnCase((1, 2, 3, 20), size=9),
    "fewer channels than half a window": LrnCase((2, 3, 2, 2), size=7),
    "fewer channels than the window": LrnCase((2, 3, 2, 4)),
    "as many channels as the window": LrnCase((2, 3, 2, 5)),
    "one channel": LrnCase((2, 3, 2, 1)),
    "one number": LrnCase((1, 1, 1, 1)),
    "beta 1": LrnCase((2, 3, 2, 6), beta=1.0),
    "beta 0.5": LrnCase((2, 3, 2, 6), beta=0.5),
    "k 2": LrnCase((2, 3, 2, 6), k=2.0),
    "small k, large alpha": LrnCase((2, 3, 2, 6), alpha=3.0, k=0.1),
    "as in the paper": LrnCase((2, 3, 2, 11), alpha=1e-4),
}

# For kernels: wider than their vectors and blocks; too wide for central differences.
LRN_WIDE = {
    "window of many vectors": LrnCase((2, 3, 2, 40), size=21),
    "wider than a block": LrnCase((1, 2, 1, 301)),
    "more vectors than a block": LrnCase((1, 1, 2, 1100)),
}

LRN_CAFFENET = {
    "norm1": LrnCase((1, 27, 27, 96), alpha=0.05),
    "norm2": LrnCase((1, 13, 13, 256), alpha=0.05),
}


@dataclass(frozen=True)
class PoolLrnCase:
    """The pooling of a ReLU's output, and the LRN's parameters."""

    pool: PoolShape
    size: int = 5
    alpha: float = 0.5
    beta: float = 0.75
    k: float = 1.0


POOL_LRN = {
    "3/2, fits": PoolLrnCase(PoolShape(2, 7, 7, 6)),
    "3/2, clipped": PoolLrnCase(PoolShape(2, 8, 6, 8)),
    "3/2, rounded down": PoolLrnCase(PoolShape(2, 8, 6, 4, ceil=False)),
    "window is stride": PoolLrnCase(PoolShape(2, 7, 5, 8, (2, 2), (2, 2))),
    "window under stride": PoolLrnCase(PoolShape(2, 8, 9, 3, (2, 2), (3, 3))),
    "stride 1": PoolLrnCase(PoolShape(2, 5, 6, 8, (3, 3), (1, 1))),
    "rectangular": PoolLrnCase(PoolShape(2, 7, 9, 3, (2, 4), (1, 3))),
    "pad 1": PoolLrnCase(PoolShape(2, 7, 6, 8, (3, 3), (2, 2), (1, 1))),
    "windows in the pad": PoolLrnCase(PoolShape(2, 4, 5, 3, (4, 4), (1, 1), (3, 3))),
    "one channel": PoolLrnCase(PoolShape(3, 9, 9, 1)),
    "one number": PoolLrnCase(PoolShape(1, 1, 1, 1, (1, 1), (1, 1))),
    "size 9": PoolLrnCase(PoolShape(1, 5, 4, 24), size=9),
    "size 3, beta 1": PoolLrnCase(PoolShape(1, 5, 4, 8), size=3, beta=1.0),
    "k 2": PoolLrnCase(PoolShape(1, 5, 4, 8), k=2.0),
}

# For kernels: several tiles each way, and channels that nearly fill shared memory.
POOL_LRN_WIDE = {
    "tiles across": PoolLrnCase(PoolShape(1, 5, 60, 200)),
    "rows in a tile": PoolLrnCase(PoolShape(120, 11, 5, 2)),
    "more vectors than a block": PoolLrnCase(PoolShape(1, 4, 4, 1040, (2, 2))),
}

POOL_LRN_CAFFENET = {
    "layer 1": PoolLrnCase(PoolShape(1, 55, 55, 96), alpha=0.05),
    "layer 2": PoolLrnCase(PoolShape(1, 27, 27, 256), alpha=0.05),
}


@dataclass(frozen=True)
class DropoutCase:
    """x's shape, the rate, and what the mask is a function of."""

    shape: tuple[int, ...]
    rate: float = 0.5
    seed: int = 1
    stream: int = 0x100
    step: int = 0


DROPOUT = {
    "caffenet's rate": DropoutCase((4, 64)),
    "one number": DropoutCase((1,)),
    "not a multiple of four": DropoutCase((3, 5, 7)),
    "seven over a multiple of eight": DropoutCase((3, 13)),
    "rate 0": DropoutCase((2, 9), rate=0.0),
    "rate 0.3": DropoutCase((2, 33), rate=0.3),
    "rate 0.99": DropoutCase((8, 40), rate=0.99),
    "64-bit seed": DropoutCase((2, 9), seed=2**64 - 3),
    "64-bit step": DropoutCase((2, 9), step=2**32 + 5),
    "last stream": DropoutCase((2, 9), stream=2**32 - 1),
    "more than a chunk": DropoutCase((3, 12_345)),
}


@dataclass(frozen=True)
class SoftmaxCase:
    """Logits (n, k) drawn with that spread; the rows listed are labelled −1."""

    n: int
    k: int
    spread: float = 1.0
    ignored: tuple[int, ...] = ()


SOFTMAX = {
    "ten classes": SoftmaxCase(7, 10),
    "fewer than five classes": SoftmaxCase(9, 3),
    "one class": SoftmaxCase(3, 1),
    "batch of one": SoftmaxCase(1, 10),
    "odd count of classes": SoftmaxCase(5, 37),
    "caffenet's classes": SoftmaxCase(4, 1000),
    "more classes than a block": SoftmaxCase(4, 1300, ignored=(1,)),
    "spread out": SoftmaxCase(6, 12, spread=30.0),
    "extreme": SoftmaxCase(6, 12, spread=1e4),
    "extreme, more classes than a block": SoftmaxCase(4, 300, spread=1e4),
    "all alike": SoftmaxCase(8, 9, spread=0.0),
    "ignored rows": SoftmaxCase(6, 8, ignored=(0, 3, 5)),
    "only ignored rows": SoftmaxCase(3, 4, ignored=(0, 1, 2)),
}


@dataclass(frozen=True)
class SgdCase:
    """The parameters' shapes, the slices that each gradient comes in (one, where the
    list ends), and the step's numbers."""

    shapes: tuple[tuple[int, ...], ...]
    slices: tuple[int, ...] = ()
    lr: float = 0.01
    momentum: float = 0.9
    decay: float = 5e-4

    @property
    def factors(self) -> list[tuple[float, float]]:
        """Each parameter's factors of lr and decay: a weight's, a bias's, others."""
        kinds = cycle([(1.0, 1.0), (2.0, 0.0), (0.5, 3.0)])
        return [each for each, _ in zip(kinds, self.shapes, strict=False)]

    @property
    def counts(self) -> list[int]:
        """The slices of each parameter's gradient."""
        return [*self.slices, *[1] * (len(self.shapes) - len(self.slices))]


SGD = {
    "as in caffenet": SgdCase(((3, 5, 5, 4), (3,), (2, 3, 3, 3), (2,))),
    "one number": SgdCase(((1,),)),
    "odd count": SgdCase(((1027,),), lr=0.1),
    "no padding": SgdCase(((64,), (2, 64), (64,))),
    "padding of one": SgdCase(((63,), (5, 5, 5, 1), (127,))),
    "many parameters": SgdCase(((3,),) * 40),
    "no momentum": SgdCase(((13,), (70,)), momentum=0.0),
    "no decay": SgdCase(((13,), (70,)), decay=0.0),
    "large decay": SgdCase(((13,), (70,)), decay=0.5),
    "rate 0": SgdCase(((13,), (70,)), lr=0.0),
    "more than a chunk": SgdCase(((70_001,), (3,), (65_000,))),
    "two slices": SgdCase(((13,), (70,)), (1, 2)),
    "slices of all": SgdCase(((13,), (70,), (64,)), (3, 5, 2)),
    "64 slices": SgdCase(((3, 5, 5, 4), (3,)), (64,)),
    "slices of more than a chunk": SgdCase(((9,), (70_001,), (70,)), (1, 3, 2)),
}


# For space-to-depth: a convolution whose filters reach every kind of edge.
BLOCKS = {
    "caffenet's stride": ConvShape(2, 27, 23, 3, 8, 11, 11, (4, 4)),
    "stride leaves a rest": ConvShape(2, 10, 9, 3, 4, 3, 3, (4, 3)),
    "stride over filter": ConvShape(2, 11, 10, 3, 4, 2, 2, (4, 3)),
    "rectangular": ConvShape(2, 9, 12, 3, 4, 3, 5, (2, 3)),
    "padded": ConvShape(2, 9, 8, 3, 4, 5, 3, (2, 2), (2, 1)),
    "pad over stride": ConvShape(2, 6, 7, 3, 4, 5, 5, (2, 3), (4, 4)),
    "stride 1": ConvShape(2, 6, 5, 3, 4, 3, 3, (1, 1), (1, 1)),
    "one pixel": ConvShape(3, 1, 1, 3, 2, 1, 1),
    "eight channels to the block": ConvShape(2, 9, 9, 2, 4, 4, 4, (2, 2)),
    "conv1 of caffenet": ConvShape(1, 227, 227, 3, 4, 11, 11, (4, 4)),
}


@dataclass(frozen=True)
class AugmentCase:
    """n images of (height, width), cropped to (h, w), times the scale."""

    n: int
    image: tuple[int, int]
    crop: tuple[int, int]
    scale: float = 1.0


AUGMENT = {
    "crop": AugmentCase(4, (9, 9), (7, 7)),
    "whole image": AugmentCase(3, (6, 6), (6, 6)),
    "height is not width": AugmentCase(4, (8, 11), (5, 10)),
    "one pixel": AugmentCase(5, (4, 3), (1, 1)),
    "scaled": AugmentCase(4, (9, 9), (7, 6), scale=1 / 58),
    "wider than a block": AugmentCase(2, (4, 100), (3, 99)),
    "more than a chunk": AugmentCase(37, (5, 6), (4, 4)),
}


# --- a network ------------------------------------------------------------------


def miniature(
    name: str = "gradcheck", widths: tuple[int, int, int] = (8, 12, 16)
) -> specs.Architecture:
    """All eight layers with every convention, small enough for central differences.

    Stride, groups, padding, pools that hang over the edge (16→8→4→2), LRNs that
    matter, dropout.

    Args:
        widths: features of layers 1, 3 and 6; multiples of 4 allow vector loads.
    """
    one, three, six = widths
    return specs.Architecture(
        name,
        size=24,
        crop=20,
        layers=(
            specs.Conv(1, one, 5, std=0.16, bias=0.1),
            specs.Pool(1),
            specs.LRN(1, alpha=0.8),
            specs.Conv(2, 8, 5, std=0.16, pad=2, groups=2, bias=0.1),
            specs.Pool(2),
            specs.LRN(2, alpha=0.8),
            specs.Conv(3, three, 3, std=0.17, pad=1),
            specs.Conv(4, 8, 3, std=0.21, pad=1, groups=2, bias=0.1),
            specs.Conv(5, 6, 3, std=0.24, pad=1, groups=2, bias=0.1),
            specs.Pool(5),
            specs.FullyConnected(6, six, std=0.29, bias=0.1),
            specs.Dropout(6),
            specs.FullyConnected(7, 12, std=0.38, bias=0.1),
            specs.Dropout(7),
            specs.FullyConnected(8, 0, std=0.3, relu=False),
        ),
    )
