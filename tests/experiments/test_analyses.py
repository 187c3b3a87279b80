"""`minicnn analyse` on small real runs, its rows beside what checkpoints hold."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from minicnn.cli.main import cli
from minicnn.data.loader import Loader
from minicnn.devices import device
from minicnn.experiments.analyses import run as analyses
from minicnn.experiments.analyses import units
from minicnn.results.analyses import measures, nets
from minicnn.results.analyses.nets import Net
from minicnn.results.inference import evaluate_run
from minicnn.results.inputs import images_of
from minicnn.training import transfer
from minicnn.training.run import Run
from tests.support.analyses import (
    LAYERS,
    analyse,
    copied,
    firsts,
    opened,
    outputs,
    rows,
    weights,
)
from tests.support.runs import make_store
from tests.support.training import make_setup

# Float32 through eight layers, in batches of other sizes.
CLOSE = 1e-4


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
    for name, source in (("A2B+", "baseA"), ("baseB", None)):
        found = [r for r in rows(tmp_path / "distance.csv") if r["net"] == name]
        base, net = opened(study, source or name), weights(study, name)
        # Drawn with another key than the base's: the layers above the copied ones.
        start = Net(opened(study, name), device.get("cpu", 1)).start(
            base if source else None
        )
        assert [int(row["layer"]) for row in found] == [*LAYERS]
        for row in found:
            layer, copied = int(row["layer"]), row["copied"] == "True"
            assert copied == (source is not None and layer <= 2)
            before = base.checkpoint.weights if copied else start
            names = [f"{'conv' if layer < 6 else 'fc'}{layer}.{kind}" for kind in "wb"]
            moved = sum(((net[n].astype(float) - before[n]) ** 2).sum() for n in names)
            length = sum((before[n].astype(float) ** 2).sum() for n in names)
            right = (moved / length) ** 0.5
            assert float(row["distance"]) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("after", [0, 1])
def test_the_start_is_where_training_began(
    study: Path, tmp_path: Path, after: int
) -> None:
    """A net that an update of next to no size left as it was."""
    still = ["solver.iterations=1", "solver.lr=1e-30"]
    runs = copied(study, tmp_path) / "runs" / "random-0"
    setup = make_setup(study / "small.h5", runs, *still)
    trainer = transfer.start(setup, transfer.Treatment("B", "A", 1, True, 0, after))
    trainer.run()
    net = Net(trainer.runs[0], device.get("cpu", 1))
    start = net.start(opened(study, "baseA"))
    for name, values in net.weights.items():
        np.testing.assert_allclose(values, start[name], 0, 1e-28, err_msg=name)


def test_a_layer_set_back_is_that_layer_alone(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(weights: Mapping[str, np.ndarray]) -> float:
        return sum(float(np.abs(w.astype(float)).sum()) for w in weights.values())

    # Of nets trained as little as these any accuracy would be that of chance.
    def score(net: Net, images: Loader) -> dict[str, float]:
        classes = [c.index for c in net.run.classes]
        assert images.val.tolist() == images.store.rows(classes, "val").tolist()
        return {"top1": size(net.network.tensors())}

    monkeypatch.setattr(Net, "score", score)
    analyse(study, "--only=reset", "-o", tmp_path)
    for name, base in (("baseB", None), ("A2B+", opened(study, "baseA"))):
        run = opened(study, name)
        net, fresh = Net(run, device.get("cpu", 1)), run.network(device.get("cpu", 1))
        fresh.draw(units.FRESH)
        drawn = {"start": net.start(base), "fresh": fresh.tensors()}
        found = [row for row in rows(tmp_path / "reset.csv") if row["net"] == name]
        assert len(found) == 2 * 8
        for row in found:
            names = [p.name for p in fresh.params if p.index == int(row["layer"])]
            changed = {name: drawn[row["to"]][name] for name in names}
            right = size({**net.weights, **changed})
            assert float(row["top1"]) == pytest.approx(right)
            lost = right - size(net.weights)
            assert float(row["change"]) == pytest.approx(lost, abs=1e-6)


def test_probes_are_given_each_task(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Sequence[np.ndarray]] = []

    def probe(*arrays: np.ndarray) -> dict[str, float]:
        given.append(arrays)
        return {"top1": len(given) - 1}

    monkeypatch.setattr(measures, "probe", probe)
    monkeypatch.setattr(nets, "BATCH", 5)  # so that one overwrites another
    sizes = "--images=8", "--train-images=12"  # 2 and 3 of each class
    analyse(study, "--only=probe", "-o", tmp_path, *sizes)
    for row in rows(tmp_path / "probe.csv"):
        x, labels, other, answers = given[int(row["top1"])]
        net, task, layer = row["net"], f"base{row['task']}", int(row["layer"])
        assert row["own"] == str(net == task)
        for part, count, values, classes in (
            ("train", 3, x, labels),
            ("val", 2, other, answers),
        ):
            right, known = outputs(study, net, task, part, count, layer)
            right = measures.pooled(right, 3)
            np.testing.assert_allclose(values, right, CLOSE, CLOSE * abs(right).max())
            assert classes.tolist() == known


def test_cka_is_on_the_images_of_the_second_task(study: Path, tmp_path: Path) -> None:
    analyse(study, "--only=cka", "-o", tmp_path, "--images=16")
    for pair in (("baseA", "baseB"), ("baseB", "A2B+")):
        one, two = (
            [outputs(study, net, pair[1], "val", 4, layer)[0] for layer in LAYERS]
            for net in pair
        )
        right = measures.cka([(one, two)])
        found = [
            [float(row["cka"])]
            for row in rows(tmp_path / "cka.csv")
            if (row["with"], row["net"]) == pair
        ]
        np.testing.assert_allclose(np.reshape(found, (8, 8)), right, 0, 10 * CLOSE)


def test_cka_of_two_seeds(study: Path, tmp_path: Path) -> None:
    study = copied(study, tmp_path)
    runs, store = (
        study / "runs" / "random-0-seed1",
        opened(study, "baseB").about["store"],
    )
    setup = make_setup(Path(store), runs, "solver.iterations=1", seed=1)
    transfer.train_base(setup, "B")
    analyse(study, "--only=cka", "-o", tmp_path)
    found = [r for r in rows(tmp_path / "cka.csv") if r["seed"] == "1"]
    assert len(found) == 64
    names = {(r["pair"], r["with"], r["net"]) for r in found}
    assert names == {("two seeds of a base", "baseB", "baseB")}


def test_logme_is_the_bases_on_the_target(study: Path, tmp_path: Path) -> None:
    study = copied(study, tmp_path)
    runs, store = study / "runs" / "random-0", opened(study, "baseB").about["store"]
    for n, top1 in ((2, 0.3), (3, 0.1)):
        path = runs / f"A{n}B" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"top1": top1}))
    # A net of a path has a base that is not one of these.
    setup = make_setup(Path(store), runs, "solver.iterations=1")
    transfer.transfer(setup, str(runs / "baseA"), 3, "B")
    analyse(study, "--only=logme", "-o", tmp_path, "--train-images=40")
    seen = [outputs(study, "baseA", "baseB", "train", 10, n) for n in (2, 3)]
    right = [measures.logme(measures.pooled(x, 3), np.array(y)) for x, y in seen]
    found = rows(tmp_path / "logme.csv")
    assert [(r["net"], r["top1"]) for r in found] == [("A2B", "0.3"), ("A3B", "0.1")]
    assert [float(r["logme"]) for r in found] == pytest.approx(right, rel=10 * CLOSE)
    order = 1 if right[0] > right[1] else -1
    assert [float(r["tau"]) for r in found] == [order, order]


def test_between_the_ends_of_a_line(study: Path, tmp_path: Path) -> None:
    analyse(study, "--only=line", "-o", tmp_path, "--images=8")
    base, run = opened(study, "baseB"), opened(study, "A2B+")
    ends = base.checkpoint, run.checkpoint
    network = run.network(device.get("cpu", 2))
    network.load(
        {
            n: 0.7 * ends[0].weights[n] + 0.3 * ends[1].weights[n]
            for n in ends[0].weights
        }
    )
    images, classes = images_of(run, part="val"), [c.index for c in run.classes]
    kept = firsts(images.arrays["labels"], classes, 2)
    pixels = images.read(slice(None))[kept] - (0.7 * ends[0].mean + 0.3 * ends[1].mean)
    edge = (pixels.shape[1] - run.arch.crop) // 2
    inside = slice(edge, edge + run.arch.crop)
    x = np.float32(pixels[:, inside, inside] * run.arch.scale)
    logits = network.forward(x).astype(float)
    labels = [classes.index(c) for c in images.arrays["labels"][kept]]
    shares = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    found = [r for r in rows(tmp_path / "line.csv") if r["net"] == "A2B+"]
    losses = [float(r["loss"]) for r in found]
    assert [float(r["share"]) for r in found] == [k / 10 for k in range(11)]
    assert losses[3] == pytest.approx(shares.mean(), rel=CLOSE)
    chord = [((10 - k) * losses[0] + k * losses[-1]) / 10 for k in range(11)]
    above = max(loss - c for loss, c in zip(losses, chord, strict=True))
    for row in found:
        assert float(row["barrier"]) == pytest.approx(above, abs=1e-9)


def cases_of(summary: list[dict[str, Any]], tasks: str) -> list[dict[str, Any]]:
    return [case for case in summary if case["tasks"] == tasks]


def test_similar_and_dissimilar_tasks_are_apart(study: Path, tmp_path: Path) -> None:
    study = copied(study, tmp_path)
    for split in ("natural-manmade", "random-1"):
        runs = shutil.copytree(study / "runs" / "random-0", study / "runs" / split)
        for config in runs.glob("*/config.toml"):
            config.write_text(config.read_text().replace("random-0", split))
    analyse(study, "--only=distance", "-o", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["distance"]
    for tasks, name, splits in (
        ("A/B", "distance", ["random-0", "random-1"]),
        ("natural-manmade", "distance-natural-manmade", ["natural-manmade"]),
    ):
        for suffix in (".png", ".svg"):
            assert (tmp_path / "out" / f"{name}{suffix}").stat().st_size > 5000
        found = [row["split"] for row in rows(tmp_path / "out" / f"{name}.csv")]
        assert sorted(set(found)) == splits
        cases = cases_of(summary, tasks)
        assert sum(case["units"] for case in cases) == len(found) == 32 * len(splits)
    other = study / "runs" / "natural-manmade" / "baseA"
    analyse(other, "--only=distance", "-o", tmp_path / "out")
    again = json.loads((tmp_path / "out" / "summary.json").read_text())["distance"]
    assert cases_of(again, "A/B") == cases_of(summary, "A/B")
    tasks = [case["tasks"] for case in again]
    assert tasks == sorted(tasks)


def test_rows_of_other_nets_or_images_are_made_again(
    study: Path, tmp_path: Path
) -> None:
    def line(*arguments: Any) -> str:
        analyse(study, "--only=line", "-o", tmp_path / "out", *arguments)
        return (tmp_path / "out" / "line.csv").read_text()

    few = line("--images=8")
    assert line() != few
    other = make_store(tmp_path / "other.h5", seed=9)
    assert line("--images=8", "--data", other) != few
    own = opened(study, "baseB").about["store"]
    assert line("--images=8", "--data", own) == few
    found, dev = analyses.groups_of([study]), device.get("cpu", 1)
    made = units.Analyst(found, dev, units.Budget(), None).units([*analyses.ANALYSES])
    keys = [unit.key for unit in made]
    assert len(set(keys)) == len(keys) == 4 + 3 + 2 + 2 + 4 + 1


@pytest.mark.parametrize(("name", "only"), [("A2B+", "reset"), ("baseB", "line")])
def test_weights_that_were_not_scored_are_refused(
    study: Path, tmp_path: Path, name: str, only: str
) -> None:
    study = copied(study, tmp_path)
    paths = [
        next(opened(study, each).folder.glob("checkpoints/step-*"))
        for each in ("B2B+", name)
    ]
    shutil.copy(*paths)  # as if one before the last were left
    done = CliRunner().invoke(cli, ["analyse", str(study), f"--only={only}"])
    assert f"{name}: its last checkpoint is damaged or" in str(done.exception)


def test_a_summary_is_over_the_units_of_a_case() -> None:
    tops, taus = (1.0, 2.0, 3.0), (0.5, math.nan, 0.7)
    made = [
        {"layer": 1, "logme": -top1, "top1": top1, "tau": tau}
        for top1, tau in zip(tops, taus, strict=True)
    ]
    first, second = analyses.summed_up("logme", [*made, {**made[0], "layer": 2}])
    assert (first["layer"], first["units"], second["units"]) == (1, 3, 1)
    # Student's t of 2 degrees of freedom, from any table.
    reach = 4.30265 / math.sqrt(3)
    for name, mean in (("top1", 2), ("logme", -2)):
        ends = [mean, mean - reach, mean + reach]
        assert [*first[name].values()] == pytest.approx(ends, abs=1e-4)
    assert first["tau"] == {"mean": pytest.approx(0.6), "low": None, "high": None}
    assert second["top1"] == {"mean": 1, "low": None, "high": None}


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
