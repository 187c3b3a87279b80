"""Checkpoints: weights, momentum, mean image and step in one safetensors file.

Tensor names: the parameters' own ("conv1.w"), "momentum/" + the same for each that is
trained, and "mean" (H,W,3). All metadata is one JSON text under the key "minicnn", so
that equal states give equal bytes; it holds a CRC-32 of everything else, since
safetensors itself has no checksum.
"""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from minicnn.base.errors import MinicnnError
from minicnn.base.files import partial, write_atomically
from minicnn.nn.torch_layout import Tensors

KEY = "minicnn"
FOLDER = "checkpoints"
MOMENTUM = "momentum/"
VERSION = 1
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """One saved state: after `step` updates, tensors by parameter name."""

    step: int
    weights: Tensors
    momentum: Tensors
    mean: NDArray[np.float32]  # (H,W,3), subtracted from every image
    extra: dict[str, Any]  # small values that resuming needs, as JSON has them


def _crc(step: int, extra: dict[str, Any], tensors: Tensors) -> int:
    """Of all that a checkpoint says: also of names, types, shapes and small values."""
    about = {name: [str(v.dtype), v.shape] for name, v in tensors.items()}
    crc = zlib.crc32(json.dumps([step, extra, about], sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(np.ascontiguousarray(tensors[name]).data, crc)
    return crc


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of that step lies."""
    return folder / f"step-{step:08d}.safetensors"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint atomically and deletes all but the last two, and litter."""
    tensors = {
        **checkpoint.weights,
        **{MOMENTUM + name: v for name, v in checkpoint.momentum.items()},
        "mean": checkpoint.mean,
    }
    tensors = {name: np.ascontiguousarray(v) for name, v in tensors.items()}
    about = {
        "version": VERSION,
        "step": checkpoint.step,
        "crc32": _crc(checkpoint.step, checkpoint.extra, tensors),
        "extra": checkpoint.extra,
    }
    path = path_of(folder, checkpoint.step)
    write_atomically(path, serialise(tensors, {KEY: json.dumps(about, sort_keys=True)}))
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink()
    for cut_off in folder.glob(partial(Path("step-*.safetensors")).name):
        cut_off.unlink()  # by a kill
    return path


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """What minicnn says about a safetensors file, if anything, and its tensors."""
    with safe_open(path, "np") as file:
        about = dict(json.loads((file.metadata() or {}).get(KEY, "{}")))
        return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks its checksum.

    Raises:
        MinicnnError: the file is damaged or no minicnn checkpoint.
    """
    try:
        about, tensors = read(path)
        version, crc = about["version"], about["crc32"]
        step, extra = about["step"], about["extra"]
        intact = crc == _crc(step, extra, tensors) and "mean" in tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MinicnnError(f"{path}: not a readable checkpoint ({error})") from None
    if version != VERSION:
        raise MinicnnError(
            f"{path}: checkpoint version {version}, this minicnn reads {VERSION}"
        )
    if not intact:
        raise MinicnnError(f"{path}: checksum does not match, the file is damaged")
    mean, momentum = tensors.pop("mean"), {}
    for name in sorted(tensors):
        if name.startswith(MOMENTUM):
            momentum[name.removeprefix(MOMENTUM)] = tensors.pop(name)
    return Checkpoint(step, tensors, momentum, mean, extra)


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read, or None where there is none at all.

    Warns of each damaged one that it passes over.

    Raises:
        MinicnnError: there are checkpoints, but all are damaged.
    """
    paths = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in paths:
        try:
            return load(path)
        except MinicnnError as error:
            text = f"warning: {error}; falling back to the checkpoint before it"
            print(text, file=sys.stderr, flush=True)
    if paths:
        raise MinicnnError(
            f"{folder}: every checkpoint is damaged; --fresh starts the run over"
        )
    return None
