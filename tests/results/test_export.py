"""Exported networks against PyTorch, loaded as docs/export.md says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicnn.devices import device
from minicnn.nn.architectures import ARCHITECTURES
from minicnn.nn.network import Network
from minicnn.results.export import export_torch, torch_tensors
from minicnn.results.inference import predict
from minicnn.training.run import Run
from tests.support.runs import make_run
from tests.support.torch_module import torch_module

OUTPUTS, CLASSES = 12, 9
# float32 through 8 layers: roundings of 6e-8 on logits, relative to their norm.
TOLERANCE = 1e-5
# The same on probabilities.
PROBABILITY = 1e-4


def made(folder: Path, name: str) -> Run:
    """A run of an untrained network whose every tensor tells."""
    arch = ARCHITECTURES[name]
    network = Network(name, OUTPUTS, device.get("cpu"), seed=None)
    rng = np.random.default_rng(1)
    weights = {
        p.name: rng.standard_normal(p.shape, np.float32) * (p.std or 0.1)
        for p in network.params
    }
    # Logits of a few units; the classes would be equally likely as they start.
    weights["fc8.w"] *= 10
    mean = rng.uniform(80, 160, (arch.size, arch.size, 3))
    return make_run(folder, name, weights, mean, CLASSES)


@pytest.mark.parametrize("name", ["caffenet64", "caffenet32"])
def test_torch_loads_the_file_and_predicts_the_same(name: str, tmp_path: Path) -> None:
    module = torch_module()
    run = made(tmp_path / "run", name)
    export_torch(run, tmp_path / "net.safetensors")
    twin, classes = module.load(tmp_path / "net.safetensors")
    assert classes == [{"wnid": c.wnid, "name": c.name} for c in run.classes]

    size, crop = ARCHITECTURES[name].size, ARCHITECTURES[name].crop
    images = np.random.default_rng(2).integers(0, 256, (2, size, size, 3))
    edge = (size - crop) // 2
    inside = (slice(None), slice(edge, edge + crop), slice(edge, edge + crop))
    x = ((images - run.mean[None])[inside]) * ARCHITECTURES[name].scale
    logits = run.network(device.get("cpu")).forward(np.float32(x))
    expected = twin(module.torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    assert logits.shape == expected.shape == (2, OUTPUTS)
    size = np.linalg.norm(expected)
    assert np.linalg.norm(logits - expected) < TOLERANCE * size


def test_caffenets_tensors_fit_strictly() -> None:
    module = torch_module()
    network = Network("caffenet", 1000, device.get("cpu"), seed=None)
    tensors = torch_tensors(network.arch, {p.name: p.value for p in network.params})
    with module.torch.device("meta"):
        twin = module.CaffeNet("caffenet", 1000, 256)
    shapes = {name: tuple(value.shape) for name, value in twin.state_dict().items()}
    assert shapes.pop("mean") == (3, 256, 256)
    assert shapes == {name: value.shape for name, value in tensors.items()}


def test_the_shown_module_says_the_architectures_numbers() -> None:
    module = torch_module()
    assert module.NETS.keys() == ARCHITECTURES.keys()
    for name, (crop, scale, *_) in module.NETS.items():
        assert (crop, scale) == (ARCHITECTURES[name].crop, ARCHITECTURES[name].scale)


def test_torch_names_the_same_classes_as_predict(tmp_path: Path) -> None:
    module = torch_module()
    from PIL import Image

    run = made(tmp_path / "run", "caffenet32")
    export_torch(run, tmp_path / "net.safetensors")
    twin, classes = module.load(tmp_path / "net.safetensors")
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    [prediction] = predict(run, [tmp_path / "image.png"], device.get("cpu"))
    torch = module.torch
    logits = twin(torch.tensor(pixels.transpose(2, 0, 1).astype(np.float32))[None])
    shares = torch.softmax(logits, 1)[0, : len(classes)]
    best = torch.topk(shares, 5)
    expected = [classes[i]["wnid"] for i in best.indices]
    assert [guess.wnid for guess in prediction.guesses] == expected
    ours = [guess.probability for guess in prediction.guesses]
    np.testing.assert_allclose(ours, best.values.detach(), rtol=PROBABILITY)


def test_equal_runs_export_equal_bytes(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "caffenet32")
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    export_torch(run, one)
    export_torch(Run(tmp_path / "run"), two)
    assert one.read_bytes() == two.read_bytes()
