"""The one command for GPU machines: its sections, limits, record, and bare trees."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.devices import device
from minicnn.experiments import checkup, gpu_check, gpu_sections
from minicnn.experiments.bench import torch_step
from minicnn.experiments.checkup import Checkup, Failed, Skipped
from minicnn.experiments.gpu_sections import SECTIONS, Section
from minicnn.experiments.proofs import compare_devices
from minicnn.experiments.stand_ins import tomli_w as stand_in
from minicnn.nn import architectures
from minicnn.ops.conv import conv
from minicnn.training import environment
from tests.support.runs import MINIATURE, make_store

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(tmp_path: Path) -> Checkup:
    """A check-up without a GPU, with a minute left."""
    return Checkup(False, tmp_path, time.monotonic() + 60)


def test_a_section_that_fails_is_reported_and_not_raised(
    check: Checkup, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(check: Checkup) -> Any:
        raise KeyError("x")

    def failed(check: Checkup) -> Any:
        raise Failed("ended with status 1\nits last words")

    def off(check: Checkup) -> Any:
        return {"summary": "3 checks", "problem": "conv is off"}

    def skipped(check: Checkup) -> Any:
        raise Skipped("no GPU")

    works = [broken, failed, off, skipped, lambda check: {"summary": "fine"}]
    for work in works:
        name = getattr(work, "__name__", "")
        check.results[name] = gpu_check.run(check, name, work)
    states = [each["state"] for each in check.results.values()]
    assert states == ["FAILED", "FAILED", "FAILED", "skipped", "ok"]
    printed = capsys.readouterr().out
    assert "its last words" in printed
    assert "conv is off" in printed
    table = gpu_check.table(check.results).splitlines()
    assert table[0].split()[:2] == ["broken", "FAILED"]
    assert "KeyError('x')" in table[0]
    assert table[1].endswith("  ended with status 1 … its last words")
    assert table[3].endswith("no GPU")


def test_a_process_that_hangs_is_ended_with_all_it_started(
    check: Checkup, tmp_path: Path
) -> None:
    trace = tmp_path / "alive"
    grandchild = f"import time; time.sleep(2.5); open({str(trace)!r}, 'w')"
    code = (
        "import subprocess, sys, time; print('so far', flush=True); "
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(60)"
    )
    check.deadline = time.monotonic() + 100
    check.reserved = 98.6
    with pytest.raises(Failed, match=r"took over 1 s\nso far"):
        check.child("-c", code)
    time.sleep(2)
    assert not trace.exists()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_a_process_that_hangs_is_interrupted_first(
    handler: Any, check: Checkup
) -> None:
    code = (
        "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('written')"
    )
    check.deadline = time.monotonic() + 32  # Python starts within five of them
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(Failed, match=r"took over \d+ s\nwritten"):
            check.child("-c", code, grace=27)
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    late = Checkup(False, tmp_path, time.monotonic() + 1)
    record = gpu_check.run(late, "tests", lambda check: pytest.fail("was started"))
    assert record["state"] == "skipped"


def test_what_is_due_comes_in_order_of_its_weight() -> None:
    names = gpu_check.due({}, ())
    assert names == list(SECTIONS)
    # What the goals need comes within two commands of nine minutes.
    needed = [f"bench caffenet {kind}" for kind in gpu_sections.PRECISIONS]
    every = [mode.name for mode in torch_step.modes(True)]
    needed += [f"torch {name}" for name in ["caffenet", *gpu_sections.COMPILED]]
    assert set(gpu_sections.COMPILED) <= set(every)
    last = max(map(names.index, needed))
    assert sum(SECTIONS[name].budget for name in names[: last + 1]) <= 18 * 60
    assert gpu_check.due({}, ("tests", "compile")) == ["compile", "tests"]
    results = {"environment": {"state": "ok"}, "compile": {"state": "FAILED"}}
    results["gradcheck"] = {"state": "skipped"}
    rest = gpu_check.due(results, ())
    assert rest == ["gradcheck", *names[3:], "compile"]


def test_a_section_leaves_others_their_time(
    check: Checkup, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []

    def work(seconds: float) -> Any:
        def section(check: Checkup) -> Any:
            left.append(round(check.left(), 1))
            clock[0] += seconds
            return {"summary": ""}

        return section

    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    sections = {"a": (20, 10), "b": (30, 85), "c": (50, 0)}
    for name, (budget, seconds) in sections.items():
        monkeypatch.setitem(SECTIONS, name, Section(work(seconds), budget))
    check.deadline = 150.0
    gpu_check.run_all(check, list(sections), None)
    # Each may take what the budgets of later ones leave.
    assert left == [70.0, 90.0, 55.0]
    # Where time is too short, each has its own budget, and the last none.
    left.clear()
    clock[0], check.deadline = 0.0, 92.0
    gpu_check.run_all(check, list(sections), None)
    assert left == [20.0, 32.0]
    assert check.results["c"]["summary"] == "no time was left"


@pytest.mark.parametrize(
    ("budget", "takes", "state"),
    [(10, 8, "FAILED"), (30, 8, "FAILED"), (30, 18, "skipped"), (10, 18, "FAILED")],
)
def test_it_is_no_failure_to_end_with_too_little_time(
    budget: float, takes: float, state: str, check: Checkup, monkeypatch: Any
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    check.deadline = 20.0

    def work(check: Checkup) -> Any:
        clock[0] += takes
        return {"summary": "half of it", "problem": "took over 20 s"}

    record = gpu_check.run(check, "tests", work, budget)
    assert record["state"] == state
    assert record["summary"].endswith("half of it")
    assert (state == "skipped") == record["summary"].startswith("too little time; ")


def test_a_command_that_was_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "folder" / "check.json"
    ran: list[str] = []
    fates: dict[str, list[BaseException]] = {"b": [KeyboardInterrupt()], "c": []}

    def section(name: str) -> Section:
        def work(check: Checkup) -> Any:
            ran.append(name)
            if fates.get(name):
                raise fates[name].pop()
            return {"summary": "done", "commit": "abc"}

        return Section(work, 10)

    sections = {name: section(name) for name in ("environment", "b", "c")}
    monkeypatch.setattr(gpu_check, "SECTIONS", sections)
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: "")
    monkeypatch.setattr("minicnn.training.environment.commit", lambda: "abc")

    def command() -> tuple[int, list[str], dict[str, str], str]:
        ran.clear()
        done = CliRunner().invoke(gpu_check.main, [f"--out={out}"])
        record = json.loads(out.read_text())
        assert len(record.pop("goals")) == 4
        states = {name: each["state"] for name, each in record.items()}
        return done.exit_code, list(ran), states, done.output

    # Killed in b; c then fails; then only c is left.
    code, started, states, _ = command()
    assert (code, started) == (1, ["environment", "b"])
    assert states == {"environment": "ok"}
    fates["c"].append(Failed("no"))
    code, started, states, said = command()
    assert (code, started) == (1, ["b", "c"])
    assert states == {"environment": "ok", "b": "ok", "c": "FAILED"}
    assert f"Done before, in {out}: environment." in said
    code, started, states, _ = command()
    assert (code, started) == (0, ["c"])
    assert set(states.values()) == {"ok"}
    # Another commit's or GPU's results are not mixed with these.
    monkeypatch.setattr("minicnn.training.environment.commit", lambda: "def")
    code, started, after, said = command()
    assert (code, started, after) == (1, [], states)
    assert "of commit abc, and this is def; name another file" in said
    monkeypatch.setattr("minicnn.training.environment.commit", lambda: "abc")
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: "NVIDIA H200")
    code, started, after, said = command()
    assert (code, started, after) == (1, [], states)
    assert "of gpu None, and this is NVIDIA H200" in said


def test_the_stand_in_writes_what_run_folders_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = {
        "run": {"name": 'a "b"\\\té\n', "seed": 2**63, "finetune": True, "n": -1},
        "solver": {"lr": 1e-05, "decay": 0.0005},
    }
    assert tomllib.loads(stand_in.dumps(sections)) == sections
    assert "stand_ins" not in checkup.environment()["PYTHONPATH"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = checkup.environment()["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(ROOT)
    assert Path(path[1], "tomli_w.py").is_file()


def test_runs_from_a_tree_that_is_not_installed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("minicnn", "kernels", "data_prep", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignored)
    beside = [tree / name for name in ("data_prep", "experiments")]
    digest = environment.digest(tree / "minicnn", tree / "kernels", *beside)
    out = tmp_path / "check.json"
    script = tree / "experiments" / "gpu_check.py"
    command = [sys.executable, script, "--only=environment", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())["environment"]
    assert record["state"] == "ok"
    assert record["commit"] == f"unknown (code {digest})"
    code = (
        "import minicnn.kernels, minicnn.data_prep, minicnn.experiments as e; "
        "from minicnn.base import config; config.load_recipe('demo'); "
        "from minicnn.compile import kernel_source; from pathlib import Path; "
        "paths = (kernel_source.FOLDER, *(m.__path__[0] for m in "
        "(minicnn.kernels, minicnn.data_prep, e))); "
        "print(*(Path(p).resolve() for p in paths))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    folders = [
        str(tree / n) for n in ("kernels", "kernels", "data_prep", "experiments")
    ]
    assert done.stdout.split() == folders, done.stderr


def test_a_stopped_training_is_resumed_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.ARCHITECTURES, "caffenet32", MINIATURE)
    store = make_store(tmp_path / "tiny.h5", size=24)
    split = compare_devices.few_classes(store, 3, tmp_path)
    dev = device.get("cpu")

    def train(runs: str, stop: int | None = None) -> Any:
        setup = compare_devices.make_setup(store, tmp_path / runs, dev, 6, 5, split)
        return compare_devices.train(setup, stop)

    whole, resumed = train("whole"), train("resumed", 3)
    assert whole["weights"] == resumed["weights"]
    assert len(whole["losses"]) == 6
    assert whole["losses"] == resumed["losses"]
    sessions = json.loads((tmp_path / "resumed" / "baseA" / "env.json").read_text())
    assert [s["first_step"] for s in sessions["sessions"]] == [0, 4]
    assert compare_devices.side_by_side([1.0, 3.0], [1.0, 2.0, 9.0]) == [0.0, 0.5]
    # The losses alone are those of the run; in float64 they are nearly so.
    setup = compare_devices.make_setup(store, tmp_path / "alone", dev, 6, 5, split)
    assert compare_devices.first_losses(setup, "fp32", 6) == whole["losses"]
    exact = compare_devices.first_losses(setup, "fp64", 6)
    differences = compare_devices.side_by_side(exact, whole["losses"])
    assert 1e-9 < max(differences) < 1e-4  # what float32 rounds off


def test_the_pages_commands_for_gpus_are_understood() -> None:
    page = (ROOT / "docs" / "kernels.md").read_text()
    lines = page.replace("\\\n", " ").splitlines()
    checks = [line.split("#")[0].split() for line in lines if "gpu_check.py --" in line]
    for tool in ("ncu --set", "compute-sanitizer --tool"):
        (line,) = [each for each in lines if tool in each and " bench " in each]
        asked = line.partition(" bench ")[2].split()
        done = CliRunner().invoke(cli, ["bench", *asked, "--help"])
        assert done.exit_code == 0, done.output
        (name,) = re.findall(r"--kernel-name (?:kns=)?(\w+)", line)
        assert any(e.startswith(f"{name}<") for e in conv.KERNELS.source.instances)
    assert len(checks) == 1
    for words in checks:
        assert (ROOT / words[1]).samefile(gpu_check.__file__)
        done = CliRunner().invoke(gpu_check.main, [*words[2:], "--help"])
        assert done.exit_code == 0
        assert " ".join(words) in done.output


def test_losses_that_differ_prove_nothing() -> None:
    bits = {"same_bits_again": True, "same_bits_resumed": True}
    late = [1e-7] * compare_devices.FIRST + [0.02]
    for record, differences, right in [
        ({"precision": "fp32", **bits}, late, True),
        ({"precision": "fp32", **bits, "same_bits_resumed": False}, late, False),
        ({"precision": "fp32", **bits}, late[::-1], False),
        ({"precision": "fp64"}, [1e-12] * 50, True),
        ({"precision": "fp64"}, late, False),
    ]:
        assert compare_devices.proven(record, differences) is right
