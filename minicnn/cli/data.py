"""The commands of `minicnn data` and `minicnn splits`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import minicnn
from minicnn.base.errors import MinicnnError, counted
from minicnn.base.interrupt import SIGNALS
from minicnn.cli import shared
from minicnn.cli.shared import put

if TYPE_CHECKING:
    from minicnn.data_prep.prepare import Outcome

_jobs = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    help="Parallel workers; default: one a core.",
)
_output_store = shared.output_option("Store to make.")
_store = click.argument("store", type=shared.FILE)


def default_split(task: str) -> str:
    """The split of a task that is named without one."""
    return "all" if task == "all" else "random-0"


@click.group()
def data() -> None:
    """Make image stores and look into them."""


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@_output_store
@click.option(
    "--size",
    type=click.IntRange(1, 4096),
    help="Height and width in pixels; default: 256, Tiny ImageNet 64, CIFAR 32.",
)
@shared.choice_option(
    "--resize",
    ["warp", "short-center"],
    "Stretch to the square, or cut it from the middle.",
)
@click.option(
    "--val-fraction",
    type=float,
    help="Part of each class to hold out for validation where the source has no "
    "validation part; default: 0.1.",
)
@click.option("--seed", default=0, help="Seed that holds images out.")
@click.option(
    "--groups",
    type=shared.FILE,
    help="TOML file with two lists of classes, natural and manmade.",
)
@shared.choice_option(
    "--on-error",
    ["fail", "skip"],
    "Stop at a file that cannot be read as an image, or leave it out.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Decode large JPEGs in full, which is slower, and resize by one call of "
    "Pillow's Image.resize, bit for bit.",
)
@_jobs
@click.option(
    "--fresh", is_flag=True, help="Discard unfinished work and replace the store."
)
@shared.json_option
def prepare(source: Path, output: Path, **options: Any) -> None:
    """Make a store of the images in SOURCE.

    SOURCE is recognised by its content: a folder with ImageNet's archives, or their
    extracted folders; Tiny ImageNet's folder or zip; CIFAR-100's binary version; any
    folder, zip or tar with one folder of images per class, or with train/ and val/.

    Stopped at any moment, the same command goes on where it stopped.
    """
    outcome = minicnn.prepare(source, output, minicnn.Options(**options))
    if outcome.state == "interrupted":
        done = f" after {outcome.kept + outcome.converted} of {outcome.rows} images"
        click.echo(
            f"Stopped by {outcome.signal_name}{done if outcome.rows else ''}; the same "
            "command (without --fresh) goes on from there.",
            err=True,
        )
        sys.exit(SIGNALS[outcome.signal_name])
    put({**vars(outcome), "store": output}, _told(outcome, output))


def _told(outcome: Outcome, output: Path) -> str:
    if outcome.state == "already":
        return f"{output} is done already: {outcome.rows} images."
    speed = outcome.converted / max(outcome.seconds, 1e-9)
    kept = f", {outcome.kept} kept from before" if outcome.kept else ""
    text = (
        f"{output}: {outcome.rows} images, {outcome.converted} of them prepared in "
        f"{outcome.seconds:.1f} s ({speed:,.0f} images/s){kept}."
    )
    if outcome.bad:
        text += (
            f"\n{counted(len(outcome.bad), 'image')} could not be read, and left out: "
            f"see {output}.bad.txt."
        )
    return text


@data.command()
@_output_store
@click.option("--size", default=32, help="Pixels a side.")
@click.option("--seed", default=0, help="Seed of the drawing.")
@_jobs
@click.option("--fresh", is_flag=True, help="Replace what is there.")
@shared.json_option
def demo(output: Path, **options: Any) -> None:
    """Draw the demo set, 40 classes, where there is no data."""
    from minicnn.data_prep.demo.store import prepare_demo

    drawn = prepare_demo(output, **options)
    text = ": the demo set is drawn." if drawn else " is done already: the demo set."
    put({"state": "done" if drawn else "already", "store": output}, f"{output}{text}")


@data.command()
@_store
@shared.json_option
def info(store: Path) -> None:
    """Show what STORE holds."""
    from minicnn.data_prep.inspect import describe

    told = describe(minicnn.Store(store))
    height, width = told["image_size"]
    rows = {
        "store": told["store"],
        "size on disk": f"{told['bytes'] / 1e6:,.1f} MB",
        "images": f"{told['images']:,} of {height}x{width}x3 bytes",
        "classes": f"{told['classes']:,}",
    }
    for part, counts in told["parts"].items():
        each = f"{counts['class_min']} to {counts['class_max']} a class"
        rows[part] = f"{counts['images']:,} images, {each}"
    rows["excluded"] = f"{told['excluded']:,} images that could not be read"
    groups = (f"{group} {count}" for group, count in told["groups"].items() if count)
    rows["groups"] = ", ".join(groups)
    lines = [*rows.items(), *sorted(told["attributes"].items())]
    put(told, "\n".join(f"{key:14}{value}" for key, value in lines))


@data.command()
@_store
@_jobs
@shared.json_option
def verify(store: Path, jobs: int | None) -> None:
    """Check STORE's checksums; exit status 1 if an image is damaged."""
    from minicnn.data_prep import inspect

    opened = minicnn.Store(store)
    damaged = inspect.verify(opened, jobs)
    lines = [
        f"row {each.row}, class {each.wnid} ({each.name}), {each.file}: {each.reason}"
        for each in damaged
    ]
    verdict = f"{len(damaged)} damaged" if damaged else "all whole"
    lines.append(f"{store}: {counted(len(opened), 'image')}, {verdict}.")
    told = {"images": len(opened), "damaged": [each._asdict() for each in damaged]}
    put(told, "\n".join(lines))
    if damaged:
        sys.exit(1)


