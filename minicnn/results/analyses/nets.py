"""A finished net on a device: its weights to change, its features, its score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.data.loader import Loader, first_of_each
from minicnn.devices.device import Device
from minicnn.nn.network import Network, tensor_hashes
from minicnn.results import features
from minicnn.results.analyses.measures import pooled
from minicnn.results.inference import class_indices, score
from minicnn.results.inputs import open_store
from minicnn.training.run import Run
from minicnn.training.trainee import draw_start
from minicnn.training.trainer import Inputs
from minicnn.training.treatment import Treatment

Array = NDArray[Any]
Tensors = Mapping[str, Array]
BATCH = 128


def final_weights(run: Run) -> dict[str, Array]:
    """A run's weights as they were scored at its end.

    Raises:
        MinicnnError: it is not finished, or its last checkpoint is damaged or missing.
    """
    if run.result is None:
        raise MinicnnError(f"{run.folder}: not finished; finish its training first")
    weights = run.checkpoint.weights
    if tensor_hashes(weights) != run.result["weights_sha256"]:
        raise MinicnnError(
            f"{run.folder}: its last checkpoint is damaged or missing; train again"
        )
    return weights


class Net:
    """A run's network with its last weights, and the images of a task for it.

    Args:
        run: a finished run.
        dev: where it runs.
        store: path of the image store; None takes the run's own.

    Raises:
        MinicnnError: see `final_weights`; or its store is missing or does not fit.
    """

    def __init__(self, run: Run, dev: Device, store: Path | None = None) -> None:
        self.run, self.dev, self.weights = run, dev, final_weights(run)
        self.store = open_store(run, store)
        self.trunk = run.trunk(dev)
        [self.network] = self.trunk.networks
        self.subtract(run.mean)

    def subtract(self, mean: NDArray[np.float32]) -> None:
        """Takes another mean image, (H,W,3)."""
        self.inputs = Inputs(self.network, mean.astype(np.float32), BATCH)

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers, the paper's."""
        return sorted({p.index for p in self.network.params})

    def start(self, base: Run | None) -> dict[str, Array]:
        """The weights that its training began with: a function of its seed.

        Args:
            base: that its first layers were copied from, if they were.
        """
        run = self.run
        # Runs made before a field existed have its default.
        known = {f.name for f in fields(Treatment)} & run.about.keys()
        treatment = Treatment(**{name: run.about[name] for name in known})
        network = run.network(self.dev)
        weights = final_weights(base) if base else {}
        draw_start(network, treatment, run.about["seed"], weights)
        return network.tensors()

    def images(self, task: Run, part: str, count: int) -> Loader:
        """Images of a run's task, every class as often as another, in store order.

        Args:
            task: any run of that task.
            part: "train" or "val".
            count: images in all, at most.
        """
        classes = class_indices(task, self.store)
        loader = Loader(self.store, classes, self.run.arch.crop, BATCH, seed=0)
        rows = loader.train if part == "train" else loader.val
        loader.val = first_of_each(self.store, rows, max(1, count // len(classes)))
        return loader

    def score(self, images: Loader) -> dict[str, float]:
        """Mean loss, in nats, and top-1 on images of its own task."""
        found = score(self.trunk, self.inputs, images)
        return {"loss": found["loss"], "top1": found["top1"]}

    def batches(self, images: Loader) -> Iterator[tuple[dict[int, Array], Array]]:
        """Each layer's output on the host, and the labels (N,), batch by batch.

        A layer's output is what the next one is given: after ReLU, pooling and LRN.
        (N,H,W,C), float32; (N,1,1,C) from fully connected layers.
        """
        layers, known = self.network.layers, features.layer_outputs(self.network)
        last = {layers[place].spec.index: name for name, (place, _) in known.items()}
        read, names = images.val_batches(), list(last.values())
        for batch, found in features.outputs(self.trunk, self.inputs, read, names):
            copies = [np.array(each, np.float32) for each in found]
            yield dict(zip(last, copies, strict=True)), batch.labels

    def features(
        self, images: Loader, layers: Sequence[int], grid: int
    ) -> tuple[dict[int, NDArray[np.float32]], Array]:
        """Pooled features (N, D) of some layers, and the labels (N,)."""
        kept: dict[int, list[Array]] = {layer: [] for layer in layers}
        labels = []
        for outputs, some in self.batches(images):
            for layer in layers:
                kept[layer].append(pooled(outputs[layer], grid))
            labels.append(some.copy())
        joined = {layer: np.concatenate(rows) for layer, rows in kept.items()}
        return joined, np.concatenate(labels)


def distances(network: Network, end: Tensors, start: Tensors) -> dict[int, float]:
    """‖end − start‖ / ‖start‖ of all tensors of each layer together."""
    moved: dict[int, float] = {}
    length: dict[int, float] = {}
    for p in network.params:
        before = np.asarray(start[p.name], np.float64)
        square = float(((end[p.name] - before) ** 2).sum())
        moved[p.index] = moved.get(p.index, 0) + square
        length[p.index] = length.get(p.index, 0) + float((before**2).sum())
    return {index: float(np.sqrt(moved[index] / length[index])) for index in moved}


def blended(first: Tensors, second: Tensors, share: float) -> dict[str, Array]:
    """(1 − share) · first + share · second."""
    return {
        name: ((1 - share) * first[name] + share * second[name]).astype(np.float32)
        for name in first
    }
