"""From a path to a `Source`: looks at what is there and asks each layout in turn."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from minicnn.base.errors import counted
from minicnn.data_prep.sources import cifar, folders, imagenet, tiny_imagenet
from minicnn.data_prep.sources.labelled import Source, assemble
from minicnn.data_prep.sources.tree import Tree, open_tree

_LAYOUTS = (cifar, tiny_imagenet, imagenet, folders)


def open_source(
    path: Path,
    scratch: Path,
    val_fraction: float | None = None,
    seed: int = 0,
    groups: Path | None = None,
) -> Source:
    """Recognises a source and lists its images; reads no pixels.

    Args:
        path: a folder, or a zip, tar or compressed tar of one; one of ImageNet's two
            archives stands for the folder it is in.
        scratch: where a compressed tar is decompressed to; the caller removes it.
        val_fraction, seed, groups: see `prepare.Options`.

    Raises:
        MinicnnError: nothing known, damaged, or labelled ambiguously.
    """
    if path.name in (imagenet.TRAIN_TAR, imagenet.VAL_TAR) and path.is_file():
        path = path.parent
    tree = open_tree(path, scratch)
    for layout in _LAYOUTS:
        found = layout.recognise(tree)
        if found is not None:
            return assemble(found, tree, val_fraction, seed, groups)
    raise tree.error(
        f"nothing recognised: {_held(tree)}; expected ImageNet's archives or folders, "
        "Tiny ImageNet, CIFAR-100's binary version, or one folder of images per class"
    )


def _held(tree: Tree) -> str:
    """What an unrecognised source holds; it has at most one folder."""
    endings = Image.registered_extensions()
    count = sum(Path(path).suffix.lower() in endings for path in tree.files)
    if not tree.files:
        return "it is empty"
    images = counted(count, "image")
    if tree.top:
        return f"{images} in the one folder {tree.top}, at least 2 are needed"
    return f"{images}, no class folders"
