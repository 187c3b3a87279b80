"""Kernel files as text: their includes, kernels, structs and instances.

A kernel file is read by a strict small parser, so that Python knows every kernel's
signature without anyone repeating it. What the parser relies on:

- kernels are `__global__ void` functions at file scope, with or without a template;
  in files of the cpu device (see `minicnn.compile.native`) they are `EXPORT void`;
- a parameter is `const T*`, `T*`, `T` or a struct, T a scalar type, a template type or
  `accumulator` of one;
- a struct that is passed by value has scalar fields and arrays of them, nothing else;
- templates are offered through `INSTANTIATE(kernel<float>, kernel<double>);`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16

FOLDER = Path(__file__).resolve().parents[1] / "kernels"
"""The kernel files."""

_SCALARS: dict[str, DTypeLike] = {
    "bool": np.bool_,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "short": np.int16,
    "unsigned short": np.uint16,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "float": np.float32,
    "double": np.float64,
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "i64": np.int64,
    "size_t": np.uint64,
    "bf16": BF16,
    "tf32": np.float32,  # rounded, or split, only where it is multiplied
    "tf32x3": np.float32,
    "f16": np.float16,
}
SCALARS = {name: np.dtype(each) for name, each in _SCALARS.items()}

_C_TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.float16): "f16",
    np.dtype(np.int32): "int",
    BF16: "bf16",
    "tf32": "tf32",
    "tf32x3": "tf32x3",
}

_COMMENT = re.compile(
    r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\')', re.DOTALL
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[ \t]*$', re.MULTILINE)
_LINE = re.compile(r'^#line (\d+) "([^"]*)"$', re.MULTILINE)
_KERNEL = re.compile(
    r"(?:\btemplate\s*<(?P<template>[^<>]*)>\s*)?"
    r'(?:extern\s+"C"\s+|static\s+|inline\s+)*(?P<kernel>__global__|EXPORT)\s+'
    r"(?:__launch_bounds__\s*\([^()]*\)\s*)?void\s+"
    r"(?:__launch_bounds__\s*\([^()]*\)\s*)?(?P<name>\w+)\s*\((?P<params>[^()]*)\)"
)
_STRUCT = re.compile(r"\bstruct\s+(\w+)\s*\{([^{}]*)\}\s*;")
_INSTANTIATE = re.compile(r"^\s*INSTANTIATE\s*\(([^()]*)\)\s*;", re.MULTILINE)
_PARAMETER = re.compile(r"(?P<type>.*?)\s*(?P<pointer>\*?)\s*\b(?P<name>\w+)")
_ACCUMULATOR = re.compile(r"accumulator<(\w+)>")
_FIELD = re.compile(r"(?P<type>[\w\s]+?)\s+(?P<names>\w+\s*(?:\[\d+\])?(?:\s*,.*)?)")
_DECLARATOR = re.compile(r"(\w+)\s*(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel instance.

    Attributes:
        name: as the kernel file has it.
        type: the C++ type, without const, pointer and template names.
        dtype: NumPy's type of the value, or of the array's elements.
        pointer: takes an array of that type.
        const: the kernel does not write to the array.
    """

    name: str
    type: str
    dtype: np.dtype
    pointer: bool
    const: bool


@dataclass(frozen=True)
class Instance:
    """A kernel with all its template arguments: what can be launched.

    Attributes:
        expression: the C++ name, such as "lrn_forward<float>".
        group: its first template argument if that is a type, else "": the instances
            of one group are compiled together.
        parameters: the signature.
    """

    expression: str
    group: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class KernelSource:
    """A kernel file with its includes put in, comments taken out, and read.

    Attributes:
        path: the .cu file.
        text: C++ with #line directives: compilers name the original file and line.
        instances: by expression.
    """

    path: Path
    text: str
    instances: dict[str, Instance]

    @staticmethod
    @functools.cache
    def read(path: Path) -> KernelSource:
        """Reads a kernel file.

        Raises:
            MinicnnError: no such file or include, or something the parser refuses.
        """
        text = flatten(path)
        declared, structs = _declarations(text), dict(_structs(text))
        listed = [_split(match[1]) for match in _INSTANTIATE.finditer(text)]
        plain = [name for name, found in declared.items() if not found["template"]]
        instances = {
            expression: _instance(path, expression, declared, structs)
            for expression in (*itertools.chain.from_iterable(listed), *plain)
        }
        return KernelSource(path, text, instances)

    def find(self, kind: str, name: str, template: Sequence[Any]) -> Instance:
        """The instance of that name and template arguments.

        Args:
            kind: what an error calls it.
            template: for each parameter a dtype, "tf32", "tf32x3", int or bool.

        Raises:
            MinicnnError: the file does not offer it.
        """
        values = ", ".join(map(c_name, template))
        expression = f"{name}<{values}>" if values else name
        if expression not in self.instances:
            raise MinicnnError(
                f"{self.path.name} has no {kind} {expression}; it offers "
                f"{', '.join(self.instances) or 'nothing'} (INSTANTIATE adds one)"
            )
        return self.instances[expression]

    def groups(self) -> list[str]:
        """The groups of instances that are compiled together."""
        return sorted({each.group for each in self.instances.values()})

    def group(self, name: str) -> tuple[str, ...]:
        """The expressions of the instances that are compiled with that group."""
        return tuple(e for e, i in self.instances.items() if i.group == name)


