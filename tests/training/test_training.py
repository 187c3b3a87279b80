"""Whole runs on a small store: stop and resume, scores, progress, divergence."""

from __future__ import annotations

import functools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError, Stopped
from minicnn.base.progress import Progress
from minicnn.data.loader import Loader
from minicnn.ops import dropout
from minicnn.training import trainer, transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup, Treatment
from tests.support.training import contents, make_setup, sessions, stopped_at


@pytest.mark.parametrize(
    ("step", "number"), [(0, signal.SIGINT), (7, signal.SIGTERM), (11, signal.SIGINT)]
)
def test_a_stopped_run_ends_with_the_same_bytes(
    step: int, number: int, whole: Setup, empty: Setup
) -> None:
    with stopped_at(step, number) as stopped:
        transfer.train_base(empty, "A")
    assert stopped.value.step == step + 1
    assert stopped.value.signal_name == signal.Signals(number).name
    run = transfer.train_base(empty, "A")
    assert contents(run.folder) == contents(whole.runs / "baseA")
    assert sessions(run, "first_step") == [0, step + 1]


# 20 validation images are 3 batches: the first evaluation is of step 10, which is not
# saved, the third of the last step, which is.
@pytest.mark.parametrize(("batch", "step"), [(0, 10), (6, 23)])
def test_a_signal_during_an_evaluation_is_obeyed_at_once(
    batch: int,
    step: int,
    whole: Setup,
    empty: Setup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
            transfer.train_base(empty, "A")
    assert len(seen) == batch + 1
    assert stopped.value.step == step
    run = transfer.train_base(empty, "A")
    assert contents(run.folder) == contents(whole.runs / "baseA")


def test_a_finished_run_is_left_alone_and_fresh_starts_over(setup: Setup) -> None:
    folder = setup.runs / "baseA"
    before = contents(folder)
    (folder / "env.json").unlink()
    assert transfer.train_base(setup, "A").result is not None
    assert not (folder / "env.json").exists()
    assert transfer.train_base(setup, "A", fresh=True).result is not None
    assert (folder / "env.json").exists()
    assert contents(folder) == before


def test_a_damaged_checkpoint_falls_back_and_ends_the_same(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = setup.runs / "baseA"
    before = contents(folder)
    last = sorted((folder / "checkpoints").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-100])
    (folder / "result.json").unlink()
    transfer.train_base(setup, "A")
    assert "falling back to the checkpoint before it" in capsys.readouterr().err
    assert contents(folder) == before


def test_metrics_and_result_agree(whole: Setup) -> None:
    run = Run(whole.runs / "baseA")
    records, result = run.metrics(), run.result
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
    assert run.result["evaluations"] == 12
    assert run.result["top1_mean_of_10_best"] == pytest.approx(sum(scores[2:]) / 10)


def test_dropout_is_drawn_anew_each_step_and_off_in_evaluations(
    empty: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, keys = dropout.apply, Counter[tuple[int, int, int]]()

    def apply(*arguments: Any) -> None:
        *_, seed, stream, step = arguments
        keys[seed, stream, int(step[0])] += 1
        original(*arguments)

    monkeypatch.setattr(dropout, "apply", apply)
    monkeypatch.setenv("MINICNN_GRAPH", "0")  # a record goes past the patch
    starting = transfer.start(empty, Treatment("A"))
    starting.run()
    # Two layers, each forward and backward.
    drawn = Counter((seed, step) for seed, _, step in keys.elements())
    assert drawn == {(starting.loader.seed, step): 4 for step in range(23)}
    assert len(keys) == 2 * 23


def test_progress_of_the_mean_image_and_of_evaluations(
    empty: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "Progress", functools.partial(Progress, every=0))
    transfer.train_base(empty, "A")
    said = capsys.readouterr().err
    for text in (
        "baseA, mean image: 48/48, ",
        "baseA, evaluation at step 10: 9/20, ",
        "baseA, evaluation at step 10: 20/20, ",
        "baseA, evaluation at step 23: 20/20, ",
    ):
        assert text in said


def test_a_signal_while_the_mean_image_is_made(
    empty: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainer.mean_image

    def mean_image(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "mean_image", mean_image)
        with pytest.raises(Stopped) as stopped:
            transfer.train_base(empty, "A")
    assert (stopped.value.signal_name, stopped.value.step) == ("SIGTERM", None)
    assert transfer.train_base(empty, "A").result is not None


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
    empty: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    starting = transfer.start(empty, Treatment("A"))
    starting._bar = Progress(1, "images", "test")

    def said(step: int, loss: float) -> str:
        starting.trainees[0].step = step
        starting._advise(starting.trainees[0], loss)
        return capsys.readouterr().err

    # ln 4 = 1.3863, of 23 steps the first tenth is too early to tell.
    assert "still ln 4 = 1.39" in said(10, 1.39)
    assert said(2, 1.39) == ""
    assert said(10, 1.36) == ""
