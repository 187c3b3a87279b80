"""A store and runs small enough to make in a test."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from minicnn.base.config import Config, NetworkConfig, SolverConfig
from minicnn.base.files import write_json
from minicnn.data import store
from minicnn.experiments.proofs.problems import miniature
from minicnn.training import checkpoint
from minicnn.training.checkpoint import Checkpoint
from minicnn.training.run import Run

SIZE = 36
CLASSES = 8
TRAIN, VAL = 12, 5

# Of widths that allow no vector loads; tests/conftest.py registers it.
MINIATURE = miniature("miniature", (6, 10, 14))


def make_store(
    path: Path, size: int = SIZE, seed: int = 0, resize: str = "short-center"
) -> Path:
    """Writes a store of CLASSES classes, told apart by colour and brightness."""
    rng = np.random.default_rng(seed)
    per_class = [(0, TRAIN), (1, VAL)]
    rows = [
        (part, label)
        for part, count in per_class
        for label in range(CLASSES)
        for _ in range(count)
    ]
    split, labels = np.array(rows).T
    colours = np.array(
        [[30 + 190 * (c >> bit & 1) for bit in range(3)] for c in range(8)]
    )
    noise = rng.normal(0, 12, (len(rows), size, size, 3))
    images = np.clip(colours[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
    names = [f"colour {c:03b}" for c in range(CLASSES)]
    store.create(
        path,
        store.Contents(
            size=(size, size),
            labels=labels.astype(np.int32),
            split=split.astype(np.uint8),
            files=[f"{number}.png" for number in range(len(rows))],
            wnids=[f"c{c}" for c in range(CLASSES)],
            names=names,
            groups=["natural" if c % 2 else "manmade" for c in range(CLASSES)],
            attributes={"source": "a test", "resize": resize, "orientation": "applied"},
        ),
    )
    with h5py.File(path, "r+") as file:
        file["images"][...] = images
        file["crc32"][...] = [zlib.crc32(each.tobytes()) for each in images]
    store.mark_complete(path)
    return path


def make_run(
    folder: Path,
    arch: str,
    weights: dict[str, np.ndarray],
    mean: np.ndarray,
    classes: int,
    metrics: str = "",
    config: Config | None = None,
    step: int = 7,
    **about: Any,
) -> Run:
    """Writes a run folder as the trainer would leave it, without training.

    Args:
        weights: by parameter name.
        mean: (H,W,3).
        classes: of the task; fc8's outputs are its bias's length.
        metrics: content of metrics.jsonl.
        config: its settings; by default those of `arch` at batch 16.
        step: updates that its checkpoint has behind it.
        about: entries of config.toml's [run] that differ.
    """
    outputs = len(weights["fc8.b"])
    config = config or Config(NetworkConfig(arch, outputs), SolverConfig(batch=16))
    run = {"name": "baseA", "resize": "short-center", "orientation": "applied", **about}
    (folder / "checkpoints").mkdir(parents=True)
    sections = {"run": run, **config.to_dict()}
    (folder / "config.toml").write_text(tomli_w.dumps(sections))
    listed = [
        {"index": c, "wnid": f"c{c}", "name": f"colour {c}"} for c in range(classes)
    ]
    task = {"split": "all", "task": "all", "classes": listed}
    write_json(folder / "task.json", task)
    (folder / "metrics.jsonl").write_text(metrics)
    state = Checkpoint(step, weights, {}, mean.astype(np.float32), {})
    checkpoint.save(folder / "checkpoints", state)
    return Run(folder)
