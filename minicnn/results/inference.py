"""A run's scores on its validation part, and its predictions for image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.data.loader import Loader
from minicnn.data.store import Store
from minicnn.devices.device import Device
from minicnn.nn.trunk import Trunk
from minicnn.results import features
from minicnn.results.inputs import image_files, open_store
from minicnn.training.run import Run
from minicnn.training.trainer import Inputs, evaluate_together


@dataclass(frozen=True)
class Guess:
    """One class an image may show.

    Attributes:
        wnid, name: of the class.
        probability: its share of the softmax over all outputs.
    """

    wnid: str
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """A network's guesses for one image file, the likeliest first."""

    image: Path
    guesses: list[Guess]


def evaluate_run(run: Run, dev: Device, store: Path | None = None) -> dict[str, Any]:
    """Scores a run's last checkpoint on the whole validation part, by centre crop.

    Args:
        store: another place or version of the image store; None takes the run's own.

    Returns:
        `name`, `step`, `top1`, `top5` and `loss` as in result.json, `val_images`,
        `store`, and `same_store`: whether it holds what the run was trained on.

    Raises:
        MinicnnError: no checkpoint; the store is missing, lacks a class, or has images
            of another size.
    """
    source = open_store(run, store)
    classes = class_indices(run, source)
    batch = run.config.solver.batch
    loader = Loader(source, classes, run.arch.crop, batch, 0, empty=dev.host_empty)
    trunk = run.trunk(dev)
    scores = score(trunk, Inputs(trunk.networks[0], run.mean, batch), loader)
    return {
        "name": run.name,
        "step": run.checkpoint.step,
        **scores,
        "val_images": len(loader.val),
        "store": str(source.path),
        "same_store": source.identity == run.about["store_identity"],
    }


def score(trunk: Trunk, inputs: Inputs, loader: Loader) -> dict[str, float]:
    """`top1`, `top5` and `loss`, in nats, of a trunk's one network."""
    with np.errstate(all="ignore"):
        [found] = evaluate_together(trunk, trunk.networks, inputs, loader) or []
    return {key: found[f"val_{key}"] for key in ("top1", "top5", "loss")}


def class_indices(run: Run, store: Store) -> list[int]:
    """Where the store has the run's classes, in the order of its outputs."""
    places = {wnid: index for index, wnid in enumerate(store.wnids)}
    missing = [each.wnid for each in run.classes if each.wnid not in places]
    if missing:
        raise MinicnnError(
            f"store {store.path}: lacks class {missing[0]} of {run.folder} "
            f"({len(missing)} such); use the store that it was trained on"
        )
    return [places[each.wnid] for each in run.classes]


def predict(
    run: Run, images: Sequence[Path], dev: Device, top: int = 5
) -> list[Prediction]:
    """The likeliest classes of image files.

    Each file is decoded by its content and resized by the rule of the store that the
    run was trained on; then come the centre crop, the mean image and the softmax.
    Outputs that stand for no class of the task are never named. `top` is the number of
    guesses an image; all classes where there are fewer.

    Raises:
        MinicnnError: no checkpoint, a file is not an image, or top is under 1.
    """
    if top < 1:
        raise MinicnnError(f"--top {top}: must be at least 1")
    predictions: list[Prediction] = []
    for logits in features.batches(run, dev, image_files(run, images)):
        for row in _softmax(logits):
            known = zip(row[: len(run.classes)].tolist(), run.classes, strict=True)
            best = sorted(known, key=lambda pair: -pair[0])[:top]
            guesses = [Guess(each.wnid, each.name, share) for share, each in best]
            predictions.append(Prediction(images[len(predictions)], guesses))
    return predictions


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=1, keepdims=True)
