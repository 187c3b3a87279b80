"""The Makefile's environment, made by a stand-in for Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
# Its version is set; `-m venv` makes bin/python, then what `pip` says, and is logged.
STAND_IN = """#!/bin/sh
case "$1" in
-c) exec {python} -c 'import sys; sys.version_info = {version}
exec(sys.argv[1])' "$2" ;;
-V) echo Python of old ;;
-m) echo "$@" >> log; mkdir -p "$3/bin"; touch "$3/bin/python"; {pip} ;;
esac
"""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is absent")


def make(
    folder: Path, version: tuple[int, ...], pip: str
) -> subprocess.CompletedProcess[str]:
    """Makes the environment with a Python of that version."""
    stand_in = folder / "python"
    stand_in.write_text(
        STAND_IN.format(python=sys.executable, version=version, pip=pip)
    )
    stand_in.chmod(0o755)
    argv = ["make", "-f", str(MAKEFILE), "PYTHON=./python", "VENV=env", "env/bin/pip"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True)


def test_a_half_made_environment_is_made_again(tmp_path: Path) -> None:
    version, log = (3, 10, 0), tmp_path / "log"
    assert make(tmp_path, version, "exit 1").returncode
    assert (tmp_path / "env/bin/python").exists()
    assert make(tmp_path, version, "touch env/bin/pip").returncode == 0
    assert log.read_text() == "-m venv env\n" * 2
    assert make(tmp_path, version, "exit 1").returncode == 0
    assert log.read_text() == "-m venv env\n" * 2


def test_an_old_python_is_one_line(tmp_path: Path) -> None:
    done = make(tmp_path, (3, 9, 18), "touch env/bin/pip")
    assert done.returncode
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert said == [
        "minicnn needs Python >= 3.10, ./python is: Python of old; name another one: "
        "make PYTHON=..."
    ]
    assert not (tmp_path / "env").exists()
