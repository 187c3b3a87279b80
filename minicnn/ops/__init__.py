"""One module for each op: its NumPy form and, beside it, what does the same faster.

    @op
    def forward(dev, x, y): ...            # the NumPy form

    @forward.kernel
    def forward_kernel(dev, x, y): ...     # what devices with kernels do instead

    @forward.native
    def forward_native(dev, x, y): ...     # what the cpu device does where it can

The NumPy form is the definition. The compiled form gives the very same bits, of NaNs
other payloads at most, but where it says otherwise; it returns NotImplemented for what
it leaves to NumPy.

An op is called with the device first; all outputs are allocated by the caller. NumPy
and compiled forms are written for float32 and float64. Given arrays of bfloat16, they
get float32 ones instead, which are rounded to bfloat16 afterwards: what a kernel would
store.
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


class op(Generic[Args]):
    """Decorates an op's NumPy form; `.kernel` and `.native` decorate the others.

    Args:
        narrow: names of parameters that all forms take in bfloat16.
    """

    def __init__(self, form: Form[Args], narrow: tuple[str, ...] = ()) -> None:
        self._form = form
        names = list(inspect.signature(form).parameters)[1:]
        self._narrow: set[int | str] = {*narrow, *map(names.index, narrow)}
        self._launch: Form[Args] | None = None
        self._native: Callable[..., Any] | None = None
        self.__doc__, self.__name__ = form.__doc__, form.__name__
        self.__module__ = form.__module__

    def kernel(self, launch: Form[Args]) -> Form[Args]:
        """Decorates what devices with kernels do instead of the NumPy form."""
        self._launch = launch
        return launch

    def native(self, form: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates what devices without kernels do where compiled code runs."""
        self._native = form
        return form

    def __call__(self, dev: Device, *args: Args.args, **kwargs: Args.kwargs) -> Any:
        """Runs the op on the device."""
        if not dev.has_kernels:
            return _in_float32(self._on_host, dev, args, kwargs, self._narrow)
        if self._launch is None:
            raise TypeError(f"{self.__module__}.{self.__name__}: has no kernel")
        return self._launch(dev, *args, **kwargs)

    def _on_host(self, dev: Device, *args: Args.args, **kwargs: Args.kwargs) -> None:
        form = self._native if dev.native else None
        if form is None or form(dev, *args, **kwargs) is NotImplemented:
            self._form(dev, *args, **kwargs)


def _in_float32(
    form: Callable[..., None],
    dev: Device,
    args: tuple,
    kwargs: dict[str, Any],
    narrow: set[int | str],
) -> None:
    """Calls a form with float32 arrays for those of bfloat16; rounds what it wrote.

    Args:
        narrow: places or names of arguments that stay as they are.
    """
    wide: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def widened(at: int | str, value: Any) -> Any:
        if at in narrow or not isinstance(value, np.ndarray) or value.dtype != BF16:
            return value
        # The same array twice, where an op works in place, stays the same array.
        held = wide.setdefault(id(value), (value, value.astype(np.float32)))
        return held[1]

    placed = (widened(*each) for each in enumerate(args))
    form(dev, *placed, **{name: widened(name, v) for name, v in kwargs.items()})
    for rounded, array in wide.values():
        # Inputs, which may be read-only, are as they were: to the bit, NaN and −0 too.
        before = rounded.astype(np.float32)
        if not np.array_equal(before.view(np.uint32), array.view(np.uint32)):
            rounded[...] = array


def select(values: np.ndarray, where: np.ndarray, out: np.ndarray) -> None:
    """out = values where told so, else 0; of NaN and infinities too.

    So kernels have it; in a product with what is true, NaN · 0 would be NaN.

    Args:
        where: bool.
        out: may be the values.
    """
    bits = np.dtype(f"i{values.itemsize}")
    whole = np.subtract(0, where, dtype=bits)  # all bits or none
    np.bitwise_and(values.view(bits), whole, out=out.view(bits))


@functools.cache
def vector_width(channels: int, dtype: np.dtype) -> int:
    """How many neighbouring channels a kernel's thread takes: 16 bytes, or one."""
    width = 16 // dtype.itemsize
    return 1 if channels % width else width
