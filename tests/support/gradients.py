"""Holds an oracle and its gradients against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import Arrays, compare, tolerance


def check_against_torch(
    function: Callable[..., Any], reference: Callable[..., Arrays], inputs: Arrays
) -> None:
    """Asserts that the oracle agrees with PyTorch's forward and backward pass.

    Args:
        function: function(torch, **inputs but dy) → y, of PyTorch tensors.
        reference: gives y, and for each float input but dy, say x, the gradient dx of
            Σ y·dy.
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
