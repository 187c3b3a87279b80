"""Small stores to prepare, in chunks of a few rows."""

from __future__ import annotations

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


def count_conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First rows of the chunks that are converted from here on."""
    convert, starts = workers.convert, []

    def counted(recipe: workers.Recipe, chunk: workers.Chunk) -> workers.Done:
        starts.append(chunk.start)
        return convert(recipe, chunk)

    monkeypatch.setattr(module, "convert", counted)
    return starts
