"""Reads a struct array from a MATLAB level 5 file, as ImageNet's devkit holds one.

Only what `meta.mat` needs: structs whose fields are texts or numbers. Source: "MAT-File
Format", The MathWorks, chapter 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_INT8, _MATRIX, _COMPRESSED, _UTF8, _UTF16, _UTF32 = 1, 14, 15, 16, 17, 18
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"} | {
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
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
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB level 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    try:
        for kind, payload in _elements(data[128:], order):
            if kind == _COMPRESSED:
                kind, payload = next(_elements(zlib.decompress(payload), order))
            if kind == _MATRIX:
                parts = list(_elements(payload, order))
                if parts[2][1].decode("latin-1") == name:
                    return _struct(parts, order)
    except (zlib.error, struct.error, IndexError, StopIteration) as error:
        raise ValueError(f"damaged MATLAB file ({error})") from None
    raise ValueError(f"no variable {name!r}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The (type, payload) pairs of a run of data elements."""
    at = 0
    while at + 8 <= len(data):
        (word,) = struct.unpack_from(order + "I", data, at)
        if word >> 16:  # small element: size and type share the first word
            yield word & 0xFFFF, data[at + 4 : at + 4 + (word >> 16)]
            at += 8
            continue
        (size,) = struct.unpack_from(order + "I", data, at + 4)
        if at + 8 + size > len(data):
            raise struct.error("an element runs past the end")
        yield word, data[at + 8 : at + 8 + size]
        # Everything is padded to 8 bytes, but compressed elements are not.
        at += 8 + (size if word == _COMPRESSED else -(-size // 8) * 8)


def _struct(parts: list[tuple[int, bytes]], order: str) -> list[dict[str, Value]]:
    flags, dimensions, _, width, names, *cells = (payload for _, payload in parts)
    (flag,) = struct.unpack_from(order + "I", flags)
    if flag & 0xFF != _STRUCT_CLASS:
        raise ValueError("the variable is no struct")
    (step,) = struct.unpack_from(order + "i", width)
    fields = [
        names[at : at + step].split(b"\0")[0].decode("latin-1")
        for at in range(0, len(names), step)
    ]
    count = int(np.prod(np.frombuffer(dimensions, order + "i4")))
    if len(cells) < count * len(fields):
        raise ValueError("damaged MATLAB file (a struct lacks fields)")
    values = iter(cells)
    return [
        {field: _value(next(values), order) for field in fields} for _ in range(count)
    ]


def _value(matrix: bytes, order: str) -> Value:
    parts = list(_elements(matrix, order))
    if len(parts) < 4:
        return []
    (flag,) = struct.unpack_from(order + "I", parts[0][1])
    kind, payload = parts[3]
    if flag & 0xFF == _CHAR_CLASS:
        little = "le" if order == "<" else "be"
        wide = f"utf-16-{little}"
        codecs = {_UTF8: "utf-8", _INT8: "latin-1", 2: "latin-1", 4: wide}
        codecs |= {_UTF16: wide, _UTF32: f"utf-32-{little}"}
        return payload.decode(codecs.get(kind, "latin-1"), "replace")
    if kind in _NUMBERS:
        return np.frombuffer(payload, order + _NUMBERS[kind]).astype(float).tolist()
    return []
