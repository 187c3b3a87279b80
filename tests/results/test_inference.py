"""Evaluating runs and predicting images, against the trainer and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from minicnn.base import config
from minicnn.base.errors import MinicnnError
from minicnn.cli.main import cli
from minicnn.data.store import Store
from minicnn.devices import device
from minicnn.nn.network import Network
from minicnn.results.features import BATCH
from minicnn.results.inference import class_indices, evaluate_run, predict
from minicnn.results.inputs import read_image
from minicnn.training import transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup
from tests.support.runs import CLASSES, SIZE, make_run, make_store

SETTINGS = [
    "network.arch=miniature",
    "solver.iterations=90",
    "solver.batch=16",
    "solver.lr=0.01",
]
# Probabilities from float32 logits of a few units.
PROBABILITY = 1e-5
MEAN = np.zeros((SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """baseA on a small store, trained until it tells the classes apart."""
    folder = tmp_path_factory.mktemp("inference")
    settings = config.override(config.Config(), SETTINGS)
    store = make_store(folder / "store.h5")
    setup = Setup(store, device.get("cpu"), settings, runs=folder / "runs")
    return transfer.train_base(setup, "A")


def test_evaluation_repeats_the_result(run: Run, capfd: pytest.CaptureFixture) -> None:
    scores = evaluate_run(run, device.get("cpu"))
    for key in ("top1", "top5", "loss", "val_images", "name"):
        assert scores[key] == run.result[key], key
    assert scores["same_store"] is True
    assert scores["step"] == 90
    assert capfd.readouterr() == ("", "")
    assert scores["top1"] > 0.6


def test_evaluation_on_another_store(run: Run, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other.h5", seed=9)
    scores = evaluate_run(run, device.get("cpu"), other)
    assert scores["same_store"] is False
    assert scores["loss"] != run.result["loss"]


def test_an_evaluation_takes_no_memory_for_gradients(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev, sizes = device.get("cpu"), []
    empty = dev.empty

    def counted(shape: tuple[int, ...], dtype: Any) -> Any:
        if np.dtype(dtype) == np.float32 and len(shape) == 1:
            sizes.append(shape[0])
        return empty(shape, dtype)

    monkeypatch.setattr(dev, "empty", counted)
    evaluate_run(run, dev)
    parameters = sum(w.size for w in run.checkpoint.weights.values())
    # The flat array of the values alone, not one of gradients.
    assert len([size for size in sizes if size >= parameters]) == 1


def test_a_store_without_a_class(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.h5")
    weights = {"fc8.b": np.zeros(9)}
    more = make_run(tmp_path / "a", "caffenet32", weights, MEAN, 9, store=str(store))
    with pytest.raises(MinicnnError, match="lacks class c8"):
        evaluate_run(more, device.get("cpu"))


def test_a_store_has_the_classes_in_an_order_of_its_own(
    run: Run, tmp_path: Path
) -> None:
    path = make_store(tmp_path / "store.h5")
    with h5py.File(path, "r+") as file:
        file["wnids"][...] = file["wnids"][...][::-1]
    places = [CLASSES - 1 - int(each.wnid[1:]) for each in run.classes]
    assert class_indices(run, Store(path)) == places


def saved(run: Run, folder: Path, count: int) -> tuple[list[Path], list[int]]:
    """Validation images of the run's store as PNG files, and their labels."""
    store = Store(run.about["store"])
    rows = store.rows([c.index for c in run.classes], "val")[:count]
    paths = [folder / f"{row}.png" for row in rows]
    for row, path in zip(rows, paths, strict=True):
        Image.fromarray(store.images[row]).save(path)
    return paths, store.labels[rows].tolist()


def test_predictions_agree_with_the_evaluation(run: Run, tmp_path: Path) -> None:
    count = run.result["val_images"]
    paths, labels = saved(run, tmp_path, count)
    found = predict(run, paths, device.get("cpu"))
    assert [each.image for each in found] == paths
    right = [
        each.guesses[0].wnid == f"c{k}" for each, k in zip(found, labels, strict=True)
    ]
    assert np.mean(right) == run.result["top1"]
    for each in found:
        shares = [guess.probability for guess in each.guesses]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=PROBABILITY)  # all 4 classes


