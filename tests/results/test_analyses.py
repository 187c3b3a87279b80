"""The formulas of the analyses, each against another way to compute it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from minicnn.devices import device
from minicnn.nn.network import Network
from minicnn.results.analyses import measures
from minicnn.results.analyses.nets import blended, distances
from tests.support.runs import MINIATURE

# Sums of some thousand float64 products in another order.
CLOSE = 1e-9


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_pooling_takes_means_of_cells() -> None:
    features = draw(3, 7, 2, 4)
    rows = measures.pooled(features, 3).reshape(3, 3, 2, 4)
    for cell, (start, stop) in enumerate(((0, 2), (2, 4), (4, 7))):
        right = features[:, start:stop].mean(axis=1)
        np.testing.assert_allclose(rows[:, cell], right, rtol=1e-5)  # float32


def hsic_by_tuples(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The U-statistic over all four different images (Song et al. 2012, theorem 3)."""
    tuples = list(itertools.permutations(range(len(k)), 4))
    terms = (k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in tuples)
    return sum(terms) / len(tuples)


def test_hsic_is_the_u_statistic() -> None:
    x, y = draw(7, 3), draw(7, 2, seed=1) + draw(7, 3)[:, :2]
    k, l = x @ x.T, y @ y.T  # noqa: E741
    found = measures.unbiased_hsic(k, l)
    assert found == pytest.approx(hsic_by_tuples(k, l), rel=CLOSE)


def test_cka_over_batches() -> None:
    first = [draw(6, 2, 2, 3), draw(6, 4, seed=1)]
    second = [draw(6, 5, seed=2), first[1] * 2 + draw(6, 4, seed=3)]
    parts = slice(5), slice(1, 6)
    every = (*parts, slice(3))  # which is too few to count
    batches = [([x[p] for x in first], [y[p] for y in second]) for p in every]
    found = measures.cka(batches)

    def summed(x: np.ndarray, y: np.ndarray) -> float:
        kernels = [
            [z.reshape(6, -1)[part] @ z.reshape(6, -1)[part].T for z in (x, y)]
            for part in parts
        ]
        return sum(hsic_by_tuples(k, l) for k, l in kernels)  # noqa: E741

    for i, x in enumerate(first):
        for j, y in enumerate(second):
            right = summed(x, y) / math.sqrt(summed(x, x) * summed(y, y))
            assert found[i, j] == pytest.approx(right, rel=CLOSE)


@pytest.mark.parametrize("width", [4, 30])
def test_logme_is_the_greatest_evidence(width: int) -> None:
    """Beside y ~ N(0, I/β + F·Fᵀ/α), written out (Bishop, section 3.5)."""
    minimize = pytest.importorskip("scipy.optimize").minimize
    f, labels = draw(20, width), np.arange(20) % 3
    f[:, 0] += labels

    def best(label: int) -> float:
        y = (labels == label).astype(float)

        def missing(logs: np.ndarray) -> float:
            alpha, beta = np.exp(logs)
            cov = np.eye(20) / beta + f @ f.T / alpha
            quadratic = y @ np.linalg.solve(cov, y)
            constant = 20 * math.log(2 * math.pi)
            return (constant + np.linalg.slogdet(cov)[1] + quadratic) / 2

        starts = ([0, 0], [3, 1], [8, 1], [-2, 3])
        how = {"method": "Nelder-Mead", "options": {"maxiter": 5000, "fatol": 1e-12}}
        return -min(minimize(missing, start, **how).fun for start in starts) / 20

    right = np.mean([best(label) for label in range(3)])
    # Both searches stop near a maximum that is flat.
    assert measures.logme(f, labels, 10_000) == pytest.approx(right, rel=1e-6)


def test_kendall() -> None:
    assert measures.kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert math.isnan(measures.kendall([1, 1], [1, 2]))
    stats = pytest.importorskip("scipy.stats")
    first, second = [3, 1, 2, 2, 5, 0], [1, 1, 4, 2, 9, 3]
    right = stats.kendalltau(first, second).statistic
    assert measures.kendall(first, second) == pytest.approx(right, rel=CLOSE)


def test_the_barrier_is_above_the_chord() -> None:
    assert measures.barrier([1.0, 2.5, 2.0, 3.0]) == pytest.approx(2.5 - 5 / 3)
    assert measures.barrier([1.0, 1.2, 3.0]) == 0  # a valley has none


def test_a_probe_finds_what_is_linear() -> None:
    pytest.importorskip("sklearn")
    labels = np.arange(300) % 3
    x = draw(300, 5).astype(np.float32)
    x[:, 1] = 7  # without spread: harmless
    noise = measures.probe(x[:200], labels[:200], x[200:], labels[200:])
    assert noise["top1"] < 0.5
    x[:, 0] += 100 * (labels == 1)
    x[:, 2] += 100 * (labels == 2)
    found = measures.probe(x[:200], labels[:200], x[200:], labels[200:])
    assert found["top1"] == 1


def test_a_probe_is_the_one_that_scikit_learn_would_choose() -> None:
    """Features that outnumber the images they are noisy in, and val of another mean."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.preprocessing import StandardScaler

    labels, val_labels = np.arange(150) % 3, np.arange(600) % 7 % 3
    x, val = draw(150, 60), draw(600, 60, seed=1)
    for some, of in ((x, labels), (val, val_labels)):
        some[:, :3] += 0.9 * np.eye(3)[of]
    x, val = 5 + 2 * x, 6 + 2 * val
    fold = np.full(150, -1)  # -1 is never held out
    fold[np.random.default_rng(0).permutation(150)[:30]] = 0
    scale = StandardScaler().fit(x)
    search = GridSearchCV(
        LogisticRegression(tol=1e-3, max_iter=300),
        {"C": measures.STRENGTHS},
        cv=PredefinedSplit(fold),
    ).fit(scale.transform(x), labels)
    assert measures.probe(x, labels, val, val_labels) == {
        "strength": search.best_params_["C"],
        "top1": pytest.approx(search.score(scale.transform(val), val_labels)),
    }


def test_distances_and_blends() -> None:
    network = Network(MINIATURE, 8, device.get("cpu", 1))
    start = network.tensors()
    end: dict[str, Any] = {name: values.copy() for name, values in start.items()}
    end["conv1.w"] *= 3
    end["fc6.b"] += 1
    far = distances(network, end, start)
    w, b = start["conv1.w"], start["conv1.b"]
    length = np.sqrt((w.astype(float) ** 2).sum() + (b**2).sum())
    assert far[1] == pytest.approx(2 * np.linalg.norm(w) / length, rel=1e-6)
    assert far[2] == 0 < far[6]
    mixed = blended(start, end, 0.25)
    np.testing.assert_allclose(mixed["conv1.w"], 1.5 * w, rtol=1e-6)
