"""Treatments: their names, what they copy, freeze and keep, the seeds they share."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.data.store import Store
from minicnn.training import transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup, Treatment


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


@pytest.mark.parametrize(
    ("finetune", "keep", "frozen"), [(False, 0, 3), (True, 0, 0), (False, 2, 3)]
)
def test_transfer_copies_and_freezes_what_it_says(
    finetune: bool, keep: int, frozen: int, setup: Setup
) -> None:
    base = Run(setup.runs / "baseA")
    treatment = Treatment("B", "A", 3, finetune, keep)
    starting = transfer.start(setup, treatment)
    started = deepcopy(starting.trainees[0].network.tensors())
    starting.run()
    run = starting.runs[0]
    assert (run.name, run.about["treatment"]) == (treatment.name, treatment.kind)
    assert run.result["frozen_layers"] == frozen
    assert (run.result["n"], run.result["keep"]) == (3, keep)
    for row in run.layers():
        name, copied = row["tensor"], row["layer"] <= 3 + keep
        assert row["origin"] == ("copied from baseA" if copied else "drawn afresh")
        assert np.array_equal(started[name], base.checkpoint.weights[name]) == copied
        still = row["layer"] <= frozen
        assert row["state"] == ("frozen" if still else "trained")
        assert np.array_equal(run.checkpoint.weights[name], started[name]) == still
        assert (name in run.checkpoint.momentum) == (not still)
    # The published transfer nets subtract the source task's mean image.
    assert np.array_equal(run.mean, base.mean)


def test_random_filters_are_frozen_as_drawn(empty: Setup) -> None:
    starting = transfer.start(empty, Treatment("B", "random", 2))
    drawn = deepcopy(starting.trainees[0].network.tensors())
    starting.run()
    run = starting.runs[0]
    for name, value in drawn.items():
        frozen = name.startswith(("conv1", "conv2"))
        assert np.array_equal(run.checkpoint.weights[name], value) == frozen
    rows = Store(empty.store).rows([c.index for c in run.classes], "train")
    mean = Store(empty.store).images[rows].astype(np.float64).mean(axis=0)
    # One rounding to float32 of an exact sum.
    assert np.abs(run.mean - mean).max() <= 2**-24 * 256


def test_runs_of_a_comparison_share_no_initial_weights(setup: Setup) -> None:
    depths = [Treatment(target, "A", n) for target in "AB" for n in (2, 3)]
    others = [Treatment("B", "A", 3, True), Treatment("B", "A", 3, keep=1)]
    drawn = {
        transfer.start(setup, each).trainees[0].network.tensors()["fc8.w"].tobytes()
        for each in [Treatment("B"), *depths, *others]
    }
    drawn.add(Run(setup.runs / "baseA").checkpoint.weights["fc8.w"].tobytes())
    assert len(drawn) == 8


def test_depths_of_a_family_share_batches_and_masks_and_families_share_none(
    setup: Setup,
) -> None:
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
        loaders = [transfer.start(setup, each).loader for each in family]
        seeds += {each.seed for each in loaders}
        rows = [each._rows(3).tolist() for each in loaders]
        assert rows == rows[:1] * len(rows)
    assert len(set(seeds)) == len(seeds) == 7
    assert transfer.run_seed(1, "baseB") not in seeds
    assert all(seed < 2**64 for seed in seeds)


def test_runs_of_earlier_versions_go_on(setup: Setup) -> None:
    settings = setup.runs / "baseA" / "config.toml"
    lines = settings.read_text().splitlines(keepends=True)
    later = ["keep = 0\n", "finetune_after = 0\n", 'precision = "fp32"\n']
    assert set(later) < set(lines)
    settings.write_text("".join(line for line in lines if line not in later))
    assert transfer.train_base(setup, "A").result is not None


def test_the_head_is_trained_before_all_is_fine_tuned(setup: Setup) -> None:
    base = Run(setup.runs / "baseA").checkpoint.weights
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


def test_finetune_after_implies_finetune(setup: Setup) -> None:
    run = transfer.transfer(setup, "A", 3, finetune_after=5)
    [other] = transfer.transfer_depths(setup, "A", [2], finetune_after=5)
    assert [run.name, other.name] == ["A3B+-after5", "A2B+-after5"]
