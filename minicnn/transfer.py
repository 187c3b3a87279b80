"""Treatments: base, selffer, transfer, fine-tuned, random filters; what each copies.

Source: Yosinski, Clune, Bengio, Lipson, "How transferable are features in deep neural
networks?", NIPS 2014, section 2.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from minicnn.config import Config, load_recipe, read_toml
from minicnn.data_prep.splits import Task, other, split_report, task_classes
from minicnn.device import Device
from minicnn.errors import MinicnnError
from minicnn.files import make_folder, read_json, write_atomically, write_json
from minicnn.loader import Loader, mean_image
from minicnn.network import DEPTH, Network, tensor_hashes
from minicnn.run import Run
from minicnn.store import Store
from minicnn.trainer import Trainer, locked

RANDOM = "random"
DEEPEST = DEPTH - 1


@dataclass(frozen=True)
class Treatment:
    """What one network is: where its first n layers come from, and what it learns.

    Attributes:
        target: task it is trained on: "A", "B" or "all".
        source: task whose base gives layers 1..n; "random" for random filters; "" for
            a base.
        n: layers taken, 1..7; 0 for a base.
        finetune: whether they are trained on as well.
    """

    target: str
    source: str = ""
    n: int = 0
    finetune: bool = False

    def __post_init__(self) -> None:
        if self.source and not 1 <= self.n <= DEEPEST:
            raise MinicnnError(
                f"--n {self.n}: must be 1..{DEEPEST}, the layers to copy of {DEPTH}"
            )
        if self.source == RANDOM and self.finetune:
            raise MinicnnError(
                "--from random --finetune: random filters that are trained are a base; "
                "use 'minicnn train-base'"
            )

    @property
    def name(self) -> str:
        """The paper's name: baseA, A3B, A3B+, B3B, R3B."""
        if not self.source:
            return f"base{self.target}"
        source = "R" if self.source == RANDOM else self.source
        return f"{source}{self.n}{self.target}{'+' if self.finetune else ''}"

    @property
    def kind(self) -> str:
        """base, selffer, transfer, random; with a "+" when fine-tuned."""
        if not self.source:
            return "base"
        if self.source == RANDOM:
            return RANDOM
        kind = "selffer" if self.source == self.target else "transfer"
        return kind + ("+" if self.finetune else "")

    @property
    def frozen(self) -> int:
        """Layers 1..frozen are not trained."""
        return 0 if self.finetune else self.n


@dataclass(frozen=True)
class Setup:
    """What the runs of one comparison share.

    Attributes:
        store: the image store's path.
        dev: where to train.
        config: settings, such as `load_recipe("demo")`.
        split: "random-S", "natural-manmade", "file:PATH" or "all".
        seed: 0 ≤ seed < 2³².
        runs: folder of the run folders; None takes runs/STORE-SPLIT[-seedS].
        groups: a groups file for natural-manmade, where the store has no groups.
    """

    store: Path
    dev: Device
    config: Config = field(default_factory=lambda: load_recipe("demo"))
    split: str = "random-0"
    seed: int = 0
    runs: Path | None = None
    groups: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise MinicnnError(f"--seed {self.seed}: must be 0 .. 2^32 - 1")

    def folder(self, treatment: Treatment) -> Path:
        """The run folder of a treatment."""
        if self.runs is not None:
            return self.runs / treatment.name
        split = self.split
        if split.startswith("file:"):
            split = Path(split[5:]).stem
        seed = f"-seed{self.seed}" if self.seed else ""
        return Path("runs") / f"{self.store.stem}-{split}{seed}" / treatment.name

    def task(self, store: Store, name: str) -> Task:
        """A task of this split."""
        groups = store.groups
        return task_classes(
            self.split, name, store.wnids, store.names, groups, self.groups
        )


