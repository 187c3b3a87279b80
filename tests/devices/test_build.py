"""`minicnn doctor --compile`: one line a kernel file, and the compiler's own words."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minicnn.base.errors import MinicnnError
from minicnn.cli.main import cli
from minicnn.devices import build, device

GOOD = """#include "common.cuh"
template <typename T>
__global__ void twice(T* x) { x[0] *= 2; }
INSTANTIATE(twice<float>, twice<double>);
"""
BAD = GOOD.replace("x[0] *= 2;", "\nx[0] *= two;")


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernel files in the place of the real one, and an empty cache."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "good.cu").write_text(GOOD)
    return tmp_path


def compiled(*argv: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--compile", *argv])


def test_fills_the_cache(kernels: Path) -> None:
    done = compiled("--device=emulated")
    assert done.exit_code == 0, done.output
    (line,) = done.output.splitlines()
    assert line.startswith("good.cu")
    assert "2 kernels" in line
    cached = {path.name.split("-")[1] for path in kernels.glob("cache/*/good-*.so")}
    assert cached == {"float", "double"}
    (record,) = json.loads(compiled("--device=emulated", "--json").stdout)
    assert (record["groups"], record["kernels"]) == (2, 2)


def test_groups_are_compiled_side_by_side(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = device.get("emulated", 2)
    both = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(dev.launcher, "build", lambda *_: both.wait())
    (built,) = build.build_all(dev)
    assert (built.error, built.groups) == ("", 2)


def test_a_failure_shows_file_line_and_message(kernels: Path) -> None:
    (kernels / "bad.cu").write_text(BAD)
    done = compiled("--device=emulated")
    assert done.exit_code == 1
    assert "bad.cu" in done.output
    assert f"{kernels / 'bad.cu'}:4" in done.output
    assert "two" in done.output
    # The other file is compiled all the same.
    assert done.output.splitlines()[-1].startswith("good.cu")
    records = json.loads(compiled("--device=emulated", "--json").stdout)
    assert [bool(each["error"]) for each in records] == [True, False]


def test_a_device_without_kernels_is_refused() -> None:
    refused = compiled("--device=cpu").exception
    assert isinstance(refused, MinicnnError)
    assert "--device cpu: runs no kernels; choose cuda or emulated" in str(refused)