def c_name(value: Any) -> str:
    """A template argument as C++ writes it: a dtype, "tf32", "tf32x3", int or bool."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    try:
        return _C_TYPES.get(value) or _C_TYPES[np.dtype(value)]
    except (TypeError, KeyError):
        raise MinicnnError(f"no kernel is written for dtype {value}") from None


def flatten(path: Path) -> str:
    """The file's text with its own includes inside, each once, and no comments.

    `#include "name"` is looked for beside the file, then in the kernels folder;
    `#include <name>` is left to the compiler. Compilers cache by this text alone.
    """
    return _flatten(path, set(), f"{path}: kernel file")


def _flatten(path: Path, seen: set[Path], asker: str) -> str:
    if not path.is_file():
        raise MinicnnError(f"{asker} {path.name} not found")
    if path in seen:
        return ""
    seen.add(path)
    # A comment becomes a space; its line breaks stay, so that lines keep their numbers.
    text = _COMMENT.sub(
        lambda m: m[1] or " " + "\n" * m[0].count("\n"), path.read_text("utf-8")
    )
    text = re.sub(r"^[ \t]*#[ \t]*pragma once[ \t]*$", "", text, flags=re.MULTILINE)

    def include(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start()) + 1
        beside = path.parent / match[1]
        inner = beside if beside.is_file() else FOLDER / match[1]
        inside = _flatten(inner, seen, f"{path}:{line}: include")
        return f'{inside}\n#line {line + 1} "{path}"'

    return f'#line 1 "{path}"\n' + _INCLUDE.sub(include, text)


def _where(text: str, offset: int) -> str:
    """ "file:line" of a place in flattened text."""
    last = list(_LINE.finditer(text, 0, offset))[-1]
    line = int(last[1]) + text.count("\n", last.end() + 1, offset)
    return f"{last[2]}:{line}"


def _split(text: str) -> list[str]:
    """Parts between the commas that are outside < >, stripped, without empty ones."""
    parts = re.split(r",(?![^<]*>)", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def _declarations(text: str) -> dict[str, re.Match[str]]:
    """Kernels as written, by name."""
    found = list(_KERNEL.finditer(text))
    understood = {match.start("kernel") for match in found}
    for match in re.finditer(r"\b__global__\b", text):
        if match.start() not in understood:
            raise MinicnnError(
                f"{_where(text, match.start())}: not understood: write a kernel as "
                "`__global__ void [__launch_bounds__(n)] name(parameters)`"
            )
    return {match["name"]: match for match in found}


def _structs(text: str) -> Iterator[tuple[str, np.dtype]]:
    """Structs of scalars; any other struct is passed over."""
    for match in _STRUCT.finditer(text):
        fields: list[tuple[str, np.dtype, tuple[int, ...]]] = []
        for line in filter(None, (part.strip() for part in match[2].split(";"))):
            field = _FIELD.fullmatch(line)
            if field is None or field["type"] not in SCALARS:
                break
            for declarator in field["names"].split(","):
                single = _DECLARATOR.fullmatch(declarator.strip())
                if single is None:
                    break
                shape = (int(single[2]),) if single[2] else ()
                fields.append((single[1], SCALARS[field["type"]], shape))
        else:
            yield match[1], np.dtype(fields, align=True)


def _instance(
    path: Path,
    expression: str,
    declared: dict[str, re.Match[str]],
    structs: dict[str, np.dtype],
) -> Instance:
    name, _, rest = expression.partition("<")
    values = _split(rest.removesuffix(">"))
    declaration = declared.get(name)
    if declaration is None:
        raise MinicnnError(f"{path}: INSTANTIATE({expression}): no such kernel")
    template = _split(declaration["template"] or "")
    if len(values) != len(template):
        raise MinicnnError(
            f"{path}: INSTANTIATE({expression}): {name} has {len(template)} template "
            "parameters"
        )
    types = {
        parameter.split()[-1]: value
        for parameter, value in zip(template, values, strict=True)
        if parameter.split()[0] in ("typename", "class")
    }
    first = values[0] if values and values[0] in types.values() else ""
    parameters = tuple(
        _parameter(declaration, text, types, structs)
        for text in _split(declaration["params"])
    )
    return Instance(expression, first, parameters)


def _parameter(
    declaration: re.Match[str],
    text: str,
    types: dict[str, str],
    structs: dict[str, np.dtype],
) -> Parameter:
    match = _PARAMETER.fullmatch(re.sub(r"\b__restrict__\b", "", text).strip())
    words = match["type"].split() if match else []
    const = "const" in words
    base = " ".join(word for word in words if word != "const")
    if sums := _ACCUMULATOR.fullmatch(base):  # as common.cuh has it
        base = "double" if types.get(sums[1], sums[1]) == "double" else "float"
    base = types.get(base, base)
    dtype = SCALARS.get(base, structs.get(base))
    if match is None or dtype is None:
        where = _where(declaration.string, declaration.start("name"))
        raise MinicnnError(
            f"{where}: {declaration['name']}: parameter `{text}`: neither a scalar, a "
            "struct of scalars, a template type, nor a pointer to one"
        )
    return Parameter(match["name"], base, dtype, bool(match["pointer"]), const)
