"""The one command for GPU machines: its sections, limits, record, and bare trees."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.experiments import gpu_check
from minicnn.experiments.gpu_check import FILE, PYTHON, Section
from minicnn.ops.conv import conv

ROOT = Path(__file__).resolve().parents[2]
WRITE = "import os, sys, time; open(sys.argv[1], 'w').write('%s'); "
PYTEST = "..F\nFAILED tests/ops/test_lrn.py::test_y - off\n1 failed, 2 passed in 0.3s\n"


def section(code: str, seconds: float = 60) -> Section:
    """One that runs Python on this code, which finds its file in sys.argv."""
    return Section(seconds, "cpu", f"{PYTHON} -c {shlex.quote(code)} {FILE}")


def test_the_same_command_completes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, switch, log = (tmp_path / name for name in ("out.json", "switch", "log"))
    about = {"commit": "abc", "device": "cpu", "gpu": None}
    works = dict.fromkeys("abc", WRITE % '{"step": 0.25}')
    works["a"] += f"os.path.exists({str(switch)!r}) or sys.exit('not yet')"

    def command(*options: str) -> tuple[int, str, dict[str, str], list[str]]:
        log.write_text("")
        every = {"environment": section(WRITE % json.dumps(about))}
        for name, code in works.items():
            every[name] = section(f"open({str(log)!r}, 'a').write({name!r}); {code}")
        monkeypatch.setattr(gpu_check, "sections", lambda device: every)
        done = CliRunner().invoke(gpu_check.main, [f"--out={out}", *options])
        found = json.loads(out.read_text()) if out.exists() else {}
        states = {name: each["state"] for name, each in found.items()}
        return done.exit_code, log.read_text(), states, done.output.splitlines()

    *nothing, said = command("--minutes=0.1")
    assert (nothing, said[0][:29]) == ([0, "", {}], "Time ends before environment;")
    code, ran, states, said = command()
    assert (code, ran) == (1, "abc")
    assert states == {"environment": "ok", "a": "FAILED", "b": "ok", "c": "ok"}
    assert [line.split()[0] for line in said[-5:]] == ["section", *states]
    assert said[-3].endswith("status 1: not yet; 250.00 ms a step")
    # What is missing comes before what failed.
    kept = json.loads(out.read_text())
    out.write_text(json.dumps({name: kept[name] for name in kept if name != "c"}))
    switch.touch()
    code, ran, states, _ = command()
    assert (code, ran, set(states.values())) == (0, "ca", {"ok"})
    about["gpu"] = "NVIDIA H200"
    code, ran, after, said = command()
    assert (code, ran, after) == (1, "", states)
    assert said[-1].endswith("gpu None, and this is NVIDIA H200; name another file")


def test_a_process_that_hangs_is_interrupted_and_ended_with_all_it_started(
    tmp_path: Path,
) -> None:
    child = f"import time; time.sleep(12); open({str(tmp_path / 'alive')!r}, 'w')"
    code = f"import subprocess as s, sys; s.Popen([sys.executable, '-c', {child!r}])\n"
    code += "import time\ntry: time.sleep(60)\nfinally: " + WRITE % '{"step": 1.0}'
    began, record = time.monotonic(), gpu_check.run(section(code, seconds=8), 8)
    assert (record["state"], record["found"]) == ("FAILED", {"step": 1.0})
    assert record["summary"] == "took over 8 s; 1000.00 ms a step"
    # Less than its own time is no failure.
    assert gpu_check.run(section("import time; time.sleep(60)"), 2)["state"] != "FAILED"
    time.sleep(max(0, began + 14 - time.monotonic()))
    assert not (tmp_path / "alive").exists()


def test_what_tests_write(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(PYTEST)
    found = gpu_check.read(file)
    assert gpu_check.summary(found) == "1 failed, 2 passed in 0.3s"
    assert found["failed"] == ["FAILED tests/ops/test_lrn.py::test_y - off"]


def test_smoke_and_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicnn.devices.meter.SECONDS", 0.01)
    monkeypatch.setattr(gpu_check, "LIMITS", {"bf16": 1e-2, "fp32": 2e-4})
    original, out = gpu_check.losses, tmp_path / "out.json"
    given = str(out), "emulated", "miniature", "1"
    with pytest.raises(SystemExit, match=r"^$"):
        gpu_check.smoke(*given)

    def off(dev: Any, *how: Any) -> Any:
        found = original(dev, *how)
        return [each * 1.001 for each in found] if dev.name != "cpu" else found

    monkeypatch.setattr(gpu_check, "losses", off)
    with pytest.raises(SystemExit, match=r"^fp32: off by 1"):
        gpu_check.smoke(*given)
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("tf32x3",))
    gpu_check.tiles(*given)
    found = gpu_check.read(out)
    # The passes of eight layers, but the gradient of the images.
    assert len(found["tiles"]["tf32x3"]) == 8 * 3 - 1
    assert gpu_check.summary(found).startswith("the plans lose a step: tf32x3 ")


def test_runs_from_a_tree_that_is_not_installed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    folders = [tree / n for n in ("minicnn", "kernels", "data_prep", "experiments")]
    for folder in folders:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder.name, folder, symlinks=True, ignore=ignored)
    command = [sys.executable, tree / "experiments" / "gpu_check.py"]
    command += ["--device=emulated", "--minutes=0.25", f"--out={tmp_path / 'out.json'}"]
    subprocess.run(command, env={**os.environ, "MINICNN_COMMIT": "abc"})
    found = json.loads((tmp_path / "out.json").read_text())["environment"]["found"]
    assert found["commit"] == "abc"


def test_the_pages_commands_for_gpus_are_understood() -> None:
    lines = (ROOT / "docs" / "kernels.md").read_text().replace("\\\n", " ").splitlines()
    for tool in ("ncu --set", "compute-sanitizer --tool"):
        (line,) = [each for each in lines if tool in each and " bench " in each]
        asked = line.partition(" bench ")[2].split()
        done = CliRunner().invoke(cli, ["bench", *asked, "--help"])
        assert done.exit_code == 0, done.output
        (name,) = re.findall(r"--kernel-name (?:kns=)?(\w+)", line)
        assert any(e.startswith(f"{name}<") for e in conv.KERNELS.source.instances)
