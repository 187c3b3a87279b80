"""A run folder: made, held while it is trained in, and opened to look at."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from minicnn.base import files, precision
from minicnn.base.config import Config, from_dict, read_toml
from minicnn.base.errors import MinicnnError
from minicnn.base.files import partial, read_json
from minicnn.devices.device import Device
from minicnn.nn import architecture_files
from minicnn.nn.architectures import Architecture
from minicnn.nn.network import Network
from minicnn.nn.trunk import Trunk
from minicnn.training import checkpoint
from minicnn.training.checkpoint import Checkpoint

# Settings that are paths, and may change between calls.
PLACES = ("run", "store"), ("run", "source")
# Settings that runs of earlier versions do not name, and what they were.
EARLY: dict[tuple[str, str], Any] = {("run", "keep"): 0, ("run", "finetune_after"): 0}
EARLY |= {("network", "precision"): "fp32"}
# Keys of a result.json of any version.
SCORED = {"top1", "top5", "loss", "top1_mean_of_10_best", "evaluations"}
SCORED |= {"weights_sha256"}
BEST = 10
"""Best evaluations whose mean is the published score; with fewer there is none."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a line cut off by a kill is left out."""
    records: list[dict[str, Any]] = []
    if path.exists():
        with suppress(ValueError):
            for line in path.read_bytes().splitlines():
                records.append(json.loads(line))
    return records


@dataclass(frozen=True)
class Class:
    """A class of a task: index in the store, id, and name."""

    index: int
    wnid: str
    name: str


class Run:
    """A run folder, finished or not; MinicnnError if it is none, or cannot be read."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.toml").is_file():
            raise MinicnnError(
                f"{self.folder}: no run folder (it has no config.toml); 'minicnn "
                "train-base' and 'minicnn transfer' make them"
            )
        self._where = str(self.folder / "config.toml")
        sections = read_toml(self.folder / "config.toml")
        self.about: dict[str, Any] = sections.pop("run", {})
        self._arch = sections.pop("architecture", None)
        if "name" not in self.about:
            raise self._damaged("config.toml", "has no run.name")
        self.config: Config = from_dict(sections, self._where)

    def _damaged(self, file: str, problem: str) -> MinicnnError:
        return MinicnnError(
            f"{self.folder / file}: damaged, {problem}; make the run again with --fresh"
        )

    @property
    def name(self) -> str:
        """Such as "baseA" or "A3B+"."""
        return self.about["name"]

    @property
    def result(self) -> dict[str, Any] | None:
        """What result.json holds, or None while the run is unfinished.

        Its `top1_mean_of_10_best` is None with fewer than BEST evaluations.
        """
        path = self.folder / "result.json"
        if not path.exists():
            return None
        found = read_json(path)
        if not isinstance(found, dict) or not found.keys() >= SCORED:
            raise self._damaged("result.json", "lacks results")
        return found

    @cached_property
    def classes(self) -> list[Class]:
        """The task's classes, in the order of the outputs."""
        task = read_json(self.folder / "task.json")
        try:
            return [Class(**each) for each in task["classes"]]
        except (KeyError, TypeError):
            raise self._damaged("task.json", "has no list of classes") from None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The last good checkpoint; MinicnnError if there is none."""
        found = checkpoint.latest(self.folder / checkpoint.FOLDER)
        if found is None:
            raise MinicnnError(f"{self.folder}: no checkpoint yet")
        return found

    @property
    def mean(self) -> NDArray[np.float32]:
        """(H,W,3), what is subtracted from every image."""
        return self.checkpoint.mean

    @property
    def outputs(self) -> int:
        """Features of the last layer."""
        return self.config.network.outputs or len(self.classes)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl: training lines and evaluations."""
        return read_metrics(self.folder / "metrics.jsonl")

    def layers(self) -> list[dict[str, Any]]:
        """Each tensor: layer, shape, copied or drawn afresh, frozen or trained."""
        return read_json(self.folder / "layers.json")

    @cached_property
    def arch(self) -> Architecture:
        """Its architecture; one that is not built in is in its config.toml."""
        if self._arch is None:
            return architecture_files.load(self.config.network.arch)
        return architecture_files.from_dict(self._arch, self._where)

    def network(self, dev: Device) -> Network:
        """The network with the last checkpoint's weights."""
        types = precision.get(self.config.network.precision)
        network = Network(self.arch, self.outputs, dev, None, types)
        network.load(self.checkpoint.weights)
        return network

    def trunk(self, dev: Device) -> Trunk:
        """The same network to evaluate: all frozen, without memory for gradients."""
        network = self.network(dev)
        network.freeze(network.arch.depth)
        return Trunk([network])