@data.command()
@_store
@shared.output_option("Picture to write.")
@click.option(
    "--classes", help="Indices, class ids or names, with commas; default: all."
)
@shared.choice_option("--part", ["train", "val"], "Which images to draw from.")
@click.option(
    "--rows", type=click.IntRange(1, 100), default=8, help="Images down the sheet."
)
@click.option(
    "--cols", type=click.IntRange(1, 100), default=10, help="Images across the sheet."
)
@click.option("--seed", default=0, help="Seed that picks images.")
@shared.json_option
def show(store: Path, output: Path, classes: str | None, **grid: Any) -> None:
    """Draw a sheet of STORE's images over their class names."""
    from minicnn.data_prep.inspect import contact_sheet, find_classes, write_picture

    opened = minicnn.Store(store)
    wanted = [each.strip() for each in (classes or "").split(",") if each.strip()]
    sheet = contact_sheet(opened, find_classes(opened, wanted), **grid)
    write_picture(sheet, output)
    told = {"written": output, "width": sheet.width, "height": sheet.height}
    put(told, f"{output}: {sheet.width}x{sheet.height} pixels.")


@click.command()
@shared.data_option("the demo set")
@click.option(
    "--classes",
    "known",
    type=click.Choice(["ilsvrc2012"]),
    help="A class list in place of a store.",
)
@shared.split_option
@click.option("--task", required=True, help="A, B, or all.")
@shared.groups_option
@shared.json_option
def splits(
    data: Path | None,
    known: str | None,
    split: str | None,
    task: str,
    groups: Path | None,
) -> None:
    """List the classes of a task."""
    from minicnn.data.classes import ilsvrc2012
    from minicnn.data.splits import split_report, split_table, task_classes

    if data and known:
        raise MinicnnError(f"--data {data} and --classes {known}: give one of them")
    classes = (
        ilsvrc2012() if known else minicnn.Store(data or minicnn.ensure_demo()).classes
    )
    chosen = task_classes(split or default_split(task), task, classes, groups)
    told = split_report(chosen, classes)
    put(told, split_table(told))


COMMANDS = [data, splits]
