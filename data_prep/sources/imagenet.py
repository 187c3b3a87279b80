"""ImageNet (ILSVRC2012): the published archives, their extracted folders, Kaggle's.

The labels of the validation images come from the first of these that is there: folders
per wnid, the devkit, Caffe's val.txt, Kaggle's LOC_val_solution.csv. Names in the store
are those of the extracted folders, so that archives and folders give the same store.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from minicnn.data.classes import ilsvrc2012
from minicnn.data_prep.sources.labelled import Found, Labelled, class_folders
from minicnn.data_prep.sources.tree import Place, Tree, read, tar_members

SIZE = 256
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"  # Kaggle's
_BASES = ("", "CLS-LOC/", "Data/CLS-LOC/", "ILSVRC/Data/CLS-LOC/")  # the last: Kaggle's
_WNID = re.compile(r"n\d{8}")

Labels = dict[str, str]  # wnids by file name
Told = tuple[str, Labels] | None  # what tells them; None where it is not there


def recognise(tree: Tree) -> Found | None:
    """Both archives, or train/<wnid>/ and val/, or one of each."""
    base = next((base for base in _BASES if _has_wnids(tree, f"{base}train")), None)
    archived, folder = TRAIN_TAR in tree.files, f"{base or ''}val"
    has_val = VAL_TAR in tree.files or folder in tree.folders
    if not archived and (base is None or not has_val):
        return None
    if VAL_TAR in tree.files:
        where, listed = VAL_TAR, _val_archive(tree)
    elif folder in tree.folders:
        where, listed = folder, dict(tree.under(folder))
    else:
        raise tree.error(f"{TRAIN_TAR} but no {VAL_TAR} beside it; get it too")
    files = {
        path: place
        for path, place in listed.items()
        if Path(path).suffix.lower() in (".jpeg", ".jpg", ".png")
    }
    labels = _val_labels(tree, files, where)
    val = [
        Labelled(labels[Path(path).name], f"val/{Path(path).name}", place)
        for path, place in files.items()
    ]
    # After all else: listing a million images takes longest.
    train = _train_archive(tree) if archived else class_folders(tree, f"{base}train")
    notes = []
    if archived and base is not None:
        notes.append(f"{TRAIN_TAR} is read; {base}train/ beside it is not")
    return Found("imagenet", SIZE, train, val, notes=notes)


def _has_wnids(tree: Tree, folder: str) -> bool:
    names = tree.children(folder)
    return bool(names) and all(_WNID.fullmatch(name) for name in names)


def _members(
    tree: Tree, name: str, inside: tarfile.TarInfo | None = None
) -> Iterator[tuple[tarfile.TarInfo, Place]]:
    """The regular files of an archive, or of a tar inside it, by their headers alone.

    Raises:
        MinicnnError: it is in a zip, or damaged.
    """
    place = tree.files[name]
    if place.member:
        raise tree.error(f"{name} inside a zip; unpack the zip")
    start, size = max(place.offset, 0), place.length
    if inside:
        start, size = inside.offset_data, inside.size
    try:
        with open(place.path, "rb") as file:
            for each in tar_members(file, start, start + size):
                if each.isreg():
                    yield each, Place(place.path, each.size, each.offset_data)
    except tarfile.TarError as error:
        raise tree.error(
            f"{name} is damaged or truncated ({error}); get it again"
        ) from None


def _train_archive(tree: Tree) -> list[Labelled]:
    """The images of the tar of tars."""
    images = []
    for each, _ in _members(tree, TRAIN_TAR):
        wnid = Path(each.name).stem
        if Path(each.name).suffix != ".tar" or not _WNID.fullmatch(wnid):
            raise tree.error(
                f"{TRAIN_TAR} holds {each.name}, not one tar per wnid; get the "
                "published archive"
            )
        for image, place in _members(tree, TRAIN_TAR, each):
            path = f"train/{wnid}/{Path(image.name).name}"
            images.append(Labelled(wnid, path, place))
    return images


def _val_archive(tree: Tree) -> dict[str, Place]:
    return {
        each.name.removeprefix("./").removeprefix("val/"): place
        for each, place in _members(tree, VAL_TAR)
    }


def _val_labels(tree: Tree, files: dict[str, Place], where: str) -> Labels:
    """The wnid of every validation image, by file name."""
    told = (
        _from_folders(tree, files)
        or _from_devkit(tree)
        or _from_caffe(tree)
        or _from_kaggle(tree)
    )
    if told is None:
        raise tree.error(
            f"no labels for the images of {where}; put {DEVKIT}.tar.gz, Caffe's "
            f"val.txt or Kaggle's {_SOLUTION} beside it"
        )
    images = {Path(path).name for path in files}
    if len(images) != len(files):
        raise tree.error(f"{where} holds a file name twice")
    teller, labels = told
    odd = sorted(images ^ labels.keys())
    if odd:
        raise tree.error(
            f"{teller} labels {len(labels)} images, {where} holds {len(images)} "
            f"(first difference: {odd[0]}); they must be the same"
        )
    return labels


def _from_folders(tree: Tree, files: dict[str, Place]) -> Told:
    nested = {path for path in files if "/" in path}
    if not nested:
        return None
    strange = next((path for path in files if not _WNID.match(path)), None)
    if strange or len(nested) != len(files):
        flat = strange or sorted(files.keys() - nested)[0]
        raise tree.error(f"val holds folders per wnid, and also {flat}; move it away")
    labels = {Path(path).name: path.split("/", 1)[0] for path in sorted(files)}
    return "val's folders", labels


def _from_devkit(tree: Tree) -> Told:
    """Its ids, 1 .. 1000, are its own; meta.mat tells their wnids."""
    archive, folder = f"{DEVKIT}.tar.gz", f"{DEVKIT}/data"
    paths = f"{folder}/meta.mat", f"{folder}/{_TRUTH}"
    if archive not in tree.files and paths[1] not in tree.files:
        return None
    try:
        from scipy.io import loadmat
    except ImportError:
        raise tree.error(
            "the devkit's meta.mat needs SciPy; 'pip install scipy' brings it"
        ) from None
    try:
        if archive in tree.files:
            with tarfile.open(fileobj=io.BytesIO(read(tree.files[archive]))) as tar:
                meta, truth = (
                    tar.extractfile(path).read()  # type: ignore[union-attr]
                    for path in paths
                )
        else:
            meta, truth = (read(tree.files[path]) for path in paths)
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = dict(zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True))
        labels = {
            f"ILSVRC2012_val_{number:08d}.JPEG": wnids[int(line)]
            for number, line in enumerate(truth.split(), 1)
        }
    except Exception as error:  # of a damaged file SciPy raises any kind
        raise tree.error(
            f"the devkit cannot be read ({error!r}); get {archive} again"
        ) from None
    return "the devkit", labels


def _from_caffe(tree: Tree) -> Told:
    """Numbers count synsets.txt where it lies beside, else ILSVRC2012's wnids."""
    path = next((each for each in ("val.txt", "val/val.txt") if each in tree.files), "")
    if not path:
        return None
    beside = path.replace("val.txt", "synsets.txt")
    wnids = list(ilsvrc2012().wnids)
    if beside in tree.files:
        wnids = [line.split()[0] for line in tree.lines(beside)]
    labels: Labels = {}
    for line in tree.lines(path):
        name, _, number = line.rpartition(" ")
        if not number.isdecimal() or int(number) >= len(wnids):
            raise tree.error(
                f"{path}: line {line[:60]!r} is no file name and class number under "
                f"{len(wnids)}"
            )
        _put(tree, path, labels, Path(name).name, wnids[int(number)])
    return path, labels


def _from_kaggle(tree: Tree) -> Told:
    if _SOLUTION not in tree.files:
        return None
    labels: Labels = {}
    for line in tree.lines(_SOLUTION)[1:]:
        image, _, boxes = line.partition(",")
        wnid = (boxes.split() or [""])[0]
        if not _WNID.fullmatch(wnid):
            raise tree.error(f"{_SOLUTION}: line {line[:60]!r} names no wnid")
        _put(tree, _SOLUTION, labels, f"{image}.JPEG", wnid)
    return _SOLUTION, labels


def _put(tree: Tree, path: str, labels: Labels, name: str, wnid: str) -> None:
    if labels.setdefault(name, wnid) != wnid:
        raise tree.error(f"{path} gives {name} two classes, {labels[name]} and {wnid}")