def _settings(
    setup: Setup, treatment: Treatment, store: Store, base: Run | None
) -> dict[str, Any]:
    """All that decides a run's numbers, as config.toml holds it."""
    weights = base.result["weights_sha256"] if base and base.result else {}
    digest = hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()
    return {
        "run": {
            "name": treatment.name,
            "treatment": treatment.kind,
            "source": treatment.source,
            "target": treatment.target,
            "n": treatment.n,
            "finetune": treatment.finetune,
            "split": setup.split,
            "seed": setup.seed,
            "store": str(setup.store.resolve()),
            "store_identity": store.identity,
            # The very weights that were copied: a base trained anew is another base.
            "base_sha256": digest[:16] if base else "",
            # How an image becomes one of the store's: `minicnn predict` does the same.
            "resize": store.attributes.get("resize", "none"),
            "orientation": store.attributes.get("orientation", "none"),
        },
        **setup.config.to_dict(),
    }


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ between two nested dictionaries, the store's place apart."""
    rows = []
    for section in sorted(old.keys() | new.keys()):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted(before.keys() | after.keys()):
            if (section, key) != ("run", "store") and before.get(key) != after.get(key):
                rows.append(
                    f"{section}.{key} was {before.get(key)!r}, now {after.get(key)!r}"
                )
    return rows


def _open_folder(
    folder: Path, settings: dict[str, Any], task: dict[str, Any], fresh: bool
) -> None:
    """Makes the run folder, or checks that it was made for the same run."""
    config, classes = folder / "config.toml", folder / "task.json"
    if folder.exists() and fresh:
        if any(folder.iterdir()) and not config.exists():
            raise MinicnnError(
                f"{folder}: not a run folder, so --fresh leaves it alone"
            )
        with locked(folder):
            shutil.rmtree(folder)
    if folder.exists() and any(folder.iterdir()) and not config.exists():
        raise MinicnnError(
            f"{folder}: neither empty nor a run folder; choose another by --runs"
        )
    make_folder(folder)
    if config.exists():
        odd = _differences(read_toml(config), settings)
        if classes.exists() and read_json(classes) != task:
            odd.append("its classes differ (task.json)")
        if odd:
            raise MinicnnError(
                f"{folder}: made with other settings: {'; '.join(odd)}; --fresh starts "
                "it over, --runs chooses another folder"
            )
    if not classes.exists():
        write_json(classes, task)
    # Last: a folder with a config.toml is a whole run folder.
    if not config.exists():
        write_atomically(config, tomli_w.dumps(settings).encode())


def _base(setup: Setup, task: Task, store: Store) -> Run:
    """The finished base that a treatment copies from.

    Raises:
        MinicnnError: it is missing, unfinished, or does not fit.
    """
    folder = setup.folder(Treatment(task.name))
    command = f"minicnn train-base --task {task.name}"
    if not (folder / "config.toml").exists():
        raise MinicnnError(f"{folder}: missing; make it with '{command}' first")
    run = Run(folder)
    if run.result is None:
        raise MinicnnError(f"{folder}: not finished; finish it with '{command}' first")
    arch = setup.config.network.arch
    if run.config.network.arch != arch:
        raise MinicnnError(
            f"{folder}: its architecture is {run.config.network.arch}, this run's is "
            f"{arch}; use the recipe that made it"
        )
    if [c.wnid for c in run.classes] != [store.wnids[c] for c in task.classes]:
        raise MinicnnError(
            f"{folder}: trained on other classes than task {task.name} of split "
            f"{setup.split} has in {store.path}; use the store and split that made it"
        )
    mine = {"split": setup.split, "seed": setup.seed, "store_identity": store.identity}
    for key, value in mine.items():
        if run.about.get(key) != value:
            raise MinicnnError(
                f"{folder}: its {key} is {run.about.get(key)!r}, this run's is "
                f"{value!r}; copy from a base of the same split, seed and store"
            )
    _check_weights(run, command)
    return run


def _check_weights(base: Run, command: str) -> None:
    """Refuses a base whose last checkpoint is not what its result was scored on."""
    result = base.result
    assert result is not None
    try:
        weights = base.checkpoint.weights
        intact = tensor_hashes(weights) == result["weights_sha256"]
    except MinicnnError:
        intact = False
    if not intact:
        raise MinicnnError(
            f"{base.folder}: its last checkpoint is damaged or missing; make the base "
            f"again with '{command} --fresh'"
        )


