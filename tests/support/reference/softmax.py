"""Softmax cross-entropy in float64: row by row, class by class."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def cross_entropy(
    logits: NDArray[np.float64], labels: NDArray[np.integer]
) -> tuple[float, int, int, NDArray[np.float64]]:
    """The summed loss, the top-1 and top-5 counts, and the mean loss's gradient.

    Rows labelled −1 count for nothing. Of equal logits the smaller class comes first.
    """
    counted = sum(1 for label in labels if label >= 0)
    loss, top1, top5 = 0.0, 0, 0
    gradient = np.zeros(logits.shape)
    for row, label in enumerate(labels):
        if label < 0:
            continue
        z = [float(value) for value in logits[row]]
        largest = max(z)
        exponentials = [math.exp(value - largest) for value in z]
        total = math.fsum(exponentials)
        loss += math.log(total) - (z[label] - largest)
        for k in range(len(z)):
            truth = 1.0 if k == label else 0.0
            gradient[row, k] = (exponentials[k] / total - truth) / counted
        ahead = sum(1 for k in range(len(z)) if (-z[k], k) < (-z[label], label))
        top1 += ahead < 1
        top5 += ahead < 5
    return loss, top1, top5, gradient
