"""The command line as a user meets it: what works, and what bad input says."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from minicnn.base.config import load_recipe, override
from minicnn.base.errors import Stopped
from minicnn.cli import main as cli
from minicnn.data import store
from minicnn.training import advice
from minicnn.training.run import Run
from tests.support import prepare_sources as make
from tests.support.runs import make_store

QUICK = [
    "--set=network.arch=caffenet32",
    "--set=solver.iterations=6",
    "--set=solver.batch=8",
    "--set=schedule.checkpoint_every=2",
]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def minicnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Invoke:
    """Runs the command line in this process, in a folder with a store `tiny.h5`."""
    monkeypatch.chdir(tmp_path)
    make_store(Path("tiny.h5"))

    def invoke(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["minicnn", *argv])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return invoke


def base(*more: str) -> list[str]:
    return ["train-base", "--task=A", "--data=tiny.h5", *QUICK, *more]


def transfer(*more: str) -> list[str]:
    return ["transfer", "--from=A", "--n=3", "--data=tiny.h5", *QUICK, *more]


def test_train_then_transfer(minicnn: Invoke) -> None:
    status, out, err = minicnn(*base())
    assert status == 0
    assert "baseA: caffenet32, 4 classes, 48 training and 20 validation images" in out
    assert "baseA: top-1" in out
    assert "step 6: val loss" in err
    status, out, _ = minicnn(*transfer())
    assert status == 0
    table = [line.split() for line in out.splitlines() if " x" in line or "x" in line]
    rows = {row[0]: row[2:] for row in table if row[0].startswith(("conv", "fc"))}
    assert rows["conv3"] == ["copied", "from", "baseA", "frozen"]
    assert rows["conv4"] == ["drawn", "afresh", "trained"]
    assert "Frozen layers 1..3: bytes unchanged" in out
    assert Path("runs/tiny-random-0/A3B/result.json").exists()
    status, out, _ = minicnn(*transfer())
    assert status == 0
    assert "A3B is done already; --fresh trains it again." in out
    # Once evaluated: there is no mean of the 10 best.
    assert "validation images. In runs/tiny-random-0/A3B." in out


def test_all_depths_in_one_command(minicnn: Invoke) -> None:
    minicnn(*base())
    status, out, err = minicnn(*transfer("--n=2,4", "--share-trunk"))
    assert status == 0
    assert "A2B, A4B in one pass: caffenet32, 4 classes, 48 training and 20" in out
    assert (
        "A4B: layers 1..4 copied from baseA, frozen; layers 5..8 drawn afresh, trained."
    ) in out
    assert "A2B: top-1" in out
    assert "A4B: top-1" in out
    assert "A2B..A4B: 48/48, " in err
    status, out, _ = minicnn(*transfer("--n=1-4"))
    assert status == 0
    assert [n for n in range(1, 5) if f"A{n}B is done already" in out] == [2, 4]
    assert out.count(": top-1") == 4


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['minicnn', '--help']\n"
        "from minicnn.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'h5py', 'PIL', 'matplotlib', 'tqdm', 'cupy'}\n"
        "sys.exit(f'imported {heavy & sys.modules.keys()}' "
        "if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("train-base", "transfer", "data", "splits", "doctor", "export"):
        assert command in done.stdout


def test_a_signal_saves_and_says_how_to_go_on(minicnn: Invoke) -> None:
    endless = [*base()[:-4], "--set=network.arch=caffenet32", "--set=solver.batch=8"]
    argv = [sys.executable, "-m", "minicnn", *endless]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        log = Path("runs/tiny-random-0/baseA/metrics.jsonl")
        while process.poll() is None and not log.exists():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 143
    assert "Stopped by SIGTERM and saved at step" in said
    assert "the same command goes on from there" in said
    assert list(log.parent.glob("checkpoints/*.safetensors"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    mount = shutil.which("mount")
    if not mount or os.geteuid() or subprocess.run(mounting).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_harms_nothing(minicnn: Invoke, small_disk: Path) -> None:
    # One checkpoint of caffenet32 is 3 MB with its momentum: a second does not fit.
    status, _, err = minicnn(*base(f"--runs={small_disk}"))
    assert status == 2
    assert "No space left on device" in err
    assert err.splitlines()[-1].startswith("minicnn: error: ")
    left = [path.name for path in (small_disk / "baseA" / "checkpoints").iterdir()]
    assert left == ["step-00000002.safetensors"]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    status, out, _ = minicnn(*base(f"--runs={small_disk}"))
    assert status == 0
    assert "baseA: top-1" in out


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, FULL), 2, f"minicnn: error: {FULL}\n"),
        (OSError(errno.ENOSPC, FULL, "a.h5"), 2, f"minicnn: error: a.h5: {FULL}\n"),
        (OSError("encoder error"), 2, "minicnn: error: encoder error\n"),
        (MemoryError("1 TB"), 2, "minicnn: error: out of memory (1 TB)\n"),
        (Stopped("SIGTERM"), 143, "Stopped by SIGTERM.\n"),
        (KeyboardInterrupt(), 130, "\nminicnn: error: stopped by Ctrl-C\n"),
    ],
)
def test_what_ends_a_command_is_one_line(
    error: BaseException,
    status: int,
    said: str,
    minicnn: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(store, "Store", fail)
    assert minicnn("data", "info", "tiny.h5") == (status, "", said)


def commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield name, command


def test_every_option_has_help_and_every_command_json() -> None:
    lacking = set()
    for name, command in commands(cli.cli):
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert all(each.help for each in options), name
        if not any("--json" in each.opts and each.is_flag for each in options):
            lacking.add(name)
    assert lacking == {"start"}  # what it runs has it


def test_gradcheck_help_names_every_op() -> None:
    from minicnn.experiments.proofs.gradcheck import OPS

    params = {each.name: each for each in cli.cli.commands["gradcheck"].params}
    assert set(OPS) <= set(re.findall(r"\w+", params["ops"].help))  # type: ignore


def test_every_command_that_reports_prints_json(minicnn: Invoke) -> None:
    """One value on standard output; what people read goes to standard error."""
    make.class_folders(Path("photos"), {"a": 4, "b": 4})
    values: dict[str, Any] = {}
    run = "runs/tiny-random-0/baseA"
    lines = {
        "prepare": ["data", "prepare", "photos", "--output=own.h5", "--size=36", "-j1"],
        "splits": ["splits", "--classes=ilsvrc2012", "--split=random-0", "--task=A"],
        "info": ["data", "info", "own.h5"],
        "verify": ["data", "verify", "own.h5"],
        "show": ["data", "show", "own.h5", "-o", "sheet.png"],
        "train-base": base(),
        "transfer": transfer("--n=2,4"),
        "evaluate": ["evaluate", run],
        "filters": ["filters", run, "-o", "filters.png"],
        "curves": ["curves", run, "-o", "curves.png"],
        "report": ["report", "--published", "-o", "page"],
    }
    for name, line in lines.items():
        status, out, _ = minicnn(*line, "--json")
        assert status == 0, name
        values[name] = json.loads(out)
    told = values["splits"]
    assert (told["split"], told["task"], len(told["classes"])) == ("random-0", "A", 500)
    assert told["classes"][0].keys() == {"index", "wnid", "name"}
    assert values["prepare"]["rows"] == 8
    assert values["prepare"]["store"] == "own.h5"
    result = json.loads(Path(run, "result.json").read_text())
    assert values["train-base"] == [{"run": run, **result}]
    assert [each["name"] for each in values["transfer"]] == ["A2B", "A4B"]
    assert values["evaluate"]["top1"] == result["top1"]
    assert values["curves"] == {"written": "curves.png"}
    assert len(values["report"]["claims"]) > 5


def test_start_runs_what_it_prints(
    minicnn: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From class folders to a prediction; then each printed line is done already."""
    make.class_folders(Path("photos"), {"cat": 12, "dog": 12}, size=40)
    short = override(load_recipe("small"), ["solver.iterations=4", "solver.batch=8"])
    monkeypatch.setattr(advice.Choice, "config", short)
    status, out, err = minicnn("start", "photos", "--device=cpu")
    assert status == 0, err
    lines = [line[2:] for line in out.splitlines() if line.startswith("$ minicnn ")]
    commands = [shlex.split(line)[1:] for line in lines]
    names = ["data prepare", "data show", "transfer", "curves", "predict"]
    told = [" ".join(c[: 1 + (c[0] == "data")]) for c in commands]
    assert told == names
    run = Run("runs/photos/tiny-imagenet-7all+")
    assert run.result is not None
    assert [each.name for each in run.classes] == ["cat", "dog"]
    assert "%  cat\n" in out
    for each in commands:
        again = minicnn(*each)
        assert again[0] == 0
    assert Path("photos.png").exists()
    assert Path("photos-curves.png").exists()


OWN = """
size = 36
crop = 28
layers = [
  { kind = "conv", features = 8, window = 5 },
  { kind = "pool" },
  { kind = "conv", features = 8, window = 3 },
  { kind = "fc" },
]
"""


def test_a_run_of_ones_own_architecture_is_a_source(minicnn: Invoke) -> None:
    """Its TOML file may be gone: the run has it."""
    Path("own.toml").write_text(OWN)
    quick = [*QUICK[1:], "--data=tiny.h5"]
    named = "--set=network.arch=own.toml"
    assert minicnn("train-base", "--task=all", named, *quick)[0] == 0
    Path("own.toml").unlink()
    source = "--from=runs/tiny-all/baseall"
    status, out, err = minicnn("transfer", source, "--n=2", "--to=A", *quick)
    assert status == 0, err
    assert "baseall-2A: own, 4 classes" in out
    assert "conv2  8x3x3x8           copied from baseall        frozen" in out
    status, _, err = minicnn("transfer", source, "--n=3", *quick)
    assert (status, err) == (
        2,
        "minicnn: error: --n 3: must be 1..2, the layers to copy of 3\n",
    )
