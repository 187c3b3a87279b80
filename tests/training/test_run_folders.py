"""Run folders: bases that do not serve, damaged files, other settings, locks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.training import transfer
from minicnn.training.run import Run, locked
from minicnn.training.transfer import Setup, Treatment
from tests.support.runs import make_store
from tests.support.training import contents, copied, make_setup


def test_a_base_that_does_not_serve_is_refused(whole: Setup, tmp_path: Path) -> None:
    nothing = make_setup(whole.store, tmp_path / "none")
    with pytest.raises(MinicnnError, match="make it first: minicnn train-base"):
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
    with pytest.raises(MinicnnError, match="not finished; finish it first"):
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


def test_a_run_at_step_0_gives_way_to_other_settings(
    whole: Setup, tmp_path: Path
) -> None:
    transfer.start(make_setup(whole.store, tmp_path), Treatment("A"))
    other = make_setup(whole.store, tmp_path, "solver.lr=0.001")
    with locked(tmp_path / "baseA"), pytest.raises(MinicnnError, match="another min"):
        transfer.start(other, Treatment("A"))
    found = transfer.start(other, Treatment("A")).runs[0]
    assert found.config.solver.lr == 0.001
    (tmp_path / "baseA" / "metrics.jsonl").write_text("")
    with pytest.raises(MinicnnError, match=r"solver\.lr was 0\.001"):
        transfer.start(make_setup(whole.store, tmp_path), Treatment("A"))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_start_that_fails_leaves_folders_as_they_were(
    fresh: bool, whole: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = copied(whole, tmp_path)
    assert setup.runs is not None
    before = contents(setup.runs)
    monkeypatch.setattr(type(setup.dev), "free_bytes", lambda _: 1 << 20)
    with pytest.raises(MinicnnError, match="batch of 9 images: miniature needs"):
        transfer.transfer(setup, "A", 3)
    if fresh:
        with pytest.raises(MinicnnError, match="batch of 9 images"):
            transfer.train_base(setup, "A", fresh=True)
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
    folder = starting.trainees[0].folder
    with locked(folder):
        with pytest.raises(MinicnnError, match="another minicnn"):
            starting.run()
        with pytest.raises(MinicnnError, match="another minicnn"):
            transfer.start(setup, Treatment("A"), fresh=True)
    assert (folder / "config.toml").exists()
