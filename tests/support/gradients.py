"""Holds an oracle's gradients against central differences, and against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from minicnn.experiments.proofs.gradcheck import DIFFERENCES, STEP
from tests.support.helpers import Array, Arrays, compare, rounded, tolerance


def numerical_gradient(
    function: Callable[[], float], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """d function() / dx by central differences; function() reads x, moved in place."""
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        value = x[i]
        x[i] = value + STEP
        above = function()
        x[i] = value - STEP
        gradient[i] = (above - function()) / (2 * STEP)
        x[i] = value
    return gradient


def check_gradients(
    reference: Callable[..., Arrays],
    inputs: Arrays,
    forward: Callable[..., Array] | None = None,
) -> None:
    """Asserts that the oracle's gradients are those of its own forward pass.

    Args:
        reference: gives y, and for each float input but dy, say x, the gradient dx of
            Σ y·dy.
        forward: gives y of the inputs but dy, where that is far less work; it is
            called twice for every number of theirs.
    """
    inputs = rounded(inputs, np.float64)
    analytic = reference(**inputs)
    moved = {name: inputs[name] for name in inputs.keys() - {"dy"}}

    def total() -> float:
        y = forward(**moved) if forward else reference(**inputs)["y"]
        return float(np.sum(y * inputs["dy"]))

    for name, array in moved.items():
        numerical = numerical_gradient(total, array)
        compare(f"d{name}", analytic[f"d{name}"], numerical, DIFFERENCES)


def check_against_torch(
    function: Callable[..., Any], reference: Callable[..., Arrays], inputs: Arrays
) -> None:
    """Asserts that the oracle agrees with PyTorch's forward and backward pass.

    Args:
        function: function(torch, **inputs but dy) → y, of PyTorch tensors.
        reference: as for `check_gradients`.
    """
    torch = pytest.importorskip("torch")
    leaves = {
        name: torch.tensor(array, requires_grad=True)
        for name, array in inputs.items()
        if name != "dy"
    }
    y = function(torch, **leaves)
    expected = reference(**inputs)
    y.backward(torch.tensor(inputs["dy"]))
    terms = max(array.size for array in inputs.values())
    allowed = tolerance(np.float64, terms)
    compare("y", y.detach().numpy(), expected["y"], allowed)
    for name, leaf in leaves.items():
        compare(f"d{name}", leaf.grad.numpy(), expected[f"d{name}"], allowed)
