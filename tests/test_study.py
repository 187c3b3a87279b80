"""The local engine and its commands: what runs, fails, stops, resumes, is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minicnn import cli
from minicnn.errors import MinicnnError
from minicnn.experiments import kill_study
from minicnn.experiments.study import engine, local
from minicnn.experiments.study.child import Child
from minicnn.experiments.study.engine import Workers, plan_workers
from minicnn.experiments.study.folder import held, last_step, read_study
from minicnn.experiments.study.records import of_study
from minicnn.experiments.study.tasks import make_tasks
from minicnn.run import Run
from tests.runs import make_store

# Ten processes of half a second each must not wait for one another for long.
PATIENCE = 60.0
PLAN = """
name = "tiny"
data = ""
recipe = "demo"
[settings]
solver.iterations = 6
solver.batch = 8
solver.lr = 0.001
schedule.evaluate_every = 3
schedule.checkpoint_every = 2
[[nets]]
split = "random-0"
treatments = ["transfer"]
targets = ["B"]
depths = [1, 2, 4]
"""
ENDLESS = PLAN.replace("iterations = 6", "iterations = 100000").replace(
    "checkpoint_every = 2", "checkpoint_every = 1000000"
)
NAMES = ["A1B", "A2B", "A4B", "baseA"]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def minicnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Invoke:
    """Runs a command line in a folder with a store and a plan: status, out, err."""
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "tiny.h5")
    Path("tiny.toml").write_text(PLAN)

    def invoke(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["minicnn", *argv])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return invoke


def study_run(*options: str) -> list[str]:
    return ["study", "run", "tiny.toml", "--data=tiny.h5", "--device=cpu", *options]


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but times and locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("env.json", ".lock")
    }


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_study_trains_all_and_then_nothing(minicnn: Invoke) -> None:
    status, out, err = minicnn(*study_run("--jobs=2"))
    assert status == 0
    assert "4 of 4 nets are done." in out
    for name in NAMES:
        run = Run(f"studies/tiny/runs/random-0/{name}")
        assert run.result is not None
        assert f"random-0/{name}: top-1 {run.result['top1']:.1%}" in err
        assert run.result["iterations"] == 6
    # The very command that a person would give, and it says that it is done.
    log = Path("studies/tiny/logs/random-0/A2B.log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("$ minicnn ")]
    status, out, _ = minicnn(*line.split()[2:])
    assert status == 0
    assert "A2B is done already" in out
    assert "--threads=1" in line.split()

    before = contents(Path("studies"))
    status, out, err = minicnn(*study_run("--jobs=2"))
    assert (status, err) == (0, "")
    assert contents(Path("studies")) == before
    assert len(of_study(Path("studies/tiny"))) == 4

    status, out, _ = minicnn("study", "status", "studies/tiny", "--json")
    found = json.loads(out)
    assert found["counts"]["done"] == 4
    assert {net["id"]: net["step"] for net in found["nets"]} == {
        f"random-0/{name}": 6 for name in NAMES
    }
    status, out, _ = minicnn("study", "plan", "tiny.toml", "--data=tiny.h5")
    assert "4 nets in 1 groups" in out
    assert "runs in studies/tiny" in out


def test_a_net_that_fails_stops_no_other_and_is_tried_again(minicnn: Invoke) -> None:
    runs = Path("studies/tiny/runs/random-0")
    assert minicnn(*study_run("--only=baseA"))[0] == 0
    (runs / "A2B").mkdir()
    (runs / "A2B" / "letter.txt").write_text("not a run")
    status, out, err = minicnn(*study_run())
    assert status == 1
    assert "random-0/A2B: FAILED: " in err
    assert "neither empty nor a run folder" in err
    assert "studies/tiny/logs/random-0/A2B.log" in err
    assert "3 of 4 nets are done, 1 failed" in out
    status, out, _ = minicnn("study", "status", "studies/tiny", "--json")
    states = {net["id"]: net["state"] for net in json.loads(out)["nets"]}
    assert states.pop("random-0/A2B") == "failed"
    assert set(states.values()) == {"done"}
    # Once it is mended, the next call trains it, and it alone.
    (runs / "A2B" / "letter.txt").unlink()
    before = contents(Path("studies"))
    status, out, err = minicnn(*study_run())
    assert status == 0
    assert "4 of 4 nets are done." in out
    after = contents(Path("studies"))
    assert {path for path in before if after.get(path) != before[path]} == {
        "tiny/logs/random-0/A2B.failed",
        "tiny/logs/random-0/A2B.log",
    }
    assert "tiny/runs/random-0/A2B/result.json" in after


def test_dependents_of_a_failed_base_are_told_of(minicnn: Invoke) -> None:
    assert minicnn(*study_run("--only=baseA", "--set=solver.lr=0.002"))[0] == 0
    # Finished, but not by this plan's settings.
    config = Path("studies/tiny/runs/random-0/baseA/config.toml")
    config.write_text(config.read_text().replace("momentum = 0.9", "momentum = 0.8"))
    status, out, err = minicnn(*study_run("--set=solver.lr=0.002"))
    assert status == 1
    assert "random-0/baseA: FAILED: " in err
    assert "solver.momentum was 0.8, now 0.9" in err
    assert "0 of 4 nets are done, 1 failed, 3 wait for a base that failed" in out


def test_another_plan_in_the_folder_is_refused_and_a_larger_one_is_not(
    minicnn: Invoke,
) -> None:
    assert minicnn(*study_run("--only=baseA"))[0] == 0
    before = contents(Path("studies"))
    status, _, err = minicnn(*study_run("--set=solver.lr=0.5"))
    assert status == 2
    assert "solver.lr was 0.001, now 0.5 (4 nets)" in err
    Path("tiny.toml").write_text(PLAN.replace("[1, 2, 4]", "[1, 2]"))
    status, _, err = minicnn(*study_run())
    assert status == 2
    assert "it lacks random-0/A4B" in err
    make_store(Path("other.h5"), seed=1)
    Path("tiny.toml").write_text(PLAN)
    status, _, err = minicnn(*study_run("--data=other.h5"))
    assert status == 2
    assert "store was" in err
    assert contents(Path("studies")) == before
    Path("tiny.toml").write_text(PLAN.replace("[1, 2, 4]", "[1, 2, 4, 5]"))
    assert minicnn(*study_run("--only=baseA"))[0] == 0
    assert len(read_study(Path("studies/tiny")).nodes) == 5


def test_a_store_of_other_images_is_not_compared_with_the_paper(
    minicnn: Invoke,
) -> None:
    Path("tiny.toml").write_text(
        PLAN.replace("[settings]", "published = true\n[settings]")
    )
    status, _, err = minicnn(*study_run("--only=baseA"))
    assert status == 0
    (line,) = [each for each in err.splitlines() if "published" in each]
    assert line.startswith("warning: the published numbers will be shown apart")
    assert line.endswith("its 8 classes are not the 1000 of ILSVRC2012")
    assert not read_study(Path("studies/tiny")).published
    # It goes on: the plan in the folder is the same study.
    assert minicnn(*study_run("--only=baseA"))[0] == 0


def test_a_folder_that_is_no_study_is_left_alone(minicnn: Invoke) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("a letter")
    status, _, err = minicnn(*study_run("-o", "mine"))
    assert status == 2
    assert "mine: neither empty nor a study folder" in err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def test_a_kill_before_the_plan_is_written_harms_nothing(minicnn: Invoke) -> None:
    """What the study's lock and write_atomically leave is no stranger's folder."""
    Path("mine").mkdir()
    for name in (".lock", ".plan.toml.partial"):
        Path("mine", name).write_text("na")
    assert minicnn(*study_run("--only=baseA", "-o", "mine"))[0] == 0
    assert not Path("mine/.plan.toml.partial").exists()


def test_nothing_left_to_do_shows_no_progress(
    minicnn: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert minicnn(*study_run("--only=baseA"))[0] == 0

    def refuse(*_: object) -> None:
        raise AssertionError("a bar was begun")

    monkeypatch.setattr(engine, "Progress", refuse)
    assert minicnn(*study_run("--only=baseA"))[0] == 0


def endless() -> subprocess.Popen[str]:
    """A study that does not end by itself, once both of its workers train."""
    Path("tiny.toml").write_text(ENDLESS.replace('["B"]', '["A", "B"]'))
    process = subprocess.Popen(
        [sys.executable, "-m", "minicnn", *study_run("--jobs=2")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    logs = [Path(f"studies/tiny/runs/random-0/base{t}/metrics.jsonl") for t in "AB"]
    wait_until(lambda: all(map(last_step, logs)))
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
    with endless() as process:
        process.kill()
        process.communicate()
        folders = [Path(f"studies/tiny/runs/random-0/base{t}") for t in "AB"]
        # They save and end, although nothing was left to tell them.
        wait_until(lambda: not any(map(held, folders)))
    assert all(list(each.glob("checkpoints/*.safetensors")) for each in folders)


def test_a_killed_study_ends_with_the_same_results(tmp_path: Path) -> None:
    make_store(tmp_path / "tiny.h5")
    text = PLAN.replace("iterations = 6", "iterations = 24").replace("[1, 2, 4]", "[1]")
    place = tmp_path / "work"
    place.mkdir()
    options = [f"--data={tmp_path / 'tiny.h5'}", "--device=cpu", "--jobs=2"]
    found = kill_study.check(2, 1, place, text, *options)
    assert found["kills"] == 2
    assert found["differing"] == []
    assert (found["nets"], found["files_compared"]) == (2, 1 + 2 * 6)


def test_depths_that_share_a_trunk_end_as_when_apart(minicnn: Invoke) -> None:
    assert minicnn(*study_run("--only=A[14]B"))[0] == 0
    status, _, err = minicnn(*study_run("--share-trunk", "-o", "shared"))
    assert status == 0
    # The time is the pass's, said once; a net that is trained alone has its own.
    said = [line for line in err.splitlines() if line.startswith("random-0/")]
    nets = [line for line in said if re.search(r": top-1 [\d.]+% \(\d of 4\)", line)]
    assert len(nets) == 3
    assert re.search(r"baseA: top-1 [\d.]+%, \d+ s \(1 of 4\)", said[0])
    assert re.search(r"A1,2,4B: these 3 in one pass, \d+ s", said[4])
    logs = {path.stem for path in Path("shared/logs/random-0").iterdir()}
    assert logs == {"baseA", "A1,2,4B"}
    for name in ("A1B", "A4B"):
        apart = contents(Path("studies/tiny/runs/random-0") / name)
        assert contents(Path("shared/runs/random-0") / name) == apart
    # What is left of a family alone.
    assert minicnn(*study_run("--share-trunk"))[0] == 0
    assert Path("studies/tiny/logs/random-0/A2B.log").exists()


def test_a_machine_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "available_cores", lambda: 12)
    assert plan_workers(gpus=()) == Workers(12, 1, "cpu")
    assert plan_workers(gpus=(), jobs=5) == Workers(5, 2, "cpu")
    assert plan_workers(gpus=(), threads=5) == Workers(2, 5, "cpu")
    assert plan_workers(gpus=(), threads=13) == Workers(1, 13, "cpu")
    assert plan_workers(gpus=(), jobs=3, threads=5) == Workers(3, 5, "cpu")
    four = ("4", "5", "6", "7")
    assert plan_workers(gpus=four) == Workers(4, 3, "cuda", four)
    assert plan_workers(gpus=four, threads=5) == Workers(4, 5, "cuda", four)
    assert plan_workers("cuda", jobs=8, gpus=four) == Workers(8, 1, "cuda", four)
    assert plan_workers("cuda:2", gpus=four) == Workers(1, 12, "cuda", ("6",))
    assert plan_workers("cpu", gpus=four) == Workers(12, 1, "cpu")
    monkeypatch.setattr(engine, "cuda_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert plan_workers().gpus == ("3", "5")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert plan_workers().gpus == ("0", "1")
    for device in ("cuda:2", "cuda:x", "abacus", "cpu:1"):
        with pytest.raises(MinicnnError, match=f"--device {device}"):
            plan_workers(device)


def test_each_job_gets_its_gpu_and_its_threads(
    minicnn: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert minicnn(*study_run("--only=baseA"))[0] == 0
    study = read_study(Path("studies/tiny"))
    task = make_tasks(study.nodes)[-1]
    seen = []

    class Recorded(Child):
        def __init__(self, arguments, folders, log, threads, gpu) -> None:  # type: ignore[no-untyped-def]
            seen.append((arguments[-2:], folders, log, threads, gpu))

    monkeypatch.setattr(local, "Child", Recorded)
    for slot in range(3):
        local.start(study, task, Workers(3, 4, "cuda", ("7", "9")), slot)
    assert [gpu for *_, gpu in seen] == ["7", "9", "7"]
    run = Path("studies/tiny/runs/random-0/A4B")
    log = Path("studies/tiny/logs/random-0/A4B.log")
    assert seen[0][:4] == (["--device=cuda", "--threads=4"], [run], log, 4)


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
    child = Child(["train-base"], [], log, 3, "1")
    wait_until(lambda: child.status() is not None)
    assert child.status() == 2
    assert "seen 3 3 1" in log.read_text()
    assert child.error() == "Missing option '--task'."
    # One that ends without a word is not taken for an earlier one.
    for ending, said in ("_exit(3)", "status 3"), ("kill(os.getpid(), 9)", "SIGKILL"):
        spy.write_text(f"import os; os.{ending}")
        child = Child([], [], log, 3)
        wait_until(lambda child=child: child.status() is not None)
        assert said in child.error()


BAD = [
    (["study", "run", "tiny.toml"], "needs a store; give --data STORE.h5"),
    (study_run("--jobs=0"), "--jobs 0: must be at least 1"),
    (study_run("--threads-per-job=0"), "--threads-per-job 0"),
    (study_run("--only=C1B"), "--only C1B: matches no net of the plan"),
    (study_run("--device=abacus"), "--device abacus: unknown"),
    (study_run("--set=solver.speed=1"), "unknown key solver.speed"),
    (study_run("--set=network.arch=caffenet"), "smaller than the input of caffenet"),
    (study_run("--address=auto"), "--address auto: goes with --engine ray"),
    (
        study_run("--engine=ray", "--address=auto", "--jobs=2"),
        "--jobs 2 --address auto: a cluster that runs already trains as many",
    ),
    (study_run("--engine=sun"), "'sun' is not one of 'local', 'ray'"),
    (study_run("--data=none.h5"), "none.h5: no such file"),
    (["study", "run", "all"], "plan all: unknown"),
    (["study", "plan", "none.toml"], "none.toml: cannot be read"),
    (["study", "plan", "demo", "--rate=0"], "--rate 0.0: must be more than 0"),
    (["study", "plan", "demo", "--workers=0"], "--workers 0: must be at least 1"),
    (["study", "status", "tiny"], "tiny: no study folder"),
]


@pytest.mark.parametrize(("argv", "said"), BAD)
def test_bad_input_is_one_line_and_status_2(
    argv: list[str], said: str, minicnn: Invoke
) -> None:
    before = sorted(str(path) for path in Path().rglob("*"))
    status, out, err = minicnn(*argv)
    assert status == 2
    assert said in err
    assert err.startswith("minicnn: error: ")
    assert err.count("\n") == 1
    assert not out
    assert sorted(str(path) for path in Path().rglob("*")) == before


def test_a_plan_can_be_looked_at_without_a_store(minicnn: Invoke) -> None:
    argv = ["study", "plan", "paper", "--rate=36000", "--workers=8"]
    status, out, _ = minicnn(*argv)
    assert status == 0
    assert "148 nets in 7 groups" in out
    assert "What copies from what:\n\nall   " in out
    assert "random-3         baseA -> A1B..A7B, A1A..A7A\n" in out
    assert re.search(r"Time: [\d.]+ h on 1 worker, [\d.]+ h on 8 \(no", out)
    one = minicnn("study", "plan", "paper", "--rate=36000", "--workers=1")[1]
    assert re.search(r"Time: [\d.]+ h on 1 worker \(no", one)
    status, out, _ = minicnn(*argv, "--json", "--share-trunk")
    found = json.loads(out)
    assert len(found["nets"]) == 148
    names = {net["id"]: net["published_name"] for net in found["nets"]}
    assert names["random-1/A3B+"] == "transfer-ft1A1B_1_3"
    cost = found["cost"]
    assert cost["images"] == (136 * 450_000 + 12 * 200_000) * 256
    assert cost["hours_path"] < cost["hours"] < cost["hours_one"]
    assert cost["hours"] == pytest.approx(cost["hours_one"] / 8, rel=0.2)
    assert found["left"] is None
