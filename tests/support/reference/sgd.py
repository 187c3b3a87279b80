"""SGD with momentum and weight decay in Caffe's form, in float64, number by number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def update(
    w: Array, g: Array, v: Array, lr: float, momentum: float, decay: float
) -> tuple[Array, Array]:
    """The new (w, v): v ← momentum·v + lr·(g + decay·w), then w ← w − v."""
    new_w, new_v = np.zeros(w.shape), np.zeros(w.shape)
    for i in np.ndindex(w.shape):
        new_v[i] = momentum * v[i] + lr * (g[i] + decay * w[i])
        new_w[i] = w[i] - new_v[i]
    return new_w, new_v
