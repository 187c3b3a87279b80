"""A run's scores on its validation part, and its predictions for image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.data.images import ORIENTATIONS, RESIZES, BadImageError, to_rgb
from minicnn.data.loader import Batch, Loader
from minicnn.data.store import Store
from minicnn.devices.device import Device
from minicnn.training.run import Run
from minicnn.training.trainer import Inputs, evaluate

# Images of a batch.
BATCH = 32


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
        run: any run with a checkpoint.
        dev: where to run.
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
    network = run.network(dev)
    batch = run.config.solver.batch
    crop = network.arch.crop
    loader = Loader(source, classes, crop, batch, seed=0, empty=dev.host_empty)
    with np.errstate(all="ignore"):
        scores = evaluate(network, Inputs(network, run.mean, batch), loader)
    return {
        "name": run.name,
        "step": run.checkpoint.step,
        "top1": scores["val_top1"],
        "top5": scores["val_top5"],
        "loss": scores["val_loss"],
        "val_images": len(loader.val),
        "store": str(source.path),
        "same_store": source.identity == run.about["store_identity"],
    }


def open_store(run: Run, path: Path | None) -> Store:
    """The run's own store, or the one at `path`.

    Raises:
        MinicnnError: it is missing, or has images of another size.
    """
    recorded = Path(run.about["store"])
    if path is None and not recorded.is_file():
        raise MinicnnError(
            f"{run.folder}: its store {recorded} is gone; say where it is by --data"
        )
    store = Store(path or recorded)
    size = run.mean.shape[:2]
    if store.image_size != size:
        raise MinicnnError(
            f"store {store.path}: its images are {_times(store.image_size)}, but "
            f"{run.folder} was trained on {_times(size)}; prepare it with that --size"
        )
    return store


def _times(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


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
    Outputs that stand for no class of the task are never named.

    Args:
        images: files.
        top: guesses an image; all classes where there are fewer.

    Raises:
        MinicnnError: no checkpoint, a file is not an image, or top is under 1.
    """
    if top < 1:
        raise MinicnnError(f"--top {top}: must be at least 1")
    network = run.network(dev)
    inputs = Inputs(network, run.mean, min(BATCH, len(images)))
    predictions = []
    for paths, batch in _batches(run, images, network.arch.crop):
        with np.errstate(all="ignore"):
            logits = dev.to_host(network.forward(inputs.fill(batch)[0]))
        for path, row in zip(paths, _softmax(logits), strict=True):
            known = row[: len(run.classes)]
            best = np.argsort(-known, kind="stable")[:top]
            guesses = [
                Guess(run.classes[i].wnid, run.classes[i].name, float(known[i]))
                for i in best
            ]
            predictions.append(Prediction(path, guesses))
    return predictions


def _batches(
    run: Run, images: Sequence[Path], crop: int
) -> Iterator[tuple[Sequence[Path], Batch]]:
    """The images, as the run's store would hold them, with their centre crops."""
    height, width = run.mean.shape[:2]
    for start in range(0, len(images), BATCH):
        paths = images[start : start + BATCH]
        count = len(paths)
        batch = Batch(
            images=np.stack([read_image(run, path) for path in paths]),
            rows=np.full(count, -1),
            labels=np.full(count, -1, np.int32),
            top=np.full(count, (height - crop) // 2),
            left=np.full(count, (width - crop) // 2),
            mirror=np.zeros(count, bool),
        )
        yield paths, batch


def read_image(run: Run, path: Path) -> NDArray[np.uint8]:
    """An image file as the run's store would hold it, (H,W,3) uint8.

    Raises:
        MinicnnError: it cannot be read, or is not an image.
    """
    resize, orientation = run.about["resize"], run.about["orientation"]
    # "none" where the store does not say, made by `store.create` without these
    # attributes: then keep a photo's shape, and turn it upright.
    resize = resize if resize in RESIZES else "short-center"
    orientation = orientation if orientation in ORIENTATIONS else "applied"
    try:
        return to_rgb(path.read_bytes(), run.mean.shape[0], resize, orientation)
    except OSError as error:
        raise MinicnnError(f"image {path}: cannot be read ({error.strerror})") from None
    except BadImageError as error:
        raise MinicnnError(f"image {path}: {error}") from None


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=1, keepdims=True)
