"""CaffeNet at 227 pixels on real ImageNet photographs in the published layout."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from minicnn.base import config
from minicnn.data_prep.prepare import Options, prepare
from minicnn.devices import device
from minicnn.training.transfer import Setup, train_base
from tests.support.prepare_sources import imagenet_of

DATA = os.environ.get("MINICNN_TEST_DATA")
# fc8 sums 4096 features of size about 1 by weights of 0.01, so the first logits have a
# spread of about 1 and the loss starts within 1 of ln K; tiny updates leave it there.
MARGIN = 1.0


@pytest.mark.skipif(not DATA, reason="MINICNN_TEST_DATA is not set")
def test_a_few_caffenet_steps(tmp_path: Path) -> None:
    samples = sorted(Path(DATA or "", "imagenet-samples").glob("*.JPEG"))
    imagenet_of(tmp_path / "archives", samples)
    store = tmp_path / "imagenet.h5"
    prepare(tmp_path / "archives", store, Options(jobs=2))
    short = ["solver.batch=8", "solver.iterations=3", "solver.lr=0.0001"]
    short += ["schedule.log_every=1"]
    recipe = config.override(config.load_recipe("paper"), short)
    dev = device.get("cpu")
    run = train_base(Setup(store, dev, recipe, runs=tmp_path / "runs"), "A")
    assert run.result is not None
    assert len(run.classes) == 23
    assert run.result["val_images"] == 23
    losses = [record["loss"] for record in run.metrics() if "loss" in record]
    assert len(losses) == 3
    assert losses == pytest.approx([math.log(1000)] * 3, abs=MARGIN)
    assert run.result["loss"] == pytest.approx(math.log(1000), abs=MARGIN)
    assert run.mean.shape == (256, 256, 3)
    # Photographs: the mean image is neither black nor white, and has colour.
    assert 60 < float(np.mean(run.mean)) < 190
