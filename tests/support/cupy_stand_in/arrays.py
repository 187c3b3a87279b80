"""Memory, and arrays that only their own methods and kernels read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from minicnn.base.precision import BF16
from minicnn.devices.cpu import aligned
from tests.support.cupy_stand_in.streams import (
    BUSY,
    LOCK,
    Stream,
    get_current_stream,
)

TOTAL = 1 << 30
"""Bytes of memory that the GPU has."""


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class Memory:
    """A piece of the GPU's memory, and the pool that it comes from."""

    _held = 0  # bytes, of all pieces

    def __init__(self, size: int) -> None:
        with LOCK:
            if size > TOTAL - Memory._held:
                raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
            Memory._held += size
        self._bytes = aligned((size,), np.uint8)
        self._bytes.fill(0xFF)
        free = weakref.finalize(self, Memory._free, self._bytes, get_current_stream())
        free.atexit = False

    @staticmethod
    def _free(memory: NDArray[np.uint8], stream: Stream) -> None:
        """What is queued there so far may still use it."""
        with LOCK:
            Memory._held -= memory.nbytes
        stream._queue(partial(memory.fill, 0xFF))


class MemoryPointer:
    """CuPy's: where an array begins. Holds the memory."""

    def __init__(self, mem: Memory, values: NDArray[Any]) -> None:
        self.mem, self.ptr = mem, values.ctypes.data


class Device:
    """CuPy's; there is one, number 0."""

    compute_capability = "90"

    def __init__(self, device: int = 0) -> None:
        self.id, self.attributes = device, {"L2CacheSize": 1 << 20}

    def use(self) -> Device:
        return self

    __enter__ = use

    def __exit__(self, *_: object) -> None: ...

    def synchronize(self) -> None:
        with LOCK:
            for stream in tuple(BUSY):
                stream._refuse_waiting()
            while BUSY:
                next(iter(BUSY))._finish()

    @property
    def mem_info(self) -> tuple[int, int]:
        """CuPy's: bytes free, and of all."""
        return TOTAL - Memory._held, TOTAL


def _supported(dtype: DTypeLike) -> np.dtype:
    found = np.dtype(dtype)
    if found.kind not in "biufc" and found != BF16:
        raise ValueError(f"Unsupported dtype {found}")
    return found


