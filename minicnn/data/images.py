"""One image file to one square of RGB bytes, judged by its content, not its name."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError, features
from PIL import __version__ as pillow_version

RESIZES = ("warp", "short-center")
ORIENTATIONS = ("ignored", "applied")
PIXEL_LIMIT = 89_478_485
"""Width times height above which a file is a decompression bomb: 256 MB of RGB."""

# EPS and its like start other programs; these formats only decode (JPEG: MPO too).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_CIFAR_SIDE = 32
_EXIF_ORIENTATION = 0x0112
# Transposition that undoes the camera's, by the tag's value; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Least ratio of a JPEG decoded at half, quarter or eighth size to the size asked for.
# The result differs from a whole decode's by a quarter of a grey level on average
# (docs/feeding.md).
_DRAFT = 4


class BadImageError(Exception):
    """One file that cannot become an image; its text says why, in a few words."""


def decoder(exact: bool = False) -> str:
    """What decides an image's exact pixels: the libraries, with their versions."""
    turbo = features.version("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    return f"Pillow {pillow_version}, {jpeg}{', exact' if exact else ''}"


def to_rgb(
    data: bytes,
    size: int,
    resize: str,
    orientation: str,
    exact: bool = False,
) -> NDArray[np.uint8]:
    """Decodes, converts to RGB and resizes one image file.

    Grey, palette, CMYK and YCCK become RGB; transparency is laid on white; 16-bit grey
    is scaled to 8 bits; the first frame of an animation is taken; colour profiles are
    ignored. A JPEG at least eight times too large is decoded at half, quarter or eighth
    size, never below four times the size asked for.

    Args:
        size: height and width of the result, in pixels.
        resize: "warp" stretches to size×size; "short-center" keeps the shape and cuts
            the central square. Both filter with Pillow's (antialiased) bilinear.
        orientation: "applied" turns the image as its EXIF tag says, "ignored" does not.
        exact: decode all of a JPEG, and resize by one call of Pillow's `resize`. From
            release 13 on that call may begin with the columns, and what is rounded in
            between then differs by one grey level; the default begins with the rows in
            every release.

    Returns:
        (size, size, 3) uint8.

    Raises:
        BadImageError: the bytes are no image, truncated, or too large to decode.
    """
    if not data:
        raise BadImageError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open(data)
            is_jpeg = image.format in ("JPEG", "MPO")
            draft = None if exact else image.draft(None, (_DRAFT * size, _DRAFT * size))
            image.load()
            # In a reduced image the last column and row may be fractions of one.
            edges = draft[1][2:] if draft else image.size
            tag = _orientation(image) if orientation == "applied" else 1
            if image.mode == "CMYK" and "adobe" not in image.info and is_jpeg:
                # Pillow undid an inversion (Adobe's) that this JPEG never had.
                image = ImageChops.invert(image)
            image = _rgb(image)
            if exact:
                image = _turned(image, tag)
                return np.asarray(_square(image, image.size, size, resize, exact))
            return np.asarray(_turned(_square(image, edges, size, resize), tag))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(text) from None


def cifar_to_rgb(data: bytes, size: int, resize: str) -> NDArray[np.uint8]:
    """One record of CIFAR's binary version, three planes of 32×32 bytes.

    Returns:
        (size, size, 3) uint8.
    """
    if len(data) != 3 * _CIFAR_SIDE**2:
        raise BadImageError(f"record of {len(data)} bytes, truncated")
    planes = np.frombuffer(data, np.uint8).reshape(3, _CIFAR_SIDE, _CIFAR_SIDE)
    image = Image.fromarray(planes.transpose(1, 2, 0))
    return np.asarray(_square(image, image.size, size, resize))


def _square(
    image: Image.Image,
    edges: tuple[float, float],
    size: int,
    resize: str,
    exact: bool = False,
) -> Image.Image:
    """An RGB image that ends at those right and lower edges, resized."""
    width, height = edges
    left, top, right, bottom = 0.0, 0.0, width, height
    if resize != "warp":
        side = min(edges)
        left, top = (width - side) / 2, (height - side) / 2
        right, bottom = left + side, top + side
    bilinear = Image.Resampling.BILINEAR
    if exact:
        return image.resize((size, size), bilinear, (left, top, right, bottom))
    image = image.resize((size, image.height), bilinear, (left, 0, right, image.height))
    return image.resize((size, size), bilinear, (0, top, size, bottom))


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        pixels = f"{width}x{height}" if width * height > PIXEL_LIMIT else ""
    except UnidentifiedImageError:
        kinds = ", ".join(_FORMATS)
        raise BadImageError(f"not an image that can be read: give {kinds}") from None
    except Image.DecompressionBombError as error:
        pixels = str(error).partition("(")[2].partition(" ")[0]
    if pixels:
        raise BadImageError(
            f"{pixels} pixels, over the limit of {PIXEL_LIMIT} (decompression bomb?); "
            "make it smaller"
        )
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged tag is no tag
        return 1


def _turned(image: Image.Image, tag: int) -> Image.Image:
    """The image as an EXIF tag of that value asks for."""
    return image.transpose(_TURNS[tag]) if tag in _TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise BadImageError("floating-point pixels, which have no known range")
    masked = "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    if masked or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits, rounded; `convert("L")` would clip at 255."""
    wide = np.asarray(image).astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise BadImageError("32-bit grey, which has no known range")
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
