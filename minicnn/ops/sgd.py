"""Stochastic gradient descent with momentum and weight decay, Caffe's form.

    v ← momentum·v + lr·(g + decay·w)        w ← w − v

The learning rate is inside v: a drop of the rate leaves the velocity as it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicnn.device import Device
from minicnn.ops import op

Array = NDArray[np.floating]

CHUNK = 1 << 16


@op
def update(
    dev: Device,
    w: Array,
    g: Array,
    v: Array,
    lr: float,
    momentum: float,
    decay: float,
) -> None:
    """Updates w and v in place; lr and decay hold the parameter's multipliers already."""
    w, g, v = w.reshape(-1), g.reshape(-1), v.reshape(-1)

    def work(start: int, stop: int) -> None:
        ws, vs = w[start:stop], v[start:stop]
        step = dev.scratch("step", ws.shape, w.dtype)
        np.multiply(ws, decay, out=step)
        step += g[start:stop]
        step *= lr
        vs *= momentum
        vs += step
        ws -= vs

    dev.for_chunks(work, w.size, CHUNK)
