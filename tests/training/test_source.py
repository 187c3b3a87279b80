"""Layers copied from any run or file: of another store, task, or of PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minicnn.base.errors import MinicnnError
from minicnn.data.store import Store
from minicnn.devices import device
from minicnn.nn import architectures
from minicnn.nn.network import Network
from minicnn.results.export import export_torch
from minicnn.training import source, transfer
from minicnn.training.run import Run
from minicnn.training.setup import Setup
from minicnn.training.treatment import passes
from tests.support.runs import MINIATURE, make_store
from tests.support.torch_module import torch_module
from tests.support.training import contents, make_setup

# float32 through 8 layers: roundings of 6e-8 on logits, relative to their norm.
TOLERANCE = 1e-5


@pytest.fixture
def elsewhere(tmp_path: Path) -> Setup:
    """Another store, all of its classes, another seed."""
    store = make_store(tmp_path / "other.h5", seed=5)
    return make_setup(store, tmp_path / "else", split="all", seed=7)


@pytest.mark.parametrize("form", ["run", "checkpoint", "export"])
def test_any_run_is_a_source(
    form: str, whole: Setup, elsewhere: Setup, tmp_path: Path
) -> None:
    base = Run(whole.runs / "baseA")
    places = {"run": base.folder, "export": tmp_path / "net.safetensors"}
    places["checkpoint"] = max((base.folder / "checkpoints").iterdir())
    export_torch(base, places["export"])
    run = transfer.transfer(elsewhere, str(places[form]), 6)
    assert run.name == ("net-6all" if form == "export" else "baseA-6all")
    assert run.about["treatment"] == "transfer"
    assert len(run.classes) == len(Store(elsewhere.store).wnids) > len(base.classes)
    for row in run.layers():
        before, after = (each.checkpoint.weights[row["tensor"]] for each in (base, run))
        same = before.shape == after.shape and np.array_equal(before, after)
        assert same == (row["layer"] <= 6)
    assert np.array_equal(run.mean, base.mean)
    assert {row["origin"] for row in run.layers() if row["layer"] <= 6} == {
        f"copied from {'net' if form == 'export' else 'baseA'}"
    }


def test_the_same_source_by_another_way_is_the_same_run(
    whole: Setup, elsewhere: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = whole.runs / "baseA"
    run = transfer.transfer(elsewhere, str(base), 3)
    before = contents(run.folder)
    monkeypatch.chdir(base.parent)
    again = transfer.transfer(elsewhere, "baseA", 3)
    assert contents(again.folder) == before
    assert run.about["source"] == str(base.resolve())


@pytest.mark.parametrize("depths", [[3], [2, 5]])
def test_a_run_goes_on_when_its_source_is_gone(
    depths: list[int], whole: Setup, elsewhere: Setup, tmp_path: Path
) -> None:
    path, share = tmp_path / "net.safetensors", len(depths) > 1
    export_torch(Run(whole.runs / "baseA"), path)
    runs = transfer.transfer_depths(elsewhere, str(path), depths, share_trunk=share)
    expected = [contents(run.folder) for run in runs]
    for run in runs:
        (run.folder / "result.json").unlink()
        max((run.folder / "checkpoints").iterdir()).unlink()
    path.unlink()
    with pytest.raises(MinicnnError, match="nor a run folder, a checkpoint or"):
        transfer.transfer(elsewhere, str(path), 6)  # which is not begun
    runs = transfer.transfer_depths(elsewhere, str(path), depths, share_trunk=share)
    assert [contents(run.folder) for run in runs] == expected
    with pytest.raises(MinicnnError, match="nor a run folder, a checkpoint or"):
        transfer.transfer_depths(elsewhere, str(path), depths, fresh=True)


def test_a_changed_source_is_refused(
    whole: Setup, elsewhere: Setup, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    export_torch(Run(whole.runs / "baseA"), path)
    transfer.transfer(elsewhere, str(path), 3, finetune=True)
    tensors = load_file(path)
    tensors["fc7.bias"][0] += 1
    save_file(tensors, path)
    with pytest.raises(MinicnnError, match=r"other settings: run\.base_sha256 was"):
        transfer.transfer(elsewhere, str(path), 3, finetune=True)


def test_what_does_not_fit_is_refused_by_name(whole: Setup, tmp_path: Path) -> None:
    base = whole.runs / "baseA"
    for change, depth in ({"k": 2.0}, 1), ({"alpha": 0.5}, 2):
        layers = [
            dataclasses.replace(each, **change) if each.name == f"norm{depth}" else each
            for each in MINIATURE.layers
        ]
        odd = dataclasses.replace(MINIATURE, name="odd", layers=tuple(layers))
        if depth > 1:
            source.of_path(str(base), odd, depth - 1)
        with pytest.raises(MinicnnError, match="its architecture miniature are not"):
            source.of_path(str(base), odd, depth)
    store = make_store(tmp_path / "large.h5", size=40)
    large = make_setup(store, tmp_path / "none", split="all")
    with pytest.raises(MinicnnError, match="make the store again with --size 36"):
        transfer.transfer(large, str(base), 3)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_source_of_what_is_no_number_is_refused(
    odd: float, whole: Setup, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    export_torch(Run(whole.runs / "baseA"), path)
    tensors = load_file(path)
    tensors["conv2.bias"][1] = odd
    save_file(tensors, path)
    with pytest.raises(MinicnnError, match=r"conv2\.b holds NaN or infinity"):
        source.of_path(str(path), MINIATURE, 3)


def test_weights_that_pytorch_saved_compute_the_same(
    elsewhere: Setup, tmp_path: Path
) -> None:
    module = torch_module()
    module.torch.manual_seed(3)
    twin = module.CaffeNet("caffenet32", 12, 32).eval()
    path = tmp_path / "twin.safetensors"
    save_file({k: v.numpy() for k, v in twin.state_dict().items()}, path)
    arch = architectures.get("caffenet32")
    found = source.of_path(str(path), arch, 7)
    network = Network(arch, 12, device.get("cpu"), seed=None)
    network.load(found.weights)
    images = np.random.default_rng(2).uniform(0, 256, (2, 32, 32, 3))
    x = np.float32(images[:, 2:30, 2:30] * arch.scale)
    logits = network.forward(x)
    theirs = twin(module.torch.tensor(np.float32(images.transpose(0, 3, 1, 2))))
    expected = theirs.detach().numpy()
    assert np.linalg.norm(logits - expected) < TOLERANCE * np.linalg.norm(expected)
    assert found.mean is not None
    assert found.mean.shape == (32, 32, 3)
    del twin.mean
    save_file({k: v.numpy() for k, v in twin.state_dict().items()}, path)
    assert source.of_path(str(path), arch, 7).mean is None


def test_the_base_that_minicnn_brings_along_is_there() -> None:
    [[treatment]] = passes("tiny-imagenet", [7], finetune=True)
    assert treatment.name == "tiny-imagenet-7all+"
    arch = source.architecture("tiny-imagenet")
    assert arch == architectures.get("caffenet32")
    found = source.of_path("tiny-imagenet", arch, 7)
    assert found.mean is not None
    assert found.mean.shape == (32, 32, 3)
