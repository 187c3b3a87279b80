"""Counts the instructions that one thread of a kernel runs, by walking through its PTX.

    walk = Walk(report.ptx)
    walk.count(address, parameters, grid, block, (3, 0, 0), 7)

Only what decides the way is computed: integers and predicates, from the launch's own
arguments and from tables of integers in memory. Floating-point numbers are unknown, but
for the arguments themselves, as which they are compared; a branch that depends on an
unknown one is not taken, so that a loop over them ends and a guarded part runs.
"""

from __future__ import annotations

import functools
import operator
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Value = int | None  # of a floating-point number its bits
Registers = dict[str, Value]
Load = Callable[[int, int], Value]
"""The unsigned integer of so many bytes at an address, or None where none is known."""

LIMIT = 20_000_000  # instructions: more is a loop without an end
# Machine instructions of a division of integers; of anything else, one. Fitted to the
# code of all kernels for sm_90 by least squares: 16.7, and 0.94 for each of the others.
DIVISION = 17
_LABEL = re.compile(r"(\$\w+):")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.]*)\s*([^;]*);")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_PARAMETER = re.compile(r"_param_(\d+)(?:\+(\d+))?\]")
_ADDRESS = re.compile(r"\[(%\w+)(?:\+(-?\d+))?\]")
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "neu": operator.ne,
}
# What a constant begins with, and how its bits are read, by type.
_FLOATS = {"0f": ("f32", "<I", "<f"), "0d": ("f64", "<Q", "<d")}
_UNPACKED = {kind: (bits, real) for kind, bits, real in _FLOATS.values()}


def _quotient(a: int, b: int) -> int:
    """Towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else 0


_ARITHMETIC: dict[str, Callable[..., int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "mad": lambda a, b, c: a * b + c,
    "div": _quotient,
    "rem": lambda a, b: a - b * _quotient(a, b),
    "min": min,
    "max": max,
    "neg": operator.neg,
    "not": operator.invert,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": lambda a, b: a << min(b, 64),
    "shr": lambda a, b: a >> min(b, 64),
    "mov": lambda a: a,
    "cvta": lambda a: a,
}


@dataclass(frozen=True)
class Instruction:
    """One line: its guard, its name cut at the points, and its operands."""

    inverted: bool
    guard: str | None
    words: tuple[str, ...]
    operands: tuple[str, ...]

    @functools.cached_property
    def weight(self) -> int:
        """How many instructions of machine code it becomes, about."""
        division = self.words[0] in ("div", "rem") and _bits(self.words[-1])
        return DIVISION if division else 1


@dataclass
class Counted:
    """What a thread ran.

    Attributes:
        instructions: of machine code, about; see DIVISION.
        copied: bytes that cp.async brought from the level-2 cache.
    """

    instructions: int = 0
    copied: int = 0


class Walk:
    """A kernel's PTX, ready to be walked through."""

    def __init__(self, ptx: str) -> None:
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for line in ptx[ptx.index("{") :].splitlines():
            if label := _LABEL.match(line.strip()):
                self.labels[label[1]] = len(self.code)
            elif found := _INSTRUCTION.fullmatch(line.strip()):
                inverted, guard, name, rest = found.groups()
                operands = tuple(_OPERAND.findall(rest))
                words = tuple(name.split("."))
                self.code.append(Instruction(inverted == "!", guard, words, operands))

    def count(
        self,
        parameters: Sequence[bytes],
        load: Load,
        special: dict[str, int],
    ) -> Counted:
        """Walks one thread.

        Args:
            parameters: each one's bytes.
            load: reads tables of integers.
            special: registers such as "%tid.x".
        """
        registers: Registers = dict(special)
        counted, at = Counted(), 0
        while counted.instructions < LIMIT:
            each = self.code[at]
            counted.instructions += each.weight
            at += 1
            kind = each.words[0]
            if kind == "bra":
                if each.guard is None or _holds(each, registers):
                    at = self.labels[each.operands[0]]
            elif kind in ("ret", "exit"):
                if each.guard is None or _holds(each, registers):
                    return counted
            elif kind == "cp" and each.words[1:3] == ("async", "cg"):
                size = _read(each.operands[-1], registers)  # what is read, not filled
                counted.copied += int(each.operands[2]) if size is None else size
            else:
                _run(each, registers, parameters, load)
        raise ValueError("the walk finds no end")


def special(
    grid: Sequence[int], block: Sequence[int], where: int, thread: int
) -> dict[str, int]:
    """The registers that tell a thread who it is.

    Args:
        where: the block's number, x fastest.
        thread: in the block, x fastest.
    """
    values = {}
    sizes = {"ctaid": (grid, where), "tid": (block, thread)}
    for name, (dims, number) in sizes.items():
        for axis, size in zip("xyz", dims, strict=True):
            values[f"%n{name}.{axis}"] = size
            number, values[f"%{name}.{axis}"] = divmod(number, size)
    return {**values, "%laneid": thread % 32}


