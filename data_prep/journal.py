"""What is already done: a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from minicnn.data_prep.workers import Done


class Journal:
    """A header, then a line per finished chunk; whoever opens it holds the lock.

    A line counts once its newline is there, so a kill at any moment loses at most the
    line being written. Lines that do not parse are ignored: their chunk is done again.

    Attributes:
        header: what the work was begun with; None where it was not.
        done: finished chunks by first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, str] | None = None
        self.done: dict[int, Done] = {}
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        self._file.truncate(whole)
        for line in text[:whole].splitlines():
            try:
                fields = json.loads(line)
                if self.header is None:
                    self.header = dict(fields)
                else:
                    fields["bad"] = [tuple(each) for each in fields["bad"]]
                    self.done[fields["start"]] = Done(**fields)
            except (ValueError, TypeError, KeyError):
                continue

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
        line = memoryview(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        self._file.close()
