"""A trained base that the tests of a process share."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicnn.training import transfer
from minicnn.training.transfer import Setup
from tests.support.runs import make_store
from tests.support.training import copied, make_setup


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store; not to be written to."""
    return make_store(tmp_path_factory.mktemp("store") / "tiny.h5")


@pytest.fixture(scope="session")
def whole(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A folder of runs with baseA, trained without a stop; not to be written to."""
    setup = make_setup(store_path, tmp_path_factory.mktemp("whole"))
    transfer.train_base(setup, "A")
    return setup


@pytest.fixture
def setup(whole: Setup, tmp_path: Path) -> Setup:
    """A copy of `whole`, in tmp_path/runs, to write to."""
    return copied(whole, tmp_path)


@pytest.fixture
def empty(store_path: Path, tmp_path: Path) -> Setup:
    """The same with no runs yet, in tmp_path."""
    return make_setup(store_path, tmp_path)
