"""`minicnn analyse` on small real runs, its rows beside what checkpoints hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.devices import device
from minicnn.experiments.analyses import units
from minicnn.results.analyses.nets import Net
from minicnn.results.inference import evaluate_run
from minicnn.training import transfer
from minicnn.training.run import Run
from tests.support.runs import make_store
from tests.support.training import make_setup

LAYERS = range(1, 9)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bases, A2B and A3B, A2B+ and B2B+, of some updates each."""
    folder = tmp_path_factory.mktemp("study")
    store = make_store(folder / "small.h5")
    setup = make_setup(store, folder / "runs" / "random-0", "solver.iterations=5")
    transfer.train_base(setup, "A")
    transfer.train_base(setup, "B")
    for n in (2, 3):
        transfer.transfer(setup, "A", n)
    for source in "AB":
        transfer.transfer(setup, source, 2, "B", finetune=True)
    return folder


def analyse(*arguments: Any) -> str:
    done = CliRunner().invoke(cli, ["analyse", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def weights(study: Path, name: str) -> dict[str, np.ndarray]:
    return Run(study / "runs" / "random-0" / name).checkpoint.weights


def test_all_of_a_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    out = study / "analyses"
    printed = analyse(study, "--threads=2")
    names = ("probe", "reset", "cka", "line", "distance", "logme")
    for name in names:
        assert str(out / f"{name}.csv") in printed
        assert (out / f"{name}.png").stat().st_size > 5000
    counts = {name: len(rows(out / f"{name}.csv")) for name in names}
    assert counts == {
        "probe": 4 * 7,
        "reset": 3 * 8 * 2,
        "cka": 2 * 64,
        "line": 2 * units.POINTS,
        "distance": 4 * 8,
        "logme": 2,
    }
    summary = json.loads((out / "summary.json").read_text())
    probed = [c for c in summary["probe"] if c["own"] and c["layer"] == 5]
    made = [r for r in rows(out / "probe.csv") if r["own"] == "True"]
    right = np.mean([float(r["top1"]) for r in made if r["layer"] == "5"])
    assert probed[0]["units"] == 2
    assert probed[0]["top1"]["mean"] == pytest.approx(right)
    assert probed[0]["top1"]["low"] is None  # two units have no interval

    def never(self: Any, *args: Any) -> Any:
        raise AssertionError("done before")

    monkeypatch.setattr(Net, "__init__", never)
    assert analyse(study, "--threads=2") == printed


def test_a_line_ends_in_the_nets_themselves(study: Path, tmp_path: Path) -> None:
    analyse(study, "--only=line", "-o", tmp_path, "--images=1000")
    dev = device.get("cpu", 2)
    for name in ("A2B+", "B2B+"):
        line = [r for r in rows(tmp_path / "line.csv") if r["net"] == name]
        for row, run in ((line[0], "baseB"), (line[-1], name)):
            right = evaluate_run(Run(study / "runs" / "random-0" / run), dev)
            # Weights and mean blended with shares 0 and 1 are the nets' own.
            assert float(row["loss"]) == pytest.approx(right["loss"], rel=1e-6)
            assert float(row["top1"]) == right["top1"]


def test_distances_are_from_the_copied_weights(study: Path, tmp_path: Path) -> None:
    analyse(study, "--only=distance", "-o", tmp_path)
    found = [r for r in rows(tmp_path / "distance.csv") if r["net"] == "A2B+"]
    base, net = weights(study, "baseA"), weights(study, "A2B+")
    for row in found[:2]:
        names = [f"conv{row['layer']}.{kind}" for kind in "wb"]
        moved = sum(((net[n].astype(float) - base[n]) ** 2).sum() for n in names)
        length = sum((base[n].astype(float) ** 2).sum() for n in names)
        assert row["copied"] == "True"
        assert float(row["distance"]) == pytest.approx(
            (moved / length) ** 0.5, rel=1e-6
        )


@pytest.mark.parametrize("after", [0, 1])
def test_the_start_is_where_training_began(study: Path, after: int) -> None:
    """A net that an update of next to no size left as it was."""
    still = ["solver.iterations=1", "solver.lr=1e-30"]
    setup = make_setup(study / "small.h5", study / "runs" / "random-0", *still)
    trainer = transfer.start(setup, transfer.Treatment("B", "A", 1, True, 0, after))
    trainer.run()
    net = Net(trainer.runs[0], device.get("cpu", 1))
    start = net.start(Run(study / "runs" / "random-0" / "baseA"))
    for name, values in net.weights.items():
        np.testing.assert_allclose(values, start[name], 0, 1e-28, err_msg=name)


def test_a_layer_set_back_is_that_layer_alone(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(weights: Mapping[str, np.ndarray]) -> float:
        return sum(float(np.abs(w.astype(float)).sum()) for w in weights.values())

    # Of nets trained as little as these any accuracy would be that of chance.
    monkeypatch.setattr(
        Net, "score", lambda net, images: {"top1": size(net.network.tensors())}
    )
    analyse(study, "--only=reset", "-o", tmp_path)
    run = Run(study / "runs" / "random-0" / "baseB")
    net, fresh = Net(run, device.get("cpu", 1)), run.network(device.get("cpu", 1))
    fresh.draw(units.FRESH)
    drawn = {"start": net.start(None), "fresh": fresh.tensors()}
    found = [row for row in rows(tmp_path / "reset.csv") if row["net"] == "baseB"]
    assert len(found) == 2 * 8
    for row in found:
        names = [p.name for p in fresh.params if p.index == int(row["layer"])]
        changed = {name: drawn[row["to"]][name] for name in names}
        assert float(row["top1"]) == pytest.approx(size({**net.weights, **changed}))


@pytest.mark.parametrize(
    ("folder", "arguments", "said"),
    [
        ("", ["--only=probes"], "--only probes: one of probe, reset"),
        ("", ["--images=3"], "--images 3: must be at least 4"),
        ("runs/random-0", [], "neither a study nor a run folder"),
    ],
)
def test_bad_input(study: Path, folder: str, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["analyse", str(study / folder), *arguments])
    assert said in str(done.exception)


def test_a_net_from_a_path_is_compared_with_the_base_of_its_task(
    study: Path, tmp_path: Path
) -> None:
    setup = make_setup(study / "small.h5", tmp_path / "runs", "solver.iterations=5")
    source = str(study / "runs" / "random-0" / "baseA")
    run = transfer.transfer(setup, source, 2, "B", finetune=True)
    refused = CliRunner().invoke(cli, ["analyse", str(run.folder), "--only=line"])
    assert "beside it, the base of its own task, also where --from PATH" in str(
        refused.exception
    )
    transfer.train_base(setup, "B")
    analyse(run.folder, "--only=line,cka", "--only=distance", "-o", tmp_path / "out")
    assert len(rows(tmp_path / "out" / "line.csv")) == units.POINTS
    assert len(rows(tmp_path / "out" / "cka.csv")) == 64
    assert rows(tmp_path / "out" / "distance.csv")
