"""Exported networks against PyTorch, loaded as docs/export.md says, and onnxruntime."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn.base.errors import MinicnnError
from minicnn.devices import device
from minicnn.nn.architectures import ARCHITECTURES, is_built_in
from minicnn.nn.network import Network
from minicnn.results import features
from minicnn.results.export import export_onnx, export_torch
from minicnn.results.inputs import image_files
from minicnn.training.run import Run
from tests.support.runs import make_run
from tests.support.torch_module import torch_module

OUTPUTS, CLASSES = 12, 9
# float32 through 8 layers: roundings of 6e-8 on logits, relative to their norm.
TOLERANCE = 1e-5


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


def test_the_shown_module_says_the_architectures_numbers() -> None:
    module = torch_module()
    built_in = {n for n, arch in ARCHITECTURES.items() if is_built_in(arch)}
    assert module.NETS.keys() == built_in
    for name, (crop, scale, *_) in module.NETS.items():
        assert (crop, scale) == (ARCHITECTURES[name].crop, ARCHITECTURES[name].scale)


@pytest.mark.parametrize("name", ["caffenet64", "miniature"])
def test_onnxruntime_computes_the_same_logits(name: str, tmp_path: Path) -> None:
    reason = "needs onnx and onnxruntime (pip install onnx onnxruntime)"
    pytest.importorskip("onnx", reason=reason)
    runtime = pytest.importorskip("onnxruntime", reason=reason)
    run = made(tmp_path / "run", name)
    export_onnx(run, tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["minicnn"])
    assert [each["name"] for each in about["classes"]] == [c.name for c in run.classes]

    size = ARCHITECTURES[name].size
    images = np.random.default_rng(2).integers(0, 256, (3, size, size, 3), np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    [ours] = features.batches(run, device.get("cpu"), image_files(run, paths))
    x = images.transpose(0, 3, 1, 2).astype(np.float32)
    [theirs] = session.run(["logits"], {"images": x})
    assert theirs.shape == ours.shape == (3, OUTPUTS)
    assert np.linalg.norm(ours - theirs) < TOLERANCE * np.linalg.norm(ours)


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MinicnnError, match=r"pip install 'minicnn-transfer\[onnx\]'"):
        export_onnx(made(tmp_path / "run", "caffenet32"), tmp_path / "net.onnx")


def test_equal_runs_export_equal_bytes(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "caffenet32")
    for export, ending in ((export_torch, ".safetensors"), (export_onnx, ".onnx")):
        if export is export_onnx:
            pytest.importorskip("onnx", reason="needs onnx (extra: onnx)")
        one, two = (tmp_path / f"{name}{ending}" for name in ("one", "two"))
        export(run, one)
        export(Run(tmp_path / "run"), two)
        assert one.read_bytes() == two.read_bytes()