def _holds(each: Instruction, registers: Registers) -> bool:
    value = registers.get(each.guard or "")
    return value is not None and bool(value) != each.inverted


@functools.cache
def _bits(name: str) -> tuple[int, bool] | None:
    """Width and signedness of an integer type; None for another."""
    found = re.fullmatch(r"([subi])(8|16|32|64)", name)
    return (int(found[2]), found[1] == "s") if found else None


def _as(value: int, width: int, signed: bool) -> int:
    """The number that these bits are."""
    value &= (1 << width) - 1
    return value - (1 << width) if signed and value >> (width - 1) else value


def _read(name: str, registers: Registers) -> Value:
    if name.startswith("%"):
        return registers.get(name)
    try:
        if name[:2] in _FLOATS:
            return int(name[2:], 16)
        return int(name, 0)
    except ValueError:
        return None  # a place in shared memory


def _run(
    each: Instruction, registers: Registers, parameters: Sequence[bytes], load: Load
) -> None:
    """One instruction that is no branch."""
    kind, words, operands = each.words[0], each.words, each.operands
    if not operands or operands[0].startswith("["):
        return  # a store, or a barrier
    if each.guard is not None and not _holds(each, registers):
        return
    target = operands[0].split("|")[0]
    value: Value = None
    if kind == "ld":
        value = _loaded(words, operands[1], registers, parameters, load)
    elif words[-1] == "pred":
        value = _logic(kind, [_read(o, registers) for o in operands[1:]])
    elif kind == "setp":
        value = _compared(words, [_read(o, registers) for o in operands[1:3]])
    elif kind == "selp":
        choice = _read(operands[3], registers)
        value = None if choice is None else _read(operands[2 - bool(choice)], registers)
    elif kind == "cvt":
        to, of = _bits(words[-2]), _bits(words[-1])
        given = _read(operands[1], registers)
        if to and of and given is not None:
            value = _as(_as(given, *of), *to)
    elif kind in _ARITHMETIC:
        value = _calculated(words, [_read(o, registers) for o in operands[1:]])
    for name in target.strip("{}").split(","):
        registers[name.strip()] = value


def _loaded(
    words: tuple[str, ...],
    operand: str,
    registers: Registers,
    parameters: Sequence[bytes],
    load: Load,
) -> Value:
    kind = _bits(words[-1])
    if words[1] == "param" and words[-1] in _UNPACKED:
        kind = int(words[-1][1:]), False
    if kind is None or "v2" in words or "v4" in words:
        return None
    width, signed = kind
    if words[1] == "param":
        found = _PARAMETER.search(operand)
        assert found is not None
        data, start = parameters[int(found[1])], int(found[2] or 0)
        part = data[start : start + width // 8]
        return _as(int.from_bytes(part, "little"), width, signed)
    place = _ADDRESS.fullmatch(operand)
    base = registers.get(place[1]) if place else None
    if words[1] != "global" or place is None or base is None:
        return None
    value = load((base + int(place[2] or 0)) & (1 << 64) - 1, width // 8)
    return None if value is None else _as(value, width, signed)


def _logic(kind: str, given: list[Value]) -> Value:
    """Of predicates, of which some may be unknown."""
    if kind == "or" and any(each for each in given if each is not None):
        return 1
    if kind == "and" and any(each == 0 for each in given):
        return 0
    if any(each is None for each in given):
        return None
    known = [bool(each) for each in given]
    if kind in ("mov", "not"):
        return int(known[0] != (kind == "not"))
    made = {"or": any(known), "and": all(known), "xor": sum(known) == 1}
    return int(made[kind])


def _compared(words: tuple[str, ...], given: list[Value]) -> Value:
    kind, a, b = words[-1], *given
    if a is None or b is None or words[1] not in _COMPARE:
        return None
    if kind in _UNPACKED:
        bits, real = _UNPACKED[kind]
        x, y = (struct.unpack(real, struct.pack(bits, each))[0] for each in (a, b))
        return int(_COMPARE[words[1]](x, y))
    how = _bits(kind)
    return None if how is None else int(_COMPARE[words[1]](_as(a, *how), _as(b, *how)))


def _calculated(words: tuple[str, ...], given: list[Value]) -> Value:
    if words[0] == "mov" and words[-1] in _UNPACKED:
        return given[0]
    kind = _bits(words[-1])
    if kind is None or any(each is None for each in given):
        return None
    width, signed = kind
    numbers = [_as(each, width, signed) for each in given if each is not None]
    value = _ARITHMETIC[words[0]](*numbers)
    if "wide" in words:
        return _as(value, 2 * width, signed)
    return _as(value >> width if "hi" in words else value, width, signed)


def packed(number: Any) -> bytes:
    """A parameter's bytes: of a NumPy scalar or struct, or of an address."""
    return struct.pack("<Q", number) if isinstance(number, int) else number.tobytes()
