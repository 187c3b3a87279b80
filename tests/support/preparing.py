"""Small stores to prepare, in chunks of a few rows."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from minicnn.data_prep import prepare as module
from minicnn.data_prep import workers
from minicnn.data_prep.prepare import Options, Outcome, prepare

CHUNK = 4  # rows, so that small sources have several chunks


def run(source: Path, target: Path, **options: object) -> Outcome:
    return prepare(source, target, Options(**{"size": 16, "jobs": 1, **options}))


def only_the_store(target: Path) -> bool:
    return [path.name for path in target.parent.iterdir()] == [target.name]


def count_conversions(monkeypatch: pytest.MonkeyPatch, stop_at: int = 0) -> list[int]:
    """First rows of the chunks that are converted from here on.

    Args:
        stop_at: in which of them, from 1, to send this process a SIGTERM.
    """
    convert, starts = workers.convert, []

    def counted(recipe: workers.Recipe, chunk: workers.Chunk) -> workers.Done:
        starts.append(chunk.start)
        if len(starts) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return convert(recipe, chunk)

    monkeypatch.setattr(module, "convert", counted)
    return starts
