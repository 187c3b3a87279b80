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
from numpy.ctypeslib import ndpointer
from numpy.typing import NDArray
from PIL import Image

from minicnn.base.errors import MinicnnError

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge of what is resized, in pixels."""
Weights = tuple[NDArray[np.int32], NDArray[np.int32], int]
"""A filter's first pixels, pairs of weights, and taps, as in resample.cpp."""

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
    left, upper, right, lower = box
    capsule = _capsule(image) if library else None
    across = capsule and weights(image.width, left, right, size, across=True)
    down = across and weights(image.height, upper, lower, size)
    if not (across and down):
        return _by_pillow(image, box, size)
    result = np.empty((size, size, 3), np.uint8)
    pixels = _address(capsule)
    _function(library)(pixels, image.width, *across, *down, size, result)
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


@functools.lru_cache(maxsize=512)
def weights(
    length: int, begin: float, end: float, size: int, across: bool = False
) -> Weights | None:
    """The filter by which pixels begin .. end of `length` become `size`.

    Args:
        across: whether it is for rows, else for columns; see resample.cpp.

    Returns:
        None where the input is too short for an even number of taps.
    """
    scale = (end - begin) / size
    reach = max(scale, 1.0)  # half the triangle's base
    centre = begin + (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), length)
    taps = int((last - first).max())
    taps += taps % 2
    if taps > length:
        return None
    at = first[:, None] + np.arange(taps)
    weight = np.maximum(1 - np.abs((at - centre[:, None] + 0.5) * (1 / reach)), 0)
    weight[at >= last[:, None]] = 0
    # One after another, as Pillow adds them: `sum` may not, and would round otherwise.
    weight /= np.add.accumulate(weight, axis=1)[:, -1:]
    whole = (weight * (1 << _SHIFT) + 0.5).astype(np.int64)
    # The last results' weights move to the right, so that they too read `taps` pixels.
    surplus = np.maximum(first + taps - length, 0)
    order = (np.arange(taps) - surplus[:, None]) % taps
    whole = np.take_along_axis(whole, order, axis=1)
    halves = np.stack([whole >> _LOWER, whole % (1 << _LOWER)], axis=1)
    pairs = halves.astype(np.int16).view(np.int32).transpose(0, 2, 1)
    first -= surplus
    if across:  # two results at a time, each pair for four lanes
        first = np.pad(first, (0, size % 2), "edge")
        pairs = np.pad(pairs, ((0, size % 2), (0, 0), (0, 0)), "edge")
        pairs = pairs.reshape(-1, 2, taps // 2, 2).transpose(0, 2, 3, 1).repeat(4, 3)
    return first.astype(np.int32), np.ascontiguousarray(pairs), taps


def _capsule(image: Image.Image) -> Any:
    """What holds the pixels, 4 bytes each; None where Pillow has them in pieces."""
    try:
        return getattr(image, _ARROW)()[1]
    except ValueError:  # an image of more than 16 MB
        return None


def _address(capsule: Any) -> int:
    """Where a capsule's pixels are, by the Arrow C data interface."""

    def pointers(address: int) -> Any:
        return (ctypes.c_void_p * 7).from_address(address)

    # The struct ArrowArray has five numbers, then its buffers and its children.
    image = pointers(_in_capsule(capsule, b"arrow_array"))
    values = pointers(pointers(image[6])[0])
    return pointers(values[5])[1]


_in_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@functools.cache
def _function(library: str) -> Any:
    function = ctypes.CDLL(library).resample
    integers, result = ndpointer(np.int32, flags="C"), ndpointer(np.uint8, flags="C")
    number = ctypes.c_int64
    both = 2 * (integers, integers, number)
    function.argtypes = (ctypes.c_void_p, number, *both, number, result)
    function.restype = None
    return function
