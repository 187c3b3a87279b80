"""Softmax with cross-entropy loss, its gradient, and top-1/top-5 counts.

    loss = Σ_n −ln softmax(z_n)[label_n]
    dz_n = (softmax(z_n) − onehot(label_n)) / N

A row labelled −1 is ignored: no loss, zero gradient, not counted in N. A row is right
among the top k when fewer than k classes come before its label; of equal logits the
smaller class index comes first, and a logit that is not a number makes the row wrong.

The sums stay in an array on the device until the training loop logs them, so that a
step waits for nothing.

The compiled form has its own exponential function and order of sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicnn.compile.native import NativeFile
from minicnn.devices.device import Device
from minicnn.devices.launch import KernelFile
from minicnn.ops import Forms, op

Array = NDArray[np.floating]

KERNELS = KernelFile("softmax.cu")
NATIVE = NativeFile("softmax.cpp")
THREADS = 128


class Score(NamedTuple):
    """Sums over rows: the losses, and counts of those right in the top 1 and top 5."""

    loss: float
    top1: int
    top5: int


@op(writes=("dlogits",), updates=("totals",))
def cross_entropy(
    dev: Device,
    logits: Array,
    labels: NDArray[np.int32],
    dlogits: Array | None,
    totals: NDArray[np.float64],
) -> Forms:
    """Scores logits (N,K) against labels (N,); one of K or more makes the loss NaN.

    Args:
        dlogits: (N,K), written unless None.
        totals: (3,) float64, to which the `Score` of this batch is added.
    """
    n, k = logits.shape

    def numpy() -> None:
        rows = np.flatnonzero(labels >= 0)
        z, label = logits[rows], labels[rows]
        known = label < k
        at = np.arange(len(rows)), np.where(known, label, 0)
        mine = np.where(known, z[at], np.nan)[:, None]
        smaller = np.arange(k) < label[:, None]
        rank = ((z > mine) | ((z == mine) & smaller)).sum(axis=1)
        z = z - z.max(axis=1, keepdims=True, initial=-np.inf)
        e = np.exp(z)
        total = e.sum(axis=1, keepdims=True)
        losses = np.log(total[:, 0]) - np.where(known, z[at], np.nan)
        if dlogits is not None:
            gradient = e / total
            gradient[at] -= known
            dlogits[...] = 0
            dlogits[rows] = gradient / max(len(rows), 1)
        # NaN compares false with everything and would look like the best rank.
        rank[np.isnan(losses)] = max(k, 5)
        sums = losses.sum(dtype=np.float64), (rank < 1).sum(), (rank < 5).sum()
        totals[...] += sums

    def kernel() -> None:
        scores = dev.scratch("softmax scores", (3, n), np.float64)
        score_rows = KERNELS.get("softmax_rows", logits.dtype)
        score_rows(dev, n, THREADS, (logits, labels, dlogits, scores, n, k))
        KERNELS.get("add_scores")(dev, 3, THREADS, (scores, totals, n))

    def native() -> None:
        scores = dev.scratch("softmax scores", (3, n), np.float64)
        arguments = logits, labels, dlogits, scores, n, k
        sizes = {"labels": n, "dlogits": n * k}
        NATIVE.get("softmax_rows", logits.dtype)(dev, n, arguments, sizes, work=4 * k)
        NATIVE.get("add_scores")(dev, 3, (scores, totals, n), {"totals": 3}, work=n)

    return Forms(numpy, kernel, native)
