"""A folder that holds what bad command lines ask for, good and spoiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from minicnn.devices import device
from minicnn.nn.network import Network
from tests.support import prepare_sources as make
from tests.support.runs import SIZE, make_run, make_store

FILES = {
    "notes.txt": "not an image, no archive",
    "runs-file": "",
    "mine/thesis.txt": "precious",
    "foreign/baseA/thesis.txt": "precious",
    # Recipes.
    "cut.toml": "[solver\nlr = 1",
    "key.toml": "[solver]\nspeed = 1",
    "type.toml": "[solver]\nlr = 'x'",
    "section.toml": "[extra]\na = 1",
    "flat.toml": "solver = 3",
    # Splits.
    "unknown.toml": 'A = ["c0"]\nB = ["dog"]',
    "twice.toml": 'A = ["c0", "c1"]\nB = ["c2", "c1"]',
    "half.toml": 'A = ["c0"]',
    "text.toml": 'A = "c0"\nB = ["c1"]',
    "number.toml": 'A = ["c0"]\nB = [3]',
    "three.toml": 'A = ["c0"]\nB = ["c1"]\nC = ["c2"]',
    "single.toml": 'A = ["c0"]\nB = ["c1", "c2"]',
    "groups.toml": 'natural = ["c0"]\nmanmade = ["c0"]',
    "dogs.toml": 'natural = ["dog"]\nmanmade = ["a"]',
    "lone.toml": 'natural = ["a"]',
    # Plans.
    "plan-empty.toml": 'name = "p"\nrecipe = "demo"',
    "plan-name.toml": 'name = "a/b"\nrecipe = "demo"',
    "plan-recipe.toml": 'name = "p"',
    "plan-key.toml": 'name = "p"\nrecipe = "demo"\ncolour = 1',
    "plan-kind.toml": 'name = "p"\nrecipe = "demo"\n[[nets]]\nsplit = "random-0"\n'
    'treatments = ["based"]',
    "study/plan.toml": "name = 3",
}
SOURCES = {  # class folders, with so many images each
    "one-class": {"cat": 3},
    "one-of-two/train": {"a": 2},
    "one-of-two/val": {"a": 2},
    "nested/animals": {"cat": 2, "dog": 2},
    "nested/things": {"cup": 2},
    "clash": {"Cat": 2, "cat": 2},
    "stray": {"a": 2, "b": 2},
    "no-images": {"a": 2, "b": 2},
    "no-val/train": {"a": 2, "b": 2},
    "no-val/test": {"a": 2, "b": 2},
    "beside/train": {"a": 2, "b": 2},
    "beside/extra": {"a": 2, "b": 2},
    "lonely": {"a": 1, "b": 2},
    "loop": {"a": 2, "b": 2},
    "spoiled": {"a": 4, "b": 4},
    "good": {"a": 4, "b": 4},
    "parts/train": {"a": 2, "b": 2},
    "parts/val": {"a": 2, "b": 2},
}


def make_stores() -> None:
    """tiny.h5, and copies of it that are spoiled."""
    make_store(Path("tiny.h5"))
    make_store(Path("small.h5"), size=24)
    whole = Path("tiny.h5").read_bytes()
    Path("truncated.h5").write_bytes(whole[:-1000])
    with h5py.File("other.h5", "w") as file:
        file["a"] = 1
    names = ("version", "incomplete", "part", "label", "unheld", "untrained")
    for name in names:
        Path(f"{name}.h5").write_bytes(whole)
        with h5py.File(f"{name}.h5", "r+") as file:
            if name == "version":
                file.attrs["version"] = 99
            elif name == "incomplete":
                file.attrs["complete"] = 0
            elif name == "part":
                del file["labels"]
            elif name == "label":
                file["labels"][5] = 77
            else:
                file["split"][...] = 0 if name == "unheld" else 1


def make_sources() -> None:
    """Folders and archives to prepare from, most of them ambiguous or damaged."""
    for name, classes in SOURCES.items():
        make.class_folders(Path(name), classes)
    Path("nothing").mkdir()
    Path("no-images/c").mkdir()
    make.put(Path("stray/c.png"), make.picture((1, 2, 3), "PNG"))
    for name in ("a.png", "b.jpg", "notes.txt"):
        make.put(Path("flat", name), "")
    Path("loop/b/loop").symlink_to(Path("loop").resolve())
    Path("spoiled/a/000.png").write_bytes(b"")
    whole = make.tar_bytes({"a/1.png": b"x" * 5000, "b/1.png": b"y"})
    Path("cut.tar").write_bytes(whole[:3000])


def make_runs() -> None:
    """Runs that are whole but never trained, and some that are damaged."""
    params = Network("caffenet32", 4, device.get("cpu"), seed=0).params
    weights = {p.name: np.zeros(p.shape, np.float32) for p in params}
    mean = np.zeros((SIZE, SIZE, 3), np.float32)
    about = {"store": "tiny.h5", "store_identity": ""}
    make_run(Path("run"), "caffenet32", weights, mean, 4, **about)
    lines = '{"step": 5, "loss": 1.5, "lr": 0.1}\n'
    make_run(Path("runs/baseA"), "caffenet32", weights, mean, 4, lines)
    gone = {"store": "gone.h5", "store_identity": ""}
    make_run(Path("homeless"), "caffenet32", weights, mean, 4, **gone)
    shutil.copytree("run", "unsaved", ignore=shutil.ignore_patterns("checkpoints"))
    make_run(Path("alien"), "caffenet64", weights, mean, 4, **about)
    one = np.zeros((4, 3, 1, 1), np.float32)
    save_file({"conv1.weight": one}, "other.safetensors")
    save_file({"conv1.weight": one[:, :, 0, 0]}, "flat.safetensors")
    save_file({"bn.weight": one}, "lacking.safetensors")
    save_file({"mean": mean}, "mean.safetensors")
    save_file({"mean": mean}, "odd.safetensors", {"minicnn": "[3]"})


def make_world() -> None:
    """Fills the current folder with all that the command lines name."""
    for name, text in FILES.items():
        make.put(Path(name), text)
    make_stores()
    make_sources()
    make_runs()
    make.put(Path("photo.jpg"), make.picture((1, 2, 3), "JPEG", (40, 40)))
    Image.new("1", (20_000, 15_000)).save("huge.png")
    Image.new("1", (10_000, 9_000)).save("large.png")