def _layer_table(network: Network, treatment: Treatment) -> list[dict[str, Any]]:
    """Which tensors were copied or drawn, and which are frozen or trained."""
    copied = f"base{treatment.source}" if treatment.source not in ("", RANDOM) else ""
    return [
        {
            "layer": p.index,
            "tensor": p.name,
            "shape": list(p.shape),
            "origin": f"copied from {copied}"
            if copied and p.index <= treatment.n
            else "drawn afresh",
            "state": "frozen" if p.index <= treatment.frozen else "trained",
        }
        for p in network.params
    ]


def run_seed(seed: int, name: str) -> int:
    """The Philox key of a run: its seed, and its name's CRC-32 in the upper word.

    So that no two runs of a comparison share initial weights, sample order or dropout:
    a selffer that drew the base's own upper layers again would find its way back too
    easily.
    """
    return seed | zlib.crc32(name.encode()) << 32


def start(setup: Setup, treatment: Treatment, fresh: bool = False) -> Trainer:
    """Opens or makes a run folder and builds the trainer for it; trains nothing yet.

    Raises:
        MinicnnError: the store, the tasks, the base or the folder do not fit.
    """
    store = Store(setup.store)
    target = setup.task(store, treatment.target)
    copies = treatment.source not in ("", RANDOM)
    base = None
    if copies:
        base = _base(setup, setup.task(store, treatment.source), store)
    config = setup.config
    if len(target.classes) < 2:
        raise MinicnnError(
            f"task {target.name} of split {setup.split}: {len(target.classes)} class "
            f"in {store.path}, and a task needs at least 2"
        )
    outputs = config.network.outputs or len(target.classes)
    if outputs < len(target.classes):
        raise MinicnnError(
            f"network.outputs {outputs}: fewer than the {len(target.classes)} classes "
            f"of task {target.name}; 0 takes their number"
        )
    seed = run_seed(setup.seed, treatment.name)
    network = Network(config.network.arch, outputs, setup.dev, seed)
    loader = Loader(
        store,
        target.classes,
        network.arch.crop,
        config.solver.batch,
        seed,
        config.data.mirror,
        config.data.images_per_class,
        setup.seed,
    )
    folder = setup.folder(treatment)
    settings = _settings(setup, treatment, store, base)
    task = split_report(target, store.wnids, store.names)
    _open_folder(folder, settings, task, fresh)
    if base is not None:
        network.copy_layers(base.checkpoint.weights, treatment.n)
    network.freeze(treatment.frozen)
    write_json(folder / "layers.json", _layer_table(network, treatment))

    def mean() -> NDArray[np.float32]:
        # The published transfer nets subtract the source task's mean image.
        return base.mean if base else mean_image(setup.dev, store, loader.train)

    identity = {key: settings["run"][key] for key in ("name", "treatment", "source")}
    identity |= {key: settings["run"][key] for key in ("target", "n", "finetune")}
    identity |= {"split": setup.split, "seed": setup.seed}
    return Trainer(folder, config, network, loader, mean, seed, identity)


def execute(setup: Setup, treatment: Treatment, fresh: bool = False) -> Run:
    """Trains a treatment to the end, going on where an earlier call stopped.

    Returns:
        The finished run; at once if it was finished already.

    Raises:
        Stopped: by Ctrl-C or SIGTERM, after saving.
        MinicnnError: as for `start`, or training diverged.
    """
    trainer = start(setup, treatment, fresh)
    run = trainer.opened()
    if run.result is None:
        trainer.run()
    return run


def default_target(source: str) -> str:
    """The other task; B for random filters."""
    return "B" if source == RANDOM else other(source)


def train_base(setup: Setup, task: str, fresh: bool = False) -> Run:
    """Trains the base net of a task: all layers drawn afresh, all trained."""
    return execute(setup, Treatment(task), fresh)


def transfer(
    setup: Setup,
    source: str,
    n: int,
    target: str | None = None,
    finetune: bool = False,
    fresh: bool = False,
) -> Run:
    """Copies layers 1..n of a base net and trains the rest, or all, on the target.

    Args:
        source: "A", "B", or "random" for random filters.
        n: layers copied, 1..7.
        target: None takes the other task ("B" for random filters).
        finetune: whether the copied layers are trained as well.
    """
    target = target or default_target(source)
    return execute(setup, Treatment(target, source, n, finetune), fresh)
