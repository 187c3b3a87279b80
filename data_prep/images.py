"""One image file to one square of RGB bytes, judged by its content, not its name."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError, features
from PIL import __version__ as pillow_version

RESIZES = ("warp", "short-center")
ORIENTATIONS = ("ignored", "applied")
PIXEL_LIMIT = 89_478_485
"""Width times height above which a file is a decompression bomb: 256 MB of RGB."""

# EPS and its like start other programs; these formats only decode (JPEG: MPO too).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_CIFAR_SIDE = 32


class BadImageError(Exception):
    """One file that cannot become an image; its text says why, in a few words."""


def decoder() -> str:
    """The libraries that decide an image's exact pixels, with their versions."""
    turbo = features.version("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    return f"Pillow {pillow_version}, {jpeg}"


def to_rgb(data: bytes, size: int, resize: str, orientation: str) -> NDArray[np.uint8]:
    """Decodes, converts to RGB and resizes one image file.

    Grey, palette, CMYK and YCCK become RGB; transparency is laid on white; 16-bit grey
    is scaled to 8 bits; the first frame of an animation is taken; colour profiles are
    ignored. A JPEG at least four times too large is decoded at half, quarter or eighth
    size, never below twice the size asked for.

    Args:
        data: the file's bytes.
        size: height and width of the result, in pixels.
        resize: "warp" stretches to size×size; "short-center" keeps the shape and cuts
            the central square. Both filter with Pillow's (antialiased) bilinear.
        orientation: "applied" turns the image as its EXIF tag says, "ignored" does not.

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
            image.draft(None, (2 * size, 2 * size))
            image.load()
            if image.mode == "CMYK" and _plain_cmyk(image):
                image = ImageChops.invert(image)
            if orientation == "applied":
                image = _upright(image)
            image = _rgb(image)
            return np.asarray(_square(image, size, resize))
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
    pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
    if size == _CIFAR_SIDE:
        return pixels
    return np.asarray(_square(Image.fromarray(pixels), size, resize))


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadImageError("not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise BadImageError(str(error).split(",")[0]) from None
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise BadImageError(
            f"{width}x{height} pixels, over the limit of {PIXEL_LIMIT} "
            "(decompression bomb?)"
        )
    return image


def _plain_cmyk(image: Image.Image) -> bool:
    """Whether Pillow undid an inversion (Adobe's) that this JPEG never had."""
    return image.format in ("JPEG", "MPO") and "adobe" not in image.info


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged tag is no tag; the pixels are already decoded
        return image


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


def _square(image: Image.Image, size: int, resize: str) -> Image.Image:
    width, height = image.size
    box = None
    if resize == "short-center":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR, box)
