"""Networks as data: CaffeNet exactly as published, two small relatives, and one's own.

The built-in ones have the paper's eight layers: conv1–conv5 and fc6–fc8, with ReLU, max
pooling, LRN, groups and dropout in the same places. The relatives are sized so that
two processor cores train them at hundreds of images a second; their weights start
wider than CaffeNet's, since a narrow layer sums fewer of them, and the narrowest drops
fewer features, since it has few to spare.
"""

from __future__ import annotations

from dataclasses import dataclass

from minicnn.base.errors import MinicnnError


@dataclass(frozen=True)
class _Spec:
    """A layer, or what belongs to the one of that number, from 1."""

    index: int
    prefix = ""

    @property
    def name(self) -> str:
        """Such as "conv1"."""
        return f"{self.prefix}{self.index}"


@dataclass(frozen=True)
class Conv(_Spec):
    """A convolution with bias and ReLU.

    Attributes:
        features: output channels K.
        std: standard deviation of the Gaussian initial weights.
        bias: initial value of every bias.
    """

    prefix = "conv"
    features: int
    window: int
    std: float
    stride: int = 1
    pad: int = 0
    groups: int = 1
    bias: float = 0.0


@dataclass(frozen=True)
class FullyConnected(_Spec):
    """A fully connected layer; with ReLU unless it is the last.

    Attributes:
        features: outputs, or 0 for the number that the task asks for.
        std, bias: as for `Conv`.
    """

    prefix = "fc"
    features: int
    std: float
    bias: float = 0.0
    relu: bool = True


@dataclass(frozen=True)
class Pool(_Spec):
    """Max pooling, sizes rounded up."""

    prefix = "pool"
    window: int = 3
    stride: int = 2


@dataclass(frozen=True)
class LRN(_Spec):
    """Local response normalisation across channels."""

    prefix = "norm"
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise MinicnnError(
                f"norm{self.index} size {self.size}: must be odd, for a window to have "
                "a centre"
            )


@dataclass(frozen=True)
class Dropout(_Spec):
    """Dropout after the layer."""

    prefix = "drop"
    rate: float = 0.5


LayerSpec = Conv | FullyConnected | Pool | LRN | Dropout


@dataclass(frozen=True)
class Architecture:
    """A network as data.

    Attributes:
        name: value of --set network.arch.
        size: height and width of its stores' images, in pixels.
        crop: height and width of its input, in pixels.
        layers: from the input to the logits.
        scale: factor of the pixels after the mean is subtracted.
    """

    name: str
    size: int
    crop: int
    layers: tuple[LayerSpec, ...]
    scale: float = 1.0

    @property
    def depth(self) -> int:
        """How many layers it has, as `index` counts them."""
        return self.layers[-1].index


# The BVLC reference CaffeNet, as the paper trained it (pooling before LRN).
CAFFENET = Architecture(
    "caffenet",
    size=256,
    crop=227,
    layers=(
        Conv(1, 96, 11, std=0.01, stride=4),
        Pool(1),
        LRN(1),
        Conv(2, 256, 5, std=0.01, pad=2, groups=2, bias=1.0),
        Pool(2),
        LRN(2),
        Conv(3, 384, 3, std=0.01, pad=1),
        Conv(4, 384, 3, std=0.01, pad=1, groups=2, bias=1.0),
        Conv(5, 256, 3, std=0.01, pad=1, groups=2, bias=1.0),
        Pool(5),
        FullyConnected(6, 4096, std=0.005, bias=1.0),
        Dropout(6),
        FullyConnected(7, 4096, std=0.005, bias=1.0),
        Dropout(7),
        FullyConnected(8, 0, std=0.01, relu=False),
    ),
)


def _relative(
    name: str,
    size: int,
    crop: int,
    first: Conv,
    widths: tuple[int, int, int, int],
    features: int,
    dropout: float,
) -> Architecture:
    """CaffeNet's layers after `first`, narrower; He et al.'s spread of weights."""

    def he(inputs: int) -> float:
        return round((2 / inputs) ** 0.5, 4)

    two, three, four, five = widths
    return Architecture(
        name,
        size,
        crop,
        # CaffeNet is fed raw differences and bears them by its tiny first weights;
        # He's spread wants inputs of about unit size.
        scale=1 / 64,
        layers=(
            first,
            Pool(1),
            LRN(1),
            Conv(2, two, 5, std=he(25 * first.features // 2), pad=2, groups=2),
            Pool(2),
            LRN(2),
            Conv(3, three, 3, std=he(9 * two), pad=1),
            Conv(4, four, 3, std=he(9 * three // 2), pad=1, groups=2),
            Conv(5, five, 3, std=he(9 * four // 2), pad=1, groups=2),
            Pool(5),
            FullyConnected(6, features, std=he(9 * five)),
            Dropout(6, dropout),
            FullyConnected(7, features, std=he(features)),
            Dropout(7, dropout),
            FullyConnected(8, 0, std=0.01, relu=False),
        ),
    )


_CONV1_64 = Conv(1, 48, 7, std=0.1166, stride=2)
_CONV1_32 = Conv(1, 32, 5, std=0.1633)
_ALL = (
    CAFFENET,
    # Name, size, crop, conv1; features of conv2–conv5, of fc6 and fc7; dropout.
    _relative("caffenet64", 64, 56, _CONV1_64, (96, 144, 144, 96), 512, 0.5),
    _relative("caffenet32", 32, 28, _CONV1_32, (48, 64, 64, 48), 256, 0.2),
)
ARCHITECTURES = {each.name: each for each in _ALL}


def get(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        MinicnnError: there is none.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise MinicnnError(
            f"network.arch {name!r}: unknown; choose one of {known}, or give a path "
            "that ends in .toml"
        )
    return ARCHITECTURES[name]


def is_built_in(arch: Architecture) -> bool:
    """Whether its name says all of it, to any minicnn."""
    return arch in _ALL
