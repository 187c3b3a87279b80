"""What the runs of one comparison share, and what a run's config.toml holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minicnn.base.config import Config, load_recipe
from minicnn.base.errors import MinicnnError
from minicnn.data.splits import Task, task_classes
from minicnn.data.store import Store
from minicnn.devices.device import Device
from minicnn.nn import architecture_files, architectures
from minicnn.nn.architectures import Architecture
from minicnn.training.treatment import Treatment


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
        words: command-line options that make this setup, for commands in errors.
    """

    store: Path
    dev: Device
    config: Config = field(default_factory=lambda: load_recipe("demo"))
    split: str = "random-0"
    seed: int = 0
    runs: Path | None = None
    groups: Path | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise MinicnnError(f"--seed {self.seed}: must be 0 .. 2^32 - 1")

    @cached_property
    def arch(self) -> Architecture:
        """The runs' architecture."""
        return architecture_files.load(self.config.network.arch)

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
        return task_classes(self.split, name, store.classes, self.groups)


def identity(setup: Setup, treatment: Treatment) -> dict[str, Any]:
    """The entries that both config.toml and result.json open with."""
    return {
        "name": treatment.name,
        "treatment": treatment.kind,
        "source": treatment.source,  # before the others
        **vars(treatment),
        "split": setup.split,
        "seed": setup.seed,
    }


def settings(
    setup: Setup, treatment: Treatment, store: Store, digest: str
) -> dict[str, Any]:
    """All that decides a run's numbers, as config.toml holds it.

    Args:
        digest: of the weights that are copied, see `Source`; "" where none are.
    """
    own = {}
    if not architectures.is_built_in(setup.arch):
        own = {"architecture": architecture_files.to_dict(setup.arch)}
    return {
        "run": {
            **identity(setup, treatment),
            "store": str(setup.store.resolve()),
            "store_identity": store.identity,
            # The very weights that were copied: a base trained anew is another base.
            "base_sha256": digest,
            # How an image becomes one of the store's: `minicnn predict` does the same.
            "resize": store.attributes.get("resize", "none"),
            "orientation": store.attributes.get("orientation", "none"),
        },
        **setup.config.to_dict(),
        **own,
    }
