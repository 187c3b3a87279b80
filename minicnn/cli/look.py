"""The commands that look at runs, and `minicnn doctor`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from minicnn.cli.output import json_option, put, say

_FOLDER = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)
_run = click.argument("folder", metavar="RUN", type=_FOLDER)


def _output(help_text: str) -> Callable[..., Any]:
    return click.option("-o", "--output", type=_FILE, required=True, help=help_text)


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--device and --threads, the same for every command."""
    threads = click.option(
        "--threads", type=int, help="CPU threads; default: all cores."
    )
    device = click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:N or emulated.",
    )
    return device(threads(command))


precision_option = click.option(
    "--precision",
    help="fp32, tf32x3, tf32, bf16 or fp64, as network.precision; default: the "
    "recipe's, fp32.",
)


@click.command()
@_run
@click.option("--data", type=_FILE, help="Image store; default: the run's own.")
@json_option
@device_options
def evaluate(folder: Path, data: Path | None, device: str, threads: int | None) -> None:
    """Score a run's last checkpoint on all its validation images."""
    from minicnn.devices import device as devices
    from minicnn.results.inference import evaluate_run
    from minicnn.training.run import Run

    scores = evaluate_run(Run(folder), devices.get(device, threads), data)
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
@click.argument("images", metavar="IMAGE...", type=_FILE, nargs=-1, required=True)
@click.option("--top", default=5, show_default=True, help="Classes an image.")
@json_option
@device_options
def predict(
    folder: Path,
    images: tuple[Path, ...],
    top: int,
    device: str,
    threads: int | None,
) -> None:
    """Name the likeliest classes of image files."""
    from dataclasses import asdict

    from minicnn.devices import device as devices
    from minicnn.results import inference
    from minicnn.training.run import Run

    dev = devices.get(device, threads)
    found = inference.predict(Run(folder), images, dev, top)
    lines: list[str] = []
    for each in found:
        lines.append(str(each.image))
        for guess in each.guesses:
            known = f"  ({guess.wnid})" if guess.wnid != guess.name else ""
            lines.append(f"  {guess.probability:6.1%}  {guess.name}{known}")
    put([asdict(each) for each in found], "\n".join(lines))


@click.command()
@_run
@click.argument("sources", metavar="[STORE|IMAGE...]", type=_FILE, nargs=-1)
@click.option(
    "--layer", required=True, help="Such as conv5 (after ReLU), pool5, norm1, fc7."
)
@click.option(
    "--part",
    type=click.Choice(["train", "val", "all"]),
    default="all",
    show_default=True,
    help="Images of a store to take.",
)
@_output("File to write: .h5 or .safetensors.")
@json_option
@device_options
def features(
    folder: Path,
    sources: tuple[Path, ...],
    layer: str,
    part: str,
    output: Path,
    device: str,
    threads: int | None,
) -> None:
    """Write a layer's features of images.

    The images: IMAGE files or those of STORE; default: the store that RUN was trained
    on. The file holds features, rows and, of a store, labels, split, wnids and names.
    """
    from minicnn.devices import device as devices
    from minicnn.results import features as taken
    from minicnn.results.inputs import images_of
    from minicnn.training.run import Run

    run = Run(folder)
    images = images_of(run, sources, part)
    dev = devices.get(device, threads)
    shape = taken.write(run, dev, images, layer, output)
    step, size = run.checkpoint.step, "x".join(map(str, shape))
    told = {"name": run.name, "step": step, "layer": layer, "shape": shape}
    text = f"{run.name}, step {step}, {layer}: {size}\nWritten: {output}"
    put({**told, "written": output}, text)


@click.command()
@_run
@_output("Picture: .png, .svg or .pdf.")
@json_option
def filters(folder: Path, output: Path) -> None:
    """Draw conv1's filters."""
    from minicnn.results import pictures
    from minicnn.training.run import Run

    pictures.filters(Run(folder), output)
    put({"written": output}, f"Written: {output}")


@click.command()
@click.argument("folders", metavar="RUN...", type=_FOLDER, nargs=-1, required=True)
@_output("Picture: .png, .svg or .pdf.")
@click.option("--follow", is_flag=True, help="Redraw until all runs are done.")
@json_option
def curves(folders: tuple[Path, ...], output: Path, follow: bool) -> None:
    """Draw training loss and validation top-1 of one run or more."""
    from minicnn.results import pictures
    from minicnn.training.run import Run

    runs = [Run(folder) for folder in folders]
    if follow:
        pictures.follow(runs, output)
    else:
        pictures.curves(runs, output)
    put({"written": output}, f"Written: {output}")


@click.command()
@_run
@_output("File to write: .safetensors for torch, .onnx for onnx.")
@click.option(
    "--to",
    "form",
    type=click.Choice(["torch", "onnx"]),
    default="torch",
    show_default=True,
    help="torch: weights for a PyTorch module; onnx: the whole network.",
)
@json_option
def export(folder: Path, output: Path, form: str) -> None:
    """Write a run's network for another framework."""
    from minicnn.results.export import export_onnx, export_torch
    from minicnn.training.run import Run

    write = export_onnx if form == "onnx" else export_torch
    tensors = write(Run(folder), output)
    lines = [f"{name:14}{'x'.join(map(str, s))}" for name, s in tensors.items()]
    page = "the documentation's page 'Use a net in PyTorch' has the module for it"
    lines.append(f"Written: {output}{'' if form == 'onnx' else f'; {page}'}.")
    put({"tensors": tensors, "written": output}, "\n".join(lines))


@click.command()
@click.option(
    "--compile", "compiles", is_flag=True, help="Compile all kernels for --device."
)
@device_options
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    compiles: bool,
    device: str,
    threads: int | None,
) -> None:
    """Say what this machine has and lacks, and what mends it.

    With --compile, fill the caches of compiled kernels instead, so that nothing waits
    for the compiler later; without a GPU those of the emulated device.
    """
    from minicnn.cli import doctor as checks

    if not compiles:
        findings = checks.examine()
        put([vars(each) for each in findings], checks.table(findings))
        return
    from minicnn.devices import build
    from minicnn.devices import device as devices

    if device == "auto":
        device = "cuda" if devices.cuda_count() else "emulated"
    built = []
    for each in build.build_all(devices.get(device, threads)):
        built.append(each)
        say(each)
    put([vars(each) for each in built])
    context.exit(1 if any(each.error for each in built) else 0)


COMMANDS = [evaluate, predict, features, filters, curves, export, doctor]
