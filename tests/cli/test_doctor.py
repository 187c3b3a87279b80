"""The doctor on machines that have everything, nothing, and something broken."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
from click.testing import CliRunner

from minicnn.base.config import read_toml
from minicnn.cli import doctor, doctor_gpu
from minicnn.cli.finding import MISSING, OK, OPTIONAL, Finding
from minicnn.cli.main import cli
from minicnn.data_prep.demo.store import default_demo_path
from tests.support.runs import make_store


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no demo set yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def examined() -> dict[str, Finding]:
    """The findings by what was looked for; the last of each."""
    return {each.what: each for each in doctor.examine()}


class Driver:
    """libcuda of a machine with one GPU, as far as the doctor asks it."""

    def __init__(self, version: int, gpus: int = 1) -> None:
        self.version, self.gpus = version, gpus

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuInit(self, flags: int) -> int:
        return 0 if self.gpus else 100

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGetName(self, label: Any, size: int, number: int) -> int:
        label.value = b"Imaginary 1000"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, number: int) -> int:
        memory._obj.value = 80 * 10**9
        return 0

    def cuDeviceGetAttribute(self, value: Any, kind: int, number: int) -> int:
        value._obj.value = {75: 9, 76: 0}[kind]
        return 0


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(
        doctor_gpu, "ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": load})
    )


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Makes packages look absent, to importlib and to `import`."""
    version, find = importlib.metadata.version, importlib.util.find_spec

    def no_version(name: str) -> str:
        if name in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    def no_spec(name: str) -> Any:
        return None if name in packages else find(name)

    monkeypatch.setattr(importlib.metadata, "version", no_version)
    monkeypatch.setattr(importlib.util, "find_spec", no_spec)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_this_machine_runs_minicnn() -> None:
    found = examined()
    for what in ("minicnn", "Python", "NumPy", "h5py", "Pillow", "safetensors", "disk"):
        assert found[what].state == OK, found[what]
    for each in found.values():
        assert each.what
        assert each.found


def test_every_package_of_the_project_is_looked_for() -> None:
    project = read_toml(Path(__file__).parents[2] / "pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    for_users = extras.keys() - {"test", "dev", "docs"}
    # Found by another name than its distribution's.
    named = {"cupy-cuda12x": "cupy", "cupy-cuda13x": "cupy", "torch": "pytorch"}
    lists = [project["dependencies"], *(extras[each] for each in for_users)]
    found = {what.lower() for what in examined()}
    for line in itertools.chain(*lists):
        name = re.match(r"[\w-]+", line)[0]
        wanted = "python_version" not in line or sys.version_info < (3, 11)
        assert not wanted or named.get(name, name) in found, name


def test_without_numpy_it_still_speaks(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('libopenblas is gone')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "minicnn", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("! NumPy"))
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


def test_nothing_optional_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, None)
    without(monkeypatch, "cupy", "torch")
    monkeypatch.setattr(doctor_gpu, "_vendors", list)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    found = examined()
    for what in ("C++ compiler", "GPU", "CuPy", "PyTorch", "stores", "runs"):
        assert found[what].state == OPTIONAL, found[what]
    assert found["CuPy"].mend.endswith("-m pip install 'minicnn-transfer[cuda12]'")
    assert found["PyTorch"].mend.endswith("-m pip install 'minicnn-transfer[compare]'")
    assert "data prepare" in found["stores"].mend
    assert "train-base" in found["runs"].mend
    assert found["demo set"].mend.startswith("minicnn data demo -o ")


def test_a_compilers_absence_names_this_systems_installer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    tool = tmp_path / "dnf"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert examined()["C++ compiler"].mend == "sudo dnf install gcc-c++"


