"""The local engine and its commands: what runs, fails, is tried again, is refused."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from minicnn.experiments.report.contents import read
from minicnn.experiments.study.folder import read_study
from minicnn.training.run import Run
from tests.support.runs import make_store
from tests.support.studies import PLAN, Invoke, commands, study_run

NAMES = ["A1B", "A2B", "A4B", "baseA"]


@pytest.fixture
def minicnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Invoke:
    return commands(tmp_path, monkeypatch, capfd)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but times and locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("env.json", ".lock")
    }


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
    assert len(read(Path("studies/tiny")).entries) == 4

    status, out, _ = minicnn("study", "status", "studies/tiny", "--json")
    found = json.loads(out)
    assert found["counts"]["done"] == 4
    assert {net["id"]: net["step"] for net in found["nets"]} == {
        f"random-0/{name}": 6 for name in NAMES
    }
    status, out, _ = minicnn("study", "plan", "tiny.toml", "--data=tiny.h5")
    assert "4 nets in 1 group;" in out
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
    """But what a kill before the plan is written leaves is no stranger's."""
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("a letter")
    status, _, err = minicnn(*study_run("-o", "mine"))
    assert status == 2
    assert "mine: neither empty nor a study folder" in err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]
    Path("mine/letter.txt").unlink()
    for name in (".lock", ".plan.toml.partial"):
        Path("mine", name).write_text("na")
    assert minicnn(*study_run("--only=baseA", "-o", "mine"))[0] == 0
    assert not Path("mine/.plan.toml.partial").exists()


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
    assert re.search(r"Time: 3 d \d+ h on 1 worker, 1\d h \d+ min on 8 \(no", out)
    one = minicnn("study", "plan", "paper", "--rate=36000", "--workers=1")[1]
    assert re.search(r"Time: 3 d \d+ h on 1 worker \(no", one)
    status, out, _ = minicnn(*argv, "--json", "--share-trunk")
    found = json.loads(out)
    assert len(found["nets"]) == 148
    needs = {net["id"]: net["needs"] for net in found["nets"]}
    assert needs["random-1/A3B+"] == ["random-1/baseA"]
    cost = found["cost"]
    assert cost["images"] == (136 * 450_000 + 12 * 200_000) * 256
    assert cost["hours_path"] < cost["hours"] < cost["hours_one"]
    assert cost["hours"] == pytest.approx(cost["hours_one"] / 8, rel=0.2)
    assert found["left"] is None
