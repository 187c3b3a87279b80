"""One module for each op: a function that returns its forms, side by side.

    @op(writes=("y",))
    def forward(dev, x, y):
        def numpy(): ...      # the definition
        def kernel(): ...     # for devices with kernels
        def native(): ...     # compiled code of the cpu device
        return Forms(numpy, kernel, native)

The compiled form gives the NumPy form's bits (payloads of NaN apart), unless it says
otherwise; where it cannot do what is asked for it is left out.

An op is called with the device first; the caller allocates all outputs. NumPy and
compiled forms are written for float32 and float64. For bfloat16 arrays they get float32
copies, and what they write is rounded to bfloat16 afterwards, as a kernel would.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec

import numpy as np

from minicnn.base.precision import BF16
from minicnn.devices.device import Device

Args = ParamSpec("Args")


class Forms(NamedTuple):
    """What runs one call of an op, in each form that there is."""

    numpy: Callable[[], object]
    kernel: Callable[[], object]
    native: Callable[[], object] | None = None


class Op(Generic[Args]):
    """An op, see `op`; `forms` makes the forms of a call."""

    def __init__(
        self,
        forms: Callable[Concatenate[Device, Args], Forms],
        writes: tuple[str, ...],
        updates: tuple[str, ...],
        narrow: tuple[str, ...],
        reads: tuple[str, ...],
    ) -> None:
        self.forms: Callable[..., Forms] = forms
        self._reads = reads
        self._names = tuple(inspect.signature(forms).parameters)[1:]
        self.writes, self.updates, self._narrow = writes, updates, narrow
        self.__doc__, self.__name__ = forms.__doc__, forms.__name__
        self.__module__ = forms.__module__

    def __call__(self, dev: Device, *args: Args.args, **kwargs: Args.kwargs) -> None:
        """Runs the op on the device."""
        if dev.has_kernels:
            self.forms(dev, *args, **kwargs).kernel()
            return
        given: dict[str, Any] = dict(zip(self._names, args, strict=False), **kwargs)
        narrow = {
            id(value): value
            for name, value in given.items()
            if getattr(value, "dtype", None) == BF16 and name not in self._narrow
        }
        if self._reads or narrow:
            dev.once(lambda: self._widened(dev, given, narrow))
            return
        forms = self.forms(dev, **given)
        if dev.native and forms.native:
            forms.native()
        else:
            dev.once(forms.numpy)

    def _widened(
        self, dev: Device, given: dict[str, Any], narrow: dict[int, Any]
    ) -> None:
        """Runs the native or the NumPy form with these arrays, by id, in float32."""
        wide = {key: array.astype(np.float32) for key, array in narrow.items()}
        named = {name: wide.get(id(value), value) for name, value in given.items()}
        forms = self.forms(dev, **named)
        native = forms.native if dev.native else None
        (native or forms.numpy)()
        for name in (*self.writes, *self.updates):
            if (key := id(given.get(name))) in wide:
                narrow[key][...] = wide[key]


def op(
    writes: tuple[str, ...] = (),
    updates: tuple[str, ...] = (),
    narrow: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
) -> Callable[[Callable[Concatenate[Device, Args], Forms]], Op[Args]]:
    """Decorates the function of an op's forms.

    Args:
        writes: parameters whose arrays the op writes without reading them.
        updates: parameters whose arrays it reads and writes.
        narrow: parameters that all forms take in bfloat16.
        reads: parameters whose numbers the compiled form reads in Python.
    """
    return lambda forms: Op(forms, writes, updates, narrow, reads)


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


def vector_width(channels: int, dtype: np.dtype) -> int:
    """Neighbouring channels that a kernel's thread takes: 16 bytes of them, or one."""
    width = 16 // dtype.itemsize
    return 1 if channels % width else width
