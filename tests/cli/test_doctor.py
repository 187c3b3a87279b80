"""The doctor on machines that have everything, nothing, and something broken."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.base.config import read_toml
from minicnn.cli import doctor
from minicnn.cli.doctor import MISSING, OK, OPTIONAL, Finding
from minicnn.cli.main import cli
from minicnn.devices import device

CARD = "550.54.15, Imaginary 1000, 81559 MiB, 9.0"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no NVIDIA card."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "VENDORS", str(tmp_path / "vendor"))
    monkeypatch.setattr(device, "cuda_count", lambda: 0)
    return tmp_path


def examined() -> dict[str, Finding]:
    """The findings by what was looked for; the last of each."""
    return {each.what: each for each in doctor.examine()}


def program(folder: Path, name: str, said: str, patch: pytest.MonkeyPatch) -> str:
    """A program that says one line, first on the PATH; where it lies."""
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{said}'\n")
    file.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return str(file)


def test_this_machine_runs_minicnn() -> None:
    found = examined()
    for what in ("minicnn", "Python", "numpy", "h5py", "loading", "device", "cache"):
        assert found[what].state == OK, found[what]
    assert "cpu" in found["device"].found
    assert "compiled by" in found["cpu ops"].found or found["cpu ops"].state == OPTIONAL
    assert found["GPU"].state == OPTIONAL


def test_every_extra_for_users_is_looked_for() -> None:
    project = read_toml(Path(__file__).parents[2] / "pyproject.toml")["project"]
    others = {"test", "dev", "docs", "cuda12", "cuda13"}
    assert doctor.EXTRAS.keys() == project["optional-dependencies"].keys() - others


def test_a_missing_package_names_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    found = examined()
    for package, state, extra in (
        ("safetensors", MISSING, "minicnn-transfer"),
        ("torch", OPTIONAL, "'minicnn-transfer[compare]'"),
        ("scikit-learn", OPTIONAL, "'minicnn-transfer[analyse]'"),
    ):
        assert found[package].state == state
        assert found[package].mend.endswith(f"-m pip install {extra}")
    assert ("tomli" in found) == (sys.version_info < (3, 11))


def test_without_numpy_it_still_speaks(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('libopenblas is gone')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "minicnn", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("! loading"))
    assert "cannot be told: ImportError: libopenblas is gone" in lines[place]
    assert "pip install minicnn-transfer" in lines[place + 1]
    assert any(line.startswith("  processor") for line in lines)


@pytest.mark.parametrize(
    ("command", "stranger"), [("minicnn.cli.main:main", False), ("minicnn:run", True)]
)
def test_another_projects_minicnn_is_noticed(
    command: str, stranger: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site" / "minicnn-0.3.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Name: minicnn\nVersion: 0.3.0\n")
    (folder / "entry_points.txt").write_text(
        f"[console_scripts]\nminicnn = {command}\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    found = examined().get("same name")
    assert (found is not None) == stranger
    if found:
        assert found.state == MISSING
        assert "minicnn 0.3.0" in found.found
        assert "minicnn-transfer" in found.found
        assert found.mend.endswith("-m pip uninstall --yes minicnn")


@pytest.mark.parametrize(
    ("driver", "extra"), [("550.54", "cuda12"), ("580.65", "cuda13")]
)
def test_a_gpu_without_cupy_asks_for_the_extra_of_its_driver(
    driver: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "nvidia-smi", CARD.replace("550.54.15", driver), monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = examined()
    assert f"driver {driver}, Imaginary 1000" in found["GPU"].found
    assert found["cuda"].state == MISSING
    assert found["cuda"].mend.endswith(f"-m pip install 'minicnn-transfer[{extra}]'")


def test_a_card_without_a_driver(tmp_path: Path) -> None:
    (tmp_path / "vendor").write_text("0x10de\n")
    found = examined()["GPU"]
    assert found.state == MISSING
    assert "driver" in found.found
    assert found.mend.startswith("sudo ")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_cuda_device_that_works_or_says_why_not(
    hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "nvidia-smi", CARD, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def count() -> int:
        if hidden:
            raise RuntimeError("cudaErrorNoDevice: none is detected")
        return 1

    cupy: Any = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    get = device.get
    cuda = SimpleNamespace(name="cuda")
    monkeypatch.setattr(device, "get", lambda *how: cuda if how else get())
    found = examined()
    if hidden:
        assert (found["cuda"].state, found["cuda"].mend) == (MISSING, "")
        assert "cudaErrorNoDevice" in found["cuda"].found
        assert "CUDA_VISIBLE_DEVICES is ''" in found["cuda"].found
    else:
        assert found["cuda"] == Finding("cuda", "works: --device cuda, by CuPy 14.2.0")


def test_a_check_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def thing() -> Any:
        raise ValueError("odd\nmachine")

    monkeypatch.setattr(doctor, "CHECKS", (thing, *doctor.CHECKS))
    found = examined()
    assert found["thing"].found == "cannot be told: ValueError: odd machine"
    assert found["numpy"].state == OK


def test_the_command_prints_a_table_and_json() -> None:
    printed = CliRunner().invoke(cli, ["doctor"])
    assert printed.exit_code == 0
    assert "Python   " in printed.output
    records = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert {"what", "found", "state", "mend"} == records[0].keys()
    for record in records:
        assert record["found"] in printed.output
        assert record["mend"] in printed.output
