"""The program as a process: help, closed pipes, full disks, and hints that work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.program import Program
from tests.support.runs import make_store

QUICK = [
    "--set=network.arch=caffenet32",
    "--set=solver.iterations=4",
    "--set=solver.batch=8",
    "--set=schedule.log_every=1",
]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with the store tiny.h5."""
    monkeypatch.chdir(tmp_path)
    make_store(Path("tiny.h5"))


def called(*argv: str) -> Result:
    return CliRunner().invoke(Program("minicnn"), argv)


@pytest.mark.parametrize("group", ["", "data", "study"])
def test_a_group_alone_prints_its_help(group: str) -> None:
    done = called(*group.split())
    assert done.exit_code == 2
    assert done.stderr.startswith("Usage: minicnn")
    assert done.stderr.count("\n") > 5
    assert done.stderr.rstrip() == called(*group.split(), "--help").stdout.rstrip()


def test_the_hint_for_a_missing_base_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(Path("my  store's.h5"))
    shared = ["--data=my  store's.h5", "--split=random-1", "--seed=3", *QUICK]
    shared += ["--runs=my runs", "--device=cpu", "--threads=1"]
    transfer = ["transfer", "--from=A", "--n=3", "--to=B", "--finetune", *shared]
    refused = called(*transfer)
    _, _, hint = refused.stderr.rstrip("\n").partition("make it first: minicnn ")
    assert not Path("my runs").exists()
    # On one, or it is not the command for a shell that the reader sees.
    words = shlex.split(hint)
    assert {word.partition("=")[0] for word in shared} <= set(words)
    assert called(*words).exit_code == 0
    assert called(*transfer).exit_code == 0
    assert Path("my runs/A3B+/result.json").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_written_to_in_vain(closed: str, tmp_path: Path) -> None:
    make_store(tmp_path / "store.h5")
    command = f"{shlex.quote(sys.executable)} -m minicnn data"
    for words, status in (
        (f"show {tmp_path}/store.h5 -o {tmp_path}/sheet.png", 0),
        (f"info {tmp_path}/none.h5", 2),
    ):
        line = f"{command} {words} {closed}"
        done = subprocess.run(line, shell=True, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"store.h5", "sheet.png"}


@pytest.mark.usefixtures("tiny")
def test_the_task_all_takes_the_split_all() -> None:
    assert "8 classes" in called("splits", "--data=tiny.h5", "--task=all").stdout
    done = called("train-base", "--data=tiny.h5", "--task=all", *QUICK)
    assert done.exit_code == 0
    assert Path("runs/tiny-all/baseall/result.json").exists()
    moving = ["transfer", "--data=tiny.h5", "--n=2", *QUICK]
    assert called(*moving, "--from=all", "--to=all").exit_code == 0
    assert called(*moving, "--from=runs/tiny-all/baseall", "--to=A").exit_code == 0


@pytest.mark.usefixtures("tiny")
def test_a_batch_of_more_images_than_there_are() -> None:
    for batch, warned in ((49, True), (48, False)):
        argv = ["train-base", "--task=A", "--data=tiny.h5", *QUICK, "--fresh"]
        argv += ["--set=solver.iterations=1", f"--set=solver.batch={batch}"]
        said = called(*argv).stderr
        assert (f"solver.batch {batch} is more than the 48" in said) == warned


def started(*argv: str, **streams: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "minicnn", *argv]
    return subprocess.Popen(command, text=True, **streams)


@pytest.mark.usefixtures("tiny")
def test_a_closed_pipe_does_not_stop_a_training() -> None:
    read, write = os.pipe()
    os.close(read)
    argv = ["train-base", "--task=A", "--data=tiny.h5", *QUICK]
    with started(*argv, stdout=write, stderr=write) as process:
        os.close(write)
    assert process.returncode == 0
    assert Path("runs/tiny-random-0/baseA/result.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output(
    unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    argv = ["splits", "--classes=ilsvrc2012", "--task=A"]
    with (
        open("/dev/full", "w") as full,
        started(*argv, stdout=full.fileno(), stderr=subprocess.PIPE) as process,
    ):
        said = process.communicate()[1]
    assert process.returncode == 2
    assert said == "minicnn: error: standard output: No space left on device\n"
