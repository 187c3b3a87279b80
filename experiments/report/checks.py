"""Whether frozen layers stayed what they were: recomputed from the files.

Three independent looks at each net: the training itself hashed its frozen tensors
before and after; its last checkpoint, hashed again here, still has these hashes; and
the checkpoint of the base it copied from, hashed here too, has the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress
from minicnn.experiments.report.contents import Contents, Entry
from minicnn.nn.network import tensor_hashes

Hashes = dict[str, str]


@dataclass(frozen=True)
class Check:
    """What was found of one net with frozen or copied layers.

    Attributes:
        id: GROUP/NAME.
        layers: in words, which were frozen or copied.
        tensors: how many tensors these are.
        unchanged: equal before and after training, as result.json says; None for a
            fine-tuned net.
        recomputed: the checkpoint's hashes are those of result.json; None if there is
            no readable checkpoint.
        as_base: they are the base's too; for a fine-tuned net, whether they still are.
            None for random filters, or if either cannot be read.
        conv1_moved: |w − w of the base| / |w of the base| of conv1's weights, in the
            Euclidean norm; None without a base.
        right: whether all of it is as it must be; None if the checkpoint cannot tell.
    """

    id: str
    layers: str
    tensors: int
    unchanged: bool | None
    recomputed: bool | None
    as_base: bool | None
    conv1_moved: float | None
    right: bool | None


def read_tensors(folder: Path, names: list[str]) -> dict[str, np.ndarray] | None:
    """Some tensors of the newest checkpoint, and nothing else of it.

    Returns:
        By name; None where there is no checkpoint, or it cannot be read.
    """
    paths = sorted((folder / "checkpoints").glob("step-*.safetensors"))
    if not paths:
        return None
    try:
        with safe_open(paths[-1], "np") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return None


class Checker:
    """Hashes checkpoints, each base's only once."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self._bases: dict[str, Hashes | None] = {}

    def _base_hashes(self, base: Entry) -> Hashes | None:
        if base.id not in self._bases:
            names = list(base.result["weights_sha256"])
            self._bases[base.id] = _hashes(base, names)
        return self._bases[base.id]

    def check(self, entry: Entry) -> Check | None:
        """The check of one net; None for a base."""
        net, result = entry.net, entry.result
        if not net.n:
            return None
        try:
            table = entry.run.layers()
            names = [row["tensor"] for row in table if row["layer"] <= net.n]
        except (MinicnnError, KeyError, TypeError):
            names = list(result["frozen_sha256"])
        recorded = {name: result["weights_sha256"].get(name) for name in names}
        hashes = _hashes(entry, names)
        base = self.contents.base_of(entry)
        theirs = self._base_hashes(base) if base else None
        as_base = None
        if hashes and theirs:
            as_base = all(hashes[name] == theirs.get(name) for name in names)
        frozen = result["frozen_layers"] == net.n
        unchanged = bool(result["frozen_unchanged"]) if frozen else None
        recomputed = None if hashes is None else hashes == recorded
        span = f"1 to {net.n}" if net.n > 1 else "1"
        return Check(
            entry.id,
            f"{span} {'frozen' if frozen else 'copied, trained on'}",
            len(names),
            unchanged,
            recomputed,
            as_base,
            _moved(entry, base),
            _right(frozen, unchanged, recomputed, as_base),
        )


def _right(
    frozen: bool, unchanged: bool | None, recomputed: bool | None, as_base: bool | None
) -> bool | None:
    """The verdict; fine-tuned layers that equal the base's were not trained."""
    as_it_must = as_base is None or as_base == frozen
    return recomputed if unchanged is not False and as_it_must else False


def _hashes(entry: Entry, names: list[str]) -> Hashes | None:
    """SHA-256 of tensors of its newest checkpoint, one at a time."""
    found: Hashes = {}
    for name in names:
        tensors = read_tensors(entry.run.folder, [name])
        if tensors is None:
            return None
        found |= tensor_hashes(tensors)
    return found


def _moved(entry: Entry, base: Entry | None) -> float | None:
    if base is None:
        return None
    mine = read_tensors(entry.run.folder, ["conv1.w"])
    theirs = read_tensors(base.run.folder, ["conv1.w"])
    if mine is None or theirs is None:
        return None
    w, start = mine["conv1.w"].astype(float), theirs["conv1.w"].astype(float)
    if w.shape != start.shape:
        return None
    return float(np.linalg.norm(w - start) / np.linalg.norm(start))


def check_all(contents: Contents) -> list[Check]:
    """The checks of all nets that have something frozen or copied."""
    checker, found = Checker(contents), []
    with Progress(len(contents.entries), "nets", "frozen layers") as bar:
        for entry in contents.entries:
            each = checker.check(entry)
            if each:
                found.append(each)
            bar.update(1)
    return found
