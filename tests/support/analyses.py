"""Runs of a small study, and what `minicnn analyse` is compared with."""

from __future__ import annotations

import csv
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.devices import device
from minicnn.results import features
from minicnn.results.inputs import images_of
from minicnn.training.run import Run

LAYERS = range(1, 9)
# Each layer's output as the next one is given it.
LAST = ("norm1", "norm2", "conv3", "conv4", "pool5", "fc6", "fc7", "fc8")


def analyse(*arguments: Any) -> str:
    done = CliRunner().invoke(cli, ["analyse", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def opened(study: Path, name: str) -> Run:
    return Run(study / "runs" / "random-0" / name)


def weights(study: Path, name: str) -> dict[str, np.ndarray]:
    return opened(study, name).checkpoint.weights


def copied(study: Path, tmp_path: Path) -> Path:
    """The same study, to change."""
    return shutil.copytree(study / "runs", tmp_path / "study" / "runs").parent


def firsts(labels: np.ndarray, classes: Sequence[int], count: int) -> list[int]:
    """Where the first images of each class are, in their order."""
    return sorted(
        place for c in classes for place in np.flatnonzero(labels == c)[:count].tolist()
    )


@functools.cache
def outputs(
    study: Path, name: str, task: str, part: str, count: int, layer: int
) -> tuple[np.ndarray, list[int]]:
    """What `minicnn features` makes of the first images of each class of a task.

    And their labels, places in the task.
    """
    run, classes = opened(study, name), [c.index for c in opened(study, task).classes]
    images, dev = images_of(run, part=part), device.get("cpu", 2)
    found = np.concatenate(
        list(features.batches(run, dev, images, LAST[layer - 1])), dtype=np.float32
    )
    found = found.reshape(len(found), *(1, 1)[: 4 - found.ndim], *found.shape[1:])
    kept = firsts(images.arrays["labels"], classes, count)
    return found[kept], [classes.index(c) for c in images.arrays["labels"][kept]]
