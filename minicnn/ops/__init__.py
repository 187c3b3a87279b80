"""One module for each op: its NumPy form and, beside it, what does the same faster.

    @op(writes=("y",))
    def forward(dev, x, y): ...            # the NumPy form

    @forward.kernel
    def forward_kernel(dev, x, y): ...     # for devices with kernels

    @forward.native
    def forward_native(dev, x, y): ...     # compiled code of the cpu device

The NumPy form is the definition. The compiled form gives the same bits (payloads of NaN
apart), unless it says otherwise; it returns NotImplemented for what it leaves to NumPy.

An op is called with the device first; the caller allocates all outputs. NumPy and
compiled forms are written for float32 and float64. For bfloat16 arrays they get float32
copies, and what they write is rounded to bfloat16 afterwards, as a kernel would.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec

import numpy as np

from minicnn.base.precision import BF16
from minicnn.devices.device import Device

Args = ParamSpec("Args")
Form = Callable[Concatenate[Device, Args], None]


class Op(Generic[Args]):
    """An op: its NumPy form and the others, see `op`."""

    def __init__(
        self,
        form: Form[Args],
        writes: tuple[str, ...],
        updates: tuple[str, ...],
        narrow: tuple[str, ...],
        reads: tuple[str, ...],
    ) -> None:
        self._form: Callable[..., None] = form
        self._reads = reads
        self._names = tuple(inspect.signature(form).parameters)[1:]
        self.writes, self.updates, self._narrow = writes, updates, narrow
        self._kernel: Callable[..., None] | None = None
        self._native: Callable[..., Any] | None = None
        self.__doc__, self.__name__ = form.__doc__, form.__name__
        self.__module__ = form.__module__

    def kernel(self, form: Form[Args]) -> Form[Args]:
        """Decorates the form of devices with kernels."""
        self._kernel = form
        return form

    def native(self, form: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates the compiled form of devices without kernels."""
        self._native = form
        return form

    def __call__(self, dev: Device, *args: Args.args, **kwargs: Args.kwargs) -> None:
        """Runs the op on the device.

        Raises:
            TypeError: the device has kernels, and the op none.
        """
        if dev.has_kernels:
            if self._kernel is None:
                raise TypeError(f"{self.__module__}.{self.__name__}: has no kernel")
            return self._kernel(dev, *args, **kwargs)
        given: dict[str, Any] = dict(zip(self._names, args, strict=False), **kwargs)
        native = self._native if dev.native else None
        if native is None or self._reads or self._narrowed(given):
            dev.once(lambda: self._on_host(dev, given))
        elif native(dev, **given) is NotImplemented:
            dev.once(lambda: self._form(dev, **given))

    def _narrowed(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arrays of bfloat16 that no form takes."""
        return {
            name: value
            for name, value in given.items()
            if getattr(value, "dtype", None) == BF16 and name not in self._narrow
        }

    def _on_host(self, dev: Device, given: dict[str, Any]) -> None:
        """Runs the native or the NumPy form; bfloat16 is widened."""
        # An array given twice, where an op works in place, is widened once.
        narrow = self._narrowed(given).values()
        wide = {id(value): value.astype(np.float32) for value in narrow}
        named = {name: wide.get(id(value), value) for name, value in given.items()}
        form = self._native if dev.native else None
        if form is None or form(dev, **named) is NotImplemented:
            self._form(dev, **named)
        for name in (*self.writes, *self.updates):
            if (array := wide.get(id(given.get(name)))) is not None:
                given[name][...] = array


def op(
    writes: tuple[str, ...] = (),
    updates: tuple[str, ...] = (),
    narrow: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
) -> Callable[[Form[Args]], Op[Args]]:
    """Decorates an op's NumPy form; `.kernel` and `.native` decorate the others.

    Args:
        writes: parameters whose arrays the op writes without reading them.
        updates: parameters whose arrays it reads and writes.
        narrow: parameters that all forms take in bfloat16.
        reads: parameters whose numbers the compiled form reads in Python.
    """
    return lambda form: Op(form, writes, updates, narrow, reads)


def select(values: np.ndarray, where: np.ndarray, out: np.ndarray) -> None:
    """out = values where `where` is true, else 0, even of NaN and infinities.

    As in kernels; a product of values and `where` would give NaN · 0 = NaN.

    Args:
        where: bool.
        out: may be the values.
    """
    bits = np.dtype(f"i{values.itemsize}")
    whole = np.subtract(0, where, dtype=bits)  # all bits or none
    np.bitwise_and(values.view(bits), whole, out=out.view(bits))


@functools.cache
def vector_width(channels: int, dtype: np.dtype) -> int:
    """Neighbouring channels that a kernel's thread takes: 16 bytes of them, or one."""
    width = 16 // dtype.itemsize
    return 1 if channels % width else width
