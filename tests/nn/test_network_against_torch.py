"""Whole networks against PyTorch on the same weights: loss and every gradient."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.base.precision import FP32, FP64, Precision
from minicnn.devices import device
from minicnn.nn.architectures import ARCHITECTURES
from minicnn.nn.network import Network
from minicnn.nn.pool_layers import PoolLRNLayer
from minicnn.nn.torch_layout import to_torch
from tests.support.torch_module import torch_module

OUTPUTS = 20
BATCH = 3
# conv1's weights are so much larger than at the start of training that both LRNs divide
# by well over 1.
GAIN = {"caffenet": 10, "caffenet64": 30, "caffenet32": 30}
# Error of a whole tensor, by its norm. Single numbers may differ by more: where the two
# largest of a pool's window, or a ReLU's input and zero, differ by rounding alone, one
# side may send a gradient elsewhere.
# float64: a few thousand roundings of 1e-16; there is no such near tie in 1e7 numbers.
DOUBLE = 1e-11
# float32: roundings of 6e-8 through 8 layers, plus the rare switch just described.
SINGLE = 1e-4


def off(actual: np.ndarray, expected: np.ndarray) -> float:
    """‖actual − expected‖ / ‖expected‖."""
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def make(name: str, precision: Precision) -> tuple[Network, np.ndarray]:
    """A network whose every part tells (biases are random), and its input."""
    network = Network(name, OUTPUTS, device.get("cpu"), None, precision)
    rng = np.random.default_rng(4)
    for p in network.params:
        # float32 draws: CaffeNet has 58 million weights, and this is the fast way.
        p.value[...] = rng.standard_normal(p.shape, np.float32) * (p.std or 0.1)
        p.value += p.constant
    network.params[0].value *= GAIN[name]
    crop = network.arch.crop
    x = rng.normal(0, 60, (BATCH, crop, crop, 3)) * network.arch.scale
    return network, x.astype(precision.values)


@pytest.mark.parametrize(
    ("name", "precision", "tolerance"),
    [
        ("caffenet", FP32, SINGLE),
        ("caffenet64", FP64, DOUBLE),
        ("caffenet32", FP64, DOUBLE),
    ],
)
def test_loss_and_gradients(name: str, precision: Precision, tolerance: float) -> None:
    module = torch_module()
    torch = module.torch
    network, x = make(name, precision)
    labels = np.array([OUTPUTS - 1, 0, 7], np.int32)
    logits = network.forward(x)
    loss = network.scored(labels, gradient=True).loss / BATCH
    network.backward()
    norms = [each for each in network.layers if isinstance(each, PoolLRNLayer)]
    ratios = [np.max(each.u[each.u > 0] / each.y[each.u > 0]) for each in norms]
    assert min(ratios) > 1.2**0.75, "LRN is too tame to tell"

    arch = ARCHITECTURES[name]
    with torch.device("meta"):
        twin = module.CaffeNet(name, OUTPUTS, arch.crop).eval()
    values = {
        n: torch.from_numpy(v) for n, v in to_torch(arch, network.tensors()).items()
    }
    values["mean"] = torch.zeros(3, arch.crop, arch.crop)
    twin.load_state_dict(values, strict=True, assign=True)
    # The module scales its input; these are scaled already, as the trainer does it.
    images = torch.tensor((x / arch.scale).astype(x.dtype).transpose(0, 3, 1, 2))
    expected = twin(images)
    twin_loss = torch.nn.functional.cross_entropy(expected, torch.tensor(labels).long())
    twin_loss.backward()

    assert off(logits, expected.detach().numpy()) < tolerance
    assert loss == pytest.approx(twin_loss.item(), rel=tolerance)
    gradients = {p.name: network.gradient(p) for p in network.params}
    ours = to_torch(arch, gradients)
    errors = {n: off(ours[n], p.grad.numpy()) for n, p in twin.named_parameters()}
    assert len(errors) == 16
    assert max(errors.values()) < tolerance, errors