class ndarray(NDArrayOperatorsMixin):
    """CuPy's array."""

    __slots__ = ("__weakref__", "_values", "data")

    def __init__(self, shape: int | tuple[int, ...], dtype: DTypeLike = float) -> None:
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        memory = Memory(int(np.prod(shape)) * _supported(dtype).itemsize)
        self._values = memory._bytes.view(dtype).reshape(shape)
        self.data = MemoryPointer(memory, self._values)

    def _with(self, values: NDArray[Any]) -> ndarray:
        """An array of the same memory."""
        made = object.__new__(ndarray)
        made._values, made.data = values, MemoryPointer(self.data.mem, values)
        return made

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    itemsize = property(lambda self: self._values.itemsize)
    nbytes = property(lambda self: self._values.nbytes)

    @property
    def flags(self) -> Any:
        """CuPy's, which know of no other: none says "writeable"."""
        flags = self._values.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous
        )

    def view(self, dtype: DTypeLike = None) -> ndarray:
        return self._with(self._values.view(dtype or self.dtype))

    def reshape(self, *shape: Any) -> ndarray:
        made = self._values.reshape(*shape)
        if self.size and not np.may_share_memory(made, self._values):
            return self.copy().reshape(*shape)
        return self._with(made)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        for part in parts:
            place = part is None or isinstance(part, slice | int | np.integer)
            if not (place or part is ...) or isinstance(part, bool):
                raise TypeError(f"an index of {type(part)}, which CuPy would copy")
        # CuPy gives an array of no dimensions where NumPy gives a number.
        rest = () if ... in parts else (...,)
        return self._with(self._values[(*parts, *rest)])

    def __setitem__(self, key: Any, value: Any) -> None:
        part = self[key]
        if not isinstance(value, ndarray):
            part.fill(value)
            return
        values = np.broadcast_to(value._values, part.shape)
        copy = partial(np.copyto, part._values, values, casting="unsafe")
        get_current_stream()._add(copy)

    def fill(self, value: Any) -> None:
        """CuPy's, of a number of the host."""
        number = np.asarray(value, self.dtype)
        if number.shape:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        get_current_stream()._add(partial(self._values.fill, number[()]))

    def set(self, arr: NDArray[Any], stream: Stream | None = None) -> None:
        """CuPy's, between arrays without gaps."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch: {self.shape} and {arr.shape}")
        if not self.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        if not arr.flags.c_contiguous:
            raise ValueError("of an array with gaps CuPy would make another copy")
        stream = stream or get_current_stream()
        stream._refuse_copying("H2D")
        source = arr if _pinned(arr) else arr.copy()
        stream._add(partial(np.copyto, self._values, source))

    def copy(self) -> ndarray:
        return _computed(np.copy, self)

    def astype(self, dtype: DTypeLike) -> ndarray:
        return _computed(lambda values: values.astype(_supported(dtype)), self)

    def sum(self, axis: int | None = None) -> ndarray:
        return _computed(partial(np.sum, axis=axis), self)

    def get(self, stream: Stream | None = None) -> NDArray[Any]:
        """CuPy's: waits for the stream."""
        stream = stream or get_current_stream()
        stream._refuse_copying("D2H")
        stream.synchronize()
        return self._values.copy()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` "
            "to construct a NumPy array explicitly."
        )

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = ()
    ) -> Any:
        """Operators, too; CuPy's NumPy functions of arrays are the same."""
        if method != "__call__":
            return NotImplemented
        made = _computed(ufunc, *inputs)
        for target in out:
            if not np.can_cast(made.dtype, target.dtype, "same_kind"):
                raise TypeError(f"output (typecode {made.dtype}) could not be coerced")
            target[...] = made
        return out[0] if out else made

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        return split(*args, **kwargs) if function is np.split else NotImplemented


ndarray.__module__ = "cupy"


def _operand(value: Any) -> Any:
    """An array's values, or a number."""
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, bool | int | float | np.generic):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _computed(function: Callable[..., Any], *operands: Any) -> ndarray:
    """A new array of function(*operands), computed in the stream's turn."""
    values = [_operand(each) for each in operands]
    # Ones tell shape and dtype; what the values will be is not yet known.
    ones = [np.ones_like(v) if isinstance(v, np.ndarray) else v for v in values]
    like = np.asarray(function(*ones))
    made = ndarray(like.shape, like.dtype)
    target = made._values

    def compute() -> None:
        with np.errstate(all="ignore"):  # a GPU says nothing
            np.copyto(target, function(*values))

    get_current_stream()._add(compute)
    return made


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = float) -> ndarray:
    """CuPy's."""
    return ndarray(shape, dtype)


def asarray(a: Any, dtype: DTypeLike = None, order: str | None = None) -> ndarray:
    """CuPy's, of what is on the host; keeps Fortran's order, if not asked for C's."""
    stream, host = get_current_stream(), np.asarray(a, dtype)
    stream._refuse_copying("H2D")
    turned = host.flags.fnc and order != "C"
    made = ndarray(host.shape[::-1] if turned else host.shape, host.dtype)
    if turned:
        made = made._with(made._values.T)
    # Else CuPy copies it to pinned memory of its own.
    direct = _pinned(host) and (turned or host.flags.c_contiguous)
    stream._add(partial(np.copyto, made._values, host if direct else host.copy()))
    return made


def asnumpy(a: Any) -> NDArray[Any]:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def copyto(dst: ndarray, src: ndarray) -> None:
    """CuPy's, between its arrays."""
    dst[...] = src


def split(ary: ndarray, indices_or_sections: list[int]) -> list[ndarray]:
    """CuPy's, along the first axis."""
    ends = [*indices_or_sections, len(ary)]
    return [ary[a:b] for a, b in zip([0, *ends], ends, strict=False)]


class PinnedMemory(bytearray):
    """CuPy's: the GPU reads it by itself."""


def empty_pinned(shape: tuple[int, ...], dtype: DTypeLike = float) -> NDArray[Any]:
    """cupyx's."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, buffer=PinnedMemory(b"\xff" * max(1, size)))


def _pinned(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, PinnedMemory)
