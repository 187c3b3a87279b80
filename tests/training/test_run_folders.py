"""Run folders: bases that do not serve, damaged files, other settings, locks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.training import transfer
from minicnn.training.run import Run, locked
from minicnn.training.transfer import Setup, Treatment
from tests.support.runs import make_store
from tests.support.training import contents, make_setup


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        (["network.arch=caffenet32"], {}, "architecture is miniature, this run's is"),
        ([], {"split": "random-1"}, "other classes than task A of split random-1"),
        ([], {"seed": 7}, "its seed is 0, this run's is 7"),
    ],
)
def test_a_base_of_another_run_is_refused(
    settings: list[str], options: dict[str, Any], said: str, setup: Setup
) -> None:
    other = make_setup(setup.store, setup.runs, *settings, **options)
    with pytest.raises(MinicnnError, match=said):
        transfer.transfer(other, "A", 3)
    assert [path.name for path in setup.runs.iterdir()] == ["baseA"]


def test_a_base_of_another_store_is_refused(setup: Setup, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other.h5", size=40)
    with pytest.raises(MinicnnError, match="its store_identity is"):
        transfer.transfer(make_setup(other, setup.runs), "A", 3)


def test_a_base_trained_anew_is_another_base(setup: Setup) -> None:
    transfer.transfer(setup, "A", 3)
    other = make_setup(setup.store, setup.runs, "solver.lr=0.001")
    transfer.train_base(other, "A", fresh=True)
    with pytest.raises(MinicnnError, match=r"run\.base_sha256 was"):
        transfer.transfer(setup, "A", 3)
    with pytest.raises(MinicnnError, match=r"solver\.lr was 0\.002"):
        transfer.transfer(other, "A", 3)
    assert transfer.transfer(other, "A", 3, fresh=True).result is not None


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_base_without_its_last_checkpoint_is_refused(
    damaged: int, setup: Setup
) -> None:
    for path in sorted((setup.runs / "baseA" / "checkpoints").iterdir())[-damaged:]:
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
    file: str, content: str, said: str, setup: Setup
) -> None:
    folder = setup.runs / "baseA"
    (folder / file).write_text(content)
    with pytest.raises(MinicnnError, match=said) as caught:
        print(Run(folder).classes, Run(folder).result)
    assert file in str(caught.value)


def test_damaged_records_of_a_run_cost_nothing(setup: Setup) -> None:
    folder = setup.runs / "baseA"
    before = contents(folder)
    (folder / "env.json").write_text("{")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff")  # no text; the lines before it stay
    (folder / "result.json").unlink()
    transfer.train_base(setup, "A")
    assert contents(folder) == before
    assert len(json.loads((folder / "env.json").read_text())["sessions"]) == 1


def test_a_run_at_step_0_gives_way_to_other_settings(
    empty: Setup, tmp_path: Path
) -> None:
    transfer.start(empty, Treatment("A"))
    other = make_setup(empty.store, tmp_path, "solver.lr=0.001")
    with locked(tmp_path / "baseA"), pytest.raises(MinicnnError, match="another min"):
        transfer.start(other, Treatment("A"))
    found = transfer.start(other, Treatment("A")).runs[0]
    assert found.config.solver.lr == 0.001
    (tmp_path / "baseA" / "metrics.jsonl").write_text("")
    with pytest.raises(MinicnnError, match=r"solver\.lr was 0\.001"):
        transfer.start(empty, Treatment("A"))


def test_a_start_that_fails_leaves_folders_as_they_were(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(setup.runs)
    monkeypatch.setattr(type(setup.dev), "free_bytes", lambda _: 1 << 20)
    with pytest.raises(MinicnnError, match="batch of 9 images: miniature needs"):
        transfer.transfer(setup, "A", 3)
    with pytest.raises(MinicnnError, match="batch of 9 images"):
        transfer.train_base(setup, "A", fresh=True)
    assert contents(setup.runs) == before


def test_a_store_may_move_but_not_change(setup: Setup, tmp_path: Path) -> None:
    moved = make_store(tmp_path / "moved.h5")
    assert transfer.train_base(make_setup(moved, setup.runs), "A").result is not None
    other = make_store(tmp_path / "other.h5", seed=1)
    with pytest.raises(MinicnnError, match=r"run\.store_identity was"):
        transfer.train_base(make_setup(other, setup.runs), "A")


@pytest.mark.parametrize(
    "left", [(".task.json.partial",), ("task.json", ".config.toml.partial")]
)
def test_a_kill_while_the_folder_is_made_harms_nothing(
    left: tuple[str, ...], whole: Setup, empty: Setup, tmp_path: Path
) -> None:
    (tmp_path / "baseA").mkdir()
    for name in left:
        (tmp_path / "baseA" / name).write_text("{}")
    transfer.start(empty, Treatment("A"))
    found, expected = contents(tmp_path / "baseA"), contents(whole.runs / "baseA")
    for name in ("config.toml", "task.json", "layers.json"):
        assert found[name] == expected[name]


def test_one_folder_is_trained_by_one_process(empty: Setup) -> None:
    starting = transfer.start(empty, Treatment("A"))
    folder = starting.trainees[0].folder
    with locked(folder):
        with pytest.raises(MinicnnError, match="another minicnn"):
            starting.run()
        with pytest.raises(MinicnnError, match="another minicnn"):
            transfer.start(empty, Treatment("A"), fresh=True)
    assert (folder / "config.toml").exists()
