"""A run's network for other frameworks: PyTorch by safetensors, and ONNX.

Names are those of the documentation's module ("conv1.weight", "fc8.bias", and the
buffer "mean"), which loads the safetensors file with strict=True.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialise

from minicnn.base.errors import MinicnnError
from minicnn.base.files import write_atomically
from minicnn.nn.architectures import LRN, Conv, Dropout, LayerSpec, Pool
from minicnn.nn.torch_layout import Tensors, to_torch
from minicnn.training.checkpoint import KEY
from minicnn.training.run import Run

# ONNX's operators of release 1.8, which all of these are in, and its file format then.
OPSET, IR_VERSION = 13, 7


def _about(run: Run) -> str:
    """What a file says of itself, as JSON: see the documentation."""
    about = {
        "arch": run.arch.name,
        "crop": run.arch.crop,
        "scale": run.arch.scale,
        "size": run.mean.shape[0],
        "outputs": run.outputs,
        "classes": [{"wnid": each.wnid, "name": each.name} for each in run.classes],
        "name": run.name,
        "step": run.checkpoint.step,
        "resize": run.about["resize"],
        "orientation": run.about["orientation"],
    }
    return json.dumps(about)


def _tensors(run: Run) -> Tensors:
    """Weights and mean, as PyTorch has them."""
    mean = np.ascontiguousarray(run.mean.transpose(2, 0, 1))
    return {**to_torch(run.arch, run.checkpoint.weights), "mean": mean}


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def export_torch(run: Run, path: Path) -> dict[str, tuple[int, ...]]:
    """Writes a run's last checkpoint as a safetensors file for PyTorch.

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
    tensors = _tensors(run)
    write_atomically(path, serialise(tensors, {KEY: _about(run)}))
    return _shapes(tensors)


def export_onnx(run: Run, path: Path) -> dict[str, tuple[int, ...]]:
    """Writes a run's last checkpoint as an ONNX model, from images to logits.

    Its input is `images`, (N,3,size,size) float32 of 0..255 in RGB; the mean image,
    the scale and the centre crop are part of it. Its output is `logits`, (N,outputs).

    Returns:
        Each tensor's name and shape.

    Raises:
        MinicnnError: no checkpoint, another ending, the file cannot be written, or
            onnx is not installed.
    """
    if path.suffix != ".onnx":
        raise MinicnnError(
            f"{path}: an ONNX model; end its name in .onnx, such as "
            f"{path.with_suffix('.onnx')}"
        )
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise MinicnnError(
            "export --to onnx: needs onnx; install it with pip install "
            "'minicnn-transfer[onnx]'"
        ) from None
    arch = run.arch
    tensors = {k: np.asarray(v, np.float32) for k, v in _tensors(run).items()}
    edge = (run.mean.shape[0] - arch.crop) // 2
    within = {"from": [edge] * 2, "to": [edge + arch.crop] * 2, "axes": [2, 3]}
    constants: Tensors = {name: np.array(ints) for name, ints in within.items()}
    constants["scale"] = np.array(arch.scale, np.float32)
    nodes = [
        helper.make_node("Sub", ["images", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Slice", ["scaled", *within], ["crop"]),
    ]
    last = "crop"
    for spec in arch.layers:
        for kind, name, options in _onnx_nodes(spec):
            inputs = [last]
            if kind in ("Conv", "Gemm"):
                inputs += [f"{name}.weight", f"{name}.bias"]
            nodes.append(helper.make_node(kind, inputs, [name], name, **options))
            last = name
    nodes[-1].output[0] = "logits"
    size, floats = run.mean.shape[0], TensorProto.FLOAT
    x = helper.make_tensor_value_info("images", floats, ["N", 3, size, size])
    y = helper.make_tensor_value_info("logits", floats, ["N", run.outputs])
    initial: list[tuple[str, Any]] = [*tensors.items(), *constants.items()]
    weights = [numpy_helper.from_array(each, name) for name, each in initial]
    graph = helper.make_graph(nodes, arch.name, [x], [y], weights)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    helper.set_model_props(model, {KEY: _about(run)})
    checker.check_model(model)
    write_atomically(path, model.SerializeToString())
    return _shapes(tensors)


def _onnx_nodes(spec: LayerSpec) -> list[tuple[str, str, dict[str, Any]]]:
    """A layer's ONNX operators: kind, name, attributes; none of dropout."""
    if isinstance(spec, Dropout):
        return []
    if isinstance(spec, Pool):
        pooling = {"kernel_shape": [spec.window] * 2, "strides": [spec.stride] * 2}
        return [("MaxPool", spec.name, {**pooling, "ceil_mode": 1})]
    if isinstance(spec, LRN):
        how = {"size": spec.size, "alpha": spec.alpha, "beta": spec.beta}
        return [("LRN", spec.name, {**how, "bias": spec.k})]
    relu: tuple[str, str, dict[str, Any]] = ("Relu", f"{spec.name}.relu", {})
    if isinstance(spec, Conv):
        options = {"strides": [spec.stride] * 2, "pads": [spec.pad] * 4}
        return [("Conv", spec.name, {**options, "group": spec.groups}), relu]
    flat = ("Flatten", f"{spec.name}.flat", {"axis": 1})
    return [flat, ("Gemm", spec.name, {"transB": 1}), *[relu] * spec.relu]
