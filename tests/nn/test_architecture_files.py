"""Architectures of one's own: read, refused line by line, trained and opened again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from minicnn.base.errors import MinicnnError
from minicnn.devices import device
from minicnn.nn import architecture_files, architectures
from minicnn.nn.architectures import LRN, Architecture, Conv, FullyConnected, Pool
from minicnn.training import transfer
from minicnn.training.run import Run
from minicnn.training.transfer import Setup
from tests.support.runs import MINIATURE, make_store
from tests.support.training import make_setup

OWN = """\
# A net of three layers, "{ not a layer }".
size = 36
crop = 32
scale = 0.015625
layers = [
  { kind = "conv", features = 8, window = 5, stride = 2 },  # 32 → 14
  { kind = "pool" }, { kind = "lrn", alpha = 0.01 },        # 14 → 7
  { kind = "conv", features = 12, window = 3, pad = 1, groups = 2, std = 0.3 },
  { kind = "fc" },
]
"""
# As counted by hand: He's spread is √(2 / (5·5·3)).
EXPECTED = Architecture(
    "own",
    size=36,
    crop=32,
    layers=(
        Conv(1, 8, 5, std=0.1633, stride=2),
        Pool(1),
        LRN(1, alpha=0.01),
        Conv(2, 12, 3, std=0.3, pad=1, groups=2),
        FullyConnected(3, 0, std=0.01, relu=False),
    ),
    scale=1 / 64,
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(OWN)
    return tmp_path / "own.toml"


def test_a_file_says_the_same_as_python(own: Path) -> None:
    assert architecture_files.load("own.toml") == EXPECTED
    tables = OWN[: OWN.index("layers =")]
    for spec in architecture_files.to_dict(EXPECTED)["layers"]:
        tables += "[[layers]]\n" + tomli_w.dumps(spec)
    own.write_text(tables)
    assert architecture_files.load("own.toml") == EXPECTED


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_what_is_built_in_can_be_written(name: str) -> None:
    arch = architectures.get(name)
    assert architecture_files.from_dict(architecture_files.to_dict(arch), "") == arch


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("layers = [", "layers = ]", r"own\.toml: not valid TOML: .*line 5"),
        ("crop = 32", "", r"own\.toml: lacks crop"),
        ("crop = 32", "crop = 40", r"own\.toml, line 3: crop = 40 must be 1 \.\. size"),
        ("crop", "corp", r"own\.toml, line 3: unknown key corp; known: name, size"),
        ("= 36", '= "36"', r"own\.toml, line 2: size = '36' must be of type int"),
        ('"pool"', '"pol"', r"line 7: kind = 'pol' must be one of conv, fc"),
        ("window = 3, pad", "pad", "line 8: lacks window"),
        ("groups = 2", "group = 2", "line 8: unknown key group; known: features"),
        ("groups = 2", "groups = 3", "line 8: conv groups 3: must divide"),
        ("features = 12", "features = 0", "line 8: features = 0 must be at least 1"),
        ("features = 12", "features = 1.5", "line 8: features = 1.5 must be of type"),
        ("window = 3", "window = 10", "line 8: conv filter 10x10: larger than"),
        ('"lrn"', '"lrn", size = 4', "line 7: norm1 size 4: must be odd"),
        ('"lrn", alpha = 0.01', '"pool"', "line 7: a second pool before"),
        ('{ kind = "fc" }', '{ kind = "dropout" }', "the last layer must be"),
        ('  { kind = "fc" },', '{ kind = "fc" },' * 2, "line 9: lacks features"),
        ('"lrn", alpha = 0.01', '"lrn" }, { kind = "dropout"', "line 7: dropout after"),
        ('"pool" }', '"dropout", rate = 1 }', "line 7: rate = 1.0 must be less"),
    ],
)
def test_errors_name_the_line(own: Path, before: str, after: str, said: str) -> None:
    assert OWN.count(before) >= 1
    own.write_text(OWN.replace(before, after, 1))
    with pytest.raises(MinicnnError, match=said):
        architecture_files.load("own.toml")


def test_a_run_keeps_its_architecture(own: Path) -> None:
    store = make_store(own.with_name("store.h5"))
    setup = make_setup(store, own.with_name("runs"), "network.arch=own.toml")
    base = transfer.train_base(setup, "A")
    net = transfer.transfer(setup, "A", n=2, finetune=True)
    assert {row["layer"] for row in net.layers()} == {1, 2, 3}
    with pytest.raises(MinicnnError, match=r"--n 3: must be 1\.\.2"):
        transfer.transfer(setup, "A", n=3)

    own.write_text(OWN.replace("alpha = 0.01", "alpha = 0.02"))
    other = Setup(setup.store, setup.dev, setup.config, runs=setup.runs)
    with pytest.raises(MinicnnError, match=r"architecture\.layers is another;"):
        transfer.train_base(other, "A")
    own.unlink()
    assert Run(base.folder).arch == EXPECTED
    command = [sys.executable, "-m", "minicnn", "evaluate", str(net.folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert "A2B+, step 23: top-1" in done.stdout, done.stderr


def test_python_registers_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "ARCHITECTURES", {})
    architecture_files.register(EXPECTED)
    assert architecture_files.load("own") is EXPECTED
    store = make_store(tmp_path / "store.h5")
    setup = make_setup(store, tmp_path / "runs", "network.arch=own")
    folder = transfer.train_base(setup, "A").folder
    architectures.ARCHITECTURES.clear()
    assert Run(folder).network(device.get("cpu")).arch == EXPECTED
    architecture_files.register(MINIATURE)
    odd = replace(EXPECTED, layers=(*EXPECTED.layers[:4], FullyConnected(4, 0, 0.01)))
    with pytest.raises(MinicnnError, match=r"must have index 1, 2"):
        architecture_files.register(odd)
