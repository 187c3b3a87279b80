"""Reads a struct array from a MATLAB level 5 file, as ImageNet's devkit holds one.

Only what `meta.mat` needs: structs whose fields are texts or numbers. Source: "MAT-File
Format", The MathWorks, chapter 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"}
_NUMBERS |= {7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODECS = {4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
_STRUCT_CLASS, _CHAR_CLASS = 2, 4

Value = str | list[float]


def read_struct(data: bytes, name: str) -> list[dict[str, Value]]:
    """The elements of one struct array, in MATLAB's (column) order.

    Args:
        data: the whole file.
        name: the variable.

    Returns:
        One dict per element; a text or a flat list of numbers for each field. Fields
        of other kinds (cells, nested structs) are empty lists.

    Raises:
        ValueError: not such a file, no such variable, or a damaged one.
    """
    if len(data) < 128 or data[126:128] != b"IM":
        raise ValueError("not a little-endian MATLAB level 5 file")
    try:
        for kind, payload in _elements(data[128:]):
            if kind == _COMPRESSED:
                kind, payload = next(_elements(zlib.decompress(payload)))
            if kind == _MATRIX:
                parts = [part for _, part in _elements(payload)]
                if parts[2].decode("latin-1") == name:
                    return _struct(parts)
    except (zlib.error, struct.error, IndexError, StopIteration) as error:
        raise ValueError(f"damaged MATLAB file ({error})") from None
    raise ValueError(f"no variable {name!r}")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, payload) pairs of a run of data elements."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # small element: size and type share the first word
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        if at + 8 + size > len(data):
            raise struct.error("an element runs past the end")
        yield kind, data[at + 8 : at + 8 + size]
        # Everything is padded to 8 bytes, but compressed elements are not.
        at += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _struct(parts: list[bytes]) -> list[dict[str, Value]]:
    flags, dimensions, _, width, names, *cells = parts
    if flags[0] != _STRUCT_CLASS:
        raise ValueError("the variable is no struct")
    (step,) = struct.unpack_from("<i", width)
    fields = [
        names[at : at + step].split(b"\0")[0].decode("latin-1")
        for at in range(0, len(names), step)
    ]
    count = int(np.prod(np.frombuffer(dimensions, "<i4")))
    if len(cells) < count * len(fields):
        raise ValueError("damaged MATLAB file (a struct lacks fields)")
    values = map(_value, cells)
    return [{field: next(values) for field in fields} for _ in range(count)]


def _value(matrix: bytes) -> Value:
    parts = list(_elements(matrix))
    if len(parts) < 4:
        return []
    (_, flags), _, _, (kind, payload), *_ = parts
    if flags[0] == _CHAR_CLASS:
        return payload.decode(_CODECS.get(kind, "latin-1"), "replace")
    if kind in _NUMBERS:
        return np.frombuffer(payload, "<" + _NUMBERS[kind]).astype(float).tolist()
    return []
