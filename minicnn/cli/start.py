"""The command `start`: from a folder of photographs to a classifier, in one line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click

import minicnn
from minicnn.base.errors import MinicnnError
from minicnn.cli import shared

NOTHING = "nothing"
SIZE = 32  # pixels a side that a net from nothing is trained on in minutes


def _choices(source: str) -> tuple[int, int, str]:
    """Pixels a side, layers to copy, and the run's name."""
    from minicnn.training.source import architecture, locate
    from minicnn.training.treatment import is_path, passes

    if source == NOTHING:
        return SIZE, 0, "baseall"
    if not is_path(source):
        raise MinicnnError(
            f"--from {source}: a net of a split's task; 'minicnn start' goes on from "
            f"tiny-imagenet, a PATH or {NOTHING}"
        )
    locate(source)
    arch = architecture(source)
    size, depth = (arch.size, arch.depth - 1) if arch else (SIZE, 7)
    return size, depth, passes(source, [depth], finetune=True)[0][0].name


def _held_out(store: Path, folder: Path) -> Path | None:
    """An image that was not trained on; None where it lies in an archive."""
    opened = minicnn.Store(store)
    row = opened.rows(range(len(opened.wnids)), "val")[0]
    path = folder / opened.files[row]
    return path if path.is_file() else None


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--from",
    "source",
    default="tiny-imagenet",
    help="Net to start from: tiny-imagenet, which comes with minicnn; a PATH as for "
    "'minicnn transfer'; or nothing.",
)
@click.option("--fresh", is_flag=True, help="Start over, as after adding images.")
@shared.device_options
@click.pass_context
def start(
    context: click.Context,
    folder: Path,
    source: str,
    fresh: bool,
    device: str,
    threads: int | None,
) -> None:
    """Make a classifier from photographs.

    FOLDER has one folder of photographs for each class. start runs other commands, and
    prints each first. They write NAME.h5, NAME.png, NAME-curves.png and runs/NAME into
    the current folder, where NAME is FOLDER's.
    """
    from minicnn.devices import device as devices

    devices.get(device, threads)  # which may refuse, before anything is made
    root = context.find_root().command
    name = folder.resolve().stem
    store, runs = Path(f"{name}.h5"), Path("runs", name)
    size, depth, run = _choices(source)
    again = ["--fresh"] * fresh
    on = ["--device", device] * (device != "auto")
    on += ["--threads", str(threads)] * (threads is not None)
    train = ["train-base", "--task", "all"]
    if depth:
        train = ["transfer", "--from", source, "--n", str(depth), "--finetune"]

    def planned() -> Iterator[list[str]]:
        prepared = ["-o", str(store), "--size", str(size)]
        yield ["data", "prepare", str(folder), *prepared, *again]
        yield ["data", "show", str(store), "-o", f"{name}.png"]
        yield [*train, "--data", str(store), "--runs", str(runs), *on, *again]
        yield ["curves", str(runs / run), "-o", f"{name}-curves.png"]
        if image := _held_out(store, folder):
            yield ["predict", str(runs / run), str(image), *on]

    for words in planned():
        click.secho(f"\n$ minicnn {shlex.join(words)}", bold=True)
        root.main(words, "minicnn", standalone_mode=False)


COMMANDS = [start]
