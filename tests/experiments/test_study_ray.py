"""The Ray engine, on a local cluster of two workers of which one is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.experiments.study import ray_engine
from minicnn.experiments.study.engine import Workers
from minicnn.experiments.study.folder import Study
from minicnn.experiments.study.plans import load_plan
from minicnn.experiments.study.ray_engine import Cluster
from minicnn.experiments.study.tasks import make_tasks
from tests.support.runs import make_store
from tests.support.studies import PLAN
from tests.support.training import contents

# Ray takes several seconds to start; more on a busy machine.
PATIENCE = 120.0
# Long enough for a kill to come between two checkpoints, half a second apart.
LONGER = PLAN.replace("iterations = 6", "iterations = 150").replace(
    "checkpoint_every = 2", "checkpoint_every = 50"
)


def command(*options: str) -> list[str]:
    base = [sys.executable, "-m", "minicnn", "study", "run", "tiny.toml"]
    return [*base, "--data=tiny.h5", "--device=cpu", "--jobs=2", *options]


@pytest.mark.slow
def test_a_killed_worker_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "tiny.h5")
    Path("tiny.toml").write_text(LONGER.replace("[1, 2, 4]", "[1, 4]"))
    argv = command("--engine=ray", "-o", "ray")
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        base, log = Path("ray/runs/random-0/baseA"), Path("ray/logs/random-0/baseA.log")
        until = time.monotonic() + PATIENCE
        while not list(base.glob("checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        (worker,) = workers(log)
        assert worker != process.pid
        os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    first, second = workers(log)
    assert first == worker != second
    assert "random-0/A4B: top-1" in said
    # Its net went on from where it had saved; Ray may kill it before it saves again.
    sessions = json.loads((base / "env.json").read_text())["sessions"]
    assert sessions[-1]["first_step"] >= 50

    subprocess.run(command("-o", "local"), check=True, capture_output=True)
    names = {path.name for path in Path("ray/runs/random-0").iterdir()}
    assert names == {"baseA", "A1B", "A4B"}
    # A checkpoint may be of the step that a net was stopped at; results hold the last
    # one's SHA-256.
    ray, local = (contents(Path(folder, "runs")) for folder in ("ray", "local"))
    for name in ray.keys() | local.keys():
        assert "/checkpoints/" in name or ray.get(name) == local.get(name), name


def workers(log: Path) -> list[int]:
    """The processes that started a net's commands."""
    return [
        int(found) for found in re.findall(r"^# process (\d+)", log.read_text(), re.M)
    ]


class Recorded:
    """As much of Ray as takes tasks, and runs none of them."""

    def __init__(self) -> None:
        self.given: dict[str, tuple[Any, ...]] = {}

    def remote(self, **_: object) -> Callable[..., Any]:
        return lambda function: self

    def options(self, name: str) -> Any:
        def remote(*given: Any) -> str:
            self.given[name] = given
            return name

        return SimpleNamespace(remote=remote)


def test_a_failure_is_remembered_until_the_net_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(PLAN)
    plan = load_plan(str(tmp_path / "tiny.toml"))
    study = Study(tmp_path, "tiny", "demo", False, tmp_path, "", {}, None, plan.nodes)
    (tmp_path / "logs" / "random-0").mkdir(parents=True)
    for node in study.nodes:
        noted = {"error": "no memory", "log": str(study.log(node.id))}
        study.failure(node).write_text(json.dumps(noted))
    monkeypatch.setattr(ray_engine, "load_ray", Recorded)
    given = study, study.nodes, set(), make_tasks(study.nodes)
    engine = ray_engine.RayEngine(Cluster(), *given, lambda _: 1.0)
    engine.workers = Workers(2, 1, "cpu")
    engine._submit()
    # After Ctrl-C the nets that had not their turn are still known as failed.
    assert {state.state for state in study.states().values()} == {"failed"}

    ended = SimpleNamespace(poll=lambda: 0)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: ended)
    calls = engine.ray.given
    command, _ = calls["random-0/A2B"]
    assert ray_engine.train(command, {"error": "no memory"})["error"]
    assert not ray_engine.train(*calls["random-0/baseA"])["error"]
    left = {name for name, at in study.states().items() if at.state == "failed"}
    assert left == study.by_id.keys() - {"random-0/baseA"}


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster(), "--engine ray: Ray does not start here (timed out)"),
        (Cluster("head:6379"), "--address head:6379: no Ray cluster answers (timed"),
    ],
)
def test_whatever_keeps_ray_from_starting_is_one_line(
    cluster: Cluster, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception("timed out\nand much more")  # so does Ray

    ray = SimpleNamespace(init=init, shutdown=lambda: None)
    monkeypatch.setattr(ray_engine, "load_ray", lambda: ray)
    study = Study(tmp_path, "tiny", "demo", False, tmp_path, "", {}, None, ())
    engine = ray_engine.RayEngine(cluster, study, (), set(), (), lambda _: 1.0)
    with pytest.raises(MinicnnError) as caught:
        engine.run()
    assert str(caught.value).startswith(said)
    assert "much more" not in str(caught.value)


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MinicnnError, match=r"minicnn-transfer\[ray\]"):
        ray_engine.load_ray()


def test_a_task_takes_its_share_of_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed = {"CPU": 32.0, "GPU": 4.0}
    assert Cluster().workers(mixed) == Workers(4, 8, "cuda")
    assert Cluster(threads=2).workers(mixed) == Workers(4, 2, "cuda")
    assert Cluster(device="cpu").workers(mixed) == Workers(32, 1, "cpu")
    assert Cluster(threads=3).workers({"CPU": 8.0}) == Workers(2, 3, "cpu")
    # One that is started here has this machine's cores.
    monkeypatch.setattr(ray_engine, "available_cores", lambda: 12)
    given = {}, {"threads": 5}, {"threads": 13}, {"jobs": 3}, {"jobs": 3, "threads": 5}
    assert [Cluster(**each).cpus for each in given] == [12, 10, 13, 3, 15]
    with pytest.raises(MinicnnError, match="the Ray cluster has no GPU"):
        Cluster(device="cuda").workers({"CPU": 8.0})
    with pytest.raises(MinicnnError, match="--threads-per-job 9: the Ray cluster has"):
        Cluster(threads=9).workers({"CPU": 8.0})
    with pytest.raises(MinicnnError, match="--device cuda:1 --engine ray"):
        Cluster(device="cuda:1")
