"""The one command for GPU machines: its sections, limits, record, and bare trees."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minicnn import architectures, device, torch_step
from minicnn.cli import cli
from minicnn.errors import MinicnnError
from minicnn.experiments import (
    bench_torch,
    compare_devices,
    gpu_check,
    gpu_sections,
)
from minicnn.experiments.checkup import Checkup, Failed, Skipped, environment
from minicnn.experiments.gpu_goals import verdicts
from minicnn.experiments.gpu_sections import SECTIONS, Section
from minicnn.experiments.stand_ins import tomli_w as stand_in
from minicnn.ops import conv
from tests.runs import MINIATURE, make_store

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


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


def net(device: str, **ratios: float) -> dict[str, Any]:
    """A record of bench_torch.py: PyTorch's modes and their times over minicnn's."""
    theirs = [
        {"name": name.replace("_", " "), "precision": name[:4], "ratio": ratio}
        for name, ratio in ratios.items()
    ]
    about = {"arch": "caffenet", "batch": 256, "device": device}
    return {"nets": [{**about, "theirs": theirs}], "state": "ok"}


def test_goals_are_met_or_not_or_not_measured() -> None:
    def judged(results: Any) -> list[str]:
        return [each.verdict for each in verdicts(results)]

    assert judged({}) == ["not measured"] * 4
    step = {"arch": "caffenet", "batch": 256, "precision": "bf16", "step": 4.2e-3}
    step["environment"] = {"device": "cuda"}
    results = {
        "bench": step,
        "eager": net("cuda", bf16_graph=2.4, tf32_graph=1.4, fp32_graph=1.6),
        "compiled": net("cuda", bf16_compiled_graph=2.0),
        "skipped": {"state": "skipped", "summary": "no PyTorch"},
    }
    # fp32 is ahead of all that was timed, but no compiled mode was.
    assert judged(results) == ["met", "met", "not met", "not measured"]
    assert [str(each) for each in verdicts(results)][:2] == [
        "a step of caffenet, batch 256, bf16, in at most 4.2 ms: met (4.20 ms)",
        "caffenet, batch 256, bf16: at least 2.0 × PyTorch's best: met "
        "(2.00 × bf16 compiled graph)",
    ]
    results["compiled"] = net("cuda", bf16_compiled_graph=1.99, fp32_compiled=1.5)
    results["bench"] = {**step, "step": 4.3e-3}
    assert judged(results) == ["not met", "not met", "not met", "met"]
    # A CPU's times prove nothing, nor do those of another batch or net.
    host = {"environment": {"device": "cpu"}}
    ahead = net("cpu", fp32_compiled=9.0)
    assert judged({"a": {**step, **host}, "b": ahead}) == ["not measured"] * 4
    for what in ({"batch": 16}, {"arch": "caffenet64"}):
        other = net("cuda", fp32_compiled=9.0)
        other["nets"][0].update(what)
        assert judged({"a": {**step, **what}, "b": other}) == ["not measured"] * 4


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    late = Checkup(False, tmp_path, time.monotonic() + 1)
    record = gpu_check.run(late, "tests", lambda check: pytest.fail("was started"))
    assert record["state"] == "skipped"


def test_a_command_fits_into_ten_minutes() -> None:
    for part in gpu_sections.PARTS:
        names = gpu_check.chosen(part, ())
        assert names[0] == "environment"
        assert sum(SECTIONS[name].budget for name in names) <= 60 * gpu_check.MINUTES
    both = [set(gpu_check.chosen(part, ())) for part in gpu_sections.PARTS]
    assert both[0] | both[1] == set(gpu_check.chosen("all", ())) == set(SECTIONS)
    assert both[0] & both[1] == {"environment"}
    assert gpu_check.chosen("prove", ("torch caffenet",)) == ["torch caffenet"]
    # One compiled mode of PyTorch a precision, each with a budget of its own.
    names = [mode.name for mode in torch_step.modes(True) if mode.compiled]
    compiled = [name.removeprefix("torch ") for name in both[1]]
    chosen = sorted(set(compiled) & set(names))
    assert [name.split()[0] for name in chosen] == ["bf16", "fp32", "tf32"]


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
    sections = {"a": (20, 10), "b": (30, 55), "c": (50, 0)}
    for name, (budget, seconds) in sections.items():
        monkeypatch.setitem(SECTIONS, name, Section(work(seconds), budget))
    check.deadline = 200.0
    gpu_check.run_all(check, list(sections), None)
    # Twice their budgets are there; b has what a left, and takes less than it may.
    assert left == [40.0, 90.0, 135.0]


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
    monkeypatch.setattr("minicnn.environment.commit", lambda: "abc")

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
    monkeypatch.setattr("minicnn.environment.commit", lambda: "def")
    code, started, after, said = command()
    assert (code, started, after) == (1, [], states)
    assert "of commit abc, and this is def; name another file" in said
    monkeypatch.setattr("minicnn.environment.commit", lambda: "abc")
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: "NVIDIA H200")
    code, started, after, said = command()
    assert (code, started, after) == (1, [], states)
    assert "of gpu None, and this is NVIDIA H200" in said


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

    def ends(said: str, status: int | None) -> tuple[str, str]:
        def measured(self: Checkup, *arguments: str) -> Any:
            assert f"--modes={mode}" in arguments
            raise Failed(f"took over 75 s\n{said[-9:]}", said, status)

        monkeypatch.setattr(Checkup, "measured", measured)
        record = gpu_check.run(check, mode, SECTIONS[f"torch {mode}"].work)
        return record["state"], record["summary"]

    theirs = "turn of minicnn\nturn of PyTorch\nTraceback"
    state, summary = ends(theirs, None)
    assert (state, summary) == ("skipped", "PyTorch failed: took over 75 s")
    # A crash of its libraries, and what it said itself.
    assert ends(theirs, -11)[0] == ends("", 3)[0] == "skipped"
    # Whatever else fails is ours: other losses, a CUDA error, a hang, a crash.
    ours = theirs.replace("Trace", "\nturn of minicnn\nTrace")
    failures = [(theirs, 2), (theirs, 1), (ours, None), (ours, -11), ("", None)]
    assert {ends(*each)[0] for each in failures} == {"FAILED"}


@pytest.mark.parametrize(
    ("broken", "status", "last"),
    [
        ("minicnn.against_torch._images", 2, "minicnn"),
        ("minicnn.torch_step.build", 3, "PyTorch"),
        ("minicnn.torch_step.make", 3, "minicnn"),  # every mode's failure is noted
    ],
)
def test_whose_failure_it_is(
    broken: str, status: int, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs PyTorch (extra: compare)")

    def fails(*_: Any) -> Any:
        raise MinicnnError("conv_forward: illegal address")

    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)
    monkeypatch.setattr("minicnn.against_torch.busy_cores", lambda: 0.0)
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
    check.deadline = time.monotonic() + 40
    record = gpu_sections.testing(check)
    assert record["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert "took over" in record["problem"]
    assert time.monotonic() < check.deadline


def test_compiling_keeps_its_first_record(
    check: Checkup, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"file": "a.cu", "kernels": 3, "groups": 2, "cached": 0, "error": ""}
    told = [(0, f"note\n{json.dumps([file, {**file, 'cached': 1}])}")]
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


def test_the_stand_in_writes_what_run_folders_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = {
        "run": {"name": 'a "b"\\\té\n', "seed": 2**63, "finetune": True, "n": -1},
        "solver": {"lr": 1e-05, "decay": 0.0005},
    }
    assert tomllib.loads(stand_in.dumps(sections)) == sections
    assert "stand_ins" not in environment()["PYTHONPATH"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = environment()["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(ROOT)
    assert Path(path[1], "tomli_w.py").is_file()


def test_runs_from_a_tree_that_is_not_installed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("minicnn", "kernels", "data_prep", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    out = tmp_path / "check.json"
    script = tree / "experiments" / "gpu_check.py"
    command = [sys.executable, script, "--only=environment", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())["environment"]
    assert record["state"] == "ok"
    assert record["commit"] == "unknown"
    code = (
        "import minicnn.kernels, minicnn.data_prep, minicnn.experiments as e; "
        "from minicnn import config, kernel_source as k; config.load_recipe('demo'); "
        "print(k.FOLDER, *(m.__path__[0] for m in (minicnn.kernels, "
        "minicnn.data_prep, e)))"
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
    assert len(checks) == 2
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
