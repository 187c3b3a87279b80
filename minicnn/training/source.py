"""What layers are copied from: a task's base, or any run or file of weights."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from minicnn.base.errors import MinicnnError
from minicnn.data.splits import Task
from minicnn.data.store import Store
from minicnn.nn import torch_layout
from minicnn.nn.architectures import ARCHITECTURES, Architecture, Dropout
from minicnn.nn.network import tensor_hashes
from minicnn.nn.torch_layout import Tensors
from minicnn.training import checkpoint
from minicnn.training.run import Run
from minicnn.training.setup import Setup
from minicnn.training.treatment import SHIPPED, Treatment


@dataclass(frozen=True)
class Source:
    """Weights, by parameter name, that layers are copied from."""

    weights: Tensors
    mean: NDArray[np.float32] | None  # (H,W,3), subtracted from the images, if known
    digest: str  # of the weights: a source that has changed is another source


def _digest(hashes: Mapping[str, str]) -> str:
    text = json.dumps(hashes, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place_of(source: str) -> Path:
    """Where a source lies, or lay, that is no task's base."""
    if source not in SHIPPED:
        return Path(source)
    package = importlib.resources.files("minicnn.experiments")
    return Path(str(package / SHIPPED[source]))


def locate(source: str) -> Path:
    """As `place_of`; MinicnnError if nothing is there."""
    path = place_of(source)
    if not path.exists():
        raise MinicnnError(
            f"--from {source}: neither A, B, random or {', '.join(SHIPPED)}, nor a run "
            "folder, a checkpoint or a .safetensors file"
        )
    return path


def _opened(path: Path) -> tuple[Run | None, Tensors, dict[str, Any]]:
    """The run that a path is, or is a checkpoint of.

    And a safetensors file's tensors as float32, and what minicnn wrote about them.
    """
    if path.is_dir():
        return Run(path), {}, {}
    folder = path.resolve().parent.parent
    ours = path.resolve().parent.name == checkpoint.FOLDER
    try:
        about, tensors = checkpoint.read(path)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise MinicnnError(f"--from {path}: no safetensors file ({error})") from None
    floats = {name: np.asarray(v, np.float32) for name, v in tensors.items()}
    run = Run(folder) if ours and (folder / "config.toml").is_file() else None
    return run, floats, about


def architecture(source: str) -> Architecture | None:
    """The architecture that a source says it is of; None where it says nothing, or is
    gone."""
    path = place_of(source)
    run, _, about = _opened(path) if path.exists() else (None, {}, {})
    return run.arch if run else ARCHITECTURES.get(str(about.get("arch")))


def of_path(source: str, arch: Architecture, n: int) -> Source:
    """A run's last checkpoint, one of its checkpoints, or a file of PyTorch's layouts.

    Args:
        source: the path, or the name of a base that minicnn brings along.
        arch: that the first n layers are copied into.

    Raises:
        MinicnnError: it cannot be read, holds what is no number, or its first n layers
            are not those of `arch`.
    """
    path = locate(source)
    run, tensors, about = _opened(path)
    theirs = run.arch if run else ARCHITECTURES.get(str(about.get("arch")))
    if theirs and _below(theirs, n) != _below(arch, n):
        raise MinicnnError(
            f"--from {source}: layers 1..{n} of its architecture {theirs.name} are not "
            f"those of {arch.name}; --set network.arch={theirs.name} trains such a net"
        )
    if run or "crc32" in about:
        saved = run.checkpoint if run and path.is_dir() else checkpoint.load(path)
        return Source(saved.weights, saved.mean, _digest(tensor_hashes(saved.weights)))
    weights = torch_layout.from_torch(arch, tensors)
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise MinicnnError(f"--from {source}: {name} holds NaN or infinity")
    mean = tensors.get("mean")
    if mean is not None:
        if mean.ndim != 3 or len(mean) != 3:
            raise MinicnnError(
                f"--from {source}: its mean is {mean.shape}, not (3,H,W)"
            )
        mean = np.ascontiguousarray(mean.transpose(1, 2, 0))
    return Source(weights, mean, _digest(tensor_hashes(weights)))


def _below(arch: Architecture, n: int) -> tuple[Any, ...]:
    """What layers 1..n compute; how they were drawn, and dropout, does not matter."""
    layers = [
        (type(each), {k: v for k, v in vars(each).items() if k not in ("std", "bias")})
        for each in arch.layers
        if each.index <= n and not isinstance(each, Dropout)
    ]
    return arch.crop, arch.scale, layers


def of_base(setup: Setup, task: Task, store: Store) -> Source:
    """The finished base of a task; MinicnnError if missing, unfinished or unfit."""
    folder = setup.folder(Treatment(task.name))
    command = shlex.join(["minicnn", "train-base", "--task", task.name, *setup.words])
    if not (folder / "config.toml").exists():
        raise MinicnnError(f"{folder}: missing; make it first: {command}")
    run = Run(folder)
    result = run.result
    if result is None:
        raise MinicnnError(f"{folder}: not finished; finish it first: {command}")
    if run.arch != setup.arch:
        raise MinicnnError(
            f"{folder}: its architecture is {run.arch.name}, this run's is "
            f"{setup.arch.name} of other layers; use the recipe that made it"
        )
    if [c.wnid for c in run.classes] != [store.wnids[c] for c in task.classes]:
        raise MinicnnError(
            f"{folder}: trained on other classes than task {task.name} of split "
            f"{setup.split} has in {store.path}; use the store and split that made it"
        )
    mine = {"split": setup.split, "seed": setup.seed, "store_identity": store.identity}
    for key, value in mine.items():
        if run.about.get(key) != value:
            raise MinicnnError(
                f"{folder}: its {key} is {run.about.get(key)!r}, this run's is "
                f"{value!r}; copy from a base of the same split, seed and store"
            )
    scored = result["weights_sha256"]  # maybe not the last checkpoint that is whole
    with contextlib.suppress(MinicnnError):
        if tensor_hashes(run.checkpoint.weights) == scored:
            return Source(run.checkpoint.weights, run.mean, _digest(scored))
    raise MinicnnError(
        f"{folder}: its last checkpoint is damaged or missing; make the base again: "
        f"{command} --fresh"
    )
