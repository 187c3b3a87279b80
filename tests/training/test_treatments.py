"""Treatments: their names, what they copy, freeze and keep, the seeds they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.store import Store
from minicnn.training import transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup, Treatment
from tests.support.training import copied, make_setup


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
    drawn = {p.name: p.value.copy() for p in starting.trainees[0].network.params}
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
        transfer.start(setup, each).trainees[0].network.tensors()["fc8.w"].tobytes()
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


def test_random_filters_of_all_depths_are_the_same(
    store_path: Path, tmp_path: Path
) -> None:
    setup = make_setup(store_path, tmp_path)
    two, four = (
        transfer.start(setup, Treatment("B", "random", n)).trainees[0].network.tensors()
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
    for name, values in fresh.trainees[0].network.tensors().items():
        drawn = name.startswith("fc")
        assert np.array_equal(values, base[name]) == (not drawn), name


def test_a_run_made_before_there_was_keep_kept_none(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    settings = setup.folder(Treatment("A")) / "config.toml"
    lines = settings.read_text().splitlines(keepends=True)
    assert "keep = 0\n" in lines
    settings.write_text("".join(line for line in lines if line != "keep = 0\n"))
    assert transfer.train_base(setup, "A").result is not None


def test_the_head_is_trained_before_all_is_fine_tuned(
    whole: Setup, tmp_path: Path
) -> None:
    setup = copied(whole, tmp_path)
    base = Run(setup.folder(Treatment("A"))).checkpoint.weights
    for after in (23, 22):  # of 23 updates
        treatment = Treatment("B", "A", 3, True, finetune_after=after)
        transfer.start(setup, treatment).run()
        run = Run(setup.folder(treatment))
        assert (run.name, run.about["treatment"]) == (
            f"A3B+-after{after}",
            "transfer+-after",
        )
        for name, values in run.checkpoint.weights.items():
            moved = name[4] not in "123" or after < 23
            assert moved == (values != base[name]).any(), name
    with pytest.raises(MinicnnError, match="--finetune-after 5: must be 0 or more"):
        Treatment("B", "A", 3, finetune_after=5)


def test_finetune_after_implies_finetune(whole: Setup, tmp_path: Path) -> None:
    setup = copied(whole, tmp_path)
    run = transfer.transfer(setup, "A", 3, finetune_after=5)
    [other] = transfer.transfer_depths(setup, "A", [2], finetune_after=5)
    assert [run.name, other.name] == ["A3B+-after5", "A2B+-after5"]


def test_factors_of_a_layer_that_is_not_there(whole: Setup, tmp_path: Path) -> None:
    setup = make_setup(whole.store, tmp_path, "solver.layers.conv9.lr_mult=2")
    with pytest.raises(MinicnnError, match=r"layers\.conv9: no such .* conv1, conv2"):
        transfer.start(setup, Treatment("A"))
    assert not list(tmp_path.iterdir())
