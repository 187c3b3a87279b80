"""Architectures of one's own: from a TOML file or from Python, checked layer by layer.

A file has `size`, `crop`, perhaps `scale`, and `layers`, a list of tables: `kind`
(conv, fc, pool, lrn, dropout) and that class's attributes but `index`. Left out, `std`
is He et al.'s spread for a ReLU, in the last layer 0.01. The last layer is
`{ kind = "fc" }`, whose features are the task's classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from minicnn.base.config import checked, read_toml
from minicnn.base.errors import MinicnnError
from minicnn.nn import architectures as arch
from minicnn.nn.architectures import Architecture, LayerSpec
from minicnn.ops.conv.shape import ConvShape
from minicnn.ops.pool import PoolShape

KINDS: dict[str, Any] = {"conv": arch.Conv, "fc": arch.FullyConnected}
KINDS |= {"pool": arch.Pool, "lrn": arch.LRN, "dropout": arch.Dropout}
REQUIRED = {"conv": {"features", "window"}, "fc": {"features"}}


def load(name: str) -> Architecture:
    """The architecture in a TOML file, or the built-in or registered one of that name.

    Raises:
        MinicnnError: there is none, or the file is malformed: names file and line.
    """
    if not name.endswith(".toml"):
        return arch.get(name)
    sections, text = read_toml(Path(name)), Path(name).read_text(encoding="utf-8")
    return from_dict({"name": Path(name).stem, **sections}, name, text)


def register(network: Architecture) -> None:
    """Lets `network.arch` name an architecture made in Python.

    Raises:
        MinicnnError: its layers do not fit together, or are not numbered one by one.
    """
    if from_dict(to_dict(network), network.name) != network:
        raise MinicnnError(
            f"architecture {network.name}: convolutions and full connections must have "
            "index 1, 2, ..., other layers that of the one below"
        )
    arch.ARCHITECTURES[network.name] = network


def to_dict(network: Architecture) -> dict[str, Any]:
    """Sections of plain values, which `from_dict` takes."""
    kinds = {each: kind for kind, each in KINDS.items()}
    layers = [{"kind": kinds[type(spec)], **vars(spec)} for spec in network.layers]
    for each in layers:
        del each["index"]
    return {**vars(network), "layers": layers}


def from_dict(about: Mapping[str, Any], where: str, text: str = "") -> Architecture:
    """An architecture from plain values, as the module says.

    Args:
        where: what the values come from, for the errors.
        text: the TOML that they come from, for its lines.

    Raises:
        MinicnnError: a value is missing, unknown or does not fit; says in which line.
    """
    kinds = get_type_hints(Architecture)
    values = _taken(about, kinds, {"name", "size", "crop", "layers"}, where, text)
    crop, listed = values["crop"], values["layers"]
    if not 1 <= crop <= values["size"]:
        place = _place(where, text, "crop")
        raise MinicnnError(f"{place}: crop = {crop} must be 1 .. size")
    if not isinstance(listed, list) or not all(isinstance(e, Mapping) for e in listed):
        raise MinicnnError(f"{where}: layers must be a list of tables")
    shape: tuple[int, ...] = (crop, crop, 3)
    specs: list[Any] = []
    lines = _lines(text)
    for number, table in enumerate(listed, 1):
        place = f"{where}, layer {number}"
        if len(lines) == len(listed):
            place = f"{where}, line {lines[number - 1]}"
        make = _layer(table, specs, shape, number == len(listed), place)
        try:
            specs.append(make())
            shape = _shape_after(specs[-1], shape)
        except MinicnnError as error:
            raise MinicnnError(f"{place}: {error}") from None
        if any(specs[-1].name == each.name for each in specs[:-1]):
            again = f"a second {table['kind']} before the next conv or fc"
            raise MinicnnError(f"{place}: {again}")
    if not specs or not isinstance(specs[-1], arch.FullyConnected):
        raise MinicnnError(f'{where}: the last layer must be {{ kind = "fc" }}')
    return Architecture(**{**values, "layers": tuple(specs)})


def _lines(text: str) -> list[int]:
    """The line of each table of a TOML list."""
    bare = re.sub(r'"(\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', "", text)
    places = re.finditer(r"\{|^\s*\[\[", bare, re.MULTILINE)
    return [bare.count("\n", 0, place.end()) + 1 for place in places]


def _place(where: str, text: str, key: str) -> str:
    """With the line of a key outside of the layers, if there is text."""
    found = re.search(rf"^\s*{re.escape(key)}\s*=", text, re.MULTILINE)
    line = text.count("\n", 0, found.end()) + 1 if found else 0
    return f"{where}, line {line}" if line else where


def _taken(
    table: Mapping[str, Any],
    kinds: Mapping[str, Any],
    required: set[str],
    where: str,
    text: str = "",
) -> dict[str, Any]:
    """The values of a table, each of its kind: no other, and all that are required."""
    values = dict(table)
    for key, value in table.items():
        place = _place(where, text, key)
        if key not in kinds:
            raise MinicnnError(f"{place}: unknown key {key}; known: {', '.join(kinds)}")
        if key != "layers":
            values[key] = checked(key, value, kinds[key], place)
    if missing := required - table.keys():
        raise MinicnnError(f"{where}: lacks {', '.join(sorted(missing))}")
    return values


def _layer(
    table: Mapping[str, Any],
    below: Sequence[Any],
    shape: tuple[int, ...],
    is_last: bool,
    where: str,
) -> Callable[[], LayerSpec]:
    """What makes a layer of its table; shape (H,W,C) is that of its input."""
    values = dict(table)
    name = values.pop("kind", None)
    if name not in KINDS:
        known = ", ".join(KINDS)
        raise MinicnnError(f"{where}: kind = {name!r} must be one of {known}")
    _check_order(name, below, where)
    if name == "fc" and is_last:
        values = {"features": 0, "relu": False, "std": 0.01, **values}
    kinds = {k: v for k, v in get_type_hints(KINDS[name]).items() if k != "index"}
    values = _taken(values, kinds, REQUIRED.get(name, set()), where)
    for key, value in values.items():
        outputs = key == "features" and is_last
        if type(value) is int and key != "pad" and value < 1 and not outputs:
            raise MinicnnError(f"{where}: {key} = {value} must be at least 1")
        if key == "rate" and value >= 1:
            raise MinicnnError(f"{where}: rate = {value} must be less than 1")
    if name in REQUIRED:
        pixels = values["window"] ** 2 if name == "conv" else shape[0] * shape[1]
        inputs = pixels * max(1, shape[2] // values.get("groups", 1))
        values = {"std": round(math.sqrt(2 / inputs), 4), **values}
    index = (below[-1].index if below else 0) + (name in REQUIRED)
    return partial(KINDS[name], index=index, **values)


def _check_order(name: str, below: Sequence[Any], where: str) -> None:
    """Refuses what the layers' backward passes were not made for."""
    if not below and name != "conv":
        raise MinicnnError(f"{where}: {name} comes first; the first must be a conv")
    flat = any(isinstance(spec, arch.FullyConnected) for spec in below)
    if flat and name not in ("fc", "dropout"):
        raise MinicnnError(f"{where}: {name} after fc; only fc and dropout may follow")
    # Dropout overwrites what is below it, and LRN's gradient reads its own output.
    if name == "dropout" and isinstance(below[-1], arch.LRN):
        raise MinicnnError(f"{where}: dropout after lrn; put it before the lrn")


def _shape_after(spec: LayerSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width and channels of its output, of those of its input."""
    if isinstance(spec, arch.FullyConnected):
        return 1, 1, spec.features
    if isinstance(spec, arch.Pool):
        pooled = PoolShape.of((1, *shape), spec.window, spec.stride)
        return pooled.p, pooled.q, shape[2]
    if isinstance(spec, arch.Conv):
        window, depth = (spec.window, spec.window), shape[2] // spec.groups
        how = spec.stride, spec.pad, spec.groups
        one = ConvShape.of((1, *shape), (spec.features, *window, depth), *how)
        return one.p, one.q, one.k
    return shape
