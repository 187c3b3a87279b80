"""One pooling problem: sizes, window, stride, pad, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from minicnn.base.errors import MinicnnError
from minicnn.ops.windows import Pair, four, pair


@dataclass(frozen=True)
class PoolShape:
    """One pooling problem: x (N,H,W,C), y and argmax (N,P,Q,C)."""

    n: int
    h: int
    w: int
    c: int
    window: Pair = (3, 3)
    stride: Pair = (2, 2)
    pad: Pair = (0, 0)
    ceil: bool = True

    @classmethod
    def of(
        cls,
        x_shape: tuple[int, ...],
        window: int | Pair = 3,
        stride: int | Pair = 2,
        pad: int | Pair = 0,
        ceil: bool = True,
    ) -> PoolShape:
        """The problem of this input.

        Raises:
            MinicnnError: an array without four axes, an empty window, a window of
                over 256 places, padding as large as the window, or an empty output.
        """
        sizes = four("pool x", x_shape, "N,H,W,C")
        window, stride = pair("pool window", window), pair("pool stride", stride)
        shape = cls(*sizes, window, stride, pair("pool pad", pad), ceil)
        (r, s), (top, left) = shape.window, shape.pad
        if min(r, s, *shape.stride) < 1 or r * s > 256:
            raise MinicnnError(
                f"pool window {r}x{s} stride {shape.stride}: both must be at least 1, "
                "and the window at most 256 places (the argmax is one byte)"
            )
        if min(shape.pad) < 0 or top >= r or left >= s:
            raise MinicnnError(
                f"pool pad {shape.pad}: must be at least 0 and smaller than the window "
                f"{r}x{s}, or a window would hold no pixel"
            )
        if shape.p < 1 or shape.q < 1:
            raise MinicnnError(
                f"pool window {r}x{s}: larger than the padded input of "
                f"{shape.h}x{shape.w} with pad {shape.pad}; use ceil=True or less"
            )
        return shape

    def _outputs(self, axis: int) -> int:
        size = (self.h, self.w)[axis]
        pad, stride = self.pad[axis], self.stride[axis]
        room = size + 2 * pad - self.window[axis]
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        # A window must start inside the image or its first padding (Caffe, PyTorch).
        if self.ceil and (count - 1) * stride >= size + pad:
            count -= 1
        return count

    @cached_property
    def p(self) -> int:
        """Output height."""
        return self._outputs(0)

    @cached_property
    def q(self) -> int:
        """Output width."""
        return self._outputs(1)

    def sizes(self) -> dict[str, int]:
        """Element counts of the ops' arrays, by parameter."""
        pixels = self.n * self.h * self.w * self.c
        windows = self.n * self.p * self.q * self.c
        outputs = dict.fromkeys(("y", "dy", "u", "argmax"), windows)
        return {"x": pixels, "dx": pixels, **outputs}

    @cache  # noqa: B019 (a program has few shapes, and they are small)
    def fields(self) -> dict[str, int | Pair]:
        """The struct Pooling of the kernels.

        Raises:
            MinicnnError: an image has more numbers than they can count.
        """
        if max(self.h * self.w, self.p * self.q) * self.c >= 2**31:
            raise MinicnnError(f"{self}: an image is too large for the kernels")
        names = ("h", "w", "c", "p", "q", "window", "stride", "pad")
        return {name: getattr(self, name) for name in names}
