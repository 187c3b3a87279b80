"""Looks into a finished store: what is in it, whether it is whole, a contact sheet."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.base.files import write_atomically
from minicnn.base.philox import Stream, permutation
from minicnn.base.progress import Progress
from minicnn.data.classes import class_index
from minicnn.data.store import EXCLUDED, GROUPS, PARTS, Store
from minicnn.data_prep.sources.tree import read_at

_PIECE_BYTES = 16 << 20
_SMALLEST_TILE, _LARGEST_TILE = 96, 192
_TEXT, _MARGIN = 12, 4


def describe(store: Store) -> dict[str, Any]:
    """What `minicnn data info` tells, ready for JSON.

    Returns:
        `store`, `bytes`, `images`, `image_size` [H, W], `classes`, `parts` (for each:
        `images`, and the fewest and most of a class, `class_min`, `class_max`),
        `excluded`, `groups` (classes in each; "unknown" where there is none) and
        `attributes` (of the file's root).

    Raises:
        MinicnnError: a label names no class.
    """
    store.check_labels()
    classes = len(store.wnids)
    parts = {}
    for part, code in PARTS.items():
        counts = np.bincount(store.labels[store.split == code], minlength=classes)
        parts[part] = {
            "images": int(counts.sum()),
            "class_min": int(counts.min()),
            "class_max": int(counts.max()),
        }
    return {
        "store": str(store.path),
        "bytes": store.path.stat().st_size,
        "images": len(store),
        "image_size": list(store.image_size),
        "classes": classes,
        "parts": parts,
        "excluded": int((store.split == EXCLUDED).sum()),
        "groups": {group or "unknown": store.groups.count(group) for group in GROUPS},
        "attributes": store.attributes,
    }


class Damage(NamedTuple):
    """An image whose bytes are not those that were written."""

    row: int
    wnid: str
    name: str
    file: str
    reason: str


def verify(store: Store, jobs: int | None = None) -> list[Damage]:
    """Compares every image with its checksum.

    Args:
        store: what to check.
        jobs: threads; None takes all cores.

    Returns:
        The damaged images in row order; empty where all is well.
    """
    height, width = store.image_size
    size = height * width * 3
    step = max(1, _PIECE_BYTES // size)
    starts = range(0, len(store), step)
    descriptor = os.open(store.path, os.O_RDONLY)

    def check(start: int) -> list[tuple[int, str]]:
        rows = range(start, min(start + step, len(store)))
        return list(_damaged(store, descriptor, rows, size))

    found = []
    try:
        with (
            Progress(len(store), "images", "verifying") as progress,
            ThreadPoolExecutor(jobs or available_cores()) as pool,
        ):
            for start, damaged in zip(starts, pool.map(check, starts), strict=True):
                found += damaged
                progress.update(min(step, len(store) - start))
    finally:
        os.close(descriptor)
    return [_damage(store, row, reason) for row, reason in found]


def _damaged(
    store: Store, descriptor: int, rows: range, size: int
) -> Iterator[tuple[int, str]]:
    """Read with pread: a bad sector is then an error of its row, not a fatal signal."""
    begin = store.images.offset
    for row in rows:
        try:
            data = read_at(descriptor, size, begin + row * size)
        except OSError as error:
            yield row, f"cannot be read: {error.strerror}"
            continue
        if zlib.crc32(data) != store.crc32[row]:
            yield row, "checksum differs"
        elif not 0 <= store.labels[row] < len(store.wnids):
            yield row, f"label {store.labels[row]} out of range"
        elif store.split[row] not in (*PARTS.values(), EXCLUDED):
            yield row, f"unknown split {store.split[row]}"


def _damage(store: Store, row: int, reason: str) -> Damage:
    label = store.labels[row]
    known = 0 <= label < len(store.wnids)
    wnid, name = (store.wnids[label], store.names[label]) if known else ("?", "?")
    return Damage(row, wnid, name, store.files[row], reason)


def find_classes(store: Store, wanted: Sequence[str]) -> list[int]:
    """Class indices from indices, wnids or names, in the order given.

    Raises:
        MinicnnError: none of these, or a name that two classes share.
    """
    found = []
    for text in wanted:
        is_index = text.isdecimal() and text not in (*store.wnids, *store.names)
        if is_index and int(text) < len(store.wnids):
            found.append(int(text))
        else:
            found.append(class_index(text, store.classes))
    return found


def contact_sheet(
    store: Store,
    classes: Sequence[int] = (),
    *,
    part: str = "train",
    rows: int = 8,
    cols: int = 10,
    seed: int = 0,
) -> Image.Image:
    """A grid of images with the class name under each; no image is shown twice.

    A name in letters that the font lacks, such as Chinese, gives way to "class 7".

    Tiles are dealt out evenly to the classes; with more classes than tiles, to evenly
    spaced ones. A class's images are drawn at random. The sheet is smaller where there
    are fewer images than tiles.

    Args:
        store: where from.
        classes: class indices; empty takes all.
        part: "train" or "val".
        rows, cols: tiles down and across, at most.
        seed: of the choice of images.

    Raises:
        MinicnnError: the part has no image of these classes.
    """
    chosen = list(dict.fromkeys(classes)) or list(range(len(store.wnids)))
    tiles = rows * cols
    if len(chosen) > tiles:
        chosen = [chosen[tile * len(chosen) // tiles] for tile in range(tiles)]
    members = [store.rows([label], part) for label in chosen]
    # One image of each class, then a second of each that has one, and so on.
    turns = sorted(
        (k, at) for at, m in enumerate(members) for k in range(min(len(m), tiles))
    )
    shown = sorted((at, k) for k, at in turns[:tiles])
    if not shown:
        raise MinicnnError(f"store {store.path}: no {part} images of these classes")
    cols = min(cols, len(shown))
    rows = -(-len(shown) // cols)
    side = _side(store.image_size[0])
    pitch = (side + _MARGIN, side + _TEXT + 2 * _MARGIN)
    sheet = Image.new(
        "RGB", (cols * pitch[0] + _MARGIN, rows * pitch[1] + _MARGIN), "white"
    )
    enlarged = side > store.image_size[0]
    way = Image.Resampling.NEAREST if enlarged else Image.Resampling.BILINEAR
    draw, (font, glyphs) = ImageDraw.Draw(sheet), _font()
    for tile, (at, k) in enumerate(shown):
        label, count = chosen[at], len(members[at])
        order = permutation(seed, Stream.SUBSET, label, count)
        pixels = store.images[members[at][order[k]]]
        image = Image.fromarray(pixels).resize((side, side), way)
        left = _MARGIN + tile % cols * pitch[0]
        top = _MARGIN + tile // cols * pitch[1]
        sheet.paste(image, (left, top))
        text = store.names[label]
        if not glyphs.issuperset(map(ord, text)):  # it would be a row of boxes
            text = f"class {label}"
        text = _fitted(text, font, side)
        draw.text((left, top + side + 1), text, "black", font)
    return sheet


def write_picture(image: Image.Image, path: Path) -> None:
    """Writes an image in the format of the path's ending, atomically.

    Raises:
        MinicnnError: no format that can be written has this ending, or the file cannot
            be written; what was there before is unharmed.
    """
    encoded = io.BytesIO()
    try:
        image.save(encoded, Image.registered_extensions().get(path.suffix.lower()))
    except (KeyError, OSError, ValueError):  # Pillow's, for what it does not write
        raise MinicnnError(f"{path}: unknown ending; use .png") from None
    write_atomically(path, encoded.getvalue())


def _side(size: int) -> int:
    """A tile's side: small images are enlarged by a whole number."""
    return min(size * -(-_SMALLEST_TILE // size), _LARGEST_TILE)


def _font() -> tuple[ImageFont.FreeTypeFont, set[int]]:
    """matplotlib's own, which is everywhere, and the characters that it has."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    glyphs = set(FT2Font(str(path)).get_charmap())
    return ImageFont.truetype(str(path), _TEXT - 2), glyphs


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
