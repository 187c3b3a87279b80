"""A run's network for PyTorch: one safetensors file.

Names are those of the module in docs/export.md ("conv1.weight", "fc8.bias", and the
buffer "mean"), which loads the file with strict=True.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialise

from minicnn.base.errors import MinicnnError
from minicnn.base.files import write_atomically
from minicnn.nn import architectures
from minicnn.nn.architectures import Architecture, Conv, FullyConnected
from minicnn.training.checkpoint import KEY
from minicnn.training.run import Run

Tensors = dict[str, NDArray[Any]]


def torch_tensors(arch: Architecture, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Weights, or their gradients, under PyTorch's names and in its layouts.

    Convolutions: (K,R,S,C/groups) → (K,C/groups,R,S). Fully connected: (K,1,1,D) →
    (K,D). The first of these reads conv5's output flattened, in the order (H,W,C) here
    and (C,H,W) there, so its columns are reordered.

    Args:
        arch: the architecture that the tensors belong to.
        tensors: by parameter name, such as "conv1.w".
    """
    result: Tensors = {}
    channels = 0  # of the last convolution; 0 once a flat layer has been passed
    for spec in arch.layers:
        if not isinstance(spec, Conv | FullyConnected):
            continue
        w = tensors[f"{spec.name}.w"]
        if isinstance(spec, Conv):
            w, channels = w.transpose(0, 3, 1, 2), len(w)
        elif channels:
            planes = w.reshape(len(w), -1, channels)
            w, channels = planes.transpose(0, 2, 1).reshape(len(w), -1), 0
        else:
            w = w.reshape(len(w), -1)
        result[f"{spec.name}.weight"] = np.ascontiguousarray(w)
        result[f"{spec.name}.bias"] = tensors[f"{spec.name}.b"]
    return result


def export_torch(run: Run, path: Path) -> dict[str, tuple[int, ...]]:
    """Writes a run's last checkpoint as a safetensors file for PyTorch.

    The file's metadata holds one JSON text under the key "minicnn": arch, crop, scale,
    size, outputs, classes (in the order of the outputs), name, step, resize and
    orientation.

    Returns:
        Each tensor's name and shape.

    Raises:
        MinicnnError: no checkpoint, another ending, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise MinicnnError(
            f"{path}: a safetensors file, which torch.load does not read; end its name "
            f"in .safetensors, such as {path.with_suffix('.safetensors')}"
        )
    arch = architectures.get(run.config.network.arch)
    state = run.checkpoint
    tensors = torch_tensors(arch, state.weights)
    tensors["mean"] = np.ascontiguousarray(state.mean.transpose(2, 0, 1))
    about = {
        "arch": arch.name,
        "crop": arch.crop,
        "scale": arch.scale,
        "size": state.mean.shape[0],
        "outputs": run.outputs,
        "classes": [{"wnid": each.wnid, "name": each.name} for each in run.classes],
        "name": run.name,
        "step": state.step,
        "resize": run.about["resize"],
        "orientation": run.about["orientation"],
    }
    write_atomically(path, serialise(tensors, {KEY: json.dumps(about)}))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
