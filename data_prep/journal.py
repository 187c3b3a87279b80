"""What is already done: a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from minicnn.data_prep.workers import Done


class Journal:
    """A header, then a line per finished chunk; whoever opens it holds the lock.

    A line counts once its newline is there, so a kill at any moment loses at most the
    line being written. Lines that do not parse are ignored: their chunk is done again.

    Attributes:
        header: what the work was begun with; empty where it was not.
        done: finished chunks by first row.
    """

    def __init__(self, path: Path) -> None:
        self.header: dict[str, str] = {}
        self.done: dict[int, Done] = {}
        self._file = open(path, "a+b")  # noqa: SIM115
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        self._file.truncate(whole)
        for line in text[:whole].splitlines():
            with suppress(ValueError, TypeError, KeyError):
                fields = json.loads(line)
                if "fingerprint" in fields:
                    self.header = fields
                    continue
                fields["bad"] = [tuple(each) for each in fields["bad"]]
                self.done[fields["start"]] = Done(**fields)

    def begin(self, header: dict[str, str]) -> None:
        """Forgets everything and writes a new header."""
        self._file.truncate(0)
        self.header, self.done = header, {}
        self._append(header)

    def note(self, done: Done) -> None:
        """Adds a finished chunk."""
        self.done[done.start] = done
        self._append(done._asdict())

    def _append(self, fields: Mapping[str, object]) -> None:
        self._file.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
