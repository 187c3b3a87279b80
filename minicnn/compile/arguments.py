"""Checks what compiled code is handed against what it declares.

Whatever does not fit the declaration is refused with the kernel's and the argument's
name: compiled code itself would read garbage, or memory that is not the array's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import Parameter

# Bytes; a kernel's arrays begin at multiples of it, so that it may read as many at
# once. A misaligned read ends the process on a CPU, and fails all later launches on a
# GPU.
ALIGNMENT = 16
_NOT_REAL = str, bytes, complex, np.complexfloating
_NOT_WHOLE = *_NOT_REAL, float, np.floating


def address(array: Any) -> int:
    """Where the memory of an array of NumPy's or CuPy's begins."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def checked(
    kernel: str,
    parameters: Sequence[Parameter],
    args: Sequence[Any],
    array: type[Any],
    alignment: int = ALIGNMENT,
) -> list[Any]:
    """The arguments as the kernel declares them.

    Args:
        kernel: its name.
        args: one for each parameter. For a pointer: a C-contiguous array of the
            declared dtype (bf16 is `precision.BF16`), or None. For a number: anything
            of that kind and range. For a struct: a mapping of all its fields.
        array: the type of the device's arrays.
        alignment: bytes, a multiple of which arrays begin at.

    Returns:
        For each parameter an array, None for a null pointer, a NumPy scalar, or a 0-d
        structured array.

    Raises:
        MinicnnError: an argument that does not fit, by name.
    """
    if len(args) != len(parameters):
        names = ", ".join(p.name for p in parameters)
        raise MinicnnError(
            f"{kernel}: {len(args)} arguments for {len(parameters)}: {names}"
        )
    values: list[Any] = []
    for parameter, value in zip(parameters, args, strict=True):
        try:
            if parameter.dtype.names:
                values.append(_struct(parameter, value))
            elif parameter.pointer:
                values.append(_array(parameter, value, array, alignment))
            else:
                values.append(_number(parameter, value))
        except _Misfit as misfit:
            raise MinicnnError(f"{kernel}: argument {misfit}") from None
    return values


class _Misfit(Exception):
    def __init__(self, parameter: Parameter, problem: str) -> None:
        super().__init__(f"{parameter.name}: {problem}")


def _array(parameter: Parameter, value: Any, array: type[Any], alignment: int) -> Any:
    if value is None:
        return None
    if not isinstance(value, array):
        problem = (
            f"{type(value).__name__} where an array of the device is due "
            f"({array.__module__}.{array.__name__}); its from_host makes one"
        )
    elif value.dtype != parameter.dtype:
        problem = (
            f"dtype {value.dtype}, declared {parameter.dtype}; convert it, or take the "
            "kernel's instance for that dtype"
        )
    elif not value.flags.c_contiguous:
        problem = (
            f"a view of shape {value.shape} with gaps, where a kernel takes one block "
            "of memory in C order; pass a copy"
        )
    elif alignment > 1 and (past := address(value) % alignment):
        problem = (
            f"begins {past} bytes past a multiple of {alignment}, and kernels read "
            f"{alignment} bytes as one; pass a copy"
        )
    # CuPy's arrays are always writeable, and have no such flag.
    elif not parameter.const and not getattr(value.flags, "writeable", True):
        problem = "read-only, and the kernel writes to it; pass a copy"
    else:
        return value
    raise _Misfit(parameter, problem)


def _number(parameter: Parameter, value: Any) -> np.generic:
    dtype = parameter.dtype
    if isinstance(value, np.ndarray) or not np.isscalar(value):
        raise _Misfit(parameter, f"{type(value).__name__} where a number is due")
    if parameter.type in ("bf16", "f16"):
        raise _Misfit(parameter, "pass 16-bit numbers as float")
    if isinstance(value, _NOT_WHOLE if dtype.kind in "iu" else _NOT_REAL):
        raise _Misfit(parameter, f"{value!r}, declared {parameter.type}")
    if dtype.kind in "iu":
        number, limits = int(value), np.iinfo(dtype)  # type: ignore[arg-type]
        if not limits.min <= number <= limits.max:
            raise _Misfit(parameter, f"{number} beyond {parameter.type}")
    return dtype.type(value)


def _struct(parameter: Parameter, value: Any) -> np.ndarray:
    names = parameter.dtype.names or ()
    if not isinstance(value, Mapping) or set(value) != set(names):
        given = ", ".join(value) if isinstance(value, Mapping) else repr(value)
        raise _Misfit(
            parameter,
            f"{parameter.type} has the fields {', '.join(names)}; given {given}",
        )
    listed = [value[name] for name in names]
    numbers = tuple([tuple(n) if isinstance(n, list | tuple) else n for n in listed])
    return _packed(parameter, *numbers)


# Typed: numbers of different kinds may be equal, and only some of them fit.
@functools.lru_cache(maxsize=4096, typed=True)
def _packed(parameter: Parameter, *values: Any) -> np.ndarray:
    """A struct of these fields; equal ones are packed once."""
    packed = np.zeros((), parameter.dtype)
    for name, value in zip(parameter.dtype.names or (), values, strict=True):
        field = parameter.dtype[name]
        shape = np.shape(value)
        if shape != field.shape:
            raise _Misfit(
                parameter, f"field {name}: shape {shape}, declared {field.shape}"
            )
        base = Parameter(
            f"{parameter.name}.{name}", field.base.name, field.base, False, False
        )
        packed[name] = (
            [_number(base, item) for item in value] if shape else _number(base, value)
        )
    packed.flags.writeable = False  # it is handed out again
    return packed
