"""The formulas of the analyses, on plain arrays: CKA, LogME, Kendall's τ, a probe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError

Array = NDArray[Any]
# Inverse strengths of the probe's L2 penalty to choose from (scikit-learn's C).
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
# Share of the training images that the choice is made on.
HELD_OUT = 0.2
_TINY = 1e-12


def pooled(features: Array, grid: int) -> NDArray[np.float32]:
    """Features (N,H,W,C) as rows (N, D): the means of at most grid × grid cells.

    A side of at most `grid` stays as it is. A longer one is cut into `grid` cells whose
    sizes differ by one pixel at most.
    """
    out: Array = np.asarray(features, np.float32)
    for axis in (1, 2):
        side = out.shape[axis]
        if side > grid:
            ends = np.arange(grid + 1) * side // grid
            cells = np.add.reduceat(out, ends[:-1], axis=axis)
            sizes = np.diff(ends).astype(np.float32)
            out = cells / sizes.reshape([-1 if i == axis else 1 for i in range(4)])
    return out.reshape(len(out), -1)


def unbiased_hsic(k: Array, l: Array) -> float:  # noqa: E741 (the paper's letters)
    """The unbiased estimate of HSIC from two kernel matrices (N,N), N ≥ 4.

    Source: Song, Smola, Gretton, Bedo, Borgwardt, JMLR 2012, equation 5.
    """
    n = len(k)
    k, l = (np.array(m, np.float64) for m in (k, l))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    pairs = float((k * l).sum())
    apart = float(k.sum() * l.sum()) / ((n - 1) * (n - 2))
    chains = 2 * float(k.sum(0) @ l.sum(0)) / (n - 2)
    return (pairs + apart - chains) / (n * (n - 3))


def cka(
    batches: Iterable[tuple[Sequence[Array], Sequence[Array]]],
) -> NDArray[np.float64]:
    """Linear CKA of each layer of one net (rows) with each of another, at most about 1.

    Source: Kornblith, Norouzi, Lee, Hinton, ICML 2019; the minibatch estimator of
    Nguyen, Raghu, Kornblith, ICLR 2021, section 2.

    Args:
        batches: of the same images, each layer's features (N, D) in both nets; one
            with N < 4 is left out.
    """
    both, first, second = np.zeros((1, 1)), np.zeros(1), np.zeros(1)
    for one, two in batches:
        if len(one[0]) < 4:
            continue
        left, right = [_kernel(x) for x in one], [_kernel(x) for x in two]
        first = first + [unbiased_hsic(k, k) for k in left]
        second = second + [unbiased_hsic(k, k) for k in right]
        both = both + [[unbiased_hsic(k, l) for l in right] for k in left]  # noqa: E741
    return both / np.sqrt(np.outer(first, second))


def _kernel(features: Array) -> NDArray[np.float64]:
    rows = np.asarray(features, np.float64).reshape(len(features), -1)
    return rows @ rows.T


def logme(features: Array, labels: Array, rounds: int = 100) -> float:
    """Log of the maximum evidence for a linear model of the labels, nats an image.

    Each class is regressed as 0 and 1 on features (N, D) under a Gaussian prior of
    precision α and Gaussian noise of precision β; both are chosen for the greatest
    evidence, and the mean over classes is returned.

    Source: You, Liu, Wang, Long, ICML 2021, algorithm 1.
    """
    f = np.asarray(features, np.float64)
    n, d = f.shape
    y = (np.asarray(labels)[:, None] == np.unique(labels)).astype(np.float64)
    # The squared singular values of f, and what of each y lies along their vectors.
    s2, vectors = np.linalg.eigh(f.T @ f)
    s2 = np.where(s2 > s2.max() * 1e-12, s2, 0)[:, None]
    along, z2 = (vectors.T @ (f.T @ y)) ** 2, np.zeros((d, y.shape[1]))
    np.divide(along, s2, where=s2 > 0, out=z2)
    rest = np.maximum((y**2).sum(0) - z2.sum(0), 0)
    ratio = np.ones(y.shape[1])  # α / β of each class
    for _ in range(rounds):
        known = (s2 / (s2 + ratio)).sum(0)
        squares = (s2 * z2 / (s2 + ratio) ** 2).sum(0)
        missed = (z2 * (ratio / (s2 + ratio)) ** 2).sum(0) + rest
        alpha = known / np.maximum(squares, _TINY)
        beta = (n - known) / np.maximum(missed, _TINY)
        before, ratio = ratio, alpha / beta
        if (abs(ratio - before) <= 1e-9 * before).all():
            break
    evidence = d * np.log(alpha) + n * np.log(beta / (2 * np.pi))
    evidence -= np.log(alpha + beta * s2).sum(0) + beta * missed + alpha * squares
    return float((evidence / (2 * n)).mean())


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's rank correlation τ-b of two rankings; NaN where one has no order."""
    pairs = np.triu_indices(len(first), 1)
    a, b = (np.sign(np.subtract.outer(v, v)[pairs]) for v in (first, second))
    scale = float(np.sqrt((a != 0).sum() * (b != 0).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def barrier(losses: Sequence[float]) -> float:
    """The most that a line's losses lie above the chord between its ends.

    Source: Entezari, Sedghi, Saukh, Neyshabur, ICLR 2022, definition 2.1; Frankle,
    Dziugaite, Roy, Carbin, ICML 2020, section 2, take the ends' mean for the chord.
    """
    values = np.asarray(losses, np.float64)
    chord = np.linspace(values[0], values[-1], len(values))
    return float((values - chord).max())


def probe(train: Array, labels: Array, val: Array, val_labels: Array) -> dict[str, Any]:
    """The top-1 of a linear classifier on features, trained on `train`.

    Features are standardised by the training images' mean and deviation. Multinomial
    logistic regression has an L2 penalty, chosen among STRENGTHS on a held-out fifth
    of the training images; then it is trained on all of them.

    Args:
        train, val: (N, D) features; their labels are (N,) classes.

    Returns:
        `top1` on `val`, and the penalty's inverse `strength`.

    Raises:
        MinicnnError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MinicnnError(
            "probes need scikit-learn; 'pip install scikit-learn' brings it, --only "
            "leaves probes out"
        ) from None
    mean, spread = train.mean(0), train.std(0)
    spread[spread == 0] = 1
    train, val = (train - mean) / spread, (val - mean) / spread
    order = np.random.default_rng(0).permutation(len(train))
    held, kept = np.split(order, [round(HELD_OUT * len(order))])

    def fitted(strength: float, rows: Array) -> Any:
        model = LogisticRegression(C=strength, tol=1e-3, max_iter=300)
        return model.fit(train[rows], labels[rows])

    scores = [fitted(c, kept).score(train[held], labels[held]) for c in STRENGTHS]
    best = STRENGTHS[int(np.argmax(scores))]
    return {"top1": fitted(best, order).score(val, val_labels), "strength": best}
