"""The local engine's processes: their share of the machine, signals, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.experiments.study import engine, local
from minicnn.experiments.study.child import Child
from minicnn.experiments.study.engine import Workers, plan_workers
from minicnn.experiments.study.folder import held, last_step, read_study
from minicnn.experiments.study.tasks import make_tasks
from tests.support.studies import PLAN, Invoke, commands, study_run
from tests.support.training import contents

# Ten processes of half a second each must not wait for one another for long.
PATIENCE = 60.0
ENDLESS = PLAN.replace("iterations = 6", "iterations = 100000").replace(
    "checkpoint_every = 2", "checkpoint_every = 1000000"
)


@pytest.fixture
def minicnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Invoke:
    return commands(tmp_path, monkeypatch, capfd)


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def endless() -> subprocess.Popen[str]:
    """A study that does not end by itself, once both of its workers train."""
    Path("tiny.toml").write_text(ENDLESS.replace('["B"]', '["A", "B"]'))
    process = subprocess.Popen(
        [sys.executable, "-m", "minicnn", *study_run("--jobs=2")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folders = [Path(f"studies/tiny/runs/random-0/base{t}") for t in "AB"]
    wait_until(lambda: all(map(last_step, folders)))
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_makes_every_net_save(number: int, minicnn: Invoke) -> None:
    with endless() as process:
        status, _, err = minicnn(*study_run())
        assert status == 2
        assert "another 'minicnn study run' works in it" in err
        status, out, _ = minicnn("study", "status", "studies/tiny", "--json")
        assert json.loads(out)["counts"]["running"] == 2
        # As by Ctrl-C in a terminal, which reaches the nets too.
        os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(
            process.pid, number
        )
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in said
    assert "FAILED" not in said
    for name in ("baseA", "baseB"):
        run = Path(f"studies/tiny/runs/random-0/{name}")
        assert not held(run)
        assert len(list(run.glob("checkpoints/*.safetensors"))) == 1
    states = read_study(Path("studies/tiny")).states()
    assert [states[f"random-0/base{t}"].state for t in "AB"] == ["stopped"] * 2


def test_nets_do_not_outlive_a_killed_engine(minicnn: Invoke) -> None:
    folders = [Path(f"studies/tiny/runs/random-0/base{t}") for t in "AB"]
    with endless() as process:
        process.kill()
        process.communicate()
        # They save and end, although nothing was left to tell them.
        wait_until(lambda: not any(map(held, folders)))
    assert all(list(each.glob("checkpoints/*.safetensors")) for each in folders)


def test_a_killed_study_ends_with_the_same_results(minicnn: Invoke) -> None:
    text = PLAN.replace("iterations = 6", "iterations = 60").replace("[1, 2, 4]", "[1]")
    Path("tiny.toml").write_text(text)
    command = [sys.executable, "-m", "minicnn", *study_run("--jobs=2")]
    for name in "baseA", "A1B":
        checkpoints = Path(f"studies/tiny/runs/random-0/{name}/checkpoints")
        with subprocess.Popen(command, start_new_session=True) as process:
            wait_until(lambda where=checkpoints: list(where.glob("step-*")))
            os.killpg(process.pid, signal.SIGKILL)
    assert minicnn(*study_run())[0] == 0
    assert minicnn(*study_run("-o", "whole"))[0] == 0
    killed, whole = (
        contents(Path(folder, "runs")) for folder in ("studies/tiny", "whole")
    )
    assert killed == whole
    assert {f"random-0/{name}/result.json" for name in ("baseA", "A1B")} < whole.keys()


FOUR = ("4", "5", "6", "7")


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [
        ({}, (), Workers(12, 1, "cpu")),
        ({"jobs": 5}, (), Workers(5, 2, "cpu")),
        ({"threads": 5}, (), Workers(2, 5, "cpu")),
        ({"threads": 13}, (), Workers(1, 13, "cpu")),
        ({"jobs": 3, "threads": 5}, (), Workers(3, 5, "cpu")),
        ({}, FOUR, Workers(4, 3, "cuda", FOUR)),
        ({"threads": 5}, FOUR, Workers(4, 5, "cuda", FOUR)),
        ({"device": "cuda", "jobs": 8}, FOUR, Workers(8, 1, "cuda", FOUR)),
        ({"device": "cuda:2"}, FOUR, Workers(1, 12, "cuda", ("6",))),
        ({"device": "cpu"}, FOUR, Workers(12, 1, "cpu")),
    ],
)
def test_a_machine_is_shared_out(
    given: dict[str, Any],
    gpus: tuple[str, ...],
    expected: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "available_cores", lambda: 12)
    monkeypatch.setattr(engine, "cuda_count", lambda: len(gpus))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(gpus))
    assert plan_workers(**given) == expected


def test_gpus_without_names_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cuda_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert plan_workers().gpus == ("0", "1")
    for device in ("cuda:2", "cuda:x", "abacus", "cpu:1"):
        with pytest.raises(MinicnnError, match=f"--device {device}"):
            plan_workers(device)


def test_each_job_gets_its_gpu_and_its_threads(
    minicnn: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert minicnn(*study_run("--only=baseA"))[0] == 0
    study = read_study(Path("studies/tiny"))
    seen = []

    class Recorded(Child):
        def __init__(self, **given: Any) -> None:
            seen.append(given)

    monkeypatch.setattr(local, "Child", Recorded)
    tasks = make_tasks(study.nodes)[-3:]
    workers = Workers(3, 4, "cuda", ("7", "9"))
    given = study, study.nodes, {"random-0/baseA"}, tasks
    local.LocalEngine(workers, *given, lambda task: task.nodes[0].treatment.n)._fill()
    assert [each["gpu"] for each in seen] == ["7", "9", "7"]
    assert seen[0]["arguments"][-2:] == ["--device=cuda", "--threads=4"]
    assert seen[0]["folders"] == [tmp_path / "studies/tiny/runs/random-0/A4B"]
    assert seen[0]["log"] == tmp_path / "studies/tiny/logs/random-0/A4B.log"
    assert seen[0]["threads"] == 4


def test_a_child_is_told_its_threads_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "sitecustomize.py"
    spy.write_text(
        "import os\n"
        "names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')\n"
        "print('seen', *(os.environ.get(n) for n in names))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "logs" / "child.log"
    log.parent.mkdir()
    log.write_text("minicnn: error: of an earlier call\n")
    child = Child(["train-base"], [], [], log, 3, "1")
    wait_until(lambda: child.status() is not None)
    assert child.status() == 2
    assert "seen 3 3 1" in log.read_text()
    assert child.error() == "Missing option '--task'."
    # One that ends without a word is not taken for an earlier one.
    for ending, said in ("_exit(3)", "status 3"), ("kill(os.getpid(), 9)", "SIGKILL"):
        spy.write_text(f"import os; os.{ending}")
        child = Child([], [], [], log, 3)
        wait_until(lambda child=child: child.status() is not None)
        assert said in child.error()
