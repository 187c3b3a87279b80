"""One image file to RGB bytes: odd modes, odd files, resizing."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from minicnn.data import images
from minicnn.data.images import BadImageError, cifar_to_rgb, to_rgb

JPEG_ERROR = 3  # 8-bit rounding in the DCT and in the colour transform, quality 100
SCALED_ERROR = 5  # at an edge, where a reduced pixel is in part padding; 1 elsewhere


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def same_size(data: bytes, orientation: str = "ignored") -> np.ndarray:
    """Decoded without resizing: the test images are 8×8."""
    return to_rgb(data, 8, "warp", orientation)


def is_all(pixels: np.ndarray, rgb: tuple[int, ...], error: int = 0) -> bool:
    return bool((abs(pixels.astype(int) - rgb) <= error).all())


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_are_judged_by_content(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.new("RGB", (8, 8), (200, 30, 90)), kind, **options)
    assert is_all(same_size(data), (200, 30, 90))


PALETTE = Image.new("P", (8, 8), 1)
PALETTE.putpalette([0, 0, 0, 10, 120, 240])


@pytest.mark.parametrize(
    ("mode", "value", "transparent", "rgb"),
    [
        ("L", 77, None, (77, 77, 77)),
        ("1", 1, None, (255, 255, 255)),
        ("P", 1, None, (10, 120, 240)),
        # Transparency is laid on white: 0.2 · colour + 0.8 · 255.
        ("RGBA", (200, 0, 100, 51), None, (244, 204, 224)),
        ("LA", (100, 0), None, (255, 255, 255)),
        ("P", 1, 1, (255, 255, 255)),
        ("RGB", (9, 8, 7), (9, 8, 7), (255, 255, 255)),
        # 16 bits are scaled, not clipped.
        ("I;16", 0, None, (0, 0, 0)),
        ("I;16", 300, None, (1, 1, 1)),
        ("I;16", 40_000, None, (156, 156, 156)),
    ],
)
def test_modes(mode: str, value: Any, transparent: Any, rgb: tuple[int, ...]) -> None:
    image = PALETTE if mode == "P" else Image.new(mode, (8, 8), value)
    how = {} if transparent is None else {"transparency": transparent}
    assert is_all(same_size(encoded(image, "PNG", **how)), rgb)


def cmyk_jpeg(components: tuple[int, int, int, int]) -> bytes:
    """Stores exactly these components: Pillow inverts on writing, as Adobe does."""
    inverted = tuple(255 - each for each in components)
    return encoded(Image.new("CMYK", (8, 8), inverted), "JPEG", quality=100)


# Ink (0, 128, 255, 51) is RGB 255·0.8·(1, 0.498, 0); stored as 255 − ink by Adobe.
INVERTED, PLAIN = cmyk_jpeg((255, 127, 0, 204)), cmyk_jpeg((0, 128, 255, 51))
MARKER = PLAIN.index(b"\xff\xee\x00\x0eAdobe")
# Y 128, Cb 128, Cr 200: R = 128 + 1.402·72, G = 128 − 0.714·72, B = 128, and the inks
# that Adobe stores inverted are these, so RGB is 255 − each, at K = 0.
YCCK = bytearray(cmyk_jpeg((128, 128, 200, 255)))
YCCK[YCCK.index(b"\xff\xee\x00\x0eAdobe") + 15] = 2  # the transform flag


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        (INVERTED, (204, 102, 0)),
        (PLAIN[:MARKER] + PLAIN[MARKER + 16 :], (204, 102, 0)),
        (bytes(YCCK), (26, 178, 127)),
    ],
    ids=["Adobe's", "without Adobe's marker", "YCCK"],
)
def test_cmyk(data: bytes, rgb: tuple[int, int, int]) -> None:
    assert is_all(same_size(data), rgb, JPEG_ERROR)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("tag", [*range(1, 9), 0, 9])
def test_exif_orientation(tag: int, exact: bool) -> None:
    noise = np.random.default_rng(tag).integers(0, 256, (8, 8, 3), np.uint8)
    image, exif = Image.fromarray(noise), Image.Exif()
    exif[0x0112] = tag
    data = encoded(image, "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(upright, noise) == (tag in (0, 1, 9))
    for orientation, right in (("applied", upright), ("ignored", noise)):
        pixels = to_rgb(data, 8, "warp", orientation, exact)
        np.testing.assert_array_equal(pixels, right)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("resize", ["warp", "short-center"])
@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
def test_exact_is_pillows_own(shape: tuple[int, int], resize: str, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), "JPEG")
    box = {(90, 40): (0, 25, 40, 65), (40, 90): (25, 0, 65, 40)}[shape]
    with Image.open(io.BytesIO(data)) as image:
        right = image.convert("RGB").resize(
            (30, 30),
            Image.Resampling.BILINEAR,
            box if resize == "short-center" else None,
        )
    pixels = to_rgb(data, 30, resize, "ignored", exact=True)
    np.testing.assert_array_equal(pixels, right)
    default = to_rgb(data, 30, resize, "ignored").astype(int)
    assert abs(default - right).max() <= 1


@pytest.mark.parametrize("side", [520, 519, 513])
def test_a_large_jpeg_is_decoded_at_reduced_size_to_nearly_the_same(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the odd sizes, the last column of the reduced image is a fraction of one."""
    waves = 128 + 100 * np.sin(np.arange(side) * 2 * np.pi / 64)
    data = encoded(
        Image.fromarray(np.tile(waves.astype(np.uint8), (side, 1))), "JPEG", quality=95
    )
    seen = []
    original = images._rgb
    monkeypatch.setattr(images, "_rgb", lambda i: (seen.append(i.size), original(i))[1])
    for size, scale in ((100, 1), (64, 2), (32, 4)):
        seen.clear()
        pixels = to_rgb(data, size, "warp", "ignored").astype(int)
        whole = to_rgb(data, size, "warp", "ignored", exact=True)
        reduced = -(-side // scale)
        assert seen == [(reduced, reduced), (side, side)]
        assert abs(pixels - whole).max() <= SCALED_ERROR


def gif_of(width: int, height: int) -> bytes:
    """A GIF that says it is of this size."""
    data = encoded(Image.new("L", (1, 1)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


JPEG = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG", quality=95)
BAD = {
    "empty": (b"", "empty"),
    "text": (b"<html>404 not found</html>", "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an im"),
    "truncated": (JPEG[: len(JPEG) // 2], "truncated"),
    "head only": (JPEG[:100], "[Tt]runcated"),
    "bomb": (gif_of(60_000, 60_000), "over the limit"),
    "half a bomb": (gif_of(10_000, 10_000), "over the limit"),
    "float": (encoded(Image.new("F", (8, 8), 0.5), "TIFF"), "no known range"),
    "wide": (encoded(Image.new("I", (8, 8), 70_000), "TIFF"), "no known range"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(BadImageError, match=reason):
        same_size(data)


def test_cifar_record_is_three_planes() -> None:
    record = bytes([10] * 1024 + [20] * 1023 + [21] + [30] * 1024)
    pixels = cifar_to_rgb(record, 32, "warp")
    assert tuple(pixels[0, 0]) == (10, 20, 30)
    assert tuple(pixels[31, 31]) == (10, 21, 30)
    assert cifar_to_rgb(record, 16, "warp").shape == (16, 16, 3)
    with pytest.raises(BadImageError, match="truncated"):
        cifar_to_rgb(record[:-1], 32, "warp")
