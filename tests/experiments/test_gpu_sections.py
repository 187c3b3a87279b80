"""What the sections of gpu_check make of what they run."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn.base.errors import MinicnnError
from minicnn.experiments import gpu_check, gpu_sections
from minicnn.experiments.bench import step_against_torch as bench_torch
from minicnn.experiments.checkup import Checkup, Failed
from minicnn.experiments.gpu_sections import SECTIONS
from minicnn.nn import architectures
from tests.support.runs import MINIATURE


@pytest.fixture
def check(tmp_path: Path) -> Checkup:
    """A check-up without a GPU, with a minute left."""
    return Checkup(False, tmp_path, time.monotonic() + 60)


def test_pytorch_that_fails_is_no_failure_of_ours(
    check: Checkup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    record = gpu_check.run(check, "torch", SECTIONS["torch caffenet"].work)
    assert (record["state"], record["summary"]) == (
        "skipped",
        "no PyTorch to compare with",
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check.gpu = True
    assert gpu_sections.TORCH_FAILED == bench_torch.TORCH_FAILED
    mode = gpu_sections.COMPILED[0]

    def ends(said: str, status: int | None, *found: Any) -> tuple[str, str]:
        def tried(self: Checkup, *arguments: str) -> Any:
            assert f"--modes={mode}" in arguments
            failure = Failed(f"took over 75 s\n{said[-9:]}", said, status)
            if not found:
                raise failure
            return {"provenance": {}, "nets": list(found)}, failure

        monkeypatch.setattr(Checkup, "tried", tried)
        record = gpu_check.run(check, mode, SECTIONS[f"torch {mode}"].work)
        return record["state"], record["summary"]

    theirs = "turn of minicnn\nturn of PyTorch\nTraceback"
    ended = "time ended in PyTorch's turn: took over 75 s"
    assert ends(theirs, None) == ("skipped", ended)
    # A crash of its libraries, and what it said itself.
    assert ends(theirs, -11)[0] == ends("", 3)[0] == "skipped"
    assert ends("", 3)[1] == "PyTorch failed: took over 75 s"
    # What was measured before is kept.
    turns = {
        "name": mode,
        "median": 0.01,
        "ratios": {"bf16": 2.0},
        "seconds": [0.01] * 4,
    }
    tried = [{"mode": mode, "error": ""}]
    net = {"theirs": [turns], "best": {"bf16": mode}, "tried": tried}
    said = f"PyTorch {mode} 10.00 ms: 2.00 × minicnn's in bf16; 4 rounds; {ended}"
    assert ends(theirs, None, net) == ("ok", said)
    assert ends("", None, net)[0] == "FAILED"
    few = {**net, "theirs": [{**turns, "seconds": [0.01] * 2}]}
    for each in ({**net, "theirs": []}, few):
        assert ends(theirs, None, each) == ("skipped", ended)
    # A mode that cannot be run was tried, and is not tried again.
    failed = {"theirs": [], "best": {}, "tried": [{"mode": mode, "error": "no Triton"}]}
    state, said = ends("", 3, failed)
    assert state == "ok"
    assert said.startswith("no Triton; 0 rounds; PyTorch failed")
    # Whatever else fails is ours: other losses, a CUDA error, a hang, a crash.
    ours = theirs.replace("Trace", "\nturn of minicnn\nTrace")
    failures = [(theirs, 2), (theirs, 1), (ours, None), (ours, -11), ("", None)]
    assert {ends(*each)[0] for each in failures} == {"FAILED"}


@pytest.mark.parametrize(
    ("broken", "status", "last"),
    [
        ("minicnn.experiments.bench.against_torch._images", 2, "minicnn"),
        ("minicnn.experiments.bench.torch_step.build", 3, "PyTorch"),
        (
            "minicnn.experiments.bench.torch_step.make",
            3,
            "minicnn",
        ),  # every mode's failure is noted
    ],
)
def test_whose_failure_it_is(
    broken: str, status: int, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs PyTorch (extra: compare)")

    def fails(*_: Any) -> Any:
        raise MinicnnError("conv_forward: illegal address")

    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)
    monkeypatch.setattr(
        "minicnn.experiments.bench.against_torch.busy_cores", lambda: 0.0
    )
    monkeypatch.setattr(broken, fails)
    options = "--arch=miniature", "--batch=2", "--threads=1", "--modes=eager"
    done = CliRunner().invoke(bench_torch.main, options)
    assert done.exit_code == status, done.output
    turns = [line for line in done.output.splitlines() if "turn of" in line]
    assert turns[-1] == f"turn of {last}"


def test_a_result_survives_what_went_wrong_after_it(check: Checkup) -> None:
    code = "import sys; open(sys.argv[-1], 'w').write('{\"a\": 1}'); "
    assert check.measured("-c", code) == {"a": 1}
    record = check.measured("-c", code + "sys.exit('oh')")
    assert record["a"] == 1
    assert record["problem"] == "ended with status 1\noh"
    with pytest.raises(Failed, match="wrote no result"):
        check.measured("-c", "pass")


TESTED = """
import os, time
import pytest

