"""Whether frozen layers stayed what they were: recomputed from the files.

Three independent looks at each net: the training itself hashed its frozen tensors
before and after; its last checkpoint, hashed again here, still has these hashes; and
the checkpoint of the base it copied from, hashed here too, has the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError, safe_open

from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress
from minicnn.experiments.report.contents import Contents, Entry
from minicnn.nn.network import tensor_hashes


@dataclass(frozen=True)
class Check:
    """What was found of one net with frozen or copied layers.

    Attributes:
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
    """

    id: str
    layers: str
    tensors: int
    unchanged: bool | None
    recomputed: bool | None
    as_base: bool | None
    conv1_moved: float | None

    @property
    def frozen(self) -> bool:
        """Whether its layers were frozen, not trained on."""
        return self.unchanged is not None

    @property
    def right(self) -> bool | None:
        """Whether all is as it must be; None if the checkpoint cannot tell.

        Fine-tuned layers that equal the base's were not trained.
        """
        as_it_must = self.as_base in (None, self.frozen)
        return self.recomputed if self.unchanged is not False and as_it_must else False


def read_tensors(entry: Entry, names: list[str]) -> dict[str, np.ndarray]:
    """Some tensors of its newest checkpoint; none where that cannot be read."""
    paths = sorted((entry.run.folder / "checkpoints").glob("step-*.safetensors"))
    try:
        with safe_open(paths[-1], "np") as file:
            return {name: file.get_tensor(name) for name in names}
    except (IndexError, OSError, SafetensorError):
        return {}


def _moved(entry: Entry, base: Entry) -> float | None:
    found = [read_tensors(each, ["conv1.w"]).get("conv1.w") for each in (base, entry)]
    start, w = (each if each is None else each.astype(float) for each in found)
    if w is None or start is None or w.shape != start.shape:
        return None
    return float(np.linalg.norm(w - start) / np.linalg.norm(start))


def _check(entry: Entry, base: Entry | None, theirs: dict[str, str]) -> Check:
    """The check of one net, given its base and the hashes of the base's tensors."""
    n, result = entry.net.n, entry.result
    try:
        names = [row["tensor"] for row in entry.run.layers() if row["layer"] <= n]
    except (MinicnnError, KeyError, TypeError):
        names = list(result["frozen_sha256"])
    recorded = {name: result["weights_sha256"].get(name) for name in names}
    hashes = tensor_hashes(read_tensors(entry, names))
    as_base = None
    if hashes and theirs:
        as_base = all(hashes[name] == theirs.get(name) for name in names)
    frozen = result["frozen_layers"] == n
    layers = ("1" if n == 1 else f"1 to {n}") + (
        " frozen" if frozen else " copied, trained on"
    )
    return Check(
        id=entry.id,
        layers=layers,
        tensors=len(names),
        unchanged=bool(result["frozen_unchanged"]) if frozen else None,
        recomputed=hashes == recorded if hashes else None,
        as_base=as_base,
        conv1_moved=_moved(entry, base) if base else None,
    )


def check_all(contents: Contents) -> list[Check]:
    """The checks of all nets that have something frozen or copied."""
    hashes: dict[str, dict[str, str]] = {}
    found = []
    with Progress(len(contents.entries), "nets", "frozen layers") as bar:
        for entry in contents.entries:
            base = contents.base_of(entry)
            if base and base.id not in hashes:
                tensors = read_tensors(base, list(base.result["weights_sha256"]))
                hashes[base.id] = tensor_hashes(tensors)
            if entry.net.n:
                found.append(_check(entry, base, hashes[base.id] if base else {}))
            bar.update(1)
    return found
