"""Which built-in recipe suits a task: by its images, their size, and the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minicnn.base.config import Config, load_recipe, override
from minicnn.data.store import Store

# Least pixels a side of a store, and the built-in network for it.
BY_SIZE = ((227, "caffenet"), (56, "caffenet64"), (0, "caffenet32"))
# Below this many training images, recipe small.
FEW = 10_000
# Recipe paper: least training images (half of ILSVRC2012 has 640,000), most classes.
MANY, OUTPUTS = 100_000, 1000


@dataclass(frozen=True)
class Choice:
    """A recipe, the network that fits the images, and why."""

    recipe: str
    arch: str
    why: str

    @property
    def config(self) -> Config:
        """The recipe's settings for that network."""
        return override(load_recipe(self.recipe), [f"network.arch={self.arch}"])


def choose(store: Store, classes: Sequence[int], gpu: bool) -> Choice:
    """The recipe for a task of these class indices, trained on a GPU or not."""
    images = len(store.rows(classes, "train"))
    size = min(store.image_size)
    arch = next(name for least, name in BY_SIZE if size >= least)
    told = f"{images:,} training images"
    if store.attributes.get("source") == "demo" and arch == "caffenet32":
        return Choice("demo", arch, "the demo set")
    if images < FEW:
        return Choice("small", arch, f"{told}, fewer than {FEW:,}")
    if arch == "caffenet" and images >= MANY and gpu and len(classes) <= OUTPUTS:
        return Choice("paper", arch, f"{told} of {size} pixels, and a GPU")
    gpu_less = "" if gpu or arch != "caffenet" or images < MANY else ", no GPU"
    return Choice("tiny-imagenet", arch, f"{told} of {size} pixels{gpu_less}")
