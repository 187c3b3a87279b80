"""Draws docs/figures/training-step.png: one image's way through a training step.

    minicnn train-base --task A
    python docs/draw_step.py runs/demo-v1-32-random-0/baseA

All that is shown are numbers of that net: activations going up, gradients of the loss
coming down, and how far the step would move each layer's weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from minicnn import Run, Store, get_device
from minicnn.nn.network import Network

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[Any]
TARGET = Path(__file__).with_name("figures") / "training-step.png"
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
SIDE = 3  # channels shown of a layer: SIDE × SIDE, those of the largest sums
# The right class's probability in the image shown: neither known nor unknown.
UNDECIDED = 0.35, 0.65


def centred(run: Run, network: Network, image: Array) -> Array:
    """The network's input (1,h,w,3): the centre crop, mean subtracted, scaled."""
    crop, arch = network.arch.crop, network.arch
    edge = (image.shape[0] - crop) // 2
    inside = slice(edge, edge + crop)
    x = (image.astype(np.float32) - run.mean)[inside, inside] * arch.scale
    return np.ascontiguousarray(x[None])


def chosen(run: Run, network: Network, store: Store) -> tuple[int, int]:
    """Row and class number of the first undecided validation image."""
    classes = [list(store.wnids).index(each.wnid) for each in run.classes]
    for row in np.flatnonzero(store.split == 1).tolist():
        if store.labels[row] in classes:
            label = classes.index(store.labels[row])
            chances = softmax(network.forward(centred(run, network, store.images[row])))
            if UNDECIDED[0] < chances[label] < UNDECIDED[1]:
                return row, label
    raise SystemExit(f"no image with a probability within {UNDECIDED}")


def softmax(logits: Array) -> Array:
    """Probabilities (K,) of logits (1,K)."""
    powers = np.exp(logits[0].astype(np.float64) - logits.max())
    return powers / powers.sum()


def recorded(network: Network, x: Array, label: int) -> tuple[dict, dict]:
    """What each layer puts out, and the loss's gradient of it, by the layer's name."""
    outputs: dict[str, Array] = {}
    gradients: dict[str, Array] = {}
    for layer in network.layers:
        name, forward, backward = layer.spec.name, layer.forward, layer.backward

        def up(x: Array, context: Any, name: str = name, do: Any = forward) -> Array:
            outputs[name] = np.array(y := do(x, context))
            return y

        def down(dy: Array, name: str = name, do: Any = backward) -> Any:
            gradients[name] = np.array(dy)
            return do(dy)

        layer.forward, layer.backward = up, down  # type: ignore[method-assign]
    network.forward(x)
    network.scored(np.array([label], np.int32), gradient=True)
    network.backward()
    return outputs, gradients


def tiles(values: Array, channels: Array) -> Array:
    """Some channels of (1,H,W,C) in a square, a line of NaN between them."""
    shown = np.moveaxis(values[0][..., channels], -1, 0)
    gap = ((0, 0), (0, 1), (0, 1))
    shown = np.pad(shown, gap, constant_values=np.nan)
    rows = [np.hstack(list(shown[k : k + SIDE])) for k in range(0, SIDE**2, SIDE)]
    return np.vstack(rows)[:-1, :-1]


def draw_layer(up: Axes, down: Axes, y: Array, dy: Array) -> None:
    """A layer's output above, its gradient below: blue pushes down, red up."""
    if y.shape[1] > 1:
        channels = np.argsort(-y.sum(axis=(0, 1, 2)))[: SIDE**2]
        y, dy = tiles(y, channels), tiles(dy.reshape(y.shape), channels)
    else:
        side = int(np.sqrt(y.size))
        y, dy = y.reshape(side, side), dy.reshape(side, side)
    up.imshow(y, cmap="Greys", interpolation="nearest")
    most = np.nanmax(np.abs(dy)) or 1.0
    down.imshow(dy, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")


def draw(run: Run, path: Path) -> None:
    """Draws a finished base net's step on one validation image of its store."""
    network = run.network(get_device("cpu"))
    store = Store(Path(run.about["store"]))
    row, label = chosen(run, network, store)
    x = centred(run, network, store.images[row])
    outputs, gradients = recorded(network, x, label)
    chances = softmax(outputs["fc8"].reshape(1, -1))[: len(run.classes)]
    figure, axes = plt.subplots(2, 9, figsize=(12.4, 3.7), dpi=150)
    figure.subplots_adjust(0.025, 0.12, 0.99, 0.83, wspace=0.16, hspace=0.08)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0, 0].imshow(store.images[row], interpolation="nearest")
    axes[1, 0].imshow(store.images[row], alpha=0)
    name = run.classes[label].name
    axes[0, 0].set_title(f"image\n{'×'.join(map(str, store.images[row].shape))}")
    said = f"label: {name}\nloss {-np.log(chances[label]):.2f}"
    axes[1, 0].text(
        *(0.5, 0.5, said), ha="center", va="center", transform=axes[1, 0].transAxes
    )
    rate, weights = run.config.solver.lr, network.tensors()
    for column, layer in enumerate(LAYERS, 1):
        y, dy = outputs[layer], gradients[layer].reshape(outputs[layer].shape)
        draw_layer(axes[0, column], axes[1, column], y, dy)
        shape = [each for each in y.shape[1:] if each > 1]
        axes[0, column].set_title(f"{layer}\n{'×'.join(map(str, shape))}")
        (w,) = [p for p in network.params if p.name == f"{layer}.w"]
        step = rate * network.gradient(w)
        moved = np.linalg.norm(step) / np.linalg.norm(weights[w.name])
        axes[1, column].set_xlabel(f"w moves by\n{100 * moved:.2g} %")
    places = np.arange(len(chances))
    colours = np.where(places == label, "#d55e00", "#777777")
    target = (places == label).astype(float)
    for axis, values in ((axes[0, 8], chances), (axes[1, 8], chances - target)):
        axis.barh(places, values, color=colours)
        axis.set_box_aspect(1)
        axis.invert_yaxis()
        axis.axvline(0, color="black", linewidth=0.8)
    axes[0, 8].set_title(f"fc8, softmax\n{len(chances)} classes")
    axes[0, 8].set_xlim(0, 1)
    for place in np.argsort(-chances)[:3]:
        text = f"{run.classes[place].name}, {100 * chances[place]:.0f} %"
        axes[0, 8].text(chances[place] + 0.04, place, text, va="center", fontsize=8)
    axes[1, 8].set_xlabel("probability\n− target")
    axes[0, 0].set_ylabel("forward →", fontsize=11)
    axes[1, 0].set_ylabel("← backward", fontsize=11)
    figure.suptitle(
        "One image's way through a training step: activations, then gradients of the "
        "loss (red: less of it would help, blue: more)",
        fontsize=11,
    )
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    draw(Run(sys.argv[1]), TARGET)
