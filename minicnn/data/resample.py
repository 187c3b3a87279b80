"""Resizes RGB images as Pillow's bilinear filter does, in vector instructions.

The filter is a triangle as wide as the reduction asks for (antialiased), applied along
the rows and then down the columns, in Pillow's integers. The compiled code of
resample.cpp and Pillow called twice, once for each direction, give the same bytes, so
that nothing depends on whether there is a compiler. Pillow's own single call gives them
too, up to release 12; later ones begin with the columns where that is less work, and
what was rounded in between may then differ by one grey level.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicnn.base.errors import MinicnnError

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge of what is resized, in pixels."""

_ARROW = "__arrow_c_array__"
_SHIFT, _LOWER = 22, 11  # bits of a weight's fraction, and of its lower half
SOURCE = Path(__file__).with_name("resample.cpp")


def square(
    image: Image.Image, box: Box, size: int, library: str = ""
) -> NDArray[np.uint8]:
    """The box of an RGB image, resized to (size, size, 3).

    Args:
        library: what `compiled` returned, or "" for Pillow.
    """
    if image.size == (size, size) and box == (0, 0, size, size):
        return np.asarray(image)
    pixels = _memory(image) if library else None
    horizontal = pixels and _across(image.width, box[0], box[2], size)
    vertical = horizontal and _down(image.height, box[1], box[3], size)
    if not (pixels and horizontal and vertical):
        return _by_pillow(image, box, size)
    result = np.empty((size, size, 3), np.uint8)
    _function(library)(
        pixels.address,
        image.width,
        ctypes.byref(horizontal),
        ctypes.byref(vertical),
        size,
        result.ctypes.data,
    )
    return result


@functools.cache
def compiled() -> str:
    """The compiled library's path; "" without a compiler, or where Pillow disagrees.

    It needs AVX2, and Pillow 11.2 or later.
    """
    from minicnn.compile.host_compiler import compile_library

    if not hasattr(Image.Image, _ARROW):
        return ""
    try:
        text = SOURCE.read_text(encoding="utf-8")
        library = str(compile_library("resample", text))
        noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)
        image, box = Image.fromarray(noise), (1.5, 0, 97, 60)
        same = np.array_equal(square(image, box, 29, library), square(image, box, 29))
    except (MinicnnError, OSError):
        return ""
    return library if same else ""


def _by_pillow(image: Image.Image, box: Box, size: int) -> NDArray[np.uint8]:
    left, upper, right, lower = box
    rows = (left, 0, right, image.height)
    bilinear = Image.Resampling.BILINEAR
    image = image.resize((size, image.height), bilinear, rows)
    return np.asarray(image.resize((size, size), bilinear, (0, upper, size, lower)))


def _weights(
    length: int, begin: float, end: float, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The filter by which pixels begin .. end of `length` become `size`.

    Returns:
        first (size,) and weight (size, taps), in units of 2^-_SHIFT: result i is
        the sum over t of weight[i, t] · input[first[i] + t].
    """
    scale = (end - begin) / size
    reach = max(scale, 1.0)  # half the triangle's base
    centre = begin + (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), length)
    at = first[:, None] + np.arange((last - first).max())
    weight = np.maximum(1 - np.abs((at - centre[:, None] + 0.5) * (1 / reach)), 0)
    weight[at >= last[:, None]] = 0
    # One after another, as Pillow adds them: `sum` may not, and would round otherwise.
    weight /= np.add.accumulate(weight, axis=1)[:, -1:]
    return first, (weight * (1 << _SHIFT) + 0.5).astype(np.int64)


class _Weights(ctypes.Structure):
    """As in resample.cpp; keeps the arrays that it points to."""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("taps", ctypes.c_int64),
    )

    def __init__(self, first: NDArray[Any], pairs: NDArray[Any], taps: int) -> None:
        self.arrays = first.astype(np.int32), np.ascontiguousarray(pairs, np.int32)
        super().__init__(*(array.ctypes.data for array in self.arrays), taps)


def _paired(
    length: int, begin: float, end: float, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
    """`_weights` as first (size,) and pairs (size, taps/2, 2), upper and lower bits.

    None where the input is too short for an even number of taps.
    """
    first, weight = _weights(length, begin, end, size)
    taps = weight.shape[1] + weight.shape[1] % 2
    if taps > length:
        return None
    even: NDArray[np.int64] = np.zeros((size, taps), np.int64)
    even[:, : weight.shape[1]] = weight
    # The last ones move to the left, so that they too read `taps` pixels.
    surplus = np.maximum(first + taps - length, 0)
    at = (np.arange(taps) - surplus[:, None]) % taps
    even = np.take_along_axis(even, at, axis=1)
    parts = np.stack([even >> _LOWER, even % (1 << _LOWER)], axis=1)
    pairs = parts.astype(np.int16).view(np.int32)  # (size, 2, taps/2)
    return first - surplus, pairs.transpose(0, 2, 1)


@functools.lru_cache(maxsize=256)
def _across(length: int, begin: float, end: float, size: int) -> _Weights | None:
    """Weights along rows, as resample.cpp wants them."""
    found = _paired(length, begin, end, size)
    if found is None:
        return None
    first, pairs = found
    if size % 2:
        first = np.append(first, first[-1:])
        pairs = np.append(pairs, np.zeros_like(pairs[-1:]), axis=0)
    taps = 2 * pairs.shape[1]
    both = pairs.reshape(-1, 2, taps // 2, 2).transpose(0, 2, 3, 1)
    return _Weights(first, np.repeat(both, 4, axis=3), taps)


@functools.lru_cache(maxsize=256)
def _down(length: int, begin: float, end: float, size: int) -> _Weights | None:
    """Weights along columns, as resample.cpp wants them."""
    found = _paired(length, begin, end, size)
    return found and _Weights(*found, 2 * found[1].shape[1])


class _ArrowArray(ctypes.Structure):
    """The beginning of the Arrow C data interface's struct of that name."""


_ArrowArray._fields_ = (
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
)
_in_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Memory:
    """Where an image's pixels are, as long as this lives."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule
        array = _ArrowArray.from_address(_in_capsule(capsule, b"arrow_array"))
        self.address = ctypes.c_void_p(array.children[0].contents.buffers[1])


def _memory(image: Image.Image) -> _Memory | None:
    """The pixels, 4 bytes each; None where Pillow has them in pieces."""
    try:
        return _Memory(getattr(image, _ARROW)()[1])
    except ValueError:  # an image of more than 16 MB
        return None


@functools.cache
def _function(library: str) -> Any:
    function = ctypes.CDLL(library).resample
    function.restype = None
    weights = ctypes.POINTER(_Weights)
    function.argtypes = (
        ctypes.c_void_p,
        ctypes.c_int64,
        weights,
        weights,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    return function
