"""What commands share: options, and --json with what is printed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
_KEY = "minicnn.json"


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one, in the order of the help."""

    def added(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return added


def _keep(context: click.Context, _: click.Parameter, asked: bool) -> None:
    context.meta[_KEY] = asked


json_option = click.option(
    "--json", is_flag=True, expose_value=False, callback=_keep, help="Print JSON."
)
device_option = click.option(
    "--device", default="auto", help="auto, cpu, cuda, cuda:N or emulated."
)
device_options = together(
    device_option,
    click.option("--threads", type=int, help="CPU threads; default: all cores."),
)
precision_option = click.option(
    "--precision",
    help="fp32, tf32x3, tf32, bf16 or fp64, as network.precision; default: the "
    "recipe's, fp32.",
)
split_option = click.option(
    "--split",
    help="random-S, natural-manmade, file:PATH or all; default: random-0, or all for "
    "the task all.",
)
groups_option = click.option(
    "--groups", type=FILE, help="Groups file for --split natural-manmade."
)
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a setting, such as solver.lr=0.02; may be repeated.",
)


def data_option(default: str) -> Callable[[Command], Command]:
    """--data, a store; `default` is said in the help."""
    return click.option("--data", type=FILE, help=f"Image store; default: {default}.")


def output_option(text: str, kind: click.Path = FILE) -> Callable[[Command], Command]:
    """-o, what to write."""
    return click.option("-o", "--output", type=kind, required=True, help=text)


def choice_option(
    name: str, choices: list[str], text: str
) -> Callable[[Command], Command]:
    """One of some words; the first is the default."""
    kind = click.Choice(choices)
    return click.option(name, type=kind, default=choices[0], help=text)


def on_device(command: Command) -> Command:
    """--device and --threads; the command is given the device itself, `dev`."""

    @device_options
    @functools.wraps(command)
    def opened(*args: Any, device: str, threads: int | None, **options: Any) -> Any:
        from minicnn.devices import device as devices

        return command(*args, dev=devices.get(device, threads), **options)

    return opened


def _asked() -> bool:
    """Whether --json was given."""
    return bool(click.get_current_context().meta.get(_KEY))


def say(text: object) -> None:
    """What people read along the way."""
    click.echo(text, err=_asked())


def put(value: Any, text: object = None) -> None:
    """What a command came to: `value` as JSON, or the text; None was said before."""
    if _asked():
        click.echo(json.dumps(value, indent=2, default=str))
    elif text is not None:
        click.echo(text)


def put_written(path: Path, text: str = "", **more: Any) -> None:
    """What `put` puts of a file that was written."""
    put({**more, "written": path}, f"{text}Written: {path}")
