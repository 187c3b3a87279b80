"""Looks into a finished store: what is in it, whether it is whole, a contact sheet."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, zip_longest
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

_PIECE = 64  # rows that a thread verifies at a time
_SMALLEST_TILE, _LARGEST_TILE = 96, 192
_TEXT, _MARGIN = 12, 4


def describe(store: Store) -> dict[str, Any]:
    """What `minicnn data info` tells, ready for JSON.

    Of each part the fewest and most images of a class, of each group its classes.

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
    """The images that differ from their checksums, in row order.

    Args:
        jobs: threads; None takes all cores.
    """
    rows = range(len(store))
    pieces = [rows[start : start + _PIECE] for start in rows[::_PIECE]]
    found: list[Damage] = []
    with (
        Progress(len(store), "images", "verifying") as progress,
        ThreadPoolExecutor(jobs or available_cores()) as pool,
    ):
        checked = pool.map(partial(_damaged, store), pieces)
        for piece, damaged in zip(pieces, checked, strict=True):
            found += damaged
            progress.update(len(piece))
    return found


def _damaged(store: Store, rows: range) -> list[Damage]:
    """Reads, not maps: a bad sector is then an error of its row, not a fatal signal."""
    size, found = store.images[0].nbytes, []
    with open(store.path, "rb") as file:
        for row in rows:
            label, reason = store.labels[row], ""
            known = 0 <= label < len(store.wnids)
            try:
                file.seek(store.images.offset + row * size)
                if zlib.crc32(file.read(size)) != store.crc32[row]:
                    reason = "checksum differs"
                elif not known:
                    reason = f"label {label} out of range"
                elif store.split[row] not in (*PARTS.values(), EXCLUDED):
                    reason = f"unknown split {store.split[row]}"
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
            if reason:
                wnid, name = "?", "?"
                if known:
                    wnid, name = store.wnids[label], store.names[label]
                found.append(Damage(row, wnid, name, store.files[row], reason))
    return found


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
        classes: class indices; empty takes all.
        part: "train" or "val".
        rows, cols: tiles down and across, at most.
        seed: of the choice of images.

    Raises:
        MinicnnError: the part has no image of these classes.
    """
    shown = _dealt(store, classes, part, rows * cols, seed)
    if not shown:
        raise MinicnnError(f"store {store.path}: no {part} images of these classes")
    cols = min(cols, len(shown))
    size = store.image_size[0]
    # Small images are enlarged by a whole number.
    side = min(size * -(-_SMALLEST_TILE // size), _LARGEST_TILE)
    way = Image.Resampling.NEAREST if side > size else Image.Resampling.BILINEAR
    wide, high = side + _MARGIN, side + _TEXT + 2 * _MARGIN
    extent = cols * wide + _MARGIN, -(-len(shown) // cols) * high + _MARGIN
    sheet = Image.new("RGB", extent, "white")
    draw, (font, glyphs) = ImageDraw.Draw(sheet), _font()
    for tile, row in enumerate(shown):
        left, top = _MARGIN + tile % cols * wide, _MARGIN + tile // cols * high
        image = Image.fromarray(store.images[row]).resize((side, side), way)
        sheet.paste(image, (left, top))
        text = store.names[store.labels[row]]
        if not glyphs.issuperset(map(ord, text)):  # it would be a row of boxes
            text = f"class {store.labels[row]}"
        draw.text((left, top + side + 1), _fitted(text, font, side), "black", font)
    return sheet


def _dealt(
    store: Store, classes: Sequence[int], part: str, tiles: int, seed: int
) -> list[int]:
    """The rows of a sheet of at most so many tiles; see `contact_sheet`."""
    chosen = list(dict.fromkeys(classes)) or list(range(len(store.wnids)))
    if len(chosen) > tiles:
        chosen = [chosen[tile * len(chosen) // tiles] for tile in range(tiles)]
    members = []
    for label in chosen:
        rows = store.rows([label], part)
        order = permutation(seed, Stream.SUBSET, label, len(rows))
        members.append(rows[order[:tiles]].tolist())
    # One image of each class, then a second of each that has one, and so on.
    turns = (row for each in zip_longest(*members) for row in each if row is not None)
    shown = set(islice(turns, tiles))
    return [row for rows in members for row in rows if row in shown]


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
