"""Sources to prepare, and where their stores are to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicnn.data_prep import prepare as module
from tests.support import prepare_sources as make
from tests.support.preparing import CHUNK


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, beside which a test may write."""
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """25 images of 3 classes, each of its own colour; 3 are held out."""
    monkeypatch.setattr(module, "_CHUNK_IMAGES", CHUNK)
    return make.class_folders(tmp_path / "source", {"a": 10, "b": 9, "c": 6})


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store is to be, in a new folder of its own; written by small chunks."""
    monkeypatch.setattr(module, "_CHUNK_IMAGES", CHUNK)
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "store.h5"
