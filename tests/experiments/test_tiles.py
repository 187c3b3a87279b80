"""Timing of every tile: which are run, which is the plan's, and what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from minicnn.devices import device
from minicnn.experiments import tiles
from minicnn.experiments.tiles import Timed
from minicnn.nn import architectures
from minicnn.ops.conv import plan as conv_plan
from minicnn.ops.conv.plan import FORWARD
from tests.support.runs import MINIATURE


def test_every_tile_that_a_layer_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.ARCHITECTURES, "miniature", MINIATURE)
    out = tmp_path / "tiles.json"
    options = "--device=emulated", "--arch=miniature", "--batch=2"
    done = CliRunner().invoke(
        tiles.main, [*options, "--precision=tf32x3,fp32", f"--json={out}"]
    )
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert list(record["lost"]) == ["tf32x3", "fp32"]
    for rows in record["tiles"].values():
        passes: dict[tuple[str, str, str], list[tuple[int, ...]]] = {}
        for row in rows:
            key = row["layer"], row["kernel"], row["kind"]
            passes.setdefault(key, []).append(tuple(row["tile"]))
        # Each pass of eight layers, but the gradient of the images.
        assert len(passes) == 8 * 3 - 1
        chosen = [row for row in rows if row["chosen"]]
        assert len(chosen) == len(passes)
        assert all(row["seconds"] > 0 for row in rows)
    kinds = {row["kind"] for row in record["tiles"]["tf32x3"]}
    assert "tf32x3" in kinds
    split = record["tiles"]["tf32x3"]
    offered = {tuple(r["tile"]) for r in split if r["kernel"] == FORWARD}
    assert offered >= set(conv_plan.TILES["tf32x3"][FORWARD])
    assert done.output.count(" µs *") == 2 * (8 * 3 - 1)
    assert "tf32x3: the plans lose" in done.output


def test_one_tile_at_a_time() -> None:
    before = conv_plan.TILES["tf32"]
    size = 1000, 96, 500
    tile = (128, 64, 4)
    with tiles.only("tf32", FORWARD, tile):
        assert conv_plan.plan(FORWARD, "tf32", size, 1, True).tile == tile
        assert (
            conv_plan.TILES["tf32"]["conv_backward_data"]
            is before["conv_backward_data"]
        )
    assert conv_plan.TILES["tf32"] is before


def test_what_the_plans_lose() -> None:
    def timed(layer: str, seconds: float, chosen: bool) -> Timed:
        return Timed(layer, FORWARD, "bf16", (1, 1, 8), seconds, chosen)

    found = [timed("conv1", 2.0, True), timed("conv1", 1.5, False)]
    found += [timed("conv2", 3.0, True), timed("conv2", 4.0, False)]
    assert tiles.slower(found) == 0.5


def test_a_device_without_kernels_is_refused() -> None:
    done = CliRunner().invoke(tiles.main, ["--device=cpu"])
    assert done.exit_code == 2
    assert "--device cpu: has no kernels" in done.output
    assert device.get("cpu").has_kernels is False