def test_a_compiler_named_by_cxx_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "mycc"
    tool.write_text("#!/bin/sh\necho mycc 1.2.3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("CXX", str(tool))
    found = examined()["C++ compiler"]
    assert (found.found, found.state) == (f"mycc 1.2.3, {tool}", OK)


@pytest.mark.parametrize(
    ("version", "said", "extra"),
    [(12040, "CUDA 12.4", "cuda12"), (13010, "CUDA 13.1", "cuda13")],
)
def test_a_gpu_without_cupy_asks_for_the_extra_of_its_driver(
    version: int, said: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_driver(monkeypatch, Driver(version))
    without(monkeypatch, "cupy")
    found = examined()
    assert found["driver"].found.endswith(said)
    assert found["GPU"].found == "Imaginary 1000, 80 GB, sm_90"
    assert found["CuPy"].state == MISSING
    assert found["CuPy"].mend.endswith(f"-m pip install 'minicnn-transfer[{extra}]'")


def test_a_card_without_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_driver(monkeypatch, None)
    vendor = tmp_path / "vendor"
    vendor.write_text("0x10de\n")
    monkeypatch.setattr(doctor_gpu, "_vendors", lambda: [vendor])
    found = examined()["GPU"]
    assert found.state == MISSING
    assert "driver" in found.found
    assert found.mend.startswith("sudo ")


def test_a_driver_whose_gpu_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, Driver(12040, gpus=0))
    without(monkeypatch, "cupy")
    found = examined()
    assert "no GPU answers" in found["GPU"].found
    assert found["CuPy"].state == OPTIONAL


def test_a_broken_cupy_is_told_not_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_driver(monkeypatch, Driver(12040))
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("raise RuntimeError('no libnvrtc')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    found = examined()["CuPy"]
    assert found.state == MISSING
    assert "no libnvrtc" in found.found


def test_a_missing_library_names_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "h5py", "safetensors")
    found = examined()
    for what in ("h5py", "safetensors"):
        assert found[what].state == MISSING
        assert found[what].mend.endswith("-m pip install minicnn-transfer")


def test_stores_and_runs_of_this_folder(elsewhere: Path) -> None:
    make_store(elsewhere / "good.h5")
    (elsewhere / "bad.h5").write_bytes(b"not a store")
    for name, finished in (("baseA", True), ("A3B", False)):
        folder = elsewhere / "runs" / "store-random-0" / name
        folder.mkdir(parents=True)
        (folder / "config.toml").touch()
        if finished:
            (folder / "result.json").touch()
    with h5py.File(elsewhere / "others.h5", "w"):
        pass
    bad, good, others = (each for each in doctor.examine() if each.what == "store")
    assert good == Finding("store", "good.h5: 136 images of 36x36, 8 classes")
    assert bad.state == MISSING
    assert bad.found.startswith("bad.h5: not a readable HDF5 file")
    assert bad.mend == "minicnn data prepare SOURCE -o bad.h5 --fresh"
    # Another program's file is not ours to replace.
    assert others.state == OPTIONAL
    assert others.found == "others.h5: an HDF5 file, but no minicnn store"
    assert not others.mend
    assert examined()["runs"].found == "1 finished, 1 unfinished in ./runs"


def test_a_damaged_demo_set_is_drawn_again() -> None:
    path = default_demo_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a store")
    found = examined()["demo set"]
    assert found.state == MISSING
    assert found.mend == f"minicnn data demo -o {path} --fresh"


def test_a_check_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ValueError("odd\nmachine")

    checks = (("thing", broken), *doctor.CHECKS)
    monkeypatch.setattr(doctor, "CHECKS", checks)
    found = examined()
    assert found["thing"].found == "cannot be told: ValueError: odd machine"
    assert found["NumPy"].state == OK


def test_the_command_prints_a_table_and_json() -> None:
    printed = CliRunner().invoke(cli, ["doctor"])
    assert printed.exit_code == 0
    assert "Python   " in printed.output
    assert os.sep in printed.output
    records = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert {"what", "found", "state", "mend"} == records[0].keys()
    for record in records:
        assert record["found"] in printed.output or record["what"] == "disk"
        assert record["mend"] in printed.output
