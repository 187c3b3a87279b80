"""The trained bases that the repository holds: whole, and as good as they say."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicnn.devices import device
from minicnn.nn.network import tensor_hashes
from minicnn.results.inference import predict
from minicnn.training.run import Run

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
BASES = sorted((RESULTS / "2026-11-29-tiny-imagenet-bases").glob("*/base?"))
TEST_DATA = os.environ.get("MINICNN_TEST_DATA")
# Of the 50 validation images of each class.
IMAGES = 4


def named(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


@pytest.mark.parametrize("folder", BASES, ids=named)
def test_weights_are_those_that_were_scored(folder: Path) -> None:
    run = Run(folder)
    assert run.result is not None
    assert run.result["weights_sha256"] == tensor_hashes(run.checkpoint.weights)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Validation images of Tiny ImageNet by class."""
    if not TEST_DATA:
        pytest.skip("MINICNN_TEST_DATA is not set")
    folder, packs = tmp_path_factory.mktemp("tiny"), Path(TEST_DATA) / "tiny-imagenet"
    command = [sys.executable, packs / "unpack.py", folder, packs / "part0.pack"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (listed,) = folder.rglob("val_annotations.txt")
    found: dict[str, list[Path]] = {}
    for line in listed.read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        found.setdefault(wnid, []).append(listed.parent / "images" / name)
    return found


@pytest.mark.parametrize("folder", BASES[::3], ids=named)
def test_score_on_a_few_photographs(
    folder: Path, photographs: dict[str, list[Path]]
) -> None:
    run = Run(folder)
    assert run.result is not None
    wnids = [c.wnid for c in run.classes for _ in range(IMAGES)]
    files = [path for c in run.classes for path in photographs[c.wnid][:IMAGES]]
    guessed = predict(run, files, device.get("cpu", 2), top=1)
    right = [p.guesses[0].wnid == wnid for p, wnid in zip(guessed, wnids, strict=True)]
    score = run.result["top1"]
    # Four standard errors of a sample: a guess would be 15 below.
    reach = 4 * math.sqrt(score * (1 - score) / len(right))
    assert sum(right) / len(right) == pytest.approx(score, abs=reach)
