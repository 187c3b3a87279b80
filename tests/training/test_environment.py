"""The commit that a record names: with changes of the code, and without Git."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from minicnn.training import environment


def test_results_are_no_changes_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["minicnn/base/errors.py", "docs/proofs.md", "experiments/results/a.json"]
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")

    def git(*arguments: str) -> None:
        who = "-c", "user.name=a", "-c", "user.email=a@example.org"
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True)

    def commit() -> str:
        environment.commit.cache_clear()
        return environment.commit()

    monkeypatch.setattr(environment, "__file__", str(tmp_path / files[0]))
    try:
        assert commit() == "unknown"
        monkeypatch.setenv("MINICNN_COMMIT", "abc")
        assert commit() == "abc"
        git("init", "-q")
        git("add", ".")
        git("commit", "-q", "-m", "all")
        first = commit()
        assert re.fullmatch("[0-9a-f]{12}", first)
        for name in files[1:]:
            (tmp_path / name).write_text("2")
        assert commit() == first
        (tmp_path / files[0]).write_text("2")
        assert commit() == f"{first}-dirty"
    finally:
        environment.commit.cache_clear()
