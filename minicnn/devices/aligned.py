"""Arrays of the cpu device's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Bytes of a cache line, and of the widest vector: one read at such an address is of one
# line, elsewhere of two.
LINE = 64


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of unspecified content that begins a cache line.

    Under the sanitizers one without room to spare, so that they see where it ends.
    """
    from minicnn.compile.host_compiler import sanitizing

    if sanitizing():
        return np.empty(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    whole = np.empty(size + LINE, np.uint8)
    first = -whole.ctypes.data % LINE
    return whole[first : first + size].view(dtype).reshape(shape)
