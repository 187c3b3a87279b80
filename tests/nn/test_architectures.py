"""The networks as data: CaffeNet's published shapes, and what is refused."""

from __future__ import annotations

import pytest

from minicnn.devices import device
from minicnn.nn import architectures
from minicnn.nn.network import Network


def test_caffenet_has_the_published_shapes() -> None:
    # Jia et al., Caffe, bvlc_reference_caffenet: blob shapes and 60,965,224 parameters.
    net = Network("caffenet", 1000, device.get("cpu"), seed=None)
    shapes = {layer.spec.name: layer.y_shape for layer in net.layers}
    assert shapes["conv1"] == (55, 55, 96)
    assert shapes["pool1"] == (27, 27, 96)  # and of LRN, which is part of it
    assert shapes["conv2"] == (27, 27, 256)
    assert shapes["pool2"] == (13, 13, 256)
    assert shapes["conv3"] == shapes["conv4"] == (13, 13, 384)
    assert shapes["conv5"] == (13, 13, 256)
    assert shapes["pool5"] == (6, 6, 256)
    assert shapes["fc8"] == (1, 1, 1000)
    assert sum(p.value.size for p in net.params) == 60_965_224


def test_caffenet_starts_as_published() -> None:
    found = {}
    for spec in architectures.get("caffenet").layers:
        if isinstance(spec, architectures.Conv | architectures.FullyConnected):
            found[spec.name] = (spec.std, spec.bias)
    assert found == {
        "conv1": (0.01, 0),
        "conv2": (0.01, 1),
        "conv3": (0.01, 0),
        "conv4": (0.01, 1),
        "conv5": (0.01, 1),
        "fc6": (0.005, 1),
        "fc7": (0.005, 1),
        "fc8": (0.01, 0),
    }


@pytest.mark.parametrize("name", list(architectures.ARCHITECTURES))
def test_all_have_the_same_kinds_of_layers(name: str) -> None:
    kinds = [type(spec) for spec in architectures.get(name).layers]
    assert kinds == [type(spec) for spec in architectures.get("caffenet").layers]