def locked(folder: Path) -> AbstractContextManager[None]:
    """Holds a run folder alone; MinicnnError if another process trains in it."""
    refusal = (
        f"{folder}: another minicnn is training in it; wait for it, or choose another "
        "folder by --runs"
    )
    return files.held_alone(folder / ".lock", refusal)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ between two nested dictionaries, PLACES left out."""
    rows = []
    for section in sorted(old.keys() | new.keys()):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted(before.keys() | after.keys()):
            was, now = before.get(key, EARLY.get((section, key))), after.get(key)
            # Store and source are compared by identity and digest, not by path.
            if was == now or (section, key) in PLACES:
                continue
            lists = isinstance(was, list) or isinstance(now, list)
            change = "is another" if lists else f"was {was!r}, now {now!r}"
            rows.append(f"{section}.{key} {change}")
    return rows


def _untrained(folder: Path) -> bool:
    """Whether a run is at step 0, so that nothing is lost if it starts over."""
    first = checkpoint.path_of(folder / checkpoint.FOLDER, 0)
    later = set(first.parent.glob("step-*.safetensors")) - {first}
    kept = folder / "metrics.jsonl", folder / "result.json"
    return not later and not any(path.exists() for path in kept)


def check_folder(
    folder: Path, settings: dict[str, Any], task: dict[str, Any], fresh: bool
) -> bool:
    """Refuses a folder that a run cannot begin or go on in; touches nothing.

    Args:
        settings: sections that config.toml holds, or is to hold.
        task: what task.json holds.
        fresh: whether the run starts over.

    Returns:
        Whether what it holds is to be deleted, see `open_folder`.

    Raises:
        MinicnnError: it holds something else, or a run of other settings that is past
            step 0; or it is to start over while another process trains in it.
    """
    config, classes = folder / "config.toml", folder / "task.json"
    # What `open_folder` leaves if it is killed is as good as an empty folder.
    left = {classes.name, partial(classes).name, partial(config).name}
    if files.holds_only(folder, left):
        return False
    if not config.exists():
        raise MinicnnError(
            f"{folder}: not a run folder, so --fresh leaves it alone"
            if fresh
            else f"{folder}: neither empty nor a run folder; choose another by --runs"
        )
    if not fresh:
        odd = _differences(read_toml(config), settings)
        if classes.exists() and read_json(classes) != task:
            odd.append("its classes differ (task.json)")
        if not odd:
            return False
        if not _untrained(folder):
            raise MinicnnError(
                f"{folder}: made with other settings: {'; '.join(odd)}; --fresh starts "
                "it over, --runs chooses another folder"
            )
    with locked(folder):
        return True


def open_folder(
    folder: Path, settings: dict[str, Any], task: dict[str, Any], anew: bool
) -> Run:
    """Makes a run folder where there is none yet, or `anew`; see `check_folder`."""
    config, classes = folder / "config.toml", folder / "task.json"
    if anew:
        with locked(folder):
            shutil.rmtree(folder)
    files.make_folder(folder)
    if not (classes.exists() and config.exists()):
        files.write_json(classes, task)
    # Last: a folder with a config.toml is a whole run folder.
    if not config.exists():
        files.write_atomically(config, tomli_w.dumps(settings).encode())
    return Run(folder)
