"""Resizing: the compiled code against Pillow, and both against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from minicnn.base.errors import MinicnnError
from minicnn.compile import host_compiler
from minicnn.data import resample

# Each of two passes rounds to a byte, by at most a half; the second averages the first.
TWO_ROUNDINGS = 1 + 1e-4  # and weights of 22 bits
CASES = 300

Pixels = NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Black and white pixels, so that every weight shows."""
    draw = np.random.default_rng(seed)
    return (draw.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)


def drawn() -> list[tuple[Pixels, resample.Box, int]]:
    """Images of any size, one pixel too; whole, centred and fractional boxes."""
    draw, cases = np.random.default_rng(1), []
    for case in range(CASES):
        most = 9 if case % 5 == 0 else 130
        height, width, size = (int(each) for each in draw.integers(1, most, 3))
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        boxes = (
            (0, 0, width, height),
            (left, top, left + side, top + side),
            (0, 0, width - draw.integers(8) / 8, height - draw.integers(8) / 8),
        )
        cases.append((noise(height, width, case), boxes[case % 3], size))
    return cases


@pytest.fixture(scope="module")
def library() -> str:
    """Compiled, whether or not Pillow agrees with it."""
    if not hasattr(Image.Image, "__arrow_c_array__"):
        pytest.skip("Pillow before 11.2")
    text = resample.SOURCE.read_text(encoding="utf-8")
    try:
        return str(host_compiler.compile_library("resample", text))
    except MinicnnError as error:
        pytest.skip(f"no C++ compiler for AVX2: {str(error).splitlines()[0]}")


def test_compiled_code_gives_pillows_bytes(library: str) -> None:
    for pixels, box, size in drawn():
        image = Image.fromarray(pixels)
        np.testing.assert_array_equal(
            resample.square(image, box, size, library),
            resample.square(image, box, size),
            err_msg=f"{image.size} {box} to {size}",
        )


def test_large_reductions_and_images_in_pieces(library: str) -> None:
    for height, width, size in ((5, 9000, 1), (9000, 5, 2), (2100, 2100, 50)):
        image = Image.fromarray(noise(height, width))
        box = (0, 0, width, height)
        ours = resample.square(image, box, size, library)
        np.testing.assert_array_equal(ours, resample.square(image, box, size))


def test_weights_stay_inside_the_image() -> None:
    """What is read beyond it is weighted by zero, and would not show."""
    for pixels, box, size in drawn():
        height, width = pixels.shape[:2]
        for length, ends in ((width, box[::2]), (height, box[1::2])):
            for across in (True, False):
                if found := resample.weights(length, *ends, size, across):
                    first, _, taps = found
                    assert first.min() >= 0
                    assert first.max() + taps <= length


def triangle(length: int, begin: float, end: float, size: int) -> NDArray[np.float64]:
    """(size, length) weights, as real numbers."""
    scale = (end - begin) / size
    centre = begin + (np.arange(size)[:, None] + 0.5) * scale
    away = np.abs(np.arange(length) + 0.5 - centre)
    weights = np.maximum(0, 1 - away / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


def test_both_are_a_triangle_filter(library: str) -> None:
    for pixels, box, size in drawn():
        height, width = pixels.shape[:2]
        across = triangle(width, box[0], box[2], size)
        down = triangle(height, box[1], box[3], size)
        rows = across @ pixels  # (height, size, 3)
        right = (down @ rows.reshape(height, -1)).reshape(size, size, 3)
        image = Image.fromarray(pixels)
        for used in ("", library):
            ours = resample.square(image, box, size, used)
            assert np.abs(ours - right).max() <= TWO_ROUNDINGS


def test_pillows_single_call_differs_by_one_grey_level_at_most() -> None:
    columns_first = int(pillow_version.split(".")[0]) > 12
    for pixels, box, size in drawn():
        image = Image.fromarray(pixels)
        single = image.resize((size, size), Image.Resampling.BILINEAR, box)
        gap = resample.square(image, box, size).astype(int) - np.asarray(single)
        assert np.abs(gap).max() <= columns_first


def test_no_compiler_means_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: str) -> str:
        raise MinicnnError("no C++ compiler found")

    monkeypatch.setattr(host_compiler, "compile_library", absent)
    assert resample.compiled.__wrapped__() == ""


def test_compiled_code_that_pillow_disagrees_with_is_not_used(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = resample._by_pillow

    def other(image: Image.Image, box: resample.Box, size: int) -> Pixels:
        return original(image, box, size) ^ 1

    assert resample.compiled.__wrapped__() == library
    monkeypatch.setattr(resample, "_by_pillow", other)
    assert resample.compiled.__wrapped__() == ""
