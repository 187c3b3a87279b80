"""--json: one JSON value on standard output, and all else on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

_KEY = "minicnn.json"


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --json, of which `say` and `put` know."""

    def keep(context: click.Context, _: click.Parameter, asked: bool) -> None:
        context.meta[_KEY] = asked

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=keep, help="Print JSON."
    )(command)


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
