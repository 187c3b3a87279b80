"""Whole runs on a small store: resume, treatments, freezing, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn import architectures, config, device, transfer
from minicnn.errors import MinicnnError, Stopped
from minicnn.loader import Loader
from minicnn.progress import Progress
from minicnn.run import Run
from minicnn.store import Store
from minicnn.transfer import Setup, Treatment
from tests.runs import MINIATURE, make_store

# Checkpoints, evaluations and log lines out of step with each other and with epochs.
SETTINGS = [
    "network.arch=miniature",
    "solver.iterations=23",
    "solver.batch=9",
    "solver.lr=0.002",
    "solver.step_size=15",
    "schedule.log_every=4",
    "schedule.evaluate_every=10",
    "schedule.checkpoint_every=6",
]
# env.json says when and how fast; everything else must be a function of the settings.
UNEQUAL = ("env.json", ".lock")


@pytest.fixture(autouse=True)
def miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ninth architecture, small enough to train in a second."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "tiny.h5")


def make_setup(store: Path, runs: Path, *settings: str, **options: Any) -> Setup:
    threads = options.pop("threads", 2)
    resolved = config.override(config.Config(), [*SETTINGS, *settings])
    dev = device.get("cpu", threads)
    return Setup(store, dev, resolved, runs=runs, **options)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that must be reproducible."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNEQUAL
    }


@pytest.fixture(scope="module")
def whole(
    store_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setup]:
    """A folder of runs with baseA, trained without a stop; not to be written to."""
    architectures.ARCHITECTURES["miniature"] = MINIATURE
    setup = make_setup(store_path, tmp_path_factory.mktemp("whole"))
    transfer.train_base(setup, "A")
    yield setup
    del architectures.ARCHITECTURES["miniature"]


def copied(whole: Setup, tmp_path: Path) -> Setup:
    """The same runs in a folder of their own, to write to."""
    runs = tmp_path / "runs"
    assert whole.runs is not None
    subprocess.run(["cp", "-r", whole.runs, runs], check=True)
    return make_setup(whole.store, runs)


def stop_at(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process a signal while it works on that training step."""
    original = Loader.train_batch

    def train_batch(self: Loader, now: int) -> Any:
        if now == step:
            os.kill(os.getpid(), number)
        return original(self, now)

    monkeypatch.setattr(Loader, "train_batch", train_batch)


