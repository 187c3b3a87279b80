"""A command as a program: what ends it is one line and a status, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import click

from minicnn.base.errors import MinicnnError, Stopped, reason
from minicnn.base.interrupt import SIGNALS


class Lasting:
    """A text stream that may fail: what is written from then on goes nowhere.

    So `minicnn train-base ... | head -1` trains to its end.

    Attributes:
        failure: the first error but that of a reader who left.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.failure = self.failure or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _lasting() -> Iterator[None]:
    """Makes the program's two streams last; one that is closed, None, goes nowhere.

    Raises:
        MinicnnError: at the end, if standard output failed.
    """
    before = sys.stdout, sys.stderr
    output, errors = (Lasting(each or open(os.devnull, "w")) for each in before)  # noqa: SIM115
    sys.stdout, sys.stderr = output, errors
    try:
        yield
        output.flush()
        if output.failure:
            raise MinicnnError(f"standard output: {reason(output.failure)}")
    finally:
        sys.stdout, sys.stderr = before


def _fail(text: str, status: int = 2) -> int:
    line = " ".join(each.strip() for each in text.splitlines())
    click.echo(f"minicnn: error: {line}", err=True)
    return status


def run(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Runs a command: its status; what the user can mend is one line and status 2.

    Args:
        argv: the words after the program's name; None takes the process's own.
    """
    try:
        with _lasting():
            return command.main(argv, "minicnn", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message())
    except MinicnnError as error:
        return _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        return _fail("stopped by Ctrl-C", SIGNALS["SIGINT"])
    except OSError as error:
        return _fail(reason(error))
    except MemoryError as error:
        return _fail(f"out of memory ({error})" if str(error) else "out of memory")
    except Stopped as stop:
        saved = f" and saved at step {stop.step}; the same command goes on from there"
        more = "" if stop.step is None else saved
        click.echo(f"Stopped by {stop.signal_name}{more}.", err=True)
        return SIGNALS[stop.signal_name]
