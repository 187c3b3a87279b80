"""Features of every layer against the oracles, layer after layer."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

from minicnn.base.errors import MinicnnError
from minicnn.cli.main import cli
from minicnn.data.store import Store
from minicnn.devices.device import Device
from minicnn.nn import architectures
from minicnn.nn.network import Network
from minicnn.results import features
from minicnn.results.inference import predict
from minicnn.results.inputs import images_of
from minicnn.training.run import Run
from tests.support.reference import conv, lrn, pool
from tests.support.runs import MINIATURE, make_run, make_store

SIZE, CROP, OUTPUTS = MINIATURE.size, MINIATURE.crop, 4
# Float32 through eight layers, relative to the largest feature of a layer.
TOLERANCE = 1e-5
NAMES = ["conv1", "pool1", "norm1", "conv2", "pool2", "norm2", "conv3", "conv4"]
NAMES += ["conv5", "pool5", "fc6", "fc7", "fc8"]


@pytest.fixture
def run(tmp_path: Path, dev: Device) -> Run:
    """An untrained net on a store of its own."""
    store = make_store(tmp_path / "store.h5", SIZE)
    tensors = Network(MINIATURE, OUTPUTS, dev, seed=3).tensors()
    for name in tensors:
        tensors[name] = tensors[name] / (20 if name == "conv1.w" else 1)
    mean = np.random.default_rng(0).uniform(90, 140, (SIZE, SIZE, 3))
    where = {"store": str(store)}
    return make_run(tmp_path / "run", "miniature", tensors, mean, OUTPUTS, **where)


def oracle(run: Run, images: np.ndarray) -> dict[str, np.ndarray]:
    """Each layer's output in float64, by the oracles alone."""
    edge = (SIZE - CROP) // 2
    inside = slice(edge, edge + CROP)
    x = (images.astype(np.float64) - run.mean)[:, inside, inside]
    weights, found = run.checkpoint.weights, {}
    for spec in MINIATURE.layers:
        w, b = weights.get(f"{spec.name}.w"), weights.get(f"{spec.name}.b")
        if isinstance(spec, architectures.Conv):
            x = conv.forward(x, w, b, [spec.stride] * 2, [spec.pad] * 2, spec.groups)
            x = np.maximum(x, 0)
        elif isinstance(spec, architectures.FullyConnected):
            x = x.reshape(len(x), -1) @ w.reshape(len(w), -1).T + b
            x = np.maximum(x, 0) if spec.relu else x
        elif isinstance(spec, architectures.Pool):
            x, _ = pool.forward(x, [spec.window] * 2, [spec.stride] * 2, (0, 0), True)
        elif isinstance(spec, architectures.LRN):
            x, _ = lrn.forward(x, spec.size, spec.alpha, spec.beta, spec.k)
        found[spec.name] = x
    return found


def test_every_layer_of_a_store(run: Run, dev: Device) -> None:
    images = images_of(run, part="val")
    store = Store(run.about["store"])
    rows = images.arrays["rows"]
    assert (store.split[rows] == 1).all()
    expected = oracle(run, store.images[rows])
    assert list(features.layer_outputs(run.network(dev))) == NAMES
    for name in NAMES:
        found = np.concatenate(list(features.batches(run, dev, images, name)))
        assert found.shape == expected[name].shape, name
        worst = np.abs(found - expected[name]).max()
        assert worst < TOLERANCE * np.abs(expected[name]).max(), name


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_the_command_writes_what_the_generator_yields(
    run: Run, dev: Device, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    line = ["features", str(run.folder), "--layer", "pool5", "-o", str(path)]
    done = CliRunner().invoke(cli, line, catch_exceptions=False)
    assert done.exit_code == 0
    assert "baseA, step 7, pool5: 136x2x2x6" in done.output
    done = CliRunner().invoke(cli, [*line, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["shape"] == [136, 2, 2, 6]
    store = Store(run.about["store"])
    if suffix == ".h5":
        with h5py.File(path) as file:
            found = {key: file[key][...] for key in ("features", "rows", "labels")}
            assert list(file["names"].asstr()) == store.names
            assert file.attrs["layer"] == "pool5"
    else:
        with safe_open(path, "np") as file:
            assert json.loads(file.metadata()["minicnn"])["wnids"] == store.wnids
            found = {key: file.get_tensor(key) for key in ("features", "labels")}
    np.testing.assert_array_equal(found["labels"], store.labels)
    images = images_of(run)
    ours = np.concatenate(list(features.batches(run, dev, images, "pool5")))
    np.testing.assert_allclose(found["features"], ours, rtol=1e-4, atol=1e-4)


def test_logits_of_files_say_what_predict_says(
    run: Run, dev: Device, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    rng = np.random.default_rng(5)
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
    images = images_of(run, paths)
    assert images.texts["files"] == [str(path) for path in paths]
    [logits] = features.batches(run, dev, images, "fc8")
    best = [f"c{place}" for place in logits.argmax(axis=1)]
    guesses = predict(run, paths, dev)
    assert [each.guesses[0].wnid for each in guesses] == best


def test_what_is_refused(
    run: Run, dev: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(run)
    monkeypatch.setattr(features, "batches", None)  # refused before any work
    for name in ("out.h5", "out.safetensors"):
        with pytest.raises(MinicnnError, match=r"missing does not exist; make it by"):
            features.write(run, dev, images, "fc6", tmp_path / "missing" / name)
    other = make_store(tmp_path / "other.h5", SIZE + 8)
    with pytest.raises(MinicnnError, match=r"32x32, but .* 24x24"):
        images_of(run, [other])
    assert not list(tmp_path.glob(".*partial"))
