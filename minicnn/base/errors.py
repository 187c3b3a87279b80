"""The exceptions that the command line turns into one line and a status."""

from __future__ import annotations


class MinicnnError(Exception):
    """Bad input or a failed precondition: names the thing, its value and the mend.

    The command line prints its text as one line and exits with status 2.
    """


def reason(error: OSError) -> str:
    """What the system says of an error, after the file's name; without its number."""
    place = f"{error.filename}: " if error.filename else ""
    return place + (error.strerror or str(error))


class Stopped(Exception):
    """Work was stopped by SIGINT or SIGTERM, and left everything in order.

    `step` is the training's that was saved; None where there was nothing to save.
    """

    def __init__(self, signal_name: str, step: int | None = None) -> None:
        super().__init__(signal_name, step)
        self.signal_name, self.step = signal_name, step


def counted(count: int, noun: str) -> str:
    """Such as "1 image" and "2,000 images"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