def test_right(): assert os.environ["MINICNN_FUZZ_EXAMPLES"] == "30"
def test_wrong(): assert not "off by one"
@pytest.mark.skip
def test_left(): ...
def test_hangs(): time.sleep(SECONDS)
"""


@pytest.mark.parametrize("xdist", [False, True])
def test_tests_that_were_run_count_when_time_ends(
    xdist: bool, check: Checkup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    if xdist and not find("xdist"):
        pytest.skip("needs pytest-xdist")
    monkeypatch.delenv("MINICNN_FUZZ_EXAMPLES", raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda n: find(n) if xdist or n != "xdist" else None,
    )
    check.gpu = True
    file = tmp_path / "test_it.py"
    monkeypatch.setattr(gpu_sections, "TESTS", (str(file), f"--rootdir={tmp_path}"))
    file.write_text(TESTED.replace("SECONDS", "0"))
    record = gpu_sections.testing(check)
    assert record["counts"] == {"passed": 2, "failed": 1, "skipped": 1}
    assert list(record["failed"]) == ["test_it::test_wrong"]
    assert "off by one" in record["failed"]["test_it::test_wrong"]
    assert "1 failed" in record["problem"]
    # One hangs: what the others came to is kept.
    file.write_text(TESTED.replace("SECONDS", "600"))
    (check.folder / "tests.xml").unlink()
    check.deadline = time.monotonic() + (40 if xdist else 30)
    record = gpu_sections.testing(check)
    assert record["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert "took over" in record["problem"]
    assert time.monotonic() < check.deadline


def test_compiling_keeps_its_first_record(
    check: Checkup, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"file": "a.cu", "kernels": 3, "groups": 2, "cached": 0, "error": ""}
    warning = "[W1128 graph.cpp] slow\n[sic]\n"
    found = json.dumps([file, {**file, "cached": 1}], indent=2)
    told = [(0, f"{warning}{found}\n{warning}")]
    told.append((0, json.dumps([{**file, "cached": 2}] * 2)))

    def child(self: Checkup, *_: str) -> tuple[int, str]:
        if not told:
            raise Failed("took over 9 s")
        return told.pop(0)

    monkeypatch.setattr(Checkup, "child", child)
    again = told[0]
    record = gpu_sections.compiling(check)
    assert (record["groups"], record["cached"]) == ([4, 4], [1, 4])
    assert "6 kernels of 2 files" in record["summary"]
    assert "(1 of 4 groups cached), then" in record["summary"]
    assert record["summary"].endswith("(4 of 4 groups cached)")
    assert "problem" not in record
    told.append(again)
    record = gpu_sections.compiling(check)
    assert record["cached"] == [1]
    assert record["problem"] == "the second time: took over 9 s"
    with pytest.raises(Failed, match="took over 9 s"):
        gpu_sections.compiling(check)


def test_trainings_share_one_demo_set(
    check: Checkup, monkeypatch: pytest.MonkeyPatch
) -> None:
    check.gpu, drawn, trained = True, [], []

    def child(self: Checkup, *arguments: str) -> tuple[int, str]:
        drawn.append(arguments)
        Path(arguments[-1]).touch()
        return 0, ""

    def measured(self: Checkup, *arguments: str) -> Any:
        trained.extend(each for each in arguments if each.startswith("--data="))
        raise Failed("enough")

    monkeypatch.setattr(Checkup, "child", child)
    monkeypatch.setattr(Checkup, "measured", measured)
    for name in ("precisions", "training"):
        assert gpu_check.run(check, name, SECTIONS[name].work)["problem"] == "enough"
    assert len(drawn) == 1
    assert trained == [f"--data={check.folder / 'demo.h5'}"] * 2
    check.data = Path("own.h5")  # of which only the training is
    for name in ("precisions", "training"):
        gpu_check.run(check, name, SECTIONS[name].work)
    assert trained[2:] == [trained[0], "--data=own.h5"]
