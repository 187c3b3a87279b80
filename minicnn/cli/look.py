"""The commands that look at runs: parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import minicnn
from minicnn.cli import shared
from minicnn.cli.shared import put, put_written

if TYPE_CHECKING:
    from minicnn.devices.device import Device

_FOLDER = click.Path(path_type=Path)
_run = click.argument("folder", metavar="RUN", type=_FOLDER)
_picture = shared.output_option("Picture: .png, .svg or .pdf.")


@click.command()
@_run
@shared.data_option("the run's own")
@shared.json_option
@shared.on_device
def evaluate(folder: Path, data: Path | None, dev: Device) -> None:
    """Score a run's last checkpoint on all its validation images."""
    scores = minicnn.evaluate_run(minicnn.Run(folder), dev, data)
    text = (
        f"{scores['name']}, step {scores['step']}: top-1 {scores['top1']:.1%}, top-5 "
        f"{scores['top5']:.1%}, loss {scores['loss']:.3f} on {scores['val_images']} "
        f"validation images of {scores['store']}."
    )
    if not scores["same_store"]:
        text += "\nThis store's content differs from that of the one it was trained on."
    put(scores, text)


@click.command()
@_run
@click.argument("images", metavar="IMAGE...", type=shared.FILE, nargs=-1, required=True)
@click.option("--top", default=5, help="Classes an image.")
@shared.json_option
@shared.on_device
def predict(folder: Path, images: tuple[Path, ...], top: int, dev: Device) -> None:
    """Name the likeliest classes of image files."""
    found = minicnn.predict(minicnn.Run(folder), images, dev, top)
    lines: list[str] = []
    for each in found:
        lines.append(str(each.image))
        for guess in each.guesses:
            known = f"  ({guess.wnid})" if guess.wnid != guess.name else ""
            lines.append(f"  {guess.probability:6.1%}  {guess.name}{known}")
    put([asdict(each) for each in found], "\n".join(lines))


@click.command()
@_run
@click.argument("sources", metavar="[STORE|IMAGE...]", type=shared.FILE, nargs=-1)
@click.option(
    "--layer", required=True, help="Such as conv5 (after ReLU), pool5, norm1, fc7."
)
@shared.choice_option("--part", ["all", "train", "val"], "Images of a store to take.")
@shared.output_option("File to write: .h5 or .safetensors.")
@shared.json_option
@shared.on_device
def features(
    folder: Path,
    sources: tuple[Path, ...],
    layer: str,
    part: str,
    output: Path,
    dev: Device,
) -> None:
    """Write a layer's features of images.

    The images: IMAGE files or those of STORE; default: the store that RUN was trained
    on. The file holds features, rows and, of a store, labels, split, wnids and names.
    """
    from minicnn.results import features as taken
    from minicnn.results.inputs import images_of

    run = minicnn.Run(folder)
    shape = taken.write(run, dev, images_of(run, sources, part), layer, output)
    step, size = run.checkpoint.step, "x".join(map(str, shape))
    told = {"name": run.name, "step": step, "layer": layer, "shape": shape}
    put_written(output, f"{run.name}, step {step}, {layer}: {size}\n", **told)


@click.command()
@_run
@_picture
@shared.json_option
def filters(folder: Path, output: Path) -> None:
    """Draw conv1's filters."""
    minicnn.filters(minicnn.Run(folder), output)
    put_written(output)


@click.command()
@click.argument("folders", metavar="RUN...", type=_FOLDER, nargs=-1, required=True)
@_picture
@click.option("--follow", is_flag=True, help="Redraw until all runs are done.")
@shared.json_option
def curves(folders: tuple[Path, ...], output: Path, follow: bool) -> None:
    """Draw training loss and validation top-1 of one run or more."""
    from minicnn.results import pictures

    draw = pictures.follow if follow else pictures.curves
    draw([minicnn.Run(folder) for folder in folders], output)
    put_written(output)


@click.command()
@_run
@shared.output_option("File to write: .safetensors for torch, .onnx for onnx.")
@shared.choice_option(
    "--to",
    ["torch", "onnx"],
    "torch: weights for a PyTorch module; onnx: the whole network.",
)
@shared.json_option
def export(folder: Path, output: Path, to: str) -> None:
    """Write a run's network for another framework."""
    from minicnn.results.export import export_onnx, export_torch

    write = export_onnx if to == "onnx" else export_torch
    tensors = write(minicnn.Run(folder), output)
    lines = [f"{name:14}{'x'.join(map(str, s))}" for name, s in tensors.items()]
    page = "the documentation's page 'Use a net in PyTorch' has the module for it"
    lines.append(f"Written: {output}{'' if to == 'onnx' else f'; {page}'}.")
    put({"tensors": tensors, "written": output}, "\n".join(lines))


COMMANDS = [evaluate, predict, features, filters, curves, export]