@pytest.mark.parametrize(
    ("step", "number"), [(0, signal.SIGINT), (7, signal.SIGTERM), (11, signal.SIGINT)]
)
def test_a_stopped_run_ends_with_the_same_bytes(
    step: int,
    number: int,
    whole: Setup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = make_setup(whole.store, tmp_path)
    with monkeypatch.context() as patch:
        stop_at(step, number, patch)
        with pytest.raises(Stopped) as stopped:
            transfer.train_base(setup, "A")
    assert stopped.value.step == step + 1
    assert stopped.value.signal_name == signal.Signals(number).name
    run = transfer.train_base(setup, "A")
    assert contents(run.folder) == contents(whole.folder(Treatment("A")))
    sessions = json.loads((run.folder / "env.json").read_text())["sessions"]
    assert [each["first_step"] for each in sessions] == [0, step + 1]


# 20 validation images are 3 batches: the first evaluation is of step 10, which is not
# saved, the third of the last step, which is.
@pytest.mark.parametrize(("batch", "step"), [(0, 10), (6, 23)])
def test_a_signal_during_an_evaluation_is_obeyed_at_once(
    batch: int,
    step: int,
    whole: Setup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = make_setup(whole.store, tmp_path)
    original, seen = Loader.val_batches, []

    def val_batches(self: Loader) -> Iterator[Any]:
        for each in original(self):
            if len(seen) == batch:
                os.kill(os.getpid(), signal.SIGTERM)
            seen.append(each)
            yield each

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "val_batches", val_batches)
        with pytest.raises(Stopped) as stopped:
            transfer.train_base(setup, "A")
    assert len(seen) == batch + 1
    assert stopped.value.step == step
    run = transfer.train_base(setup, "A")
    assert contents(run.folder) == contents(whole.folder(Treatment("A")))


def test_results_do_not_depend_on_the_number_of_threads(
    whole: Setup, tmp_path: Path
) -> None:
    setup = make_setup(whole.store, tmp_path, threads=1)
    run = transfer.train_base(setup, "A")
    assert contents(run.folder) == contents(whole.folder(Treatment("A")))


def test_a_finished_run_is_left_alone_and_fresh_starts_over(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    folder = setup.folder(Treatment("A"))
    before = contents(folder)
    (folder / "env.json").unlink()
    assert transfer.train_base(setup, "A").result is not None
    assert not (folder / "env.json").exists()
    assert transfer.train_base(setup, "A", fresh=True).result is not None
    assert (folder / "env.json").exists()
    assert contents(folder) == before


def test_a_damaged_checkpoint_falls_back_and_ends_the_same(
    whole: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = copied(whole, tmp_path)
    folder = setup.folder(Treatment("A"))
    before = contents(folder)
    last = sorted((folder / "checkpoints").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-100])
    (folder / "result.json").unlink()
    transfer.train_base(setup, "A")
    assert "falling back to the checkpoint before it" in capsys.readouterr().err
    assert contents(folder) == before


def test_metrics_and_result_agree(whole: Setup) -> None:
    run = Run(whole.folder(Treatment("A")))
    records, result = run.metrics(), run.result
    assert result is not None
    assert [r["step"] for r in records if "loss" in r] == [4, 8, 12, 16, 20, 23]
    scores = [r for r in records if "val_top1" in r]
    assert [r["step"] for r in scores] == [10, 20, 23]
    assert result["top1"] == scores[-1]["val_top1"]
    mean = sum(r["val_top1"] for r in scores) / 3
    assert result["top1_mean_of_10_best"] == pytest.approx(mean)
    rates = [r["lr"] for r in records if "lr" in r]
    assert rates == pytest.approx([0.002] * 3 + [0.0002] * 3)


@pytest.mark.parametrize(
    ("treatment", "name", "kind"),
    [
        (Treatment("A"), "baseA", "base"),
        (Treatment("B", "A", 3), "A3B", "transfer"),
        (Treatment("B", "A", 3, True), "A3B+", "transfer+"),
        (Treatment("B", "B", 3), "B3B", "selffer"),
        (Treatment("A", "A", 7, True), "A7A+", "selffer+"),
        (Treatment("B", "random", 2), "R2B", "random"),
    ],
)
def test_names_are_the_papers(treatment: Treatment, name: str, kind: str) -> None:
    assert (treatment.name, treatment.kind) == (name, kind)


@pytest.mark.parametrize("finetune", [False, True])
def test_transfer_copies_and_freezes_what_it_says(
    finetune: bool, whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    base = Run(setup.folder(Treatment("A")))
    run = transfer.transfer(setup, "A", 3, finetune=finetune)
    assert run.name == ("A3B+" if finetune else "A3B")
    result = run.result
    assert result is not None
    assert result["frozen_layers"] == (0 if finetune else 3)
    for row in run.layers():
        name, low = row["tensor"], row["layer"] <= 3
        assert row["origin"] == ("copied from baseA" if low else "drawn afresh")
        assert row["state"] == ("frozen" if low and not finetune else "trained")
        before, after = base.checkpoint.weights[name], run.checkpoint.weights[name]
        same = before.shape == after.shape and np.array_equal(before, after)
        assert same == (low and not finetune)
    trained = {r["tensor"] for r in run.layers() if r["state"] == "trained"}
    assert run.checkpoint.momentum.keys() == trained
    # The published transfer nets subtract the source task's mean image.
    assert np.array_equal(run.mean, base.mean)


def test_random_filters_are_frozen_as_drawn(whole: Setup, tmp_path: Path) -> None:
    setup = make_setup(whole.store, tmp_path)
    trainer = transfer.start(setup, Treatment("B", "random", 2))
    drawn = {p.name: p.value.copy() for p in trainer.network.params}
    trainer.run()
    run = trainer.opened()
    for name, value in drawn.items():
        frozen = name.startswith(("conv1", "conv2"))
        assert np.array_equal(run.checkpoint.weights[name], value) == frozen
    rows = Store(whole.store).rows([c.index for c in run.classes], "train")
    mean = Store(whole.store).images[rows].astype(np.float64).mean(axis=0)
    # One rounding to float32 of an exact sum.
    assert np.abs(run.mean - mean).max() <= 2**-24 * 256


def test_runs_of_a_comparison_share_no_random_numbers() -> None:
    names = [
        *(f"A{n}B" for n in range(1, 8)),
        *(f"B{n}B" for n in range(1, 8)),
        "baseB",
    ]
    seeds = {transfer.run_seed(seed, name) for name in names for seed in (0, 1)}
    assert len(seeds) == 2 * len(names)
    assert all(seed < 2**64 for seed in seeds)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    store_path: Path, tmp_path: Path
) -> None:
    often = "schedule.checkpoint_every=1"
    setup = make_setup(store_path, tmp_path, "solver.lr=1e6", often)
    with pytest.raises(MinicnnError, match=r"diverged.*lower solver.lr.*--fresh"):
        transfer.train_base(setup, "A")
    kept = Run(tmp_path / "baseA").checkpoint
    assert kept.step >= 1
    assert all(np.isfinite(w).all() for w in kept.weights.values())


def test_a_loss_stuck_at_chance_is_reported(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = transfer.start(make_setup(store_path, tmp_path), Treatment("A"))
    bar = Progress(1, "images", "test")

    def said(step: int, loss: float) -> str:
        trainer.step = step
        trainer._advise(loss, bar)
        return capsys.readouterr().err

    # ln 4 = 1.3863, of 23 steps the first tenth is too early to tell.
    assert "still ln 4 = 1.39" in said(10, 1.39)
    assert said(2, 1.39) == ""
    assert said(10, 1.36) == ""


def test_a_base_that_does_not_serve_is_refused(whole: Setup, tmp_path: Path) -> None:
    nothing = make_setup(whole.store, tmp_path / "none")
    with pytest.raises(MinicnnError, match="make it with 'minicnn train-base --task A"):
        transfer.transfer(nothing, "A", 3)
    setup = copied(whole, tmp_path)
    assert setup.runs is not None
    other_arch = make_setup(whole.store, setup.runs, "network.arch=caffenet32")
    with pytest.raises(MinicnnError, match="architecture is miniature, this run's is"):
        transfer.transfer(other_arch, "A", 3)
    other_split = make_setup(whole.store, setup.runs, split="random-1")
    with pytest.raises(
        MinicnnError, match="other classes than task A of split random-1"
    ):
        transfer.transfer(other_split, "A", 3)
    (setup.runs / "baseA" / "result.json").unlink()
    with pytest.raises(MinicnnError, match="not finished; finish it with"):
        transfer.transfer(setup, "A", 3)
    assert [path.name for path in setup.runs.iterdir()] == ["baseA"]


def test_a_base_trained_anew_is_another_base(whole: Setup, tmp_path: Path) -> None:
    setup = copied(whole, tmp_path)
    transfer.transfer(setup, "A", 3)
    assert setup.runs is not None
    other = make_setup(whole.store, setup.runs, "solver.lr=0.001")
    transfer.train_base(other, "A", fresh=True)
    with pytest.raises(MinicnnError, match=r"run\.base_sha256 was"):
        transfer.transfer(setup, "A", 3)
    with pytest.raises(MinicnnError, match=r"solver\.lr was 0\.002"):
        transfer.transfer(other, "A", 3)
    assert transfer.transfer(other, "A", 3, fresh=True).result is not None


def test_a_base_of_another_seed_or_store_is_refused(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    assert setup.runs is not None
    with pytest.raises(MinicnnError, match="its seed is 0, this run's is 7"):
        transfer.transfer(make_setup(whole.store, setup.runs, seed=7), "A", 3)
    other = make_store(tmp_path / "other.h5", size=40)
    with pytest.raises(MinicnnError, match="its store_identity is"):
        transfer.transfer(make_setup(other, setup.runs), "A", 3)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_base_without_its_last_checkpoint_is_refused(
    damaged: int, whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    checkpoints = setup.folder(Treatment("A")) / "checkpoints"
    for path in sorted(checkpoints.iterdir())[-damaged:]:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MinicnnError, match=r"damaged or missing; .*--task A --fresh"):
        transfer.transfer(setup, "A", 3)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.toml", "[solver]\nlr = 1.0\n", "has no run.name"),
        ("task.json", "{}", "has no list of classes"),
        ("result.json", "{}", "lacks results"),
        ("result.json", "[", "not valid JSON"),
    ],
)
def test_damaged_run_files_are_named(
    file: str, content: str, said: str, whole: Setup, tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path).folder(Treatment("A"))
    (folder / file).write_text(content)
    with pytest.raises(MinicnnError, match=said) as caught:
        print(Run(folder).classes, Run(folder).result)
    assert file in str(caught.value)


def test_a_damaged_env_json_costs_nothing(whole: Setup, tmp_path: Path) -> None:
    setup = copied(whole, tmp_path)
    folder = setup.folder(Treatment("A"))
    (folder / "env.json").write_text("{")
    (folder / "result.json").unlink()
    assert transfer.train_base(setup, "A").result is not None
    assert len(json.loads((folder / "env.json").read_text())["sessions"]) == 1


def test_a_task_of_one_class_is_refused(store_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.toml"
    path.write_text('A = ["c0"]\nB = ["c1", "c2"]\n')
    setup = make_setup(store_path, tmp_path / "runs", split=f"file:{path}")
    with pytest.raises(MinicnnError, match=r"1 class in .* needs at least 2"):
        transfer.train_base(setup, "A")


def test_other_settings_in_the_same_folder_are_refused(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    assert setup.runs is not None
    before = contents(setup.runs)
    changed = make_setup(whole.store, setup.runs, "solver.lr=0.5")
    with pytest.raises(MinicnnError, match=r"solver.lr was 0.002, now 0.5; --fresh"):
        transfer.train_base(changed, "A")
    assert contents(setup.runs) == before


def test_a_store_may_move_but_not_change(whole: Setup, tmp_path: Path) -> None:
    setup = copied(whole, tmp_path)
    assert setup.runs is not None
    moved = make_store(tmp_path / "moved.h5")
    assert transfer.train_base(make_setup(moved, setup.runs), "A").result is not None
    other = make_store(tmp_path / "other.h5", seed=1)
    with pytest.raises(MinicnnError, match=r"run\.store_identity was"):
        transfer.train_base(make_setup(other, setup.runs), "A")


def test_foreign_folders_are_left_alone(store_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "baseA"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    for fresh in (False, True):
        with pytest.raises(MinicnnError, match="run folder"):
            transfer.train_base(make_setup(store_path, tmp_path), "A", fresh=fresh)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_one_folder_is_trained_by_one_process(whole: Setup, tmp_path: Path) -> None:
    setup = make_setup(whole.store, tmp_path)
    trainer = transfer.start(setup, Treatment("A"))
    from minicnn.trainer import locked

    with locked(trainer.folder):
        with pytest.raises(MinicnnError, match="another minicnn"):
            trainer.run()
        with pytest.raises(MinicnnError, match="another minicnn"):
            transfer.start(setup, Treatment("A"), fresh=True)
    assert (trainer.folder / "config.toml").exists()


def test_too_few_outputs_are_refused(store_path: Path, tmp_path: Path) -> None:
    setup = make_setup(store_path, tmp_path, "network.outputs=3")
    with pytest.raises(
        MinicnnError, match=r"network\.outputs 3: fewer than the 4 classes"
    ):
        transfer.train_base(setup, "A")
    wide = make_setup(store_path, tmp_path, "network.outputs=10")
    run = transfer.train_base(wide, "A")
    assert run.checkpoint.weights["fc8.b"].shape == (10,)
