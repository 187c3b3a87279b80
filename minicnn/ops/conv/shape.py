"""One convolution problem: sizes, stride, pad, groups, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

from minicnn.base.errors import MinicnnError
from minicnn.ops.windows import Pair, Shape, four, pair


@dataclass(frozen=True)
class ConvShape:
    """One convolution problem: x (N,H,W,C), w (K,R,S,C/groups), y (N,P,Q,K).

    Attributes:
        needed: products of an output, without those by zeros that a layout adds; None
            for all of `taps`.
    """

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    groups: int = 1
    needed: int | None = None

    @classmethod
    def of(
        cls,
        x_shape: Shape,
        w_shape: Shape,
        stride: int | Pair = 1,
        pad: int | Pair = 0,
        groups: int = 1,
    ) -> ConvShape:
        """The problem of these arrays.

        Raises:
            MinicnnError: an array has not four axes, the shapes do not fit each
                other, or the output is empty.
        """
        n, h, w, c = four("conv x", x_shape, "N,H,W,C")
        k, r, s, depth = four("conv w", w_shape, "K,R,S,C/groups")
        pairs = pair("conv stride", stride), pair("conv pad", pad)
        shape = cls(n, h, w, c, k, r, s, *pairs, groups)
        if groups < 1 or c % groups or k % groups:
            raise MinicnnError(
                f"conv groups {groups}: must divide the {c} input and {k} output "
                "channels"
            )
        if depth * groups != c:
            raise MinicnnError(
                f"conv w {w_shape}: {depth} channels a group times {groups} groups is "
                f"not the input's {c} channels"
            )
        if min(shape.stride) < 1 or min(shape.pad) < 0:
            raise MinicnnError(
                f"conv stride {shape.stride} pad {shape.pad}: the stride must be at "
                "least 1 and the padding at least 0"
            )
        if shape.p < 1 or shape.q < 1:
            raise MinicnnError(
                f"conv filter {r}x{s}: larger than the padded input of {h}x{w} with "
                f"pad {shape.pad}"
            )
        return shape

    @cached_property
    def p(self) -> int:
        """Output height."""
        return (self.h + 2 * self.pad[0] - self.r) // self.stride[0] + 1

    @cached_property
    def q(self) -> int:
        """Output width."""
        return (self.w + 2 * self.pad[1] - self.s) // self.stride[1] + 1

    @cached_property
    def depth(self) -> int:
        """Channels of a group."""
        return self.c // self.groups

    @cached_property
    def features(self) -> int:
        """Features, that is output channels, of a group."""
        return self.k // self.groups

    @cached_property
    def taps(self) -> int:
        """Products of an output, R·S·C/groups."""
        return self.r * self.s * self.depth

    @cached_property
    def is_product(self) -> bool:
        """Whether the filter covers the whole image: a fully connected layer."""
        return (
            self.groups == 1
            and self.pad == (0, 0)
            and (self.r, self.s) == (self.h, self.w)
        )

    @cache  # noqa: B019 (a program has few shapes, and they are small)
    def in_one_row(self) -> ConvShape:
        """The same product with all pixels in one row of one image, where that can be.

        It can with 1×1 filters, and in a fully connected layer, whose pixels are the
        images. Other problems are returned unchanged.
        """
        pixels, depth = self.n * self.h * self.w, self.c
        if self.is_product:
            pixels, depth = self.n, self.taps
        elif (self.r, self.s, self.stride, self.pad) != (1, 1, (1, 1), (0, 0)):
            return self
        one = ConvShape(1, 1, pixels, depth, self.k, 1, 1, groups=self.groups)
        return replace(one, needed=self.needed)

    @cached_property
    def flops(self) -> int:
        """Floating-point operations that a pass needs: two for each multiply-add."""
        return 2 * self.n * self.p * self.q * self.k * (self.needed or self.taps)

    @cache  # noqa: B019
    def fields(self) -> dict[str, int]:
        """The struct ConvShape of the kernels.

        Raises:
            MinicnnError: a number that they keep in 32 bits is too large.
        """
        pixels = self.n * max(self.h * self.w, self.p * self.q)
        # Numbers from a patch's first to its last.
        reach = self.r * max(self.w * self.c, self.q * self.k) if self.r > 1 else 0
        # The last tiles pass the end by up to 256 lines and a few steps of K.
        filters = (self.k + 256) * self.taps
        x, y = (self.h, self.w, self.c), (self.p, self.q, self.k)
        phase = max(1, self.h // self.stride[0]), max(1, self.w // self.stride[1])
        forward = _tile_reach(self.n, (self.p, self.q), x, self.stride)
        backward = _tile_reach(self.n, phase, y, (1, 1))
        if max(pixels, filters, reach, forward, backward) >= 2**31 - 2**20:
            raise MinicnnError(
                f"{self}: too large for the kernels; use a smaller batch"
            )
        names = ("n", "h", "w", "c", "k", "r", "s", "groups", "p", "q")
        return {name: getattr(self, name) for name in (*names, "depth", "features")} | {
            "stride_h": self.stride[0],
            "stride_w": self.stride[1],
            "pad_h": self.pad[0],
            "pad_w": self.pad[1],
        }


def _tile_reach(n: int, pixels: Pair, image: Shape, stride: Pair) -> int:
    """Numbers from the first patch of a tile of 256 pixels to its last, at most."""
    (p, q), (h, w, c), steps = pixels, image, 255
    images, rows = min(n - 1, -(-steps // (p * q))), steps // q + 1
    if not images:
        rows = min(p - 1, rows)
    # From an image's last row to the next one's first, and from row to row.
    lines = images * max(0, h - p * stride[0]) + rows * stride[0]
    return (lines * w + min(q - 1, steps) * stride[1]) * c
