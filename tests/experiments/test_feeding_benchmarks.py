"""The benchmarks of preparing and of reading, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def run(name: str, out: Path, *arguments: str) -> dict[str, Any]:
    """The experiment's JSON."""
    command = [
        sys.executable,
        "-m",
        f"minicnn.experiments.bench.{name}",
        *arguments,
        "--json",
        out,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_preparing_against_the_plain_loop(tmp_path: Path) -> None:
    jpegs = tmp_path / "jpegs"
    jpegs.mkdir()
    draw = np.random.default_rng(0)
    for number, shape in enumerate(((90, 60, 3), (270, 260, 3), (60, 90))):
        image = Image.fromarray(draw.integers(0, 256, shape, np.uint8))
        image.save(jpegs / f"{number}.JPEG")
    options = ["--images", "9", "--size", "16", "--rounds", "1"]
    result = run("prepare", tmp_path / "out.json", str(jpegs), *options)
    assert result["images"] == 9
    plain, default, exact = result["stores"]
    assert exact["equal"] == exact["files"] == 3
    assert default["equal"] < 3  # the second is decoded at a quarter of its size
    for row in (plain, default, exact):
        assert row["cpu_ms_an_image"] > 0
        assert row["images_a_second_2"] > 0
    assert [row["count"] for row in result["by_file"]] == [3, 3]
    reduced = [(row["size"], row["limit"]) for row in result["reduced"]]
    assert reduced == [(64, 1), (64, 2), (128, 1)]
    assert all(row["worst_psnr"] > 20 for row in result["reduced"])


def test_reading_against_others(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = ["--size", "16", "--batch", "8", "--images", "80", "--rounds", "1"]
    result = run("loader", tmp_path / "out.json", *options)
    ways = [row["way"] for row in result["in_memory"]]
    assert sum("DataLoader" in way for way in ways) == 6
    assert all(row["images_a_second"] > 0 for row in result["in_memory"])
    assert len(result["steps"]) == 2
    assert len(result["not_in_memory"]) == 3
