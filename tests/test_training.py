"""Whole runs on a small store: resume, treatments, freezing, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn import architectures, native, trainer, transfer
from minicnn.errors import MinicnnError, Stopped
from minicnn.loader import Loader
from minicnn.ops import dropout
from minicnn.progress import Progress
from minicnn.run import Run, locked
from minicnn.store import Store
from minicnn.transfer import Setup, Treatment
from tests.runs import MINIATURE, make_store
from tests.training import contents, copied, make_setup, stop_at


@pytest.fixture(autouse=True)
def miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ninth architecture, small enough to train in a second."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "tiny.h5")


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


OFF = "MINICNN_NATIVE=0"


# What env.json says of the session before, why this one has no compiled code, and what
# is to be done for the same bytes.
@pytest.mark.parametrize(
    ("before", "why", "mend"),
    [
        ({"native": True}, OFF, "now in NumPy: .* unset MINICNN_NATIVE$"),
        ({"native": True}, "no C++ compiler", "now in NumPy: .* 'minicnn doctor'$"),
        ({"native": False}, "", f"now in compiled code: .* set {OFF}$"),
        ({"native": True}, "", None),
        ({"native": False}, OFF, None),
        ({}, "", None),  # on another device
    ],
)
def test_other_forms_of_the_ops_are_warned_of_on_resume(
    before: dict[str, bool],
    why: str,
    mend: str | None,
    whole: Setup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup = copied(whole, tmp_path)
    folder = setup.folder(Treatment("A"))
    (folder / "env.json").write_text(json.dumps({"sessions": [{}, before]}))
    (folder / "result.json").unlink()
    monkeypatch.setattr(native, "missing", lambda: why)
    setup.dev.native = not why
    transfer.train_base(setup, "A")
    said = [s for s in capsys.readouterr().err.splitlines() if "warning: baseA" in s]
    assert len(said) == (mend is not None)
    if mend:
        assert re.search(mend, said[0])


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
    # The mean of so few would be of early ones too.
    assert (result["evaluations"], result["top1_mean_of_10_best"]) == (3, None)
    rates = [r["lr"] for r in records if "lr" in r]
    assert rates == pytest.approx([0.002] * 3 + [0.0002] * 3)


def test_the_published_score_is_of_the_10_best(whole: Setup, tmp_path: Path) -> None:
    setup = make_setup(whole.store, tmp_path, "schedule.evaluate_every=2")
    run = transfer.train_base(setup, "A")
    scores = sorted(r["val_top1"] for r in run.metrics() if "val_top1" in r)
    assert len(scores) == 12
    result = run.result
    assert result is not None
    assert result["evaluations"] == 12
    assert result["top1_mean_of_10_best"] == pytest.approx(sum(scores[2:]) / 10)


@pytest.mark.parametrize(
    ("treatment", "name", "kind"),
    [
        (Treatment("A"), "baseA", "base"),
        (Treatment("B", "A", 3), "A3B", "transfer"),
        (Treatment("B", "A", 3, True), "A3B+", "transfer+"),
        (Treatment("B", "B", 3), "B3B", "selffer"),
        (Treatment("A", "A", 7, True), "A7A+", "selffer+"),
        (Treatment("B", "random", 2), "R2B", "random"),
        (Treatment("B", "A", 3, keep=2), "A3B-keep2", "transfer-keep"),
        (Treatment("B", "B", 6, keep=1), "B6B-keep1", "selffer-keep"),
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
    starting = transfer.start(setup, Treatment("B", "random", 2))
    drawn = {p.name: p.value.copy() for p in starting.heads[0].network.params}
    starting.run()
    run = starting.runs[0]
    for name, value in drawn.items():
        frozen = name.startswith(("conv1", "conv2"))
        assert np.array_equal(run.checkpoint.weights[name], value) == frozen
    rows = Store(whole.store).rows([c.index for c in run.classes], "train")
    mean = Store(whole.store).images[rows].astype(np.float64).mean(axis=0)
    # One rounding to float32 of an exact sum.
    assert np.abs(run.mean - mean).max() <= 2**-24 * 256


def test_runs_of_a_comparison_share_no_initial_weights(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    depths = [Treatment(target, "A", n) for target in "AB" for n in (2, 3)]
    others = [Treatment("B", "A", 3, True), Treatment("B", "A", 3, keep=1)]
    drawn = {
        transfer.start(setup, each).heads[0].network.tensors()["fc8.w"].tobytes()
        for each in [Treatment("B"), *depths, *others]
    }
    drawn.add(Run(setup.folder(Treatment("A"))).checkpoint.weights["fc8.w"].tobytes())
    assert len(drawn) == 8


def test_depths_of_a_family_share_batches_and_masks_and_families_share_none(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    seeds = []
    for family in (
        [Treatment("B", "A", n) for n in (2, 3)],
        [Treatment("A", "A", n) for n in (2, 3)],
        [Treatment("B", "A", n, True) for n in (2, 3)],
        [Treatment("B", "A", n, keep=1) for n in (2, 3)],
        [Treatment("B", "A", n, keep=2) for n in (2, 3)],
        [Treatment("B", "random", n) for n in (2, 3)],
        [Treatment("B")],
    ):
        trainers = [transfer.start(setup, each) for each in family]
        assert all(each.seed == each.loader.seed for each in trainers)
        seeds += {each.seed for each in trainers}
        rows = [each.loader._rows(3).tolist() for each in trainers]
        assert rows == rows[:1] * len(rows)
    assert len(set(seeds)) == len(seeds) == 7
    assert transfer.run_seed(1, "baseB") not in seeds
    assert all(seed < 2**64 for seed in seeds)


def test_dropout_is_drawn_anew_each_step_and_off_in_evaluations(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, keys = make_setup(store_path, tmp_path), Counter[tuple[int, int, int]]()
    original = dropout.apply

    def apply(
        dev: Any, x: Any, y: Any, rate: float, seed: int, stream: int, step: Any
    ) -> None:
        keys[seed, stream, int(step[0])] += 1
        original(dev, x, y, rate, seed, stream, step)

    monkeypatch.setattr(dropout, "apply", apply)
    starting = transfer.start(setup, Treatment("A"))
    starting.run()
    # Two layers, each forward and backward.
    assert {(seed, step) for seed, _, step in keys} == {
        (starting.seed, step) for step in range(23)
    }
    assert len(keys) == 2 * 23
    assert set(keys.values()) == {2}


def test_random_filters_of_all_depths_are_the_same(
    store_path: Path, tmp_path: Path
) -> None:
    setup = make_setup(store_path, tmp_path)
    two, four = (
        transfer.start(setup, Treatment("B", "random", n)).heads[0].network.tensors()
        for n in (2, 4)
    )
    for name, values in two.items():
        low = name.startswith(("conv1", "conv2"))
        constant = name.endswith(".b")
        assert np.array_equal(values, four[name]) == (low or constant), name


def test_kept_layers_are_copied_and_trained(whole: Setup, tmp_path: Path) -> None:
    setup = copied(whole, tmp_path)
    run = transfer.transfer(setup, "A", 3, keep=2)
    assert run.name == "A3B-keep2"
    result = run.result
    assert result is not None
    assert result["treatment"] == "transfer-keep"
    assert (result["frozen_layers"], result["n"], result["keep"]) == (3, 3, 2)
    rows = {(r["layer"], r["origin"], r["state"]) for r in run.layers()}
    assert rows == {
        *((n, "copied from baseA", "frozen") for n in (1, 2, 3)),
        *((n, "copied from baseA", "trained") for n in (4, 5)),
        *((n, "drawn afresh", "trained") for n in (6, 7, 8)),
    }
    base = Run(setup.folder(Treatment("A"))).checkpoint.weights
    fresh = transfer.start(setup, Treatment("B", "A", 3, keep=2), fresh=True)
    for name, values in fresh.heads[0].network.tensors().items():
        drawn = name.startswith("fc")
        assert np.array_equal(values, base[name]) == (not drawn), name


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"keep": 1}, "--keep 1: random filters and bases copy no trained layer"),
        (
            {"source": "random", "n": 3, "keep": 1},
            "--keep 1: random filters and bases copy no trained layer",
        ),
        (
            {"source": "A", "n": 3, "keep": 1, "finetune": True},
            "--keep 1 --finetune: fine-tuning trains every copied layer",
        ),
        (
            {"source": "A", "n": 3, "keep": 5},
            "--keep 5 --n 3: must be 0 or more, and together at most 7",
        ),
        ({"source": "A", "n": 3, "keep": -1}, "--keep -1 --n 3: must be 0 or more"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(MinicnnError) as refused:
        Treatment("B", **how)
    assert str(refused.value).startswith(said)


def test_a_run_made_before_there_was_keep_kept_none(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    settings = setup.folder(Treatment("A")) / "config.toml"
    lines = settings.read_text().splitlines(keepends=True)
    assert "keep = 0\n" in lines
    settings.write_text("".join(line for line in lines if line != "keep = 0\n"))
    assert transfer.train_base(setup, "A").result is not None


def test_progress_of_the_mean_image_and_of_evaluations(
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainer, "Progress", functools.partial(Progress, every=0))
    transfer.train_base(make_setup(store_path, tmp_path), "A")
    said = capsys.readouterr().err
    for text in (
        "baseA, mean image: 48/48, ",
        "baseA, evaluation at step 10: 9/20, ",
        "baseA, evaluation at step 10: 20/20, ",
        "baseA, evaluation at step 23: 20/20, ",
    ):
        assert text in said


def test_a_signal_while_the_mean_image_is_made(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, original = make_setup(store_path, tmp_path), trainer.mean_image

    def mean_image(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "mean_image", mean_image)
        with pytest.raises(Stopped) as stopped:
            transfer.train_base(setup, "A")
    assert (stopped.value.signal_name, stopped.value.step) == ("SIGTERM", None)
    assert transfer.train_base(setup, "A").result is not None


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
    starting = transfer.start(make_setup(store_path, tmp_path), Treatment("A"))
    head, bar = starting.heads[0], Progress(1, "images", "test")

    def said(step: int, loss: float) -> str:
        head.step = step
        starting._advise(head, loss, bar)
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
    before = contents(folder)
    (folder / "env.json").write_text("{")
    (folder / "result.json").unlink()
    assert transfer.train_base(setup, "A").result is not None
    assert contents(folder) == before
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


@pytest.mark.parametrize(
    "left", [(".task.json.partial",), ("task.json", ".config.toml.partial")]
)
def test_a_kill_while_the_folder_is_made_harms_nothing(
    left: tuple[str, ...], whole: Setup, tmp_path: Path
) -> None:
    setup = make_setup(whole.store, tmp_path)
    (tmp_path / "baseA").mkdir()
    for name in left:
        (tmp_path / "baseA" / name).write_text("{}")
    transfer.start(setup, Treatment("A"))
    assert whole.runs is not None
    names = {"config.toml", "task.json", "layers.json"}
    found = contents(tmp_path / "baseA")
    assert {name: found[name] for name in names} == {
        name: contents(whole.runs / "baseA")[name] for name in names
    }


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
    starting = transfer.start(setup, Treatment("A"))
    folder = starting.heads[0].folder
    with locked(folder):
        with pytest.raises(MinicnnError, match="another minicnn"):
            starting.run()
        with pytest.raises(MinicnnError, match="another minicnn"):
            transfer.start(setup, Treatment("A"), fresh=True)
    assert (folder / "config.toml").exists()


def test_too_few_outputs_are_refused(store_path: Path, tmp_path: Path) -> None:
    setup = make_setup(store_path, tmp_path, "network.outputs=3")
    with pytest.raises(
        MinicnnError, match=r"network\.outputs 3: fewer than the 4 classes"
    ):
        transfer.train_base(setup, "A")
    wide = make_setup(store_path, tmp_path, "network.outputs=10")
    run = transfer.train_base(wide, "A")
    assert run.checkpoint.weights["fc8.b"].shape == (10,)
