"""One module for each op: its NumPy form and, beside it, the launch of its kernel.

    @op
    def forward(dev, x, y): ...            # the NumPy form

    @forward.kernel
    def _(dev, x, y): ...                  # what devices with kernels do instead

An op is called with the device first; all outputs are allocated by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec

import numpy as np

from minicnn.device import Device

Args = ParamSpec("Args")
Form = Callable[Concatenate[Device, Args], None]


class op(Generic[Args]):
    """Decorates an op's NumPy form; `.kernel` decorates the launch of its kernel."""

    def __init__(self, form: Form[Args]) -> None:
        self._form = form
        self._launch: Form[Args] | None = None
        self.__doc__, self.__name__ = form.__doc__, form.__name__
        self.__module__ = form.__module__

    def kernel(self, launch: Form[Args]) -> Form[Args]:
        """Decorates what devices with kernels do instead of the NumPy form."""
        self._launch = launch
        return launch

    def __call__(self, dev: Device, *args: Args.args, **kwargs: Args.kwargs) -> Any:
        """Runs the op on the device."""
        form = self._launch if dev.has_kernels else self._form
        if form is None:
            raise TypeError(f"{self.__module__}.{self.__name__}: has no kernel")
        return form(dev, *args, **kwargs)


def vector_width(channels: int, dtype: np.dtype) -> int:
    """How many neighbouring channels a kernel's thread takes: 16 bytes, or one."""
    width = 16 // dtype.itemsize
    return 1 if channels % width else width