def test_more_images_than_a_batch(run: Run, tmp_path: Path) -> None:
    [path], _ = saved(run, tmp_path, 1)
    found = predict(run, [path] * (BATCH + 1), device.get("cpu"), top=2)
    assert len(found) == BATCH + 1
    first, last = found[0].guesses, found[-1].guesses
    assert [guess.wnid for guess in first] == [guess.wnid for guess in last]
    assert first[1].probability == pytest.approx(last[1].probability, rel=PROBABILITY)
    assert len(first) == 2


def test_outputs_without_a_class_are_never_named(tmp_path: Path) -> None:
    params = Network("caffenet32", 10, device.get("cpu"), seed=None).params
    weights = {p.name: np.zeros(p.shape, np.float32) for p in params}
    logits = np.array([1, 3, 2, 0, 9, 0, 0, 0, 0, 0], np.float32)  # 4 is no class
    weights["fc8.b"] = logits
    run = make_run(tmp_path / "a", "caffenet32", weights, MEAN[:32, :32], 4)
    Image.new("RGB", (50, 40)).save(tmp_path / "black.png")
    [found] = predict(run, [tmp_path / "black.png"], device.get("cpu"))
    assert [guess.wnid for guess in found.guesses] == ["c1", "c2", "c0", "c3"]
    # e³ of e¹ + e³ + e² + e⁰ + e⁹ + 5·e⁰
    share = 20.0855 / (2.71828 + 20.0855 + 7.38906 + 1 + 8103.08 + 5)
    assert found.guesses[0].probability == pytest.approx(share, rel=PROBABILITY)


def shown(folder: Path, pixels: np.ndarray, exif: Image.Exif, **about: str) -> Any:
    """An image file as a run sees it whose store was made so."""
    file = folder / "image.txt"  # by its content, whatever its name
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    weights = {"fc8.b": np.zeros(4)}
    run = make_run(folder / "a", "caffenet32", weights, MEAN, 4, **about)
    return read_image(run, file)


@pytest.mark.parametrize(
    ("resize", "left"), [("warp", 0), ("short-center", 255), ("none", 255)]
)
def test_an_image_is_resized_as_the_store_was(
    resize: str, left: int, tmp_path: Path
) -> None:
    # White with black ends: warping keeps the ends, a central square has none.
    pixels = np.full((SIZE, 3 * SIZE, 3), 255, np.uint8)
    pixels[:, :SIZE] = pixels[:, -SIZE:] = 0
    image = shown(tmp_path, pixels, Image.Exif(), resize=resize)
    assert image.shape == (SIZE, SIZE, 3)
    assert image[SIZE // 2, 2].tolist() == [left] * 3
    assert image[SIZE // 2, SIZE // 2].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("orientation", "dark"), [("ignored", 0), ("applied", -1), ("none", -1)]
)
def test_exif_orientation_is_treated_as_the_store_did(
    orientation: str, dark: int, tmp_path: Path
) -> None:
    pixels = np.full((SIZE, SIZE, 3), 255, np.uint8)
    pixels[: SIZE // 2] = 0
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = shown(tmp_path, pixels, exif, resize="warp", orientation=orientation)
    assert image[dark].max() == 0
    assert image[-1 - dark].min() == 255


def test_the_command_prints_and_emits_json(run: Run, tmp_path: Path) -> None:
    paths, _ = saved(run, tmp_path, 2)

    def call(*arguments: object) -> str:
        done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    printed = call("predict", run.folder, *paths)
    assert printed.count("colour") == 8
    records = json.loads(call("predict", run.folder, *paths, "--top", 3, "--json"))
    assert [record["image"] for record in records] == [*map(str, paths)]
    assert [len(record["guesses"]) for record in records] == [3, 3]
    assert records[0]["guesses"][0].keys() == {"wnid", "name", "probability"}
