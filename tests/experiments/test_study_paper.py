"""The plan paper: the published nets name for name, its settings, its data."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minicnn.base.config import load_recipe, override
from minicnn.data.classes import ClassList, ilsvrc2012
from minicnn.experiments.study import protocol
from minicnn.experiments.study.plans import load_plan

CSV = Path(__file__).resolve().parents[2] / "experiments/published/yosinski2014.csv"
ALL_IMAGES = 1300  # of each class of ImageNet


def test_the_plan_paper_is_the_published_nets_one_to_one() -> None:
    with CSV.open(newline="") as file:
        published = Counter((*row[:7], row[8]) for row in csv.reader(file))
    header = ("treatment", "split", "source", "target", "n", "finetune")
    header += ("images_per_class", "iterations")
    assert published.pop(header) == 1
    plan = load_plan("paper")
    ours = Counter(
        (
            node.kind,
            node.split,
            "" if node.kind == "random" else node.treatment.source,
            node.treatment.target,
            str(node.treatment.n),
            str(int(node.treatment.finetune)),
            str(node.config.data.images_per_class or ALL_IMAGES),
            str(node.config.solver.iterations),
        )
        for node in plan.nodes
    )
    assert ours == published
    assert len(ours) == 148
    assert plan.published


def test_the_paper_plan_keeps_the_papers_settings() -> None:
    recipe = load_recipe("paper")
    shorter = override(recipe, ["solver.iterations=200000"])
    for node in load_plan("paper").nodes:
        if node.kind == "reduced":
            count = f"data.images_per_class={node.config.data.images_per_class}"
            assert node.config == override(shorter, [count])
        else:
            assert node.config == recipe


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("schedule.log_every=1", True),
        ("schedule.checkpoint_every=5000", True),
        ("solver.lr=0.01", True),  # as it is already
        ("solver.lr=0.02", False),
        ("schedule.evaluate_every=2000", False),
        ('network.precision="bf16"', False),
        ("data.mirror=false", False),
        ("solver.layers.conv1.lr_mult=2", False),
        ('network.arch="caffenet32"', False),
    ],
)
def test_only_a_setting_that_decides_numbers_leaves_the_protocol(
    setting: str, same: bool
) -> None:
    assert load_plan("paper", [setting]).published == same
    assert not load_plan("demo", [setting]).published


@dataclasses.dataclass
class Store:
    """As much of ImageNet's store as tells that it is that."""

    path: Path = Path("mine.h5")
    wnids: tuple[str, ...] = ilsvrc2012().wnids
    image_size: tuple[int, int] = (256, 256)
    train: int = 1_281_160  # some could not be read
    val: int = 50_000

    @property
    def classes(self) -> ClassList:
        return ClassList(self.wnids, ilsvrc2012().names, [""] * 1000)

    @property
    def split(self) -> np.ndarray:
        return np.repeat([0, 1], [self.train, self.val]).astype(np.uint8)


def test_only_the_papers_data_is_compared_with_the_published(tmp_path: Path) -> None:
    plan = load_plan("paper")
    assert protocol.warning(plan, Store(), None) == ""
    others = ("", *ilsvrc2012().wnids[1:])
    for store, said in [
        (Store(wnids=("c0", "c1")), "its 2 classes are not the 1000 of ILSVRC2012"),
        (Store(wnids=others), "its 1000 classes are not the 1000 of ILSVRC2012"),
        (Store(image_size=(128, 256)), "its images are 128x256, not 256x256"),
        (Store(train=100_000), "it has 100,000 images in train, ILSVRC2012 1,281,167"),
        (Store(val=500), "it has 500 images in val, ILSVRC2012 50,000"),
    ]:
        warned = protocol.warning(plan, store, None)
        assert warned.endswith(f"store mine.h5 is not the paper's data: {said}")
        assert protocol.warning(load_plan("demo"), store, None) == ""
    file = tmp_path / "groups.toml"
    file.write_text('natural = ["n02999410"]\nmanmade = ["n01440764"]\n')
    assert "man-made classes are not" in protocol.warning(plan, Store(), file)
    halves = [node for node in plan.nodes if node.split != "natural-manmade"]
    plan = dataclasses.replace(plan, nodes=tuple(halves))
    assert protocol.warning(plan, Store(), file) == ""
