"""What a run's network makes of images in any of its layers, for other programs.

A layer's name says what is taken: `conv5` is a convolution with its ReLU, `pool5` what
pooling leaves of it, `norm1` what normalisation leaves of `pool1`, `fc8` the logits.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialise

from minicnn.base.errors import MinicnnError
from minicnn.base.files import check_target, write_atomically, written_whole
from minicnn.base.progress import Progress
from minicnn.data.loader import Batch
from minicnn.devices.device import Device
from minicnn.nn.architectures import FullyConnected
from minicnn.nn.layers import DropoutLayer
from minicnn.nn.network import Network
from minicnn.nn.pool_layers import PoolLRNLayer
from minicnn.nn.trunk import Trunk
from minicnn.results.inputs import Images
from minicnn.training.checkpoint import KEY
from minicnn.training.run import Run
from minicnn.training.trainer import Inputs

# Images decoded and run at a time.
BATCH = 32


def layer_outputs(network: Network) -> dict[str, tuple[int, str]]:
    """Each name that has an output: its place in `network.layers`, and its buffer."""
    found: dict[str, tuple[int, str]] = {}
    for place, layer in enumerate(network.layers):
        if isinstance(layer, PoolLRNLayer):
            found[layer.spec.name] = place, "u"
            found[layer.norm.name] = place, "y"
        elif not isinstance(layer, DropoutLayer):
            found[layer.spec.name] = place, "y"
    return found


def batches(
    run: Run, dev: Device, images: Images, layer: str = ""
) -> Iterator[NDArray[np.floating]]:
    """The features of images, by centre crop, batch after batch in their order.

    Args:
        layer: such as "conv5", "pool5" or "fc7", see the module; "" for the logits.

    Yields:
        (N,P,Q,K), of fully connected layers (N,K): float32, or the run's float64.

    Raises:
        MinicnnError: no such layer, no checkpoint, or a file that is no image.
    """
    trunk = run.trunk(dev)
    [network] = trunk.networks
    names = layer_outputs(network)
    layer = layer or list(names)[-1]
    if layer not in names:
        raise MinicnnError(
            f"--layer {layer}: not in {network.arch.name}; it has {', '.join(names)}"
        )
    flat = isinstance(network.layers[names[layer][0]].spec, FullyConnected)

    def read() -> Iterator[Batch]:
        for start in range(0, len(images), BATCH):
            which = slice(start, start + BATCH)
            rows = images.arrays["rows"][which]
            unknown, where = np.full(len(rows), -1, np.int32), run.mean.shape[:2]
            pixels = images.read(which)
            yield Batch.centred(where, network.arch.crop, rows, unknown, pixels)

    inputs = Inputs(network, run.mean, min(BATCH, len(images)))
    for _, (found,) in outputs(trunk, inputs, read(), [layer]):
        rows = found.reshape(len(found), -1) if flat else found
        yield rows.astype(np.promote_types(found.dtype, np.float32))


def outputs(
    trunk: Trunk, inputs: Inputs, read: Iterable[Batch], names: Sequence[str]
) -> Iterator[tuple[Batch, list[NDArray[Any]]]]:
    """Each batch, and what the layers of those names make of it, on the host.

    Args:
        trunk: of one network, all of it frozen.
        names: of `layer_outputs`.

    Yields:
        The arrays are overwritten by the next batch.
    """
    layers, known = trunk.networks[0].layers, layer_outputs(trunk.networks[0])
    wanted = [known[name] for name in names]
    for batch in read:
        with np.errstate(all="ignore"):
            x = inputs.fill(batch)[0]
            trunk.plan(len(x))
            for layer in layers[: max(wanted)[0] + 1]:
                x = layer.forward(x, None)
        buffers = [getattr(layers[place], buffer) for place, buffer in wanted]
        yield batch, [inputs.dev.to_host(each[: len(x)]) for each in buffers]


def write(run: Run, dev: Device, images: Images, layer: str, path: Path) -> list[int]:
    """Writes the features of images as .h5 or .safetensors, and returns their shape.

    HDF5 holds `features`, batch by batch, what `Images` has, and `run`, `step`, `layer`
    as attributes; safetensors, made in memory, has texts as JSON under "minicnn".

    Raises:
        MinicnnError: another suffix, the file cannot be written, or as for `batches`.
    """
    if path.suffix not in (".h5", ".safetensors"):
        raise MinicnnError(f"-o {path}: end the name in .h5 or .safetensors")
    check_target(path)
    about = {"run": run.name, "step": run.checkpoint.step, "layer": layer}

    def filled(make: Callable[..., Any]) -> Any:
        done, label = 0, f"{run.name}, {layer}"
        with Progress(len(images), "images", label, passing=True) as bar:
            for values in batches(run, dev, images, layer):
                if not done:
                    out = make((len(images), *values.shape[1:]), values.dtype)
                out[done : done + len(values)] = values
                done += len(values)
                bar.update(len(values))
        return out

    if path.suffix == ".safetensors":
        texts = {KEY: json.dumps({**about, **images.texts})}
        tensors = {"features": filled(np.empty), **images.arrays}
        write_atomically(path, serialise(tensors, texts))
        return list(tensors["features"].shape)
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(about)
        for name, entries in [*images.arrays.items(), *images.texts.items()]:
            file[name] = entries
        return list(filled(functools.partial(file.create_dataset, "features")).shape)
