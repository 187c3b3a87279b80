"""Recipes, overrides and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from minicnn.base import config
from minicnn.base.errors import MinicnnError

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def test_paper_recipe_holds_the_published_values() -> None:
    # Yosinski et al. 2014, section 3 and appendix A; Caffe's reference solver.
    paper = config.load_recipe("paper")
    assert paper.network == config.NetworkConfig(arch="caffenet", outputs=1000)
    assert paper.solver == config.SolverConfig(
        lr=0.01,
        gamma=0.1,
        step_size=100_000,
        momentum=0.9,
        decay=0.0005,
        batch=256,
        iterations=450_000,
    )
    assert paper.schedule.evaluate_every == 1000


@pytest.mark.parametrize("name", ["paper", "tiny-imagenet", "small", "demo"])
def test_every_recipe_loads_and_round_trips(name: str, tmp_path: Path) -> None:
    recipe = config.load_recipe(name)
    path = tmp_path / "copy.toml"
    path.write_text(tomli_w.dumps(recipe.to_dict()))
    assert config.load_recipe(str(path)) == recipe


def test_a_run_keeps_its_settings_as_committed_ones_are(tmp_path: Path) -> None:
    """Section by section, a setting a line; what a person can read and mend."""
    kept = sorted(RESULTS.rglob("config.toml"))
    assert len(kept) > 20
    for path in kept:
        assert tomli_w.dumps(config.read_toml(path)) == path.read_text()


def test_override_sets_by_dotted_name_and_keeps_the_rest() -> None:
    base = config.Config()
    changed = config.override(
        base, ["solver.lr=0.5", "network.arch=caffenet", "data.mirror=false"]
    )
    assert changed.solver.lr == 0.5
    assert changed.network.arch == "caffenet"
    assert changed.data.mirror is False
    assert changed.schedule == base.schedule
    # A whole number serves where a float is asked for.
    assert config.override(base, ["solver.lr=1"]).solver.lr == 1.0


def test_factors_of_layers_are_set_and_written(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        "[solver.layers.conv1]\nlr_mult = 0.1\ndecay_mult = 0"
    )
    texts = ["solver.layers.fc8.lr_mult=10", "solver.layers.conv1.lr_mult=0.5"]
    made = config.override(config.load_recipe(str(tmp_path / "a.toml")), texts)
    assert made.solver.layers == {
        "conv1": config.LayerRates(0.5, 0.0),
        "fc8": config.LayerRates(10.0, 1.0),
    }
    (tmp_path / "b.toml").write_text(tomli_w.dumps(made.to_dict()))
    assert config.load_recipe(str(tmp_path / "b.toml")) == made
    assert "layers" not in config.Config().to_dict()["solver"]
    for bad in ("solver.layers.conv1=1", "solver.layers.conv1.lr=1", "solver.layers=2"):
        with pytest.raises(MinicnnError, match=r"write solver\.layers\.LAYER\.KEY"):
            config.override(made, [bad])
